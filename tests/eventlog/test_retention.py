"""Retention `auto` on a real, small volume: a tenth of it stays free, and no more goes than has to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.eventlog.support import WAIT_S, append, opened, until
from tests.firehose.client import Client, hang_up_all
from tests.tmpfs import small_disk
from zlay._fast import segments
from zlay.firehose.consumers import Consumers

if TYPE_CHECKING:
    from pathlib import Path

    from zlay.eventlog.log import EventLog

DISK_BYTES = 8 << 20
SEGMENT_BYTES = 256 << 10
EVENT_BYTES = 50_000


def free_bytes(folder: Path) -> int:
    """What anybody may still write there."""
    told = os.statvfs(folder)
    return told.f_bavail * told.f_frsize


def log_one(log: EventLog) -> None:
    """One event on disk, and then housekeeping."""
    assert log.wait_synced(append(log, "x" * EVENT_BYTES), WAIT_S)
    log.retain()


def test_a_tenth_of_the_volume_stays_free(tmp_path: Path) -> None:
    """The oldest segments go while less than a tenth of the volume is free, and no more than that."""
    disk = tmp_path / "disk"
    with small_disk(disk, DISK_BYTES), opened(disk / "data", segment_bytes=SEGMENT_BYTES, retention_bytes=None) as log:
        log.set_keep_from(2**64 - 1)
        free = []
        for _ in range(300):
            log_one(log)
            free.append(free_bytes(disk))
        assert log.oldest_seq > 100
        assert min(free) >= DISK_BYTES // 10
        assert max(free[200:]) < DISK_BYTES // 10 + SEGMENT_BYTES + 2 * EVENT_BYTES
        assert [entry.seq for entry in log.scan(log.oldest_seq)] == list(range(log.oldest_seq, 301))


def test_what_a_reader_holds_counts_as_free(tmp_path: Path) -> None:
    """A segment that is gone but for a slow reader is not made good by taking others; its space comes back with it."""
    disk = tmp_path / "disk"
    with small_disk(disk, DISK_BYTES), opened(disk / "data", segment_bytes=SEGMENT_BYTES, retention_bytes=None) as log:
        log.set_keep_from(2**64 - 1)
        for _ in range(10):
            log_one(log)
        consumers = Consumers()
        consumers.start()
        try:
            Client.connect(consumers, 0, buffers=4_096)
            until("its socket is not full", lambda: consumers.stats()[0].blocked_s > 0)
            segments.retain(0, 1, 0, 7, 0)  # what it reads falls out of the window
            held = int(str(log.status()["segments_held_bytes"]))
            assert held > SEGMENT_BYTES
            free = []
            for _ in range(200):
                log_one(log)
                free.append(free_bytes(disk) + held)
            assert min(free) >= DISK_BYTES // 10
            assert max(free[150:]) < DISK_BYTES // 10 + SEGMENT_BYTES + 2 * EVENT_BYTES
        finally:
            hang_up_all()
            consumers.stop(1001, 2.0)
        assert log.status()["segments_held_bytes"] == 0
