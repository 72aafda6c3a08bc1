"""How far behind a place in the log is, in bytes and in time. Any thread; the log is open."""

from __future__ import annotations

from zlay._fast import ranges as _ranges
from zlay._fast import segments as _segments

__all__ = ["bytes_and_time_behind"]

HEADER_BYTES = 64  # of each file of frames (docs/eventlog.md)


def bytes_and_time_behind(seq: int) -> tuple[int | None, int | None]:
    """(bytes of frames from event `seq` to the newest one written, when it was received in unix microseconds).

    Where it has fallen out of the window the oldest one kept counts in its place. None = the log cannot be read now.
    """
    found = _ranges.left_in_segment(seq)
    if found is None:
        return None, None
    first_seq, left, received_us = found
    later = (frames_bytes - HEADER_BYTES for first, _, frames_bytes, _ in _segments.table() if first > first_seq)
    return left + sum(max(0, n) for n in later), received_us
