"""Readers in a process of their own: so many sockets to one port, drained without a look at what comes.

`Readers` is the parent's side; `python -m zlay.bench.readers PORT BYTES TARGET...` the child's: it connects once for
each target, with a WebSocket upgrade unless it is empty, says so, waits for a word on its standard input, and takes
BYTES from each.
"""

from __future__ import annotations

import resource
import socket
import sys
from typing import TYPE_CHECKING

from zlay._fast.pumps import drain
from zlay.bench.processes import Child
from zlay.errors import LocalFault

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ENDLESS", "Readers", "upgraded_socket"]

ENDLESS = 1 << 60  # bytes

CONNECT_S = 60.0
DRAIN_S = 600.0
UPGRADE = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Readers(Child):
    """The child, from the parent's side. A context manager; one thread.

    The child connects while the parent goes on: `connected` waits for it.
    """

    def __init__(self, port: int, targets: Sequence[str], wanted_bytes: int = ENDLESS) -> None:
        """One socket for each target, "" = without an upgrade. `wanted_bytes`: of each; ENDLESS = until the end."""
        super().__init__("zlay.bench.readers", str(port), str(wanted_bytes), *targets)

    def connected(self) -> None:
        """Waits until every socket is connected and upgraded. LocalFault."""
        self._expect("connected", CONNECT_S)

    def go(self) -> None:
        """Has the child read."""
        self.tell("go")

    def done(self) -> None:
        """Waits until every socket has brought all. LocalFault."""
        self._expect("done", DRAIN_S)

    def _expect(self, word: str, timeout_s: float) -> None:
        if self.line(timeout_s) != word:
            raise LocalFault(f"the readers are not {word}")


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
    port, wanted = map(int, argv[:2])
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sockets = [
        upgraded_socket(port, target) if target else socket.create_connection(("127.0.0.1", port), CONNECT_S)
        for target in argv[2:]
    ]
    print("connected", flush=True)
    if sys.stdin.readline():
        drain([sock.fileno() for sock in sockets], [wanted] * len(sockets))
        print("done", flush=True)
        sys.stdin.readline()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
