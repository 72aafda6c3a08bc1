"""Hosts that cannot be reached, of the kinds that a network has: half refuse, the others are silent in one of two ways.

A host that refuses has its port bound and nobody listening. A silent one takes connections, as its kernel does it, and
never says a word; or it does not even answer a SYN: its queue holds one connection, and that one is our own.
One thread.
"""

from __future__ import annotations

import socket
from typing import Literal, assert_never

__all__ = ["KINDS", "DeadHost", "dead_among"]

Kind = Literal["refuses", "takes_and_is_silent", "drops_syn"]
KINDS: tuple[Kind, ...] = ("refuses", "takes_and_is_silent", "refuses", "drops_syn")  # in turn
SILENT_BACKLOG = 512


def dead_among(hosts: int, dead: int) -> list[int]:
    """Which of so many hosts are dead: evenly spread, so that dead and live ones are dialled together."""
    return [(number * 2 + 1) * hosts // (2 * dead) for number in range(dead)]


class DeadHost:
    """One dead host's sockets; owner of them. `address` is the one it was given."""

    def __init__(self, address: str, port: int, kind: Kind) -> None:
        """Port 0 = any. Raises OSError."""
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._inside: socket.socket | None = None
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sock.bind((address, port))
            if kind == "takes_and_is_silent":
                self._sock.listen(SILENT_BACKLOG)
            elif kind == "drops_syn":
                self._sock.listen(0)
                self._inside = socket.create_connection(self._sock.getsockname())
            elif kind != "refuses":
                assert_never(kind)
        except OSError:
            self.close()
            raise
        self.address: tuple[str, int] = self._sock.getsockname()

    def close(self) -> None:
        """Gives the port back."""
        self._sock.close()
        if self._inside is not None:
            self._inside.close()
