"""The WebSocket upgrade as a client, without I/O: a request out, the answer in, what follows it kept aside.

The answer may arrive in any pieces. Its head is cut off here, at the empty line, and only then given to wsproto: so the
bytes behind it, the first frames, are known exactly and go to the reader as they are. One Upgrade per dial, one thread.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import AcceptConnection, RejectConnection, Request
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError

import zlay.net.h11_tables  # noqa: F401 - for what it does

if TYPE_CHECKING:
    from zlay.hosts.interface import FailureKind

__all__ = ["MAX_HEAD_BYTES", "PATH", "DialFailed", "Upgrade"]

MAX_HEAD_BYTES = 16 * 1024  # status line and headers; wsproto's servers send a few hundred bytes
MAX_REASON_CHARS = 200
LONGEST_RETRY_AFTER_S = 3600  # as seldom as hosts are dialled that do not answer at all
RELAY_MARK = b"atproto-relay"  # E16: in the Server header of every relay
PATH = "/xrpc/com.atproto.sync.subscribeRepos"

_END_OF_HEAD = re.compile(rb"\n\r?\n")
_END_OVERLAP = 2  # how far the end of the head may reach back into what was searched already


class DialFailed(Exception):
    """A dial came to nothing: a kind for machines and a line for people. `retry_after_s` is what the host asked for,
    `status` that of an answer which was no upgrade."""

    def __init__(
        self, kind: FailureKind, text: str, retry_after_s: float | None = None, *, status: int | None = None
    ) -> None:
        super().__init__(text)
        self.kind: FailureKind = kind
        self.text = text
        self.retry_after_s = retry_after_s
        self.status = status


class Upgrade:
    """One upgrade: `request` is to be sent, `feed` takes what comes; after it, `leftover` is the stream's beginning."""

    def __init__(self, hostname: str, cursor: int | None, user_agent: str, *, allow_relays: bool) -> None:
        self._handshake = H11Handshake(ConnectionType.CLIENT)
        self._allow_relays = allow_relays
        self._head = bytearray()
        self.leftover = b""
        target = PATH if cursor is None else f"{PATH}?cursor={cursor}"
        try:
            self.request = self._handshake.send(
                Request(host=hostname, target=target, extra_headers=[(b"User-Agent", user_agent.encode("ascii"))])
            )
        except UnicodeError as exc:
            raise DialFailed("config", f"not a name that can be asked for: {hostname!r}") from exc

    def feed(self, data: bytes) -> bool:
        """Takes bytes of the answer, of any length; True when the stream is open. Raises DialFailed."""
        searched = max(0, len(self._head) - _END_OVERLAP)
        self._head += data
        end = _END_OF_HEAD.search(self._head, searched)
        if end is None and len(self._head) <= MAX_HEAD_BYTES:
            return False
        if end is None or end.end() > MAX_HEAD_BYTES:
            raise DialFailed("http_upgrade", f"the answer's head is over {MAX_HEAD_BYTES} bytes")
        head, self.leftover = bytes(self._head[: end.end()]), bytes(self._head[end.end() :])
        self._head.clear()
        self._judge(head)
        return True

    def _judge(self, head: bytes) -> None:
        try:
            self._handshake.receive_data(head)
        except (RemoteProtocolError, UnicodeError) as exc:
            raise DialFailed("http_upgrade", f"not an upgrade: {exc}") from exc
        for event in self._handshake.events():
            match event:
                case AcceptConnection() if self._handshake.state is ConnectionState.OPEN:
                    return self._refuse_relays(event)
                case RejectConnection():
                    raise DialFailed(
                        "http_upgrade", self._rejection(event), _retry_after(event), status=event.status_code
                    )
        raise DialFailed("http_upgrade", "not an upgrade: no status")

    def _refuse_relays(self, event: AcceptConnection) -> None:
        """E16: a relay that reads a relay that reads it would carry every event for ever."""
        if self._allow_relays:
            return
        for name, value in event.extra_headers:
            if name.lower() == b"server" and RELAY_MARK in value.lower():
                raise DialFailed("config", "the host is a relay itself (its Server header says so)")

    def _rejection(self, event: RejectConnection) -> str:
        body = self.leftover[:MAX_REASON_CHARS].decode(errors="replace").strip()
        return f"answered {event.status_code}" + (f": {body}" if body else "")


def _retry_after(event: RejectConnection) -> float | None:
    """Seconds of a Retry-After header, when it gives them in that form."""
    for name, value in event.headers:
        if name.lower() == b"retry-after" and value.isdigit():
            return float(min(int(value[:9]), LONGEST_RETRY_AFTER_S))
    return None
