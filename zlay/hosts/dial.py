"""One dial in flight: resolved addresses, a non-blocking connect, the upgrade. Driven by the dialer's selector.

Promises: never blocks; each step has a deadline; no address is connected to that may not be; the socket is closed
unless it was taken by `detach`. Used by the dialer's thread alone.
"""

from __future__ import annotations

import errno
import selectors
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zlay.hosts.addresses import is_public
from zlay.hosts.upgrade import DialFailed, Upgrade

if TYPE_CHECKING:
    from zlay.hosts.dns import Address, Answer
    from zlay.hosts.interface import DialTarget

__all__ = ["Dial", "DialRules", "OutOfDescriptors"]

RECEIVE_BYTES = 4096
ADDRESSES_TRIED = 3  # of those a name resolves to
_UNDER_WAY = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


class OutOfDescriptors(Exception):
    """The process or the system has no file descriptor left: a fault of ours, not of the host."""


@dataclass(frozen=True, slots=True)
class DialRules:
    """What every dial of this process observes. Seconds bound each step by itself."""

    user_agent: str
    allow_private: bool = False  # private addresses, ws://, and relays
    resolve_s: float = 10.0
    connect_s: float = 5.0  # E18; for all addresses together
    upgrade_s: float = 10.0


class Dial:
    """A dial from resolved name to open stream. `deadline` is when `expired` must be called."""

    def __init__(
        self, target: DialTarget, cursor: int | None, rules: DialRules, selector: selectors.BaseSelector, now: float
    ) -> None:
        self.target = target
        self.cursor = cursor
        self.deadline = now + rules.resolve_s
        self.leftover = b""
        self._rules = rules
        self._selector = selector
        self._addresses: list[Address] = []
        self._tried: list[str] = []
        self._kinds: set[int] = set()
        self._sock: socket.socket | None = None
        self._connected = False
        self._connect_by = 0.0
        self._upgrade: Upgrade | None = None
        self._unsent = b""

    def resolved(self, answer: Answer, now: float) -> None:
        """The name's addresses have come: begins to connect. Raises DialFailed, OutOfDescriptors."""
        if isinstance(answer, OSError):
            if answer.errno in _NO_DESCRIPTOR:
                raise OutOfDescriptors(answer.strerror)
            raise DialFailed("dns", answer.strerror or str(answer))
        allowed = [a for a in answer if self._rules.allow_private or is_public(a.text)]
        if not allowed:
            raise DialFailed("dns", "resolves to no address" if not answer else "resolves to private addresses only")
        self._addresses = allowed[:ADDRESSES_TRIED]
        self._connect_by = now + self._rules.connect_s
        self._connect_next(now)

    def ready(self, now: float) -> bool:
        """The socket is ready; True when the stream is open. Raises DialFailed, OutOfDescriptors."""
        if not self._connected and not self._finish_connect(now):
            return False
        return self._exchange()

    def expired(self, now: float) -> None:
        """`deadline` has come: on to the next address, or raises DialFailed (OutOfDescriptors)."""
        if self._sock is None:
            raise DialFailed("dns", f"no answer within {self._rules.resolve_s:g} s")
        if self._connected:
            raise DialFailed("http_upgrade", f"no complete answer within {self._rules.upgrade_s:g} s")
        self._next_or_fail(errno.ETIMEDOUT, now)

    def detach(self) -> socket.socket:
        """The open stream's socket; the caller's from now on."""
        assert self._sock is not None
        sock, self._sock = self._sock, None
        self._selector.unregister(sock)
        return sock

    def close(self) -> None:
        """Gives the socket back, if there is one. May be called twice."""
        if self._sock is not None:
            self._selector.unregister(self._sock)
            self._sock.close()
            self._sock = None

    def _connect_next(self, now: float) -> None:
        address = self._addresses.pop(0)
        self._tried.append(address.text)
        left = self._connect_by - now
        self.deadline = now + left / (1 + len(self._addresses))
        try:
            sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as exc:
            if exc.errno in _NO_DESCRIPTOR:
                raise OutOfDescriptors(exc.strerror) from exc
            self._next_or_fail(exc.errno or 0, now)  # a family this machine does not have
            return
        code = sock.connect_ex(address.sockaddr)
        if code not in _UNDER_WAY:
            sock.close()
            self._next_or_fail(code, now)
            return
        self._sock = sock
        self._selector.register(sock, selectors.EVENT_WRITE, self)

    def _next_or_fail(self, code: int, now: float) -> None:
        self.close()
        self._kinds.add(code)
        if self._addresses and now < self._connect_by:
            self._connect_next(now)
            return
        where = ", ".join(self._tried)
        if errno.ECONNREFUSED in self._kinds:
            raise DialFailed("tcp_refused", f"connection refused ({where})")
        raise DialFailed("tcp_timeout", f"{errno.errorcode.get(code, code)}: no connection ({where})")

    def _finish_connect(self, now: float) -> bool:
        assert self._sock is not None
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._next_or_fail(code, now)
            return False
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connected = True
        self.deadline = now + self._rules.upgrade_s
        self._upgrade = Upgrade(
            self.target.hostname, self.cursor, self._rules.user_agent, allow_relays=self._rules.allow_private
        )
        self._unsent = self._upgrade.request
        return True

    def _exchange(self) -> bool:
        """Sends what is unsent, else reads; True when the upgrade is through."""
        assert self._sock is not None
        assert self._upgrade is not None
        try:
            if self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
                if not self._unsent:
                    self._selector.modify(self._sock, selectors.EVENT_READ, self)
                return False
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return False
        except OSError as exc:
            raise DialFailed("http_upgrade", exc.strerror or str(exc)) from exc
        if not data:
            raise DialFailed("http_upgrade", "closed before the answer was complete")
        if not self._upgrade.feed(data):
            return False
        self.leftover = self._upgrade.leftover
        return True
