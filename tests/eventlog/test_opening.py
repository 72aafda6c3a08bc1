"""Opening a large log, and finding a place in it: 72 hours of a full network, in sparse files."""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING

import pytest

from tests.eventlog.support import fill, opened
from tests.reference.log_ref import crc32c
from zlay._fast import mem, segments

if TYPE_CHECKING:
    from pathlib import Path

SEGMENTS = 2_000
EVENTS = 100_000  # in each of them
FRAMES_BYTES = 512 << 20
OPEN_S = 2.0
OPEN_BYTES = 1 << 20  # of tables, for all segments; the writer's buffer comes later
HEADER = struct.Struct("<8sII16sQQQI")


def header(magic: bytes, store_id: bytes, first_seq: int) -> bytes:
    """A segment's header, by docs/eventlog.md."""
    data = HEADER.pack(magic, 1, 64, store_id, first_seq, first_seq - 1, 1, 0)
    return data + crc32c(data).to_bytes(4, "little")


def make_segments(events: Path, store_id: bytes) -> None:
    """Segments of the size they have, without content: every page of them is a hole."""
    for i in range(SEGMENTS):
        first_seq = 1 + i * EVENTS
        for kind, magic, size in (
            ("frames", b"zlay.frm", FRAMES_BYTES),
            ("index", b"zlay.idx", 64 + EVENTS * 64),
        ):
            with (events / f"{first_seq:020}.{kind}").open("wb") as file:
                file.write(header(magic, store_id, first_seq))
                file.truncate(size)


def test_opening_72_hours_of_segments(tmp_path: Path) -> None:
    """2,000 segments with 200 million entries open in under two seconds with a megabyte of tables, and the segment of
    any cursor, first and last of each among them, is found."""
    with opened(tmp_path, initial_seq=1 + SEGMENTS * EVENTS) as log:
        expected = fill(log, 10)
        store_id = log.store_id
    make_segments(tmp_path / "events", store_id)
    before = mem.usage()["log"][0]
    began = time.monotonic()
    with opened(tmp_path) as log:
        took = time.monotonic() - began
        assert took < OPEN_S
        assert mem.usage()["log"][0] - before < OPEN_BYTES
        assert (log.oldest_seq, log.published_end) == (1, SEGMENTS * EVENTS + 10)
        assert log.recovered.damaged == 0
        assert log.recovered.gaps == []
        assert len(segments.table()) == SEGMENTS + 1
        assert [entry.frame for entry in log.scan(1 + SEGMENTS * EVENTS)] == expected
        for i in (0, 1, 999, SEGMENTS - 1):
            for seq in (1 + i * EVENTS, (i + 1) * EVENTS - 5, (i + 1) * EVENTS):
                # What is read ends with its segment, so the next place says which one was found.
                assert segments.read_batch(seq, 1 << 62, False) == ([], min(seq + 128, (i + 1) * EVENTS + 1))


def seconds_to_find(rows: int) -> float:
    """The best time for a thousand finds in a table of so many segments whose files are not there."""
    best = 1e9
    for _ in range(7):
        began = time.perf_counter()
        for i in range(1_000):
            segments.read_batch(1 + (i * 7_919 % rows) * 10, 1, False)
        best = min(best, time.perf_counter() - began)
    return best


@pytest.mark.measures
def test_finding_a_place_takes_the_logarithm_of_the_segments(tmp_path: Path) -> None:
    """Finding the segment of a seq among 65,536 takes at most a few times what it takes among 16, not 4,096 times."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        took = []
        for rows in (16, 65_536):
            segments.open_table(fd, bytes(16), [(1 + i * 10, 10 + i * 10, 64) for i in range(rows)], False)
            took.append(seconds_to_find(rows))
            segments.close_table()
    finally:
        segments.close_table()
        os.close(fd)
    assert took[1] < 10 * took[0], took
