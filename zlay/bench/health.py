"""How long a relay takes to say that it is alive, asked all along on a thread of its own, from before its start on."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Self

__all__ = ["BareServer", "Health", "free_port"]

PAUSE_S = 0.01  # between two questions
TIMEOUT_S = 10.0
PATHS = ("/_health", "/_readyz")  # in turn
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
REQUEST = "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Health:
    """Asks over a new connection each time, as probes do. A context manager; figures may be read after it.

    `answers_ms`: from connecting to the end of the answer; what is refused because nobody listens yet (or any more) is
    no answer. `first_s`: when the first one came, monotonic; None = none. `failures`: connections that were taken and
    brought no answer.
    """

    def __init__(self, port: int) -> None:
        self.answers_ms: list[float] = []
        self.first_s: float | None = None
        self.failures = 0
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT_S + 1)

    def worst_ms(self) -> float:
        """The longest that an answer took; TIMEOUT_S when one did not come."""
        return max(self.answers_ms, default=0.0) if not self.failures else TIMEOUT_S * 1000

    def p99_ms(self) -> float:
        """What 99 of 100 answers took at most."""
        taken = sorted(self.answers_ms)
        return taken[len(taken) * 99 // 100] if taken else 0.0

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(PAUSE_S):
            began = time.monotonic()
            try:
                answered = _ask(self._port, PATHS[number % len(PATHS)])
            except ConnectionRefusedError:
                continue
            except OSError:
                answered = False
            number += 1
            if not answered:
                self.failures += 1
                continue
            ended = time.monotonic()
            self.answers_ms.append((ended - began) * 1000)
            if self.first_s is None:
                self.first_s = ended


class BareServer:
    """Answers each connection at once, on a thread of its own. A context manager."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="bare", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends the accept
        self._thread.join(TIMEOUT_S)
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock, suppress(OSError):
                sock.recv(4096)
                sock.sendall(ANSWER)


def _ask(port: int, path: str) -> bool:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as sock:
        sock.sendall(REQUEST.format(path).encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
    return answer.startswith(b"HTTP/1.1 ")
