"""How long a relay takes to say that it is alive, asked all along from before its start on; and what the machine adds.

Asked, and answered for comparison, by processes of their own with one thread each: `python -m zlay.bench.health ask
PORT` asks until its standard input ends, then prints a line of JSON; `serve` prints its port and answers.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from zlay.bench.processes import Child
from zlay.errors import LocalFault
from zlay.latency import answer_soon

__all__ = ["BareServer", "Health", "free_port"]

MODULE = "zlay.bench.health"
LOWEST_PORT = 10_000
TRIES = 100
PAUSE_S = 0.01  # between two questions
TIMEOUT_S = 10.0
START_S = 30.0
PATHS = ("/_health", "/_readyz")  # in turn
REQUEST = "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago, and is none that connections get. LocalFault."""
    given_out_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(TRIES):
        port = random.randrange(LOWEST_PORT, max(LOWEST_PORT + 1, given_out_from))
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise LocalFault("no port is free")


class Health(Child):
    """Asks over a new connection each time, as probes do.

    `answers_ms`: from connecting to the end of the answer; what is refused because nobody listens yet is no answer.
    `first_s`: when the first one came, monotonic; None = none. `failures`: connections that were taken and brought no
    answer. All after `stop`.
    """

    def __init__(self, port: int) -> None:
        """Begins at once. LocalFault."""
        super().__init__(MODULE, "ask", str(port))
        self.answers_ms: list[float] = []
        self.first_s: float | None = None
        self.failures = 0
        self.line(START_S)

    def stop(self) -> None:
        """Asks no more. LocalFault."""
        self.tell_no_more()
        found = json.loads(self.line(START_S))
        self.answers_ms, self.first_s, self.failures = found["answers_ms"], found["first_s"], found["failures"]

    def worst_ms(self) -> float:
        """The longest that an answer took; TIMEOUT_S when one did not come."""
        return max(self.answers_ms, default=0.0) if not self.failures else TIMEOUT_S * 1000

    def p99_ms(self) -> float:
        """What 99 of 100 answers took at most."""
        taken = sorted(self.answers_ms)
        return taken[len(taken) * 99 // 100] if taken else 0.0


class BareServer(Child):
    """Answers each connection at once."""

    def __init__(self) -> None:
        """`port`: where. LocalFault."""
        super().__init__(MODULE, "serve")
        self.port = int(json.loads(self.line(START_S)))


def _ask_all_along(port: int) -> dict[str, object]:
    """Until standard input ends."""
    answers_ms: list[float] = []
    first_s: float | None = None
    failures = 0
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        began = time.monotonic()
        try:
            answered = _ask(port, PATHS[len(answers_ms) % len(PATHS)])
        except ConnectionRefusedError:
            continue
        except OSError:
            answered = False
        ended = time.monotonic()
        if answered:
            answers_ms.append((ended - began) * 1000)
            first_s = ended if first_s is None else first_s
        else:
            failures += 1
    return {"answers_ms": answers_ms, "first_s": first_s, "failures": failures}


def _ask(port: int, path: str) -> bool:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as sock:
        sock.sendall(REQUEST.format(path).encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
    return answer.startswith(b"HTTP/1.1 ")


def _serve() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            sock, _ = listener.accept()
            with sock, suppress(OSError):
                sock.recv(4096)
                sock.sendall(ANSWER)


def main(argv: list[str]) -> None:
    """The child's life."""
    answer_soon()
    if argv[0] == "serve":
        _serve()
    print("{}", flush=True)
    print(json.dumps(_ask_all_along(int(argv[1]))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
