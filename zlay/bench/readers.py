"""Readers in a process of their own: so many sockets to one port, drained without a look at what comes.

`Readers` is the parent's side; `python -m zlay.bench.readers PORT COUNT BYTES [TARGET]` the child's: it connects, with
a WebSocket upgrade where a target is given, says so, waits for a word on its standard input, and takes BYTES from each.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Self

from zlay._fast.pumps import drain
from zlay.errors import LocalFault

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Readers", "upgraded_socket"]

CONNECT_S = 60.0
DRAIN_S = 600.0
UPGRADE = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Readers:
    """The child, from the parent's side. A context manager; one thread.

    The child connects while the parent goes on: `connected` waits for it.
    """

    def __init__(self, port: int, count: int, wanted_bytes: int, target: str = "") -> None:
        command = [sys.executable, "-m", "zlay.bench.readers", str(port), str(count), str(wanted_bytes), target]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def connected(self) -> None:
        """Waits until every socket is connected and upgraded. LocalFault."""
        self._expect("connected", CONNECT_S)

    def go(self) -> None:
        """Has the child read."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def done(self) -> None:
        """Waits until every socket has brought all. LocalFault."""
        self._expect("done", DRAIN_S)

    def _expect(self, word: str, timeout_s: float) -> None:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        if not readable or self._process.stdout.readline().strip() != word:
            raise LocalFault(f"the readers are not {word}; their words, if any, stand above")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


def upgraded_socket(port: int, target: str) -> socket.socket:
    """A socket to this machine's port whose WebSocket upgrade has been answered, and nothing after it read. OSError."""
    sock = socket.create_connection(("127.0.0.1", port), CONNECT_S)
    try:
        sock.sendall(UPGRADE.format(target).encode())
        _read_answer(sock)
    except OSError:
        sock.close()
        raise
    return sock


def _read_answer(sock: socket.socket) -> None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)  # what follows the answer is the caller's
        if not byte:
            raise OSError("the upgrade was not answered")
        head += byte
    if not head.startswith(b"HTTP/1.1 101 "):
        raise OSError(f"the upgrade was refused: {head[:100]!r}")


def main(argv: list[str]) -> int:
    """The child's life. 0 = everything came."""
    port, count, wanted = map(int, argv[:3])
    target = argv[3]
    sockets = [
        upgraded_socket(port, target) if target else socket.create_connection(("127.0.0.1", port), CONNECT_S)
        for _ in range(count)
    ]
    print("connected", flush=True)
    if sys.stdin.readline():
        drain([sock.fileno() for sock in sockets], [wanted] * count)
        print("done", flush=True)
        sys.stdin.readline()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
