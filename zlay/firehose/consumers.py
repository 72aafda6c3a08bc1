"""Consumers as the rest of the program sees them: admitted, served, listed, closed.

Promises: no more consumers than the limits say, in all and per address; an admitted one is counted until its thread has
ended. Assumes: the log is open from start() to stop().

Threads: start and stop, one; everything else, any. `_lock` guards the numbers per address and what is known of those
served.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass

from zlay._fast import consumer as _consumer
from zlay._fast import log as _log
from zlay.errors import RemoteFault
from zlay.firehose.cursor import OUTDATED_CURSOR, place
from zlay.firehose.frames import error_frame
from zlay.firehose.lag import bytes_and_time_behind
from zlay.net.clients import client_of

__all__ = ["ConsumerStats", "Consumers", "TooManyConsumers"]

TOO_SLOW = error_frame("ConsumerTooSlow", "Stream consumer too slow")
GOING_AWAY = 1001
MAX_AGENT_CHARS = 200  # kept of what a consumer says it is


class TooManyConsumers(RemoteFault):
    """A limit is reached: HTTP 429 before the upgrade (A2)."""


@dataclass(frozen=True, slots=True)
class ConsumerStats:
    """One connected consumer."""

    id: int
    peer: str
    user_agent: str | None  # as it said, shortened; None = it said nothing
    since_us: int  # unix microseconds
    cursor: int | None  # that it asked for; None = live
    first_seq: int  # where it began
    next_seq: int  # the next event it gets
    lag: int  # events published and not yet sent to it
    lag_bytes: int | None  # of these, hidden ones and what is not published yet included; None = the log cannot be read
    lag_s: float | None  # age of the first of these, since it was received
    events: int
    bytes: int
    blocked_s: float  # its socket has taken nothing for so long; 0 = it does
    state: str  # streaming, finishing, closing


@dataclass(frozen=True, slots=True)
class _Origin:
    """What is known of a consumer beside its place in the log."""

    address: str
    cursor: int | None
    user_agent: str | None


class Consumers:
    """All consumers of the process. See the module for threads."""

    def __init__(self, *, limit: int = 2000, limit_per_address: int = 50, tick_ms: float | None = None) -> None:
        self._limit = limit
        self._limit_per_address = limit_per_address
        self._tick_us = -1 if tick_ms is None else int(tick_ms * 1000)
        self._lock = threading.Lock()
        self._by_address: Counter[str] = Counter()
        self._origins: dict[int, _Origin] = {}
        self._admitted = 0

    def start(
        self,
        *,
        slow_s: float = 60.0,
        ping_s: float = 30.0,
        error_s: float = 5.0,
        dead_s: float = 75.0,
        grace_s: float = 600.0,
    ) -> None:
        """Take consumers. Raises OSError.

        slow_s: without progress while behind; ping_s: after so long without a write; error_s: for an error frame and
        a close; dead_s: bytes that nobody acknowledges; grace_s: reading on where retention has taken away.
        """
        _consumer.start(
            TOO_SLOW,
            OUTDATED_CURSOR,
            tick_us=self._tick_us,
            slow_us=int(slow_s * 1e6),
            ping_us=int(ping_s * 1e6),
            error_us=int(error_s * 1e6),
            dead_us=int(dead_s * 1e6),
            grace_us=int(grace_s * 1e6),
        )

    def admit(self, address: str) -> None:
        """Take a place for a consumer of this address (without port), before its upgrade is answered.

        The addresses of an IPv6 /64 are one. Give it back by release(), unless accept() has taken it over.
        Raises TooManyConsumers.
        """
        self._reap()
        who = client_of(address)
        with self._lock:
            if self._admitted >= self._limit:
                raise TooManyConsumers("too many consumers")
            if self._by_address[who] >= self._limit_per_address:
                raise TooManyConsumers("too many consumers from this address")
            self._admitted += 1
            self._by_address[who] += 1

    def release(self, address: str) -> None:
        """Give back a place whose upgrade came to nothing."""
        with self._lock:
            self._release(address)

    def _release(self, address: str) -> None:
        """Requires `_lock`."""
        who = client_of(address)
        self._admitted -= 1
        self._by_address[who] -= 1
        if self._by_address[who] <= 0:
            del self._by_address[who]

    def accept(
        self,
        fd: int,
        address: str,
        cursor: int | None,
        received: bytes = b"",
        *,
        peer: str = "",
        user_agent: str | None = None,
    ) -> int:
        """Serve a socket whose place is admitted and whose upgrade has been answered. Returns the consumer's id.

        The fd is the consumer's from here on, the place given back when it ends. received: bytes that came after the
        upgrade request; peer: how it is listed (the address, unless given); user_agent: what it says it is. Raises
        OSError and RuntimeError, with fd and place still the caller's.
        """
        status = _log.status()
        spot = place(cursor, status["oldest_seq"], status["published_end"])
        with self._lock:
            ident = _consumer.accept(
                fd,
                peer or address,
                spot.next_seq,
                lead=spot.lead,
                received=received,
                future_cursor=spot.future,
                any_start=spot.any_start,
            )
            agent = None if user_agent is None else user_agent[:MAX_AGENT_CHARS]
            self._origins[ident] = _Origin(address, cursor, agent)
        return ident

    def _reap(self) -> None:
        with self._lock:
            for row, _reason in _consumer.take_ends():
                self._release(self._origins.pop(row[0]).address)

    def stats(self) -> list[ConsumerStats]:
        """Every connected consumer, newest first."""
        return self._described(_consumer.stats())

    def page(self, after_id: int, limit: int) -> tuple[list[ConsumerStats], bool]:
        """Up to `limit` connected consumers with higher ids, in the order of their coming; whether there are more."""
        rows = sorted(row for row in _consumer.stats() if row[0] > after_id)
        return self._described(rows[:limit]), len(rows) > limit

    def _described(self, rows: list[_consumer.Row]) -> list[ConsumerStats]:
        self._reap()
        with self._lock:
            origins = [self._origins.get(row[0]) for row in rows]
        head = _log.ends()[2]
        out = []
        for row, origin in zip(rows, origins, strict=True):
            ident, peer, since, first, following, events, n, blocked, state = row
            lag = max(0, head + 1 - following)
            lag_bytes, received_us = bytes_and_time_behind(following) if lag else (0, None)
            out.append(
                ConsumerStats(
                    id=ident,
                    peer=peer,
                    user_agent=None if origin is None else origin.user_agent,
                    since_us=since,
                    cursor=None if origin is None else origin.cursor,
                    first_seq=first,
                    next_seq=following,
                    lag=lag,
                    lag_bytes=lag_bytes,
                    lag_s=max(0.0, time.time() - received_us / 1e6) if received_us else None if lag else 0.0,
                    events=events,
                    bytes=n,
                    blocked_s=blocked,
                    state=state,
                )
            )
        return out

    def disconnect(self, ident: int) -> bool:
        """End one consumer's connection, as `operator`; False = there is none of this id. Its end comes at once."""
        return _consumer.disconnect(ident)

    def count(self) -> int:
        """Connected consumers."""
        return _consumer.count()[0]

    def totals(self) -> dict[str, int]:
        """Events and bytes sent to all consumers since the start, and wake-ups."""
        _count, events, sent, wakes = _consumer.count()
        return {"events": events, "bytes": sent, "wakes": wakes}

    def disconnects(self) -> dict[str, int]:
        """Ended consumers by reason: relay_consumer_disconnects_total."""
        return _consumer.disconnects()

    def stop(self, code: int = GOING_AWAY, deadline_s: float = 3.0) -> None:
        """Close everybody with a close code, and wait. Raises RuntimeError when a thread does not end."""
        _consumer.stop(code, deadline_s)
        with self._lock:
            self._origins.clear()
            self._by_address.clear()
            self._admitted = 0
