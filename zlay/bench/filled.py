"""An event log made for a benchmark: so many bytes of recorded messages, and a state that has applied them all.

One thread; the folder is the caller's. A relay started on it finds nothing to bring up.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zlay import config
from zlay._fast.batch import Batch
from zlay._fast.verdicts import KINDS
from zlay.bench.inputs import corpus
from zlay.errors import LocalFault
from zlay.eventlog.log import EventLog, LogSettings
from zlay.eventlog.spans import seq_span
from zlay.state import open_store

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FilledLog", "filled_log", "recorded_batch"]

ENTRY_BYTES = 64  # docs/eventlog.md; the size of a header, too
PLACE = struct.Struct("<QI")  # how an entry begins: offset and length of its frame
SYNC_S = 600.0
APPEND_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: its events, and the bytes of its frames."""

    first_seq: int
    last_seq: int
    path: Path  # without suffix
    size: int  # of .frames

    def offset(self, seq: int) -> int:
        """Where the frame of an event begins."""
        with self.path.with_suffix(".index").open("rb") as index:
            index.seek(ENTRY_BYTES * (seq - self.first_seq + 1))
            return int(PLACE.unpack(index.read(PLACE.size))[0])


@dataclass(frozen=True, slots=True)
class FilledLog:
    """The log: `head` is its newest seq."""

    head: int
    segments: list[Segment]

    def pieces(self, cursor: int) -> list[tuple[Path, int, int]]:
        """What a consumer with this cursor gets: (file, start, end)."""
        found = []
        for segment in self.segments:
            if segment.last_seq > cursor:
                start = segment.offset(max(cursor + 1, segment.first_seq))
                found.append((segment.path.with_suffix(".frames"), start, segment.size))
        return found

    def bytes_after(self, cursor: int) -> int:
        """How many bytes that is."""
        return sum(end - start for _, start, end in self.pieces(cursor))

    def cursor_for(self, wanted_bytes: int) -> int:
        """The highest cursor that gets at least so many bytes; 0 when the log has fewer."""
        low, high = 0, self.head
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.bytes_after(middle) >= wanted_bytes else (low, middle - 1)
        return low


def recorded_batch(events: int, accounts: int) -> tuple[Batch, int]:
    """Commits of a recording to append, and their mean size in bytes."""
    frames = corpus(events=events, accounts=accounts, p256_share=0.2, only_commits=True).frames
    if not frames:
        raise ValueError("no commits")
    batch = Batch([(frame, *seq_span(frame)) for frame in frames], KINDS.index("commit"))
    return batch, sum(map(len, frames)) // len(frames)


def filled_log(data_dir: Path, batch: Batch, frame_bytes: int, wanted_bytes: int) -> FilledLog:
    """Makes it, in a new directory. LocalFault when the disk does not take it in time."""
    settings, _ = config.from_environment({"RELAY_DATA_DIR": str(data_dir)})
    data_dir.mkdir(parents=True)
    log = EventLog.open(data_dir, LogSettings(durability="os"))
    store = open_store(settings)
    try:
        store.set_store_id(log.store_id)
        count = max(1, wanted_bytes // frame_bytes)
        for first in range(0, count, APPEND_AT_ONCE):
            batch.append(first, min(APPEND_AT_ONCE, count - first))
        head = log.appended_end
        if not log.wait_synced(head, SYNC_S):
            raise LocalFault(f"the disk did not take {wanted_bytes} bytes in {SYNC_S:.0f} s")
        store.apply([], [], head, head)
    finally:
        store.close()
        log.close()
    return FilledLog(head, _segments(data_dir / "events", head))


def _segments(events: Path, head: int) -> list[Segment]:
    paths = sorted(path.with_suffix("") for path in events.glob("*.frames"))
    firsts = [int(path.name) for path in paths]
    ends = [*firsts[1:], head + 1]
    return [
        Segment(first, end - 1, path, path.with_suffix(".frames").stat().st_size)
        for path, first, end in zip(paths, firsts, ends, strict=True)
    ]
