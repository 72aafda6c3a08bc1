"""A fake relay that says to each connection what a test wants, and `zlay consume` on it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests._fast import frames
from tests.e2e.fakes import FakeServer, Subscription
from tests.fixtures import ROOT
from tests.reference.drisl_ref import encode
from zlay.consume.follow import Follower
from zlay.consume.stream import parse_target

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

type Script = Callable[[Subscription, socket.socket], None]

WAIT_S = 20.0
DID = "did:plc:abcdefghijklmnopqrstuvwx"


def account(seq: int, **changes: Any) -> bytes:
    """An #account."""
    return frames.frame(frames.account(seq=seq, did=DID, **changes), "#account")


def error(name: str, text: str = "") -> bytes:
    """An error frame."""
    return encode({"op": -1}) + encode({"error": name, **({"message": text} if text else {})})


def info(name: str) -> bytes:
    """An #info."""
    return encode({"op": 1, "t": "#info"}) + encode({"name": name, "message": "because"})


def close(code: int) -> bytes:
    """A server's close frame."""
    return b"\x88\x02" + code.to_bytes(2, "big")


def events(*seqs: int, then: bytes = b"") -> Script:
    """Sends these events, then bytes as they are, and hangs up."""

    def script(subscription: Subscription, sock: socket.socket) -> None:
        for seq in seqs:
            subscription.send(account(seq))
        subscription.send_raw(then)

    return script


def message(data: bytes, *seqs: int) -> Script:
    """Sends events, then a message, and hangs up."""

    def script(subscription: Subscription, sock: socket.socket) -> None:
        events(*seqs)(subscription, sock)
        subscription.send(data)

    return script


class FakeRelay(FakeServer):
    """Runs one script for each connection, in order, then hangs up; after the last one connections are held open.

    `cursors`: what each asked for.
    """

    def __init__(self, *scripts: Script) -> None:
        super().__init__()
        self.cursors: list[str | None] = []
        self._scripts = list(scripts)

    def upgraded(self, sock: socket.socket, head: bytes, target: str) -> None:
        """The next script."""
        with self._changed:
            self.cursors.append(parse_qs(urlsplit(target).query).get("cursor", [None])[0])
            script = self._scripts.pop(0) if self._scripts else None
            self._changed.notify_all()
        subscription = Subscription(sock, head)
        if script is not None:
            script(subscription, sock)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        subscription.read_until_closed()


class Refusing(FakeServer):
    """Answers every upgrade with a status."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self._status = status
        self.asked = 0

    def upgraded(self, sock: socket.socket, head: bytes, target: str) -> None:
        """No upgrade."""
        self.asked += 1
        body = b'{"error":"BadRequest"}'
        sock.sendall(b"HTTP/1.1 %d Status\r\nContent-Length: %d\r\n\r\n%s" % (self._status, len(body), body))


def follow(relay: FakeServer, capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[int, str, str]:
    """A Follower run to its end: exit status, standard output, standard error."""
    follower = Follower(parse_target(relay.host), **options)
    follower.run()
    status = follower.finish()
    said = capsys.readouterr()
    return status, said.out, said.err


def command(*args: str, **options: Any) -> subprocess.Popen[str]:
    """`zlay consume ARGS` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "zlay", "consume", *args],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        **options,
    )
