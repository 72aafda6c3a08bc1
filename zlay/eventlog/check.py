"""Is a log whole? Every byte of it looked at, and every number accounted for (docs/eventlog.md). One thread."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from zlay._fast import log as _log
from zlay._fast.examine import Examiner
from zlay.eventlog.recovery import segment_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zlay._fast.examine import Result
    from zlay.eventlog.view import LogView, SegmentView

__all__ = ["Fault", "Findings", "check", "edge_times", "examine"]

STEP_EVENTS = 50_000  # between two looks at whether somebody wants to stop


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that should not be. `from_seq` to `to_seq`: what it concerns; None = no certain events."""

    kind: Literal["damaged", "missing", "file"]
    from_seq: int | None
    to_seq: int | None
    what: str


@dataclass(slots=True)
class Findings:
    """What a check has found."""

    first_seq: int = 0
    last_seq: int = 0
    segments: int = 0
    events: int = 0  # good ones
    bytes: int = 0  # of their frames
    damaged: int = 0
    missing: int = 0
    faults: list[Fault] = field(default_factory=list)
    left_out: list[tuple[int, int]] = field(default_factory=list)  # numbers not given on purpose
    notes: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def add_missing(self, from_seq: int, to_seq: int, what: str) -> None:
        """A hole, if there is one."""
        if from_seq <= to_seq:
            self.missing += to_seq + 1 - from_seq
            self.faults.append(Fault("missing", from_seq, to_seq, what))


@contextlib.contextmanager
def _files(view: LogView, segment: SegmentView) -> Iterator[tuple[int, int]]:
    """Descriptors of .index and .frames. Raises FileNotFoundError when retention has just taken the segment away."""
    frames_fd, index_fd = view.open_files(segment)
    try:
        yield index_fd, frames_fd
    finally:
        os.close(frames_fd)
        os.close(index_fd)


def examine(view: LogView, segment: SegmentView, *, frames: bool) -> Result | None:
    """One segment, with or without a look at its frames; None = it has just been taken away. Raises OSError."""
    _log.set_did_key(view.store.did_key)
    try:
        with _files(view, segment) as fds:
            examiner = Examiner(*fds, segment.first_seq, segment.first_seq, frames)
            for seq in range(segment.first_seq - 1, segment.last_seq, STEP_EVENTS):
                examiner.run(min(seq + STEP_EVENTS, segment.last_seq))
            return examiner.result()
    except FileNotFoundError:
        return None


def edge_times(view: LogView, segment: SegmentView) -> tuple[int | None, int | None]:
    """Receive times of a segment's first and last event; None where it cannot be read. Raises OSError."""
    if segment.is_foreign or segment.entries == 0:
        return None, None
    times: list[int | None] = []
    try:
        with _files(view, segment) as fds:
            for seq in (segment.first_seq, segment.last_seq):
                examiner = Examiner(*fds, segment.first_seq, seq, False)
                examiner.run(seq)
                times.append(examiner.result()["oldest_us"] or None)
    except FileNotFoundError:
        return None, None
    return times[0], times[1]


def check(view: LogView, on_segment: Callable[[int, int], None] = lambda done, of: None) -> Findings:
    """Checks all that is to be seen of a log. `on_segment(done, of)` hears how far it is. Raises OSError."""
    found = Findings(view.first_seq, view.last_seq, len(view.segments), notes=list(view.notes))
    found.faults += [Fault("file", None, None, text) for text in view.faults]
    for n, segment in enumerate(view.segments):
        on_segment(n, len(view.segments))
        _check_segment(view, segment, found)
    for older, newer in pairwise(view.segments):
        _check_between(older, newer, found)
    if view.segments:
        found.add_missing(view.last_seq + 1, view.floor, "was on disk and is not in the last segment")
    if view.torn:
        found.notes.append(f"a torn end of {view.torn} entries, which the next start cuts off")
    if view.unpublished:
        found.notes.append(f"{view.unpublished} newer events are not published yet and were not looked at")
    return found


def _check_segment(view: LogView, segment: SegmentView, found: Findings) -> None:
    found.faults += [Fault("file", None, None, text) for text in segment.faults]
    if segment.is_foreign:
        return
    result = examine(view, segment, frames=True)
    if result is None:
        found.notes.append(f"{segment_name(segment.first_seq, 'index')} was taken away by retention meanwhile")
        return
    found.events += result["events"]
    found.bytes += result["bytes"]
    found.damaged += result["bad"]
    found.faults += [Fault("damaged", first, last, text) for first, last, text in result["faults"]]


def _check_between(older: SegmentView, newer: SegmentView, found: Findings) -> None:
    """Numbers between two segments: lost, or never given."""
    if newer.previous_last is None:
        found.add_missing(older.last_seq + 1, newer.first_seq - 1, "lost, or left out on purpose: no header says which")
        return
    given_end = min(newer.previous_last, newer.first_seq - 1)
    found.add_missing(older.last_seq + 1, given_end, "was given out and is in no segment")
    left_out = max(given_end, older.last_seq) + 1
    if left_out < newer.first_seq:
        found.left_out.append((left_out, newer.first_seq - 1))
