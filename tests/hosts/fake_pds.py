"""A host at the socket: accepts, answers the upgrade in any way a test wants, and plays a script on each connection."""

from __future__ import annotations

import queue
import re
import socket
import threading
from typing import TYPE_CHECKING

import cbor2
from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, Request

if TYPE_CHECKING:
    from collections.abc import Callable

DID = "did:plc:" + "b" * 24


def frame(payload: bytes) -> bytes:
    """A binary message in one unmasked frame."""
    if len(payload) < 126:
        return bytes([0x82, len(payload)]) + payload
    return b"\x82\x7e" + len(payload).to_bytes(2, "big") + payload


def event(seq: int) -> bytes:
    """An #identity message in its frame."""
    body = {"did": DID, "seq": seq, "time": "2026-01-01T00:00:00Z"}
    return frame(cbor2.dumps({"t": "#identity", "op": 1}, canonical=True) + cbor2.dumps(body, canonical=True))


def error(name: str) -> bytes:
    """An error message in its frame."""
    return frame(cbor2.dumps({"op": -1}) + cbor2.dumps({"error": name}))


def accept(sock: socket.socket) -> tuple[str, bytes]:
    """Reads a request; its target and the bytes that accept it."""
    server = WSConnection(ConnectionType.SERVER)
    while True:
        data = sock.recv(65536)
        if not data:
            raise ConnectionError("closed before the request")
        server.receive_data(data)
        for asked in server.events():
            assert isinstance(asked, Request)
            return asked.target, server.send(AcceptConnection())


def upgrade(sock: socket.socket) -> str:
    """Accepts at once; the cursor asked for, as text, "" = none."""
    target, answer = accept(sock)
    sock.sendall(answer)
    found = re.search(r"cursor=(\d+)", target)
    return found[1] if found else ""


class FakePds:
    """Listens on a loopback port; each connection runs `script` on a thread of its own, then is closed."""

    def __init__(self, script: Callable[[socket.socket], None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=600)
        self.port = self._listener.getsockname()[1]
        self.connections: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self.cursors: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._socks: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def hostname(self) -> str:
        """What the registry calls it."""
        return f"127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(30)
            self._socks.append(sock)
            thread = threading.Thread(target=self._play, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _play(self, sock: socket.socket) -> None:
        try:
            self._script(sock)
        except OSError:
            pass  # the other side went first
        finally:
            sock.close()

    def close(self) -> None:
        """Ends everything and waits for it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(10)
        for sock in self._socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for sock in self._socks:
            sock.close()
