"""Power loss at any moment of a recorded run: the states that a disk may be left in, and what must hold of each.

`Witness` follows the record and knows, at each moment, every event that was written, what consumers may have got, and
which segments retention had left. `Losses` walks a trace and gives crash states at random moments. One thread.
"""

from __future__ import annotations

import copy
import random
import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.crash.disk import File, records
from tests.preload import preload
from tests.reference.log_ref import SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.crash.disk import Directory, Disk, Record

__all__ = ["Loss", "Losses", "Witness", "build_recorder", "environment"]

_NAME = re.compile(r"(\d{20})\.(frames|index)")
_OFFSET_LENGTH = struct.Struct("<QI")


def build_recorder(folder: Path) -> Path:
    """The compiled recorder, in that folder."""
    library = folder / "recorder.so"
    source = Path(__file__).with_name("recorder.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def environment(recorder: Path, root: Path, trace: Path, sync_us: int) -> dict[str, str]:
    """What a child process must have set to be recorded."""
    return {
        "LD_PRELOAD": preload(recorder),
        "RECORD_ROOT": str(root),
        "RECORD_TRACE": str(trace),
        "RECORD_SYNC_US": str(sync_us),
    }


@dataclass(slots=True)
class _Segment:
    """A pair of files as the process has written them. `at`, `seq`: the first frame not yet seen to be sent."""

    first: int
    frames: File
    index: File | None = None
    at: int = SIZE
    seq: int = 0


def _frame_bytes(frames: bytearray, at: int) -> int:
    """Size of the WebSocket frame there."""
    length = frames[at + 1]
    if length < 126:
        return 2 + length
    if length == 126:
        return 4 + int.from_bytes(frames[at + 2 : at + 4], "big")
    return 10 + int.from_bytes(frames[at + 2 : at + 10], "big")


class Witness:
    """What is known of one log at this moment of the record. Feed it each record after the disk has taken it."""

    def __init__(self, disk: Disk, name: str, sent: Mapping[int, bytes]) -> None:
        """`name` of the data directory under the disk's root; `sent` before the record began."""
        self._disk = disk
        self._events = f"{name}/events"
        self._suffix = f"/{self._events}"
        self._pairs: dict[int, _Segment] = {}
        self._segments: dict[File, _Segment] = {}
        self.sent = dict(sent)  # WebSocket frame by seq of what consumers may have got
        self.written: dict[int, bytes] = {}  # ... and of what was written since the record began
        for file_name, node in sorted(self._names().items()):
            if isinstance(node, File):
                self._name(file_name, node)

    def take(self, record: Record) -> None:
        """Follows one record."""
        if record.what == "C":
            folder, _, name = record.data.decode().rpartition("/")
            if folder.endswith(self._suffix):
                self._name(name, self._disk.file(record.a))
        elif record.what in "WTS":
            segment = self._segments.get(self._disk.file(record.a))
            if segment is None:
                return
            if record.what == "S":
                self._sent_to(segment, record.b)
            elif record.what == "T":
                segment.at, segment.seq = SIZE, segment.first
            elif segment.frames is not self._disk.file(record.a) and record.b >= SIZE:
                self._written(segment, record.b, record.data)

    def _name(self, name: str, file: File) -> None:
        match = _NAME.fullmatch(name)
        if match is None:
            return
        first = int(match[1])
        if match[2] == "frames":  # sorted and created before its index
            self._segments[file] = self._pairs[first] = _Segment(first, file, seq=first)
        elif first in self._pairs:
            self._segments[file] = self._pairs[first]

    def _sent_to(self, segment: _Segment, end: int) -> None:
        frames = segment.frames.now
        while segment.at < end:
            after = segment.at + _frame_bytes(frames, segment.at)
            self.sent[segment.seq] = bytes(frames[segment.at : after])
            segment.at, segment.seq = after, segment.seq + 1

    def _written(self, segment: _Segment, at: int, data: bytes) -> None:
        """Entries have been written; their frames stand in the other file already."""
        assert len(data) % SIZE == at % SIZE == 0
        for i in range(0, len(data), SIZE):
            offset, length = _OFFSET_LENGTH.unpack_from(data, i)
            seq = segment.first + (at + i) // SIZE - 1
            frame = bytes(segment.frames.now[offset : offset + length])
            assert self.written.setdefault(seq, frame) == frame, f"seq {seq} was given to two events"

    def _names(self) -> Mapping[str, File | Directory]:
        try:
            return self._disk.directory(self._events).now
        except KeyError:
            return {}

    def oldest(self) -> int:
        """First seq that the process has kept; 0 = none."""
        names = self._names()
        firsts = [int(name[:20]) for name in names if name.endswith(".index") and f"{name[:20]}.frames" in names]
        return min(firsts, default=0)


@dataclass(slots=True)
class Loss:
    """One power loss: where its state lies, and what had been before it."""

    number: int
    position: int  # records before it
    data_dir: Path
    oldest: int
    sent: Mapping[int, bytes]
    written: Mapping[int, bytes]

    def __str__(self) -> str:
        return f"loss {self.number}, after record {self.position}: {len(self.sent)} sent, {len(self.written)} written"

    @property
    def sent_end(self) -> int:
        """The highest seq that a consumer may have got."""
        return max(self.sent, default=0)


class Losses:
    """Crash states of one trace, `count` of them at random moments, each in a folder of its own that is taken away
    when the next one is asked for."""

    def __init__(
        self,
        disk: Disk,
        trace: Path,
        work: Path,
        *,
        name: str = "data",
        sent: Mapping[int, bytes] | None = None,
        seed: int,
        count: int,
    ) -> None:
        """`disk` as it was when the record began; `name` of the data directory on it; `sent` before that."""
        self._disk = copy.deepcopy(disk)
        self._records = list(records(trace))
        self._work = work
        self._name = name
        self._rng = random.Random(seed)
        self._count = count
        self._witness = Witness(self._disk, name, sent or {})

    def __iter__(self) -> Iterator[Loss]:
        moments = sorted(self._rng.randrange(1, len(self._records) + 1) for _ in range(self._count))
        done = 0
        for number, moment in enumerate(moments):
            for record in self._records[done:moment]:
                self._disk.take(record)
                self._witness.take(record)
            done = moment
            target = self._work / f"loss-{number}"
            target.mkdir()
            self._disk.after_crash(target, self._rng)
            witness = self._witness
            yield Loss(number, moment, target / self._name, witness.oldest(), witness.sent, witness.written)
            shutil.rmtree(target)
