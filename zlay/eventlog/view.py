"""A log's directory as somebody else's process sees it: read only, no lock, nothing mended, beside a running relay.

Promises: nothing is written and nothing a relay waits for is held. What is shown ends where consumers' view does: at
`events/published` while that is there, else where an opening would cut. Damage is shown as it is. Assumes: one view at
a time in a process that has no log open, since the compiled segment table is the process's. One thread.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Self

from zlay._fast import log as _log
from zlay._fast import recovery as _recovery
from zlay._fast import segments as _segments
from zlay.errors import LogError, StartError
from zlay.eventlog.entries import LogEntry, scan
from zlay.eventlog.recovery import ENTRY_BYTES, HEADER_BYTES, find_segments, foreign, read_header, segment_name
from zlay.eventlog.store import load_store, read_published, read_run

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from zlay.eventlog.store import Run, Store

__all__ = ["LogView", "SegmentView"]


@dataclass(slots=True)
class SegmentView:
    """One pair of files. `last_seq` is that of the last entry that counts and is there; first_seq - 1 = none."""

    first_seq: int
    last_seq: int
    frames_bytes: int  # sizes of the files
    index_bytes: int
    previous_last: int | None = None  # highest seq given out before it; None = no header says so
    created_us: int | None = None
    faults: list[str] = field(default_factory=list)  # of its headers
    is_foreign: bool = False  # a whole header says that it is not of this log

    @property
    def entries(self) -> int:
        """Entries that count."""
        return self.last_seq + 1 - self.first_seq


@dataclass(slots=True)
class LogView:
    """The log as it was when the view was made. Made by `of`, closed by `close` or as a context manager."""

    dir_fd: int
    store: Store
    run: Run | None
    published_end: int | None  # of the process that has it open, or died with it; None = it was closed in order
    segments: list[SegmentView] = field(default_factory=list)  # oldest first
    floor: int = 0  # everything up to it was on disk
    torn: int = 0  # entries behind the end that an opening would cut off
    unpublished: int = 0  # whole ones behind the end that no consumer has seen yet
    unreadable: int = 0  # of the last scan: damaged events left out
    retired: list[int] = field(default_factory=list)  # first seqs of segments that retention has taken since
    notes: list[str] = field(default_factory=list)  # what is there and is no fault
    faults: list[str] = field(default_factory=list)  # files without their other half

    @classmethod
    def of(cls, directory: Path) -> LogView:
        """The log in a data directory, or in its events/ itself. Raises LogError."""
        events = directory / "events" if (directory / "events").is_dir() else directory
        try:
            dir_fd = os.open(events, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise LogError(f"{directory}: {exc.strerror}") from exc
        try:
            store = load_store(dir_fd)
            if store is None:
                raise LogError(f"{events} holds no event log: there is no store.json")
            view = cls(dir_fd, store, read_run(dir_fd), read_published(dir_fd, store.store_id))
            view._look()
        except OSError as exc:
            os.close(dir_fd)
            raise LogError(f"{events} cannot be read: {exc.strerror} ({exc.filename or 'a segment'})") from exc
        except (LogError, StartError) as exc:
            os.close(dir_fd)
            raise LogError(str(exc)) from exc
        return view

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self.dir_fd)

    @property
    def first_seq(self) -> int:
        """First seq kept; 0 = the log is empty."""
        return self.segments[0].first_seq if self.segments else 0

    @property
    def last_seq(self) -> int:
        """Last seq to be seen; 0 = the log is empty."""
        return self.segments[-1].last_seq if self.segments else 0

    def scan(self, from_seq: int, to_seq: int | None = None, *, frames: bool = True) -> Generator[LogEntry]:
        """Events from from_seq to to_seq (None = the end), oldest first; afterwards `unreadable` and `retired` say what
        was left out. One at a time. Raises OSError.
        """
        rows = [(s.first_seq, s.last_seq, s.frames_bytes) for s in self.segments if not s.is_foreign]
        _segments.open_table(self.dir_fd, self.store.store_id, rows, False)
        try:
            end = self.last_seq if to_seq is None else min(to_seq, self.last_seq)
            yield from scan(from_seq, end, frames=frames)
        finally:
            self.retired = [s.first_seq for s in self.segments if self._is_gone(s)]
            self.unreadable = max(0, _segments.status()["damaged"] - len(self.retired))
            _segments.close_table()

    def _is_gone(self, segment: SegmentView) -> bool:
        """Whether retention has taken a segment away since the view was made."""
        try:
            os.stat(segment_name(segment.first_seq, "index"), dir_fd=self.dir_fd)
        except FileNotFoundError:
            return True
        return False

    def hash_did(self, did: str) -> int:
        """What the index says for a DID."""
        _log.set_did_key(self.store.did_key)
        return _log.hash_did(did.encode())

    def open_files(self, segment: SegmentView) -> tuple[int, int]:
        """Descriptors of .frames and .index, the caller's to close. Raises OSError."""
        frames = os.open(segment_name(segment.first_seq, "frames"), os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.dir_fd)
        try:
            return frames, os.open(
                segment_name(segment.first_seq, "index"), os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.dir_fd
            )
        except OSError:
            os.close(frames)
            raise

    # --- looking ---

    def _look(self) -> None:
        pairs, only_frames, only_index = find_segments(self.dir_fd)
        for first, kind in sorted(
            [(first, "frames") for first in only_frames] + [(first, "index") for first in only_index]
        ):
            self._half(first, kind, pairs)
        found = [view for first in pairs if (view := self._segment(first)) is not None]
        for older, newer in pairwise(found):
            older.last_seq = min(older.last_seq, newer.first_seq - 1)
        self.segments = found
        if found:
            self._end(found[-1])

    def _half(self, first: int, kind: str, pairs: list[int]) -> None:
        """One file of a pair, by the rules of an opening."""
        name = segment_name(first, kind)
        if pairs and first < pairs[0]:
            self.notes.append(f"{name}: what a retirement has left, or is just taking away")
        elif (not pairs or first > pairs[-1]) and not (kind == "index" and self._entries(first)):
            self.notes.append(f"{name}: a segment whose birth was cut short, or is just under way")
            self.floor = max(self.floor, first - 1)
        else:
            self.faults.append(f"{name} has no .{'index' if kind == 'frames' else 'frames'}")

    def _entries(self, first: int) -> int:
        """Whole entries in an .index."""
        size = os.stat(segment_name(first, "index"), dir_fd=self.dir_fd).st_size
        return max(0, (size - HEADER_BYTES) // ENTRY_BYTES)

    def _segment(self, first: int) -> SegmentView | None:
        """None = retention has just taken it away."""
        try:
            frames_bytes, index_bytes = (
                os.stat(segment_name(first, kind), dir_fd=self.dir_fd).st_size for kind in ("frames", "index")
            )
            headers = [(kind, read_header(self.dir_fd, first, kind)) for kind in ("frames", "index")]
        except FileNotFoundError:
            return None
        view = SegmentView(first, first - 1 + self._entries(first), frames_bytes, index_bytes)
        for kind, header in headers:
            if header is None:
                view.faults.append(f"{segment_name(first, kind)}: the header is damaged")
                continue
            refusal = foreign(header, first, kind, self.store.store_id)
            if refusal is not None:
                view.faults.append(refusal)
                view.is_foreign = True
            else:
                view.previous_last, view.created_us = header[3], header[4]
        return view

    def _end(self, last: SegmentView) -> None:
        """Where the log ends: what an opening would keep, no further than what is published."""
        tail = _recovery.repair_tail(self.dir_fd, last.first_seq, max(self.floor, last.first_seq - 1), False)
        self.floor = tail["floor"]
        if last.faults and not last.is_foreign and self.floor < last.first_seq:
            self.notes.append(f"{segment_name(last.first_seq, 'frames')}: a torn birth, nothing was synced into it")
            self.segments.pop()
            if self.segments:
                self._end(self.segments[-1])
            return
        end: int = tail["last_seq"]
        if self.published_end is not None:
            if self.run is not None and self.run.durability == "fsync":
                self.floor = max(self.floor, self.published_end)  # nothing else is published there
            end = max(self.floor, min(end, self.published_end))
        entries_end = last.first_seq - 1 + tail["entries"]
        self.torn = max(0, entries_end - max(end, tail["last_seq"]))
        self.unpublished = max(0, tail["last_seq"] - end)
        last.last_seq = min(entries_end, end)
        last.frames_bytes = tail["frames_bytes"]
