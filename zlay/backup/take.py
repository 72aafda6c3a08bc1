"""Taking a backup of a relay's data, of a running one as of a stopped one (design 7).

Promises: log and state of the copy are as of one seq, which consumers may have seen; nothing of the relay's is changed
or locked; the directory is a backup only when it is whole and on disk. Order: the state first; then the log to its
published end, which covers all that the state knows, since a state never runs ahead of what is synced (R3). What the
state does not know yet it learns from the log at the first start after `restore`. Segments are copied from the newest
on, so that retention, which takes the oldest, may go on meanwhile.

One thread.
"""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING

from zlay.backup.copying import copy_bytes
from zlay.backup.manifest import Manifest, write_manifest
from zlay.errors import BackupError, LogError, StateError
from zlay.eventlog.recovery import ENTRY_BYTES, HEADER_BYTES, segment_name
from zlay.eventlog.store import Run, boot_id, sync_folder, sync_folders, write_run, write_store
from zlay.eventlog.view import LogView
from zlay.state.copies import look_at_state

if TYPE_CHECKING:
    from pathlib import Path

    from zlay.eventlog.view import SegmentView
    from zlay.state.copies import StateCopy
    from zlay.state.places import Place

__all__ = ["EVENTS", "STATE_FILE", "take_backup"]

EVENTS = "events"
STATE_FILE = "state.sqlite"
LOG_WAIT_S = 30.0  # for the log's published end to be told, and for a group that is being written anew
LOOK_S = 0.05
_OFFSET_LENGTH = struct.Struct("<QI")  # how an index entry begins


def take_backup(data_dir: Path, state: Place, target: Path) -> Manifest:
    """Copies the log in `data_dir` and the state into `target`, which must not exist or be empty.

    Raises BackupError; what was copied by then stays there, and is no backup.
    """
    try:
        if target.exists() and any(target.iterdir()):
            raise BackupError(f"{target} is not empty: a backup wants a directory of its own")
        (target / EVENTS).mkdir(parents=True)
        return _take(data_dir, state, target)
    except OSError as exc:
        raise BackupError(f"the backup failed: {exc.strerror} ({exc.filename or target})") from exc
    except (LogError, StateError) as exc:
        raise BackupError(str(exc)) from exc


def _take(data_dir: Path, state: Place, target: Path) -> Manifest:
    state.copy_to(target / STATE_FILE)
    copied = look_at_state(target / STATE_FILE)
    with _view_up_to(data_dir, copied) as view:
        if copied.store_id != view.store.store_id:
            raise BackupError(f"the log in {data_dir} and the state in {state} are of two stores")
        first_seq = _copy_log(view, target / EVENTS)
        _check_window(view, copied, first_seq)
        run = view.run
        next_seq = max(view.last_seq + 1, run.next_seq if run else 1)
        dir_fd = os.open(target / EVENTS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            write_run(dir_fd, Run(boot_id(), run.durability if run else "fsync", next_seq))
            write_store(dir_fd, view.store)
        finally:
            os.close(dir_fd)
        manifest = Manifest(
            store_id=view.store.store_id.hex(),
            created_us=time.time_ns() // 1000,
            first_seq=first_seq,
            last_seq=view.last_seq,
            applied_seq=copied.applied_seq,
            next_seq=next_seq,
        )
    sync_folders(target)
    write_manifest(target, manifest)
    return manifest


def _view_up_to(data_dir: Path, copied: StateCopy) -> LogView:
    """The log, once it shows all that the state knows. Raises BackupError."""
    deadline = time.monotonic() + LOG_WAIT_S
    while True:
        view = LogView.of(data_dir)
        if view.last_seq >= copied.highest_seq or not view.segments:
            return view
        last_seq = view.last_seq
        view.close()
        if time.monotonic() >= deadline:
            raise BackupError(f"the log ends at seq {last_seq}, and the state knows seq {copied.highest_seq}")
        time.sleep(LOOK_S)


def _copy_log(view: LogView, events: Path) -> int:
    """Segments from the newest on, as far as they are there; the first seq copied, 0 = none."""
    first_seq = 0
    for segment in reversed(view.segments):
        if segment.is_foreign:
            raise BackupError(segment.faults[0])
        if segment.entries <= 0:
            continue  # just born
        try:
            fds = view.open_files(segment)
        except FileNotFoundError:
            break  # retention takes the oldest away
        try:
            _copy_segment(*fds, segment, events)
        finally:
            for fd in fds:
                os.close(fd)
        first_seq = segment.first_seq
    sync_folder(events)
    return first_seq


def _copy_segment(frames_fd: int, index_fd: int, segment: SegmentView, events: Path) -> None:
    """Both files up to the segment's last event."""
    index_bytes = HEADER_BYTES + segment.entries * ENTRY_BYTES
    entry = os.pread(index_fd, _OFFSET_LENGTH.size, index_bytes - ENTRY_BYTES)
    offset, length = _OFFSET_LENGTH.unpack(entry)
    frames_bytes = min(segment.frames_bytes, max(HEADER_BYTES, offset + length))
    for kind, source, count in (("frames", frames_fd, frames_bytes), ("index", index_fd, index_bytes)):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(events / segment_name(segment.first_seq, kind), flags, 0o640)
        try:
            copy_bytes(source, fd, count)
        finally:
            os.close(fd)


def _check_window(view: LogView, copied: StateCopy, first_seq: int) -> None:
    """What the state has still to read must be there. Raises BackupError."""
    wanted = min(copied.applied_seq, copied.dedup_from) + 1
    given_before = next((s.previous_last for s in view.segments if s.first_seq == first_seq), None)
    if given_before is not None and given_before >= wanted:
        raise BackupError(f"retention has taken what the state still needs, from seq {wanted} on: try again")
