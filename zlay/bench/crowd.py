"""Thousands of HTTP clients in a process of their own: idle ones, or such that drip. No thread but its own.

    python -m zlay.bench.crowd PORT COUNT KIND PATH     ends with its standard input

`silent` send nothing, `idle` one request and take its answer, `slow` a letter of a head every second, `greedy` as many
requests as the server takes, thirty in one go, reading what it answers. A line "ready"
says that all are there. Clients come from as many loopback addresses as keep each below the server's limit for one.
"""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from functools import partial
from typing import Self

from zlay.errors import LocalFault

__all__ = ["KINDS", "Crowd"]

KINDS = ("silent", "idle", "slow", "greedy")
BLOCK = 30  # requests of a greedy client in one go
OF_ONE_ADDRESS = 2_000
RESET = struct.pack("ii", 1, 0)  # no TIME_WAIT: a minute's runs would use up the machine's ports
AT_ONCE = 500  # connections, then the server catches up
DRIP_S = 1.0
START_S = 60.0


class Crowd:
    """A running crowd; a context manager. One thread."""

    def __init__(self, port: int, count: int, kind: str, path: str = "/_health") -> None:
        """`path` is what they ask for. Raises LocalFault when not all can be connected."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "zlay.bench.crowd", str(port), str(count), kind, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], START_S)
        if not readable or self._process.stdout.readline() != b"ready\n":
            self.close()
            raise LocalFault(f"no {count} clients could be connected")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all of them."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _connect(port: int, number: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)  # it is chosen by the connection, which is quick
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.bind((f"127.0.1.{1 + number // OF_ONE_ADDRESS}", 0))
    sock.connect(("127.0.0.1", port))
    return sock


def _wait_accepted(port: int, head: bytes) -> None:
    """An answer to a newcomer: all who came before are accepted. More of them at once than the server's backlog takes
    would be asked by TCP to come again, later and later."""
    with _connect(port, 0) as sock:
        sock.sendall(head + b"Connection: close\r\n\r\n")
        while sock.recv(4096):
            pass


def _drip(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the server has ended it
        sock.send(b"x")


def _take_and_ask(sock: socket.socket, block: bytes) -> None:
    for step in (partial(sock.recv, 1 << 16), partial(sock.send, block)):
        with contextlib.suppress(OSError):
            step()


def _main(port: str, count: str, kind: str, path: str) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    head = f"GET {path} HTTP/1.1\r\nHost: relay\r\n".encode()
    first = {"silent": b"", "idle": head + b"\r\n", "slow": head + b"X-Padding: ", "greedy": b""}[kind]
    clients: list[socket.socket] = []
    while len(clients) < int(count):
        clients += [_connect(int(port), len(clients) + n) for n in range(min(AT_ONCE, int(count) - len(clients)))]
        _wait_accepted(int(port), head)
    for start in range(0, len(clients) if first else 0, AT_ONCE):
        group = clients[start : start + AT_ONCE]
        for sock in group:
            sock.sendall(first)
        if kind == "idle":
            for sock in group:
                assert sock.recv(4096).startswith(b"HTTP/1.1 200")
    print("ready", flush=True)
    for sock in clients:
        sock.setblocking(False)
    while not select.select([sys.stdin], [], [], 0.0 if kind in ("slow", "greedy") else None)[0]:
        if kind == "greedy":
            for sock in clients:
                _take_and_ask(sock, (head + b"\r\n") * BLOCK)
            continue
        began = time.monotonic()
        for number, sock in enumerate(clients):
            _drip(sock)
            ahead_s = began + DRIP_S * number / len(clients) - time.monotonic()
            if ahead_s > 0:
                time.sleep(ahead_s)


if __name__ == "__main__":
    _main(*sys.argv[1:])
