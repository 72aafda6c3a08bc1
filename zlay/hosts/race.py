"""Happy eyeballs (RFC 8305): connects to a host's addresses in turn, each a little after the last; the first one wins.

Promises: never blocks; a host whose first address is dead costs a quarter of a second, not a time-out; at most
ADDRESSES_TRIED sockets, all closed but the winner's. Assumes: IPv6 and IPv4 addresses come in turn (`dns.resolve`).
Used by the dialer's thread alone.
"""

from __future__ import annotations

import errno
import selectors
import socket
from typing import TYPE_CHECKING

from zlay.hosts.upgrade import DialFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zlay.hosts.dns import Address

__all__ = ["ATTEMPT_DELAY_S", "OutOfDescriptors", "Race"]

ADDRESSES_TRIED = 4  # of those a name resolves to: two of each family
ATTEMPT_DELAY_S = 0.25  # RFC 8305 5
_UNDER_WAY = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


class OutOfDescriptors(Exception):
    """The process or the system has no file descriptor left: a fault of ours, not of the host."""


class Race:
    """Connects in flight to one host. `deadline` is when `expired` must be called; `owner` stands in the selector."""

    def __init__(
        self, addresses: Sequence[Address], selector: selectors.BaseSelector, owner: object, now: float, within_s: float
    ) -> None:
        """Begins with the first address. Raises DialFailed, OutOfDescriptors."""
        self._waiting = list(addresses[:ADDRESSES_TRIED])
        self._selector = selector
        self._owner = owner
        self._socks: set[socket.socket] = set()
        self._tried: list[str] = []
        self._codes: list[int] = []  # why attempts failed
        self._end = now + within_s
        self.deadline = self._end
        self._next(now)

    def ready(self, sock: socket.socket, now: float) -> socket.socket | None:
        """A socket of the race is writable: it, when it is connected (no longer ours then). Raises as `__init__`."""
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._drop(sock, close=code != 0)
        if code == 0:
            self.close()
            return sock
        self._codes.append(code)
        self._next(now)
        return None

    def expired(self, now: float) -> None:
        """`deadline` has come: one more address, or the end. Raises as `__init__`."""
        if now >= self._end:
            self._codes += [errno.ETIMEDOUT] * len(self._socks)
            self._fail()
        self._next(now)

    def close(self) -> None:
        """Gives up what is in flight. May be called twice."""
        self._waiting.clear()
        for sock in list(self._socks):
            self._drop(sock, close=True)

    def _drop(self, sock: socket.socket, *, close: bool) -> None:
        self._socks.discard(sock)
        self._selector.unregister(sock)
        if close:
            sock.close()

    def _next(self, now: float) -> None:
        """Begins with the next address that can be begun with; fails when there is none and nothing is in flight."""
        while self._waiting:
            code = self._begin(self._waiting.pop(0))
            if code in _UNDER_WAY:
                break
            if code in _NO_DESCRIPTOR:
                if not self._socks:
                    raise OutOfDescriptors(errno.errorcode[code])
                break  # those in flight may do
            self._codes.append(code)
        if not self._socks:
            self._fail()
        self.deadline = min(now + ATTEMPT_DELAY_S, self._end) if self._waiting else self._end

    def _begin(self, address: Address) -> int:
        self._tried.append(address.text)
        try:
            sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as exc:  # a family this machine does not have, or no descriptor
            return exc.errno or errno.EIO
        code = sock.connect_ex(address.sockaddr)
        if code not in _UNDER_WAY:
            sock.close()
            return code
        self._socks.add(sock)
        self._selector.register(sock, selectors.EVENT_WRITE, self._owner)
        return code

    def _fail(self) -> None:
        where = ", ".join(self._tried)
        if errno.ECONNREFUSED in self._codes:
            raise DialFailed("tcp_refused", f"connection refused ({where})")
        code = self._codes[-1] if self._codes else errno.ETIMEDOUT
        raise DialFailed("tcp_timeout", f"{errno.errorcode.get(code, code)}: no connection ({where})")
