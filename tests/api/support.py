"""Clients that speak HTTP by hand, and servers for them to speak to."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from zlay.api.message import Request, Response, json_response
from zlay.api.server import HttpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zlay.api.connection import Upgrade

WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came."""

    status: int
    headers: dict[str, str]  # names in lower case; lines of one name joined by ", "
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


class Client:
    """One connection, with what has been received and not been used yet. One thread."""

    def __init__(self, address: tuple[str, int], timeout_s: float = WAIT_S) -> None:
        self.sock = socket.create_connection(address, timeout=timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """All of it."""
        self.sock.sendall(data)

    def request(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Sends a request and reads its answer."""
        self.send(request_bytes(method, target, headers, body))
        return self.answer(head_only=method == "HEAD")

    def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer; EOFError when the server ends first."""
        while b"\r\n\r\n" not in self.received:
            self._more()
        head, _, rest = self.received.partition(b"\r\n\r\n")
        self.received = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
        status = int(first.split(" ")[1])
        length = 0 if head_only or status in (101, 204) or status < 200 else int(headers["content-length"])
        while len(self.received) < length:
            self._more()
        body = bytes(self.received[:length])
        del self.received[:length]
        return Answer(status, headers, body)

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(f"closed after {self.received[:200]!r}")
        self.received += data

    def at_end(self) -> bool:
        """Waits for the server's end; False when anything comes before it."""
        if self.received:
            return False
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True


def request_bytes(
    method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> bytes:
    """A request as bytes."""
    lines = [f"{method} {target} HTTP/1.1", "Host: relay.test"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@dataclass
class Echo:
    """A router that tells what it was asked, and waits where told. `blocked` counts handlers at the gate."""

    gate: threading.Event = field(default_factory=threading.Event)
    at_gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    taken: list[tuple[socket.socket, bytes]] = field(default_factory=list)

    def instant(self, request: Request) -> Response | None:
        """/now answers at once, /now-broken fails."""
        if request.path == "/now-broken":
            raise ValueError("broken")
        return json_response({"now": True}) if request.path == "/now" else None

    def route(self, path: str) -> str:
        """The first part of the path."""
        return "/" + path.removeprefix("/").partition("/")[0]

    def handle(self, request: Request) -> Response:
        """/wait waits for the gate, /big/N answers N bytes, /broken fails; everything else is told."""
        if request.path == "/wait":
            self.at_gate.release()
            assert self.gate.wait(WAIT_S)
        if request.path == "/broken":
            raise ValueError("broken")
        if request.path == "/bad-header":
            return Response(headers=(("X-Bad", "a\r\nb: c"),))
        if request.path.startswith("/big/"):
            return Response(body=b"x" * int(request.path.removeprefix("/big/")))
        return json_response(
            {
                "method": request.method,
                "path": request.path,
                "query": request.query,
                "body": request.body.decode("latin-1"),
                "address": request.address,
                "internal": request.is_internal,
            }
        )

    def subscribe(self, upgrade: Upgrade, sock: socket.socket) -> Response | None:
        """/take takes the socket over, everything else is refused."""
        if upgrade.request.path == "/take":
            self.taken.append((socket.socket(fileno=sock.detach()), upgrade.leftover))
            return None
        return json_response({"refused": True}, 400)


class Running:
    """An HttpServer with its threads, stopped at the end of the `with`."""

    def __init__(self, router: Any = None, **options: Any) -> None:
        self.router = router if router is not None else Echo()
        self.server = HttpServer(self.router, [("127.0.0.1", 0, False), ("127.0.0.1", 0, True)], **options)
        self.public, self.internal = self.server.addresses
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True) for name, target in self.server.threads()
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self.router, Echo):
            self.router.gate.set()
            for sock, _leftover in self.router.taken:
                sock.close()
        self.stop()

    def stop(self) -> None:
        """Stops, and waits for every thread."""
        self.server.stop()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive(), thread.name
        self.server.close()

    def client(self, *, internal: bool = False) -> Client:
        """A new connection."""
        return Client(self.internal if internal else self.public)


def wait_until(test: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    """Polls; AssertionError with `what` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not test():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        time.sleep(0.005)
