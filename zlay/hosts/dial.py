"""One dial in flight: resolved addresses, a connect, TLS, the upgrade. Driven by the dialer's selector.

Promises: never blocks; each step has a deadline; no address is connected to that may not be; the socket is closed
unless it was taken by `detach`. Used by the dialer's thread alone.
"""

from __future__ import annotations

import errno
import selectors
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zlay._fast import tls
from zlay.hosts.addresses import is_public
from zlay.hosts.names import split_port
from zlay.hosts.race import OutOfDescriptors, Race
from zlay.hosts.upgrade import DialFailed, Upgrade

if TYPE_CHECKING:
    from zlay.hosts.dns import Answer
    from zlay.hosts.interface import DialTarget

__all__ = ["Dial", "DialRules", "OpenStream"]

RECEIVE_BYTES = 4096
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)

# A peer that has gone without a word is noticed by the kernel too, within the time of MISSED_PINGS pings (A9).
_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),  # seconds
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000),  # ms that what we have sent may stay unacknowledged
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


@dataclass(frozen=True, slots=True)
class DialRules:
    """What every dial of this process observes. Seconds bound each step by itself."""

    user_agent: str
    allow_private: bool = False  # private addresses, ws://, and relays
    tls: tls.Context | None = None  # None = wss:// cannot be dialled
    resolve_s: float = 10.0
    connect_s: float = 5.0  # E18; for all addresses together
    tls_s: float = 10.0
    upgrade_s: float = 10.0


@dataclass(frozen=True, slots=True)
class OpenStream:
    """An upgraded connection on its way to a reader. Owner: whoever holds it, until a reader has taken both."""

    sock: socket.socket
    session: tls.Session | None  # None = ws://
    leftover: bytes  # received behind the answer to the upgrade
    cursor: int | None

    def close(self) -> None:
        """Gives both back."""
        if self.session is not None:
            self.session.close()
        self.sock.close()


class Dial:
    """A dial from resolved name to open stream. `deadline` is when `expired` must be called."""

    def __init__(
        self, target: DialTarget, cursor: int | None, rules: DialRules, selector: selectors.BaseSelector, now: float
    ) -> None:
        self.target = target
        self.cursor = cursor
        self.deadline = now + rules.resolve_s
        self._rules = rules
        self._selector = selector
        self._race: Race | None = None
        self._sock: socket.socket | None = None
        self._session: tls.Session | None = None
        self._interest = selectors.EVENT_WRITE
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
        self._race = Race(allowed, self._selector, self, now, self._rules.connect_s)
        self.deadline = self._race.deadline

    def ready(self, sock: socket.socket, now: float) -> bool:
        """`sock`, one of ours, is ready; True when the stream is open. Raises DialFailed, OutOfDescriptors."""
        if self._race is not None:
            won = self._race.ready(sock, now)
            self.deadline = self._race.deadline
            if won is None:
                return False
            self._race = None
            self._connected(won, now)
        if self._upgrade is None and not self._shake_hands(now):
            return False
        return self._exchange()

    def expired(self, now: float) -> None:
        """`deadline` has come: one more address, or raises DialFailed (OutOfDescriptors)."""
        if self._race is not None:
            self._race.expired(now)
            self.deadline = self._race.deadline
            return
        if self._sock is None:
            raise DialFailed("dns", f"no answer within {self._rules.resolve_s:g} s")
        if self._upgrade is None:
            raise DialFailed("tls", f"no handshake within {self._rules.tls_s:g} s")
        raise DialFailed("http_upgrade", f"no complete answer within {self._rules.upgrade_s:g} s")

    def detach(self) -> OpenStream:
        """The open stream; the caller's from now on."""
        assert self._sock is not None
        assert self._upgrade is not None
        sock, session = self._sock, self._session
        self._sock = self._session = None
        self._selector.unregister(sock)
        return OpenStream(sock, session, self._upgrade.leftover, self.cursor)

    def close(self) -> None:
        """Gives back what there is. May be called twice."""
        if self._race is not None:
            self._race.close()
        if self._session is not None:
            self._session.close()
        if self._sock is not None:
            self._selector.unregister(self._sock)
            self._sock.close()
            self._sock = None

    def _connected(self, sock: socket.socket, now: float) -> None:
        self._sock = sock
        self._selector.register(sock, self._interest, self)
        for level, option, value in _SOCKET_OPTIONS:
            sock.setsockopt(level, option, value)
        if self.target.no_tls:
            self._begin_upgrade(now)
            return
        assert self._rules.tls is not None
        name, _ = split_port(self.target.hostname, no_tls=False)
        self.deadline = now + self._rules.tls_s
        try:
            self._session = tls.Session(self._rules.tls, sock.fileno(), name)
        except (tls.TlsError, UnicodeError) as exc:
            raise DialFailed("config", str(exc)) from exc

    def _shake_hands(self, now: float) -> bool:
        """Goes on with the TLS handshake; True when it is through."""
        assert self._session is not None
        try:
            self._session.handshake()
        except BlockingIOError as exc:
            return self._wait(exc)
        except OSError as exc:
            raise DialFailed("tls", exc.strerror or str(exc)) from exc
        self._begin_upgrade(now)
        return True

    def _begin_upgrade(self, now: float) -> None:
        self.deadline = now + self._rules.upgrade_s
        self._upgrade = Upgrade(
            self.target.hostname, self.cursor, self._rules.user_agent, allow_relays=self._rules.allow_private
        )
        self._unsent = self._upgrade.request

    def _exchange(self) -> bool:
        """Sends what is unsent, then reads all that has come; True when the upgrade is through."""
        wire = self._session or self._sock
        assert wire is not None
        assert self._upgrade is not None
        reading = False
        try:
            while self._unsent:
                self._unsent = self._unsent[wire.send(self._unsent) :]
            reading = True
            while data := wire.recv(RECEIVE_BYTES):
                if self._upgrade.feed(data):
                    return True
        except BlockingIOError as exc:
            return self._wait(exc, reading=reading)
        except tls.TlsError as exc:
            raise DialFailed("tls", str(exc)) from exc
        except OSError as exc:
            raise DialFailed("http_upgrade", exc.strerror or str(exc)) from exc
        raise DialFailed("http_upgrade", "closed before the answer was complete")

    def _wait(self, exc: BlockingIOError, *, reading: bool = True) -> bool:
        """Has the selector wait for what a step lacks. TLS says it itself: it may have to read in order to write."""
        if isinstance(exc, tls.WantRead | tls.WantWrite):
            reading = isinstance(exc, tls.WantRead)
        interest = selectors.EVENT_READ if reading else selectors.EVENT_WRITE
        if interest != self._interest:
            assert self._sock is not None
            self._interest = interest
            self._selector.modify(self._sock, interest, self)
        return False
