"""Holds what a consumer got against the simulation's ledger: exactly what should come out, once, in order, same bytes.

One thread feeds it; the counters may be read from others.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zlay.sim.ledger import Expect, same_but_seq

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zlay.demo.consumer import Message
    from zlay.sim.ledger import Event, Ledger

__all__ = ["Checker"]

MAX_COMPLAINTS = 20  # kept for people; all are counted
LATENCIES = 20_000  # the last ones make the percentiles


@dataclass(slots=True)
class Checker:
    """The books of one run, from seq 1 on."""

    ledger: Ledger
    matched: int = 0
    wrong: int = 0  # came out, but should not have: unknown, changed, twice or out of its account's order
    gaps: int = 0  # seq was not the last + 1
    last_seq: int = 0
    expected_drops: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    _pending: dict[str, deque[Event]] = field(default_factory=dict)  # per account, in the order its hosts said them
    _overtaken: list[Event] = field(default_factory=list)  # a later one of its account has come out
    _latencies_us: deque[int] = field(default_factory=lambda: deque(maxlen=LATENCIES))

    def take(self, message: Message) -> None:
        """Books one message."""
        if message.kind == "#info":
            return
        if message.seq != self.last_seq + 1:
            self.gaps += 1
            self._complain(f"seq {message.seq} after {self.last_seq}")
        self.last_seq = message.seq
        event = self._claim(message)
        if event is None:
            self.read_ledger()  # an event is there before its first byte is on a socket
            event = self._claim(message)
        if event is None:
            self.wrong += 1
            self._complain(f"seq {message.seq}: {message.kind} of {message.did} is not what comes next for it")
            return
        self.matched += 1
        self._latencies_us.append(message.received_us - event.time_us)

    def _claim(self, message: Message) -> Event | None:
        """The event that this message is; None = none that may come now. Those it has overtaken may come no more."""
        queue = self._pending.get(message.did, deque())
        for place, event in enumerate(queue):
            if same_but_seq(event.message, message.data, event.seq_offset) == message.seq:
                self._overtaken += [queue.popleft() for _ in range(place)]
                return queue.popleft()
        return None

    def read_ledger(self) -> None:
        """Takes in what the simulation has said since."""
        for event in self.ledger.poll():
            if event.expect == Expect.PASS:
                self._pending.setdefault(event.did, deque()).append(event)
            else:
                self.expected_drops[event.reason] += 1

    def problems(self, drops: Mapping[str, int]) -> list[str]:
        """What is wrong with the run, given how often the relay dropped for which reason; [] = nothing."""
        out = []
        missing = self.missing()
        if missing:
            out.append(f"{missing} valid events did not come out")
        if self.wrong:
            out.append(f"{self.wrong} came out that should not have, or changed, twice, or in the wrong order")
        if self.gaps:
            out.append(f"{self.gaps} gaps in seq")
        if not self.matched:
            out.append("nothing came out")
        for reason in sorted(drops.keys() | self.expected_drops.keys()):
            dropped, expected = drops.get(reason, 0), self.expected_drops[reason]
            if dropped != expected:
                out.append(f"dropped as {reason}: {dropped}, expected {expected}")
        return out

    def missing(self) -> int:
        """Events that should have come out by now and have not."""
        self.read_ledger()
        return sum(len(queue) for queue in self._pending.values()) + len(self._overtaken)

    def missing_sample(self) -> list[str]:
        """Some of them, for people."""
        waiting = [*self._overtaken, *(queue[0] for queue in self._pending.values() if queue)][:MAX_COMPLAINTS]
        return [f"host {e.host} seq {e.seq} kind {e.kind} of {e.did} did not come" for e in waiting]

    def latency_ms(self) -> tuple[float, float]:
        """p50 and p99 of the latest events: from being said to being received."""
        sample = sorted(self._latencies_us.copy())
        if not sample:
            return 0.0, 0.0
        return sample[len(sample) // 2] / 1e3, sample[len(sample) * 99 // 100] / 1e3

    def _complain(self, text: str) -> None:
        if len(self.complaints) < MAX_COMPLAINTS:
            self.complaints.append(text)
