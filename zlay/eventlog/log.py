"""The event log as the rest of the program sees it: opened, appended to, read back, closed.

Promises: after open() everything kept is on disk and numbered, and no number is ever given out twice; close() returns
when what was appended is on disk. Assumes: one EventLog per process (the compiled log is the process's), no consumer
and no worker left when close() is called.

Threads: open and close, one; everything else, any.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from zlay._fast import crash
from zlay._fast import log as _log
from zlay._fast import published as _published
from zlay._fast import segments as _segments
from zlay.errors import StartError
from zlay.eventlog.entries import LOCAL, LogEntry, scan
from zlay.eventlog.recovery import Recovered, find_segments, recover
from zlay.eventlog.spans import seq_span
from zlay.eventlog.store import (
    BACKUP_FILE,
    DirectoryLock,
    Run,
    boot_id,
    open_published,
    read_run,
    read_store,
    remove_published,
    sync_folders,
    write_run,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["EventLog", "LogClosed", "LogEntry", "LogSettings"]

OS_JUMP = 1_000_000  # seqs left out after a power loss in `os` mode: far more than one second can have given out (A11)
MAX_SEQ = 2**53 - 1  # A11
AUTO_FREE_PERCENT = 10
HOUR_US = 3_600_000_000
KEEP_NOTHING = 2**64 - 1  # for set_keep_from: no view needs anything


class LogClosed(Exception):
    """The log takes no more events: the relay is stopping."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How a log is kept; defaults are those of RELAY_*."""

    durability: Literal["fsync", "os"] = "fsync"
    retention_hours: float = 72  # 0 = no limit in time
    retention_bytes: int | None = None  # 0 = no limit; None = auto: keep 10 % of the volume free
    initial_seq: int = 1  # of a new log
    segment_bytes: int = 512 << 20
    segment_entries: int = 1 << 20
    segment_span_s: float = (
        3600  # a segment holds at most about this much time, so that retention by hours is fine enough
    )
    buffer_chunks: int = 8  # of 8 MiB: appended and not yet synced; beyond it appending waits


