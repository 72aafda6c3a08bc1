"""A scripted HTTP server on a real socket: tests say what bytes it answers, and when."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h11

if TYPE_CHECKING:
    import ssl

Answer = Callable[["Request", socket.socket], bytes | None]
"""Given a request and its connection: the bytes to send; None = close the connection without any."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it arrived."""

    target: str
    headers: dict[str, str]
    connection: int  # counted from 1
    method: str = "GET"
    body: bytes = b""

    @property
    def path(self) -> str:
        """Without the query."""
        return self.target.partition("?")[0]


@dataclass
class FakeHttp:
    """Serves `answer` on 127.0.0.1 until closed. A context manager; one thread per connection."""

    answer: Answer
    context: ssl.SSLContext | None = None  # None = without TLS
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.ended = threading.Event()
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def __enter__(self) -> FakeHttp:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'http' if self.context is None else 'https'}://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Ends every connection and waits for the threads."""
        self.ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(10)
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        for thread in self._threads:
            thread.join(10)
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.append(connection)
                number = len(self._connections)
            thread = threading.Thread(target=self._serve, args=(connection, number))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._connections[number - 1] = connection
            while (request := _read_request(connection, number)) is not None:
                with self._lock:
                    self.requests.append(request)
                reply = self.answer(request, connection)
                if reply is None:
                    break
                connection.sendall(reply)
                if b"connection: close" in reply.lower():
                    break
        except OSError:
            pass
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """A complete answer; underscores in header names stand for hyphens."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def reply_json(value: object, status: int = 200, **headers: str) -> bytes:
    """A complete answer in JSON."""
    return reply(status, json.dumps(value).encode(), Content_Type="application/json", **headers)


def _read_request(connection: socket.socket, number: int) -> Request | None:
    raw = b""
    while b"\r\n\r\n" not in raw:
        data = connection.recv(65536)
        if not data:
            return None
        raw += data
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(raw)
    event = parser.next_event()
    assert isinstance(event, h11.Request)
    headers = {name.decode(): value.decode() for name, value in event.headers}
    body = raw.partition(b"\r\n\r\n")[2]
    while len(body) < int(headers.get("content-length", "0")):
        data = connection.recv(65536)
        if not data:
            return None
        body += data
    return Request(event.target.decode(), headers, number, event.method.decode(), body)
