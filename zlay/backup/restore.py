"""Making a backup a relay's data again.

Promises: what is restored can never be taken for the relay that the backup was taken of (R11): it gets a store id of
its own, in every segment and in the state, so that files of the two refuse one another; and it gives out no number that
the other one may have given since, since numbers are left out. Until it is whole no relay starts on it: store.json,
without which segments are refused, is written last. The backup is only read.

One thread; the data directory is locked meanwhile.
"""

from __future__ import annotations

import os
import secrets
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zlay._fast import segments as _segments
from zlay.backup.copying import copy_bytes
from zlay.backup.manifest import read_manifest
from zlay.backup.take import EVENTS, STATE_FILE
from zlay.errors import BackupError, LogError, StartError, StateError
from zlay.eventlog.check import check
from zlay.eventlog.log import MAX_SEQ
from zlay.eventlog.recovery import HEADER_BYTES, segment_name
from zlay.eventlog.store import DirectoryLock, Run, Store, boot_id, sync_folders, write_run, write_store
from zlay.eventlog.view import LogView
from zlay.state.copies import look_at_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zlay.backup.manifest import Manifest
    from zlay.eventlog.view import SegmentView
    from zlay.state.places import Place

__all__ = ["Restored", "restore_backup"]

# Numbers left out: more than the relay can have given out since the backup, whose age is known. 10,000 a second is
# three times what the whole network has said in a storm of replays; of 2^53 there is no need to be sparing.
LEFT_OUT_LEAST = 1_000_000
LEFT_OUT_PER_S = 10_000
_HEADER = struct.Struct("<8sII16sQQQI")  # of docs/eventlog.md, without its checksum


@dataclass(frozen=True, slots=True)
class Restored:
    """What has been restored."""

    manifest: Manifest
    store_id: bytes
    next_seq: int  # the first number that the restored relay gives out


def restore_backup(
    backup: Path,
    data_dir: Path,
    state: Place,
    *,
    next_seq: int | None = None,
    accept_damage: bool = False,
    on_segment: Callable[[int, int], None] = lambda done, of: None,
) -> Restored:
    """Checks a backup and copies it into `data_dir` and `state`, where nothing of a relay may be yet.

    `next_seq`: the first number to give out; None = by the backup's age. Raises BackupError.
    """
    manifest = read_manifest(backup)
    next_seq = _next_seq(manifest, next_seq)
    try:
        with LogView.of(backup) as view:
            _check(view, manifest, backup / STATE_FILE, accept_damage=accept_damage, on_segment=on_segment)
            return _restore(view, manifest, backup, data_dir, state, next_seq)
    except OSError as exc:
        raise BackupError(f"the restore failed: {exc.strerror} ({exc.filename or data_dir})") from exc
    except (LogError, StartError, StateError) as exc:
        raise BackupError(str(exc)) from exc


def _next_seq(manifest: Manifest, wanted: int | None) -> int:
    least = max(manifest.last_seq + 1, manifest.next_seq)
    if wanted is None:
        age_s = max(0, time.time_ns() // 1000 - manifest.created_us) // 1_000_000
        wanted = least + max(LEFT_OUT_LEAST, age_s * LEFT_OUT_PER_S)
    if not least <= wanted <= MAX_SEQ:
        raise BackupError(f"the next seq must be between {least} and {MAX_SEQ}, not {wanted}")
    return wanted


def _check(
    view: LogView, manifest: Manifest, state: Path, *, accept_damage: bool, on_segment: Callable[[int, int], None]
) -> None:
    """Whether log and state are whole, and what the manifest says. Raises BackupError, StateError, OSError."""
    if view.store.store_id.hex() != manifest.store_id or (view.first_seq, view.last_seq) != (
        manifest.first_seq,
        manifest.last_seq,
    ):
        raise BackupError("the log in the backup is not the one that was backed up")
    found = check(view, on_segment)
    if not (found.is_whole or accept_damage):
        first = found.faults[0]
        where = "" if first.from_seq is None else f", seq {first.from_seq} to {first.to_seq}"
        raise BackupError(f"the log in the backup is damaged ({len(found.faults)} faults; {first.what}{where})")
    said = look_at_state(state, thoroughly=True)
    if said.store_id != view.store.store_id or said.highest_seq > view.last_seq:
        raise BackupError("the state in the backup does not belong to its log")


def _restore(view: LogView, manifest: Manifest, backup: Path, data_dir: Path, state: Place, next_seq: int) -> Restored:
    store = Store(secrets.token_bytes(16), view.store.did_key)
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = DirectoryLock(data_dir)
    try:
        events = data_dir / EVENTS
        if events.exists() and any(events.iterdir()):
            raise BackupError(f"{events} is there already: move it away first, or restore elsewhere")
        state.check_free()
        events.mkdir(exist_ok=True)
        for segment in view.segments:
            _restore_segment(view, segment, events, store.store_id)
        state.take(backup / STATE_FILE, store.store_id)
        sync_folders(data_dir)
        dir_fd = os.open(events, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            write_run(dir_fd, Run(boot_id(), "fsync", next_seq))  # all of it has just been synced
            write_store(dir_fd, store)
        finally:
            os.close(dir_fd)
    finally:
        lock.close()
    return Restored(manifest, store.store_id, next_seq)


def _restore_segment(view: LogView, segment: SegmentView, events: Path, store_id: bytes) -> None:
    """Both files, with the new store's id in their headers."""
    fds = view.open_files(segment)
    try:
        for kind, source in zip(("frames", "index"), fds, strict=True):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(events / segment_name(segment.first_seq, kind), flags, 0o640)
            try:
                os.pwrite(fd, _header(os.pread(source, HEADER_BYTES, 0), kind, store_id), 0)
                copy_bytes(source, fd, os.fstat(source).st_size - HEADER_BYTES, offset=HEADER_BYTES)
            finally:
                os.close(fd)
    finally:
        for fd in fds:
            os.close(fd)


def _header(data: bytes, kind: str, store_id: bytes) -> bytes:
    """A segment's header for another store; one that is damaged is left as it is."""
    if _segments.check_header(data, kind == "frames") is None:
        return data
    magic, version, size, _, *rest = _HEADER.unpack(data[:-4])
    changed = _HEADER.pack(magic, version, size, store_id, *rest)
    return changed + struct.pack("<I", _segments.crc32c(changed))
