"""Events of the log as Python sees them, one after the other. Any thread; the segment table must have been filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zlay._fast import segments as _segments

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LOCAL", "TAKEN_DOWN", "LogEntry", "scan"]

LOCAL = 1  # flags: an event that no host sent
TAKEN_DOWN = 2  # the account is taken down by this relay, after the event


class LogEntry(NamedTuple):
    """One event as the index has it; statuses and kind are numbers of zlay._fast.verdicts."""

    seq: int
    kind: int
    flags: int
    upstream_status: int
    effective_status: int
    host_id: int  # 0 = local
    host_epoch: int
    upstream_seq: int
    recv_us: int
    did_hash: int
    length: int  # bytes in .frames, WebSocket header included
    frame: bytes | None  # the message, without WebSocket header; None when not asked for


def scan(from_seq: int, to_seq: int, *, frames: bool = True) -> Iterator[LogEntry]:
    """Entries from from_seq to to_seq, both included, oldest first.

    Damaged entries are left out and counted. What retention takes away meanwhile is missing. Raises OSError.
    """
    seq = max(from_seq, 1)
    while seq <= to_seq:
        rows, seq = _segments.read_batch(seq, to_seq, frames)
        for row in rows:
            yield LogEntry(*row)
