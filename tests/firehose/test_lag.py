"""How far behind a position is: against the entries of the log themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.eventlog.support import fill, opened
from zlay._fast import segments
from zlay.firehose.lag import bytes_and_time_behind

if TYPE_CHECKING:
    from pathlib import Path


def test_bytes_and_time_behind(tmp_path: Path) -> None:
    """The bytes are those of all frames from the position on, the time is when its own was received."""
    with opened(tmp_path, segment_entries=5) as log:
        assert bytes_and_time_behind(1) == (None, None)
        fill(log, 17, size=300)
        entries = list(log.scan(1))
        for n, entry in enumerate(entries):
            assert bytes_and_time_behind(entry.seq) == (sum(one.length for one in entries[n:]), entry.recv_us)
        assert bytes_and_time_behind(18) == (None, None)
        segments.retain(0, 1, 0, 6, 0)  # events 1 to 5 fall out
        assert bytes_and_time_behind(2) == bytes_and_time_behind(6)
