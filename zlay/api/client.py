"""One connection as the server knows it, and what connections together make it keep. The epoll thread's alone."""

from __future__ import annotations

import select
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from zlay.api.connection import HttpConnection

__all__ = ["ByteSum", "Client"]


@dataclass(slots=True, eq=False)
class Client:
    """One connection. The epoll thread's, but while a handler has an upgrade of it: then `sock` is the handler's."""

    sock: socket.socket
    fd: int  # of `sock`, kept for the books: a consumer's socket is detached from its object
    peer: str
    is_internal: bool
    http: HttpConnection
    deadline: float
    out: bytearray = field(default_factory=bytearray)  # of answers, not taken yet
    busy: bool = False  # a handler works for it: nothing is read
    queued: bool = False  # it has had its turn, and more requests: nothing is read
    closing: bool = False  # when `out` is empty
    got_end: bool = False
    interest: int = select.EPOLLIN  # as epoll knows it; -1 = not registered
    began: float = 0.0  # when the first byte of the request under way came; 0 = none is
    asked: str | None = None  # who asks, while the request is counted among those for handlers
    route: str | None = None  # of the whole request that has no answer yet; None = there is none
    whole_at: float = 0.0  # since when
    requests: int = 0


class ByteSum:
    """Bytes kept for clients, all together, with a bound. Who has made us keep some for longest has had the best
    chance to end that, and goes first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0
        self._of: dict[Client, int] = {}  # in the order in which they came; none with 0

    def set(self, client: Client, count: int) -> list[Client]:
        """So many bytes are kept for this client now. Those that are to be let go, until half of the bound is free."""
        self.bytes += count - self._of.get(client, 0)
        if count:
            self._of[client] = count
        else:
            self._of.pop(client, None)
        if self.bytes <= self.most:
            return []
        out: list[Client] = []
        left = self.bytes
        for one, its in self._of.items():
            if left <= self.most // 2:
                break
            out.append(one)
            left -= its
        return out
