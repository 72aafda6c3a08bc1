"""What one simulated host has said and can say again: newest frames in memory, older ones in the ledger's file.

Promises: frames are found by seq in logarithmic time; memory is bounded by `tail_bytes` and TAIL_FRAMES of frames, and
16 bytes for each event of the window. Without a file (`backed` false) the window is what is in memory. One thread.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections import deque

__all__ = ["Window"]

TAIL_BYTES = 4 << 20  # frames kept in memory, a host, unless told otherwise
TAIL_FRAMES = 4096
LENGTH_BITS = 24  # a frame is shorter than 16 MiB; 40 bits are left for the place in the file


class Window:
    """The events of one host that can still be sent. Positions count events from 0 and never change.

    `first` is the oldest position that is kept, `end` the position of the next event.
    """

    def __init__(self, max_events: int, tail_bytes: int = TAIL_BYTES, backed: bool = True) -> None:
        self.max_events = max_events
        self.tail_bytes = tail_bytes
        self.backed = backed
        self.first = 0
        self.lost_seq = 0  # the newest seq that has fallen out of the window
        self._seqs = array("Q")
        self._places = array("Q")
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0

    @property
    def end(self) -> int:
        """Position of the next event."""
        return self.first + len(self._seqs)

    @property
    def last_seq(self) -> int:
        """Seq of the newest event; of the newest lost one if none is kept; 0 if there was none."""
        return self._seqs[-1] if self._seqs else self.lost_seq

    def append(self, seq: int, frame: bytes, offset: int) -> None:
        """Adds an event whose frame stands at `offset` in the ledger's file."""
        self._seqs.append(seq)
        self._places.append(offset << LENGTH_BITS | len(frame))
        self._tail.append(frame)
        self._tail_bytes += len(frame)
        while len(self._tail) > TAIL_FRAMES or (self._tail_bytes > self.tail_bytes and len(self._tail) > 1):
            self._tail_bytes -= len(self._tail.popleft())
        if not self.backed:
            self.trim(len(self._tail))
        if len(self._seqs) > 2 * self.max_events:
            self.trim(self.max_events)

    def trim(self, keep: int) -> None:
        """Forgets all but the newest `keep` events."""
        drop = len(self._seqs) - keep
        if drop <= 0:
            return
        self.lost_seq = self._seqs[drop - 1]
        del self._seqs[:drop]
        del self._places[:drop]
        self.first += drop
        while len(self._tail) > keep:
            self._tail_bytes -= len(self._tail.popleft())

    def position_after(self, seq: int) -> int:
        """Position of the first event with a greater seq."""
        return self.first + bisect_right(self._seqs, seq)

    def seq_at(self, position: int) -> int:
        """Seq of the event at a position; of the newest lost one before the window."""
        return self._seqs[position - self.first] if position >= self.first else self.lost_seq

    def read(self, position: int, max_bytes: int, fd: int) -> list[bytes]:
        """Frames from a position on, at least one if there is one, else no more than max_bytes together."""
        frames: list[bytes] = []
        size = 0
        tail_first = self.end - len(self._tail)
        for i in range(max(position, self.first), self.end):
            if i >= tail_first:
                frame = self._tail[i - tail_first]
            else:
                place = self._places[i - self.first]
                frame = os.pread(fd, place & ((1 << LENGTH_BITS) - 1), place >> LENGTH_BITS)
            size += len(frame)
            if frames and size > max_bytes:
                break
            frames.append(frame)
        return frames
