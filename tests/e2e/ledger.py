"""The simulation's ledger against what came out of the relay. One thread.

`expected` reads the truth of a finished simulation; `difference` says in words how a relay's output deviates from it.
Bytes are compared by the reference's normalisation, not by the ledger's own offsets.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.reference.frame_ref import Frame, decode_frame
from zlay.sim.ledger import Expect, message_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zlay.sim.ledger import Event, Ledger

_SHOWN = 5  # events of each kind of deviation in a message


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of a frame from the relay."""

    seq: int
    did: str
    kind: str
    rev: str
    normalized: bytes
    at_s: float


def seen(frame: Frame, at_s: float = 0.0) -> Seen:
    """The part of a frame that is compared; `at_s` is when it arrived, unix seconds."""
    return Seen(frame.seq or 0, frame.did or "", frame.kind, frame.payload.get("rev", ""), frame.normalized, at_s)


def expected(ledger: Ledger) -> list[Event]:
    """The events read now that must come out of a strict relay."""
    return [event for event in ledger.poll() if event.expect == Expect.PASS]


def difference(events: Iterable[Event], frames: Iterable[Seen], *, contiguous: bool = True) -> str:
    """'' where exactly the expected events came out, once, in order per account; else what is wrong.

    With `contiguous` each frame's seq must be one above that of the frame before it.
    """
    faults = []
    wanted: dict[str, list[bytes]] = defaultdict(list)
    for event in events:
        wanted[event.did].append(decode_frame(message_of(event.frame)).normalized)
    got: dict[str, list[bytes]] = defaultdict(list)
    last = None
    for frame in frames:
        got[frame.did].append(frame.normalized)
        if contiguous and last is not None and frame.seq != last + 1:
            faults.append(f"seq {frame.seq} after {last}")
        last = frame.seq
    for did in wanted.keys() | got.keys():
        if wanted[did] == got[did]:
            continue
        lost, extra = Counter(wanted[did]) - Counter(got[did]), Counter(got[did]) - Counter(wanted[did])
        again = sum(count for item, count in extra.items() if item in wanted[did])
        wrong = f"{lost.total()} lost, {again} twice, {extra.total() - again} that should not be"
        faults.append(f"{did}: {wrong if lost or extra else 'out of order'}, of {len(wanted[did])}")
    shown = "; ".join(faults[:_SHOWN])
    return f"{len(faults)} deviations: {shown}" if faults else ""