class EventLog:
    """The process's event log. See the module for threads."""

    def __init__(self, lock: DirectoryLock, dir_fd: int, store_id: bytes, recovered: Recovered, jumped: bool) -> None:
        self._lock = lock
        self._dir_fd = dir_fd
        self.store_id = store_id
        self.recovered = recovered
        self.jumped = jumped  # numbers were left out: the machine restarted in `os` mode, or run.json is missing
        self._closed = False

    @classmethod
    def open(cls, data_dir: Path, settings: LogSettings | None = None) -> EventLog:
        """Lock the directory, recover the log, start its writer.

        Raises StartError (in use, another store, unknown format, seq exhausted) and OSError (the disk).
        """
        settings = settings or LogSettings()
        if not 1 <= settings.initial_seq <= MAX_SEQ:
            raise StartError(f"RELAY_INITIAL_SEQ must be between 1 and {MAX_SEQ}")
        if (data_dir / BACKUP_FILE).exists():
            raise StartError(f"{data_dir} is a backup: `zlay restore` makes a relay's data of it")
        events = data_dir / "events"
        events.mkdir(parents=True, exist_ok=True)
        sync_folders(data_dir)
        lock = DirectoryLock(data_dir)
        dir_fd = os.open(events, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return cls._open_locked(lock, dir_fd, settings)
        except BaseException:
            os.close(dir_fd)
            lock.close()
            raise

    @classmethod
    def _open_locked(cls, lock: DirectoryLock, dir_fd: int, settings: LogSettings) -> EventLog:
        store = read_store(dir_fd, has_segments=any(find_segments(dir_fd)))
        before = read_run(dir_fd)
        remove_published(dir_fd)  # what it said goes with what run.json says now
        found = recover(dir_fd, store.store_id)
        boot = boot_id()
        next_seq = max(found.last_seq + 1, before.next_seq if before else settings.initial_seq)
        # Without run.json nobody knows how the log was last written: the same care.
        unsure = before.durability == "os" and before.boot_id != boot if before else bool(found.last_seq)
        if unsure:
            next_seq += OS_JUMP
        if next_seq > MAX_SEQ:
            raise StartError(f"the log has reached seq {next_seq}: no number is left below 2^53")
        crash.point("open.recovered")
        write_run(dir_fd, Run(boot, settings.durability, next_seq))
        crash.point("open.noted")
        continue_last = found.continue_last and next_seq == found.last_seq + 1
        _log.set_did_key(store.did_key)
        _segments.open_table(dir_fd, store.store_id, found.rows, continue_last)
        try:
            _open_published(dir_fd, store.store_id, found.last_seq)
            _log.start(
                next_seq,
                found.last_seq,
                continue_last,
                os_durability=settings.durability == "os",
                segment_bytes=settings.segment_bytes,
                segment_entries=settings.segment_entries,
                segment_span_us=int(settings.segment_span_s * 1e6),
                newest_us=found.newest_us,
                buffer_chunks=settings.buffer_chunks,
            )
        except BaseException:
            _published.close_file()
            _segments.close_table()
            raise
        auto = settings.retention_bytes is None
        _log.set_retention(
            int(settings.retention_hours * HOUR_US),
            settings.retention_bytes or 0,
            AUTO_FREE_PERCENT if auto else 0,
        )
        return cls(lock, dir_fd, store.store_id, found, unsure)

    @property
    def appended_end(self) -> int:
        """Highest seq given out."""
        return _log.ends()[0]

    @property
    def synced_end(self) -> int:
        """Everything up to it is on disk."""
        return _log.ends()[1]

    @property
    def published_end(self) -> int:
        """What consumers may see."""
        return _log.ends()[2]

    @property
    def oldest_seq(self) -> int:
        """First seq of the window; one above published_end when the log is empty."""
        return _log.status()["oldest_seq"]

    def append_local(
        self, frame: bytes, *, did: str, kind: int, upstream_status: int = 0, effective_status: int = 0
    ) -> int:
        """Append a message made here (#account of a takedown); any seq in it is replaced. Returns its seq.

        It is durable when wait_synced(seq) says so. Waits while the buffer is full or the disk fails.
        Raises LogClosed, and ValueError for a frame without an integer seq or over the limit of A8.
        """
        offset, length = seq_span(frame)
        seq = _log.append(
            frame,
            offset,
            length,
            kind=kind,
            flags=LOCAL,
            upstream_status=upstream_status,
            effective_status=effective_status,
            recv_us=time.time_ns() // 1000,
            did_hash=_log.hash_did(did.encode()),
        )
        if seq == 0:
            if _log.status()["open"]:
                raise ValueError("the frame is over 5,000,000 bytes")
            raise LogClosed("the log is closed")
        return seq

    def wait_synced(self, seq: int, timeout_s: float) -> bool:
        """Wait until seq is on disk; False at the time-out."""
        return _log.wait_synced(seq, timeout_s)

    def scan(self, from_seq: int, to_seq: int | None = None, *, frames: bool = True) -> Iterator[LogEntry]:
        """Entries from from_seq to to_seq, both included (None = synced_end as of now), oldest first.

        Damaged entries are left out and counted. What retention takes away meanwhile is missing. Raises OSError.
        """
        return scan(from_seq, self.synced_end if to_seq is None else to_seq, frames=frames)

    def set_keep_from(self, seq: int) -> None:
        """Views still need everything from seq on: retention keeps it. Until the first call it keeps everything."""
        _log.set_keep_from(seq)

    def retain(self) -> int:
        """Take away segments beyond retention; returns bytes. Housekeeping calls it every few seconds."""
        return _log.retain()

    def status(self) -> dict[str, object]:
        """State and counters of log and segments, by name; `fault` other than "none" = ingest waits for the disk."""
        return {**_log.status(), **{f"segments_{name}": value for name, value in _segments.status().items()}}

    def fault_text(self) -> str | None:
        """Why the disk does not take events just now, for people; None = it does."""
        status = _log.status()
        if status["fault"] == "none":
            return None
        return f"{os.strerror(status['fault_errno'])} ({status['fault']})"

    def seal(self) -> None:
        """Take nothing more; whoever waits for room gets LogClosed (a worker lets its frame go)."""
        _log.seal()

    def close(self, deadline_s: float = 10.0) -> bool:
        """Drain and sync. False = the disk would not take it before the deadline; what is lost was never published."""
        if self._closed:
            return True
        self._closed = True
        complete = _log.stop(deadline_s)
        _published.close_file()
        if complete:
            remove_published(self._dir_fd)
        _segments.close_table()
        os.close(self._dir_fd)
        self._lock.close()
        return complete


def _open_published(dir_fd: int, store_id: bytes, published_end: int) -> None:
    """Tell readers in other processes how far they may read."""
    fd = open_published(dir_fd)
    try:
        _published.open_file(fd, store_id, published_end)
    finally:
        os.close(fd)
