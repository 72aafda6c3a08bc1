"""The segment table: checksums, finding, holding, retention, damaged entries."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.eventlog.support import fill, message, opened
from tests.reference import log_ref
from zlay._fast import log as fast_log
from zlay._fast import segments

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STORE = bytes(range(16))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """A directory handle; the table is closed afterwards."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        yield fd
    finally:
        segments.close_table()
        os.close(fd)


def test_crc32c_is_castagnolis_by_instruction_and_by_table() -> None:
    """Both ways of computing the checksum agree with an independent one, at every length and alignment of a word."""
    assert segments.crc32c(b"123456789") == segments.crc32c(b"123456789", software=True) == 0xE3069283
    data = random.Random(1).randbytes(100)
    for n in range(len(data)):
        expected = log_ref.crc32c(data[n:])
        assert segments.crc32c(data[n:]) == segments.crc32c(data[n:], software=True) == expected


def test_did_hash_is_siphash_of_the_stores_key() -> None:
    """The DID hash is SipHash-2-4 under the store's key, for every length of the last word."""
    key = bytes(range(16))
    fast_log.set_did_key(key)
    for n in range(40):
        assert fast_log.hash_did(bytes(range(n))) == log_ref.siphash24(key, bytes(range(n)))


def test_a_segment_is_found_for_every_seq(folder: int) -> None:
    """Seqs inside a segment, in a gap, below the first and above the last one each lead to the right place."""
    segments.open_table(folder, STORE, [(10, 19, 64), (20, 20, 64), (40, 49, 64)], False)
    assert [row[:2] for row in segments.table()] == [(10, 19), (20, 20), (40, 49)]
    # None of the files exists: read_batch passes each segment over and says where to go on.
    for seq, following in [(1, 20), (10, 20), (19, 20), (20, 21), (21, 50), (39, 50), (40, 50), (49, 50)]:
        assert segments.read_batch(seq, 100, False) == ([], following)
    assert segments.read_batch(50, 100, False) == ([], 101)


def test_segments_out_of_order_are_refused(folder: int) -> None:
    """A table that is not ascending is an error of the caller's, not a table."""
    with pytest.raises(ValueError, match="order"):
        segments.open_table(folder, STORE, [(10, 19, 64), (10, 20, 64)], False)


def test_damaged_entries_are_skipped_and_counted(tmp_path: Path) -> None:
    """An entry that is not good costs itself only: those before and after it are read, and the damage is counted."""
    with opened(tmp_path, segment_entries=10) as log:
        expected = fill(log, 20)
        index = tmp_path / "events" / f"{1:020}.index"
        data = bytearray(index.read_bytes())
        data[64 * 4 + 9] ^= 1
        data[64 * 8 + 28] ^= 0x80
        index.write_bytes(data)
        got = {entry.seq: entry.frame for entry in log.scan(1)}
        assert got == {seq: expected[seq - 1] for seq in range(1, 21) if seq not in (4, 8)}
        assert log.status()["segments_damaged"] == 2


def test_a_frame_that_lost_a_bit_is_not_handed_out(tmp_path: Path) -> None:
    """A frame whose checksum does not fit is skipped by readers of frames, and only that one."""
    with opened(tmp_path) as log:
        fill(log, 5)
        frames = tmp_path / "events" / f"{1:020}.frames"
        data = bytearray(frames.read_bytes())
        data[64 + 30] ^= 4
        frames.write_bytes(data)
        assert [entry.seq for entry in log.scan(1)] == [2, 3, 4, 5]
        assert [entry.seq for entry in log.scan(1, frames=False)] == [1, 2, 3, 4, 5]


def test_retention_by_bytes_takes_whole_old_segments(tmp_path: Path) -> None:
    """Beyond RELAY_RETENTION_BYTES the oldest segments go, files and all, and the newest stay readable."""
    with opened(tmp_path, segment_entries=10, retention_bytes=6_000) as log:
        fill(log, 100, size=100)
        before = sum(path.stat().st_size for path in (tmp_path / "events").iterdir())
        assert log.retain() > 0
        oldest = log.oldest_seq
        assert 1 < oldest < 91
        left = sorted(path.name for path in (tmp_path / "events").glob("*.*s"))
        assert min(left) == f"{oldest:020}.frames"
        assert sum(path.stat().st_size for path in (tmp_path / "events").iterdir()) < min(before, 9_000)
        assert [entry.seq for entry in log.scan(1)] == list(range(oldest, 101))


def test_retention_keeps_what_a_view_needs(tmp_path: Path) -> None:
    """A segment that holds keep_from or later stays, however far beyond retention."""
    with opened(tmp_path, segment_entries=10, retention_bytes=1) as log:
        fill(log, 50)
        log.set_keep_from(25)
        log.retain()
        assert log.oldest_seq == 21
        log.set_keep_from(0)
        assert log.retain() == 0


def test_retention_by_age_goes_by_the_times_in_the_log(tmp_path: Path) -> None:
    """Age is measured against the newest logged event, so an idle log loses nothing, and old segments go first."""
    hour = 3_600_000_000
    with opened(tmp_path, segment_entries=10, retention_bytes=0, retention_hours=2, segment_span_s=1e9) as log:
        for i in range(50):
            seq = fast_log.append(message(0), *_seq_span(), recv_us=1 + i // 10 * hour)
        assert log.wait_synced(seq, 20)
        log.retain()
        # Segments' newest events are 0, 1, 2, 3 and 4 hours old; the newest is at 4: more than 2 hours before go.
        assert log.oldest_seq == 21


def test_a_segment_spans_an_hour_at_most(tmp_path: Path) -> None:
    """A quiet log begins new segments by time, so that retention by hours is exact to the hour."""
    minute = 60_000_000
    with opened(tmp_path, retention_bytes=0, segment_span_s=3600) as log:
        for i in range(180):
            seq = fast_log.append(message(0), *_seq_span(), recv_us=minute * (i + 1))
        assert log.wait_synced(seq, 20)
        assert [row[0] for row in segments.table()] == [1, 61, 121]


def _seq_span() -> tuple[int, int]:
    from zlay.eventlog.spans import seq_span

    return seq_span(message(0))
