"""A recording's frames let go one by one at a rate, hosts in turn, and the moment of each noted.

The note: a file of records, little endian: u32 host, u64 seq, u64 nanoseconds of CLOCK_MONOTONIC just before the frame
is handed to its socket. One thread.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from zlay.sim.recording import RecordedSource

__all__ = ["Pace", "read_notes"]

NOTE = struct.Struct("<IQQ")
CATCH_UP_S = 0.2  # further behind than this, the pace begins anew


class Pace:
    """`rate` events per second, over all sources, which it keeps back until they are due."""

    def __init__(self, sources: Sequence[RecordedSource], rate: float, path: Path | None) -> None:
        """`path`: of the note; None = none is kept. OSError."""
        self._waiting = list(enumerate(sources))
        self._interval_s = 1 / rate
        self._due = 0.0
        self._file = open(path, "wb") if path is not None else None  # noqa: SIM115 - closed by close()
        self._turn = 0
        for source in sources:
            source.keep_back()

    def release(self, now: float) -> Iterator[RecordedSource]:
        """Lets go what is due by now, each source yielded to be flushed at once."""
        if now - self._due > CATCH_UP_S:
            self._due = now
        while self._waiting and self._due <= now:
            self._due += self._interval_s
            self._turn %= len(self._waiting)
            host, source = self._waiting[self._turn]
            seq = source.release()
            if seq is None:
                del self._waiting[self._turn]
                self._due -= self._interval_s
                continue
            self._turn += 1
            if self._file is not None:
                self._file.write(NOTE.pack(host, seq, time.monotonic_ns()))
            yield source

    def wait_s(self, now: float, most_s: float) -> float:
        """Seconds until the next is due."""
        return max(0.0, min(self._due - now, most_s)) if self._waiting else most_s

    def close(self) -> None:
        """Completes the note."""
        if self._file is not None:
            self._file.close()


def read_notes(path: Path) -> dict[tuple[int, int], int]:
    """Nanoseconds by host and seq. OSError; struct.error for a file that is no note."""
    return {(host, seq): ns for host, seq, ns in NOTE.iter_unpack(path.read_bytes())}
