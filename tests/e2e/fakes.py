"""A fake PDS and a fake PLC directory at the socket: they say whatever a test wants said, byte for byte.

Promises: loopback only, ports of their own, everything closed with the context manager. Threads: one accepts, one
per connection; `_changed` guards all state of a fake. Assumes clients that wait for the answer before they send
more.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_RECV_BYTES = 65536
_REQUEST_MAX = 65536
_POLL_S = 0.1  # how often a connection looks whether the fake is closing

type Answer = tuple[int, Any]


class FakeServer:
    """An HTTP/1.1 server on 127.0.0.1 (and `localhost`), a thread per connection. Subclasses answer requests."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._open: set[socket.socket] = set()
        self.requests: list[str] = []  # "METHOD target" of every plain request
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.host = f"localhost:{self.port}"
        self.url = f"http://{self.host}"
        self._acceptor = threading.Thread(target=self._accept, name=f"fake-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        self._acceptor.join(5)

    def drop_connections(self) -> None:
        """End every open connection, as a crash would."""
        with self._changed:
            for sock in self._open:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def wait_for(self, test: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
        """Wait until `test()` is true; AssertionError at the deadline."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not test():
                left = deadline - time.monotonic()
                assert left > 0, f"{what} did not come within {timeout_s:.0f} s"
                self._changed.wait(min(left, _POLL_S))

    def answer(self, method: str, target: str) -> Answer:
        """(status, JSON value) for a plain request. Called in the connection's thread."""
        raise NotImplementedError

    def at_the_socket(self, sock: socket.socket, target: str) -> bool:
        """Whether a plain request is dealt with here, byte by byte; the connection then ends. In its thread."""
        return False

    def upgraded(self, sock: socket.socket, head: bytes, target: str) -> None:
        """Serve a WebSocket request; `head` is all that was read. Called in the connection's thread."""
        raise NotImplementedError

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock,), name=f"fake-{self.port}-conn", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock:
                self._serve_requests(sock)
        except OSError:
            pass  # the client has gone
        finally:
            with self._changed:
                self._open.discard(sock)

    def _serve_requests(self, sock: socket.socket) -> None:
        buffer = b""
        while not self._closing.is_set():
            while b"\r\n\r\n" not in buffer:
                data = sock.recv(_RECV_BYTES)
                if not data or len(buffer) > _REQUEST_MAX:
                    return
                buffer += data
            head, _, rest = buffer.partition(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
            fields = {
                line.split(b":", 1)[0].lower(): line.split(b":", 1)[1].strip() for line in head.split(b"\r\n")[1:]
            }
            if fields.get(b"upgrade", b"").lower() == b"websocket":
                self.upgraded(sock, buffer, target)
                return
            length = int(fields.get(b"content-length", b"0"))
            while len(rest) < length:
                rest += sock.recv(_RECV_BYTES)
            buffer = rest[length:]
            with self._changed:
                self.requests.append(f"{method} {target}")
                self._changed.notify_all()
            if self.at_the_socket(sock, target):
                return
            status, value = self.answer(method, target)
            body = json.dumps(value).encode()
            sock.sendall(
                b"HTTP/1.1 %d Status\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                % (status, len(body))
                + body
            )


class FakePlc(FakeServer):
    """A PLC directory that knows `documents` (DID -> document; change it at any time). `delay_s` holds every answer."""

    def __init__(self, documents: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.documents: dict[str, Any] = dict(documents or {})
        self.delay_s = 0.0

    def answer(self, method: str, target: str) -> Answer:
        """GET /{did} and /_health."""
        self._closing.wait(self.delay_s)
        did = urlsplit(target).path.removeprefix("/")
        if did == "_health":
            return 200, {"version": "fake"}
        document = self.documents.get(did)
        return (200, document) if document is not None else (404, {"message": f"DID not registered: {did}"})


class Subscription:
    """One subscriber's WebSocket. Any thread may send; `_writing` guards the socket's writes and wsproto."""

    def __init__(self, sock: socket.socket, head: bytes) -> None:
        self.closed = False
        self._sock = sock
        self._writing = threading.Lock()
        self._ws = WSConnection(ConnectionType.SERVER)
        self._ws.receive_data(head)
        self._answer()

    def send(self, frame: bytes) -> None:
        """One binary message."""
        with self._writing:
            self._sock.sendall(self._ws.send(BytesMessage(frame)))

    def send_raw(self, data: bytes) -> None:
        """Bytes as they are: for what no WebSocket library would send."""
        with self._writing:
            self._sock.sendall(data)

    def read_until_closed(self) -> None:
        """Answer pings and closing until the peer has gone; a thread's whole work."""
        try:
            while data := self._sock.recv(_RECV_BYTES):
                with self._writing:
                    self._ws.receive_data(data)
                    self._answer()
        except OSError:
            pass
        self.closed = True

    def _answer(self) -> None:
        for event in self._ws.events():
            if isinstance(event, Request):
                self._sock.sendall(self._ws.send(AcceptConnection()))
            elif isinstance(event, (Ping, CloseConnection)):
                self._sock.sendall(self._ws.send(event.response()))


class FakePds(FakeServer):
    """A PDS whose stream is a list of frames, each with the upstream seq it stands at.

    A subscriber with a cursor gets every frame above it and then what is published; one without, only what is published
    from then on. `cursors` holds the cursor (None = live) of every subscription so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cursors: list[int | None] = []
        self._frames: list[tuple[int, bytes]] = []

    def publish(self, *frames: tuple[int, bytes]) -> None:
        """Add (seq, frame bytes) to the stream."""
        with self._changed:
            self._frames += frames
            self._changed.notify_all()

    def wait_subscribed(self, count: int = 1, timeout_s: float = 30.0) -> None:
        """Wait for the `count`-th subscription, counted from the start."""
        self.wait_for(lambda: len(self.cursors) >= count, f"subscription {count} at {self.host}", timeout_s)

    def answer(self, method: str, target: str) -> Answer:
        """describeServer; no repository is known."""
        match urlsplit(target).path.rpartition("/")[2]:
            case "com.atproto.server.describeServer":
                return 200, {"did": "did:web:localhost", "availableUserDomains": [".test"], "inviteCodeRequired": False}
            case "_health":
                return 200, {"version": "fake"}
        return 400, {"error": "RepoNotFound", "message": "no such repository"}

    def upgraded(self, sock: socket.socket, head: bytes, target: str) -> None:
        """Accept the subscription and serve it until either side ends it."""
        subscription = Subscription(sock, head)
        threading.Thread(target=subscription.read_until_closed, name=f"fake-{self.port}-read", daemon=True).start()
        cursor = parse_qs(urlsplit(target).query).get("cursor")
        with self._changed:
            self.cursors.append(int(cursor[0]) if cursor else None)
            at = self._position(self.cursors[-1])
            self._changed.notify_all()
        while not self._closing.is_set() and not subscription.closed:
            with self._changed:
                if at >= len(self._frames):
                    self._changed.wait(_POLL_S)
                batch = self._frames[at:]
            at += len(batch)
            for _, frame in batch:
                subscription.send(frame)

    def _position(self, cursor: int | None) -> int:
        if cursor is None:
            return len(self._frames)
        return next((index for index, (seq, _) in enumerate(self._frames) if seq > cursor), len(self._frames))
