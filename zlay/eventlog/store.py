"""What belongs to the log beside its segments: the lock, the store's identity and key, and the run before this one.

Promises: one process per data directory (R11); a file here is replaced whole or not at all. Used by the one thread that
opens the log.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from zlay._fast import crash
from zlay._fast import published as _published
from zlay.errors import StartError

__all__ = [
    "BACKUP_FILE",
    "DirectoryLock",
    "Run",
    "Store",
    "boot_id",
    "load_store",
    "open_published",
    "read_published",
    "read_run",
    "read_store",
    "remove_published",
    "replace_file",
    "sync_folder",
    "sync_folders",
    "write_run",
    "write_store",
]

FORMAT = 1
STORE_FILE = "store.json"
RUN_FILE = "run.json"
PUBLISHED_FILE = "published"
BACKUP_FILE = "backup.json"  # of zlay.backup: a directory with it is a copy, and no relay's own
LOCK_FILE = "lock"
PUBLISHED_READS = 20  # one that is torn by a write at the same moment is read again
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Store:
    """Who this log is."""

    store_id: bytes  # 16 bytes; stands in every segment, and in the state
    did_key: bytes  # 16 bytes; the key of the DID hash in the index, and of the sharding


@dataclass(frozen=True, slots=True)
class Run:
    """What the process that last opened the log was."""

    boot_id: str
    durability: str
    next_seq: int  # it gave out nothing below; whoever comes later does not either


class DirectoryLock:
    """An flock on `lock` in the data directory, held until close(). One thread.

    Raises StartError when another process holds it.
    """

    def __init__(self, data_dir: Path) -> None:
        path = data_dir / LOCK_FILE
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise StartError(
                f"{data_dir} is in use by another zlay (process {holder}): one process per data directory"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let the directory go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def boot_id() -> str:
    """The machine's boot id: another one means that what was only in the page cache is gone."""
    return BOOT_ID_FILE.read_text("ascii").strip()


def sync_folders(data_dir: Path) -> None:
    """Makes the names of what stands in the data directory, and its own, outlast a power loss.

    Folders above it count as far as they are on the same volume and may be opened. Raises OSError for its own.
    """
    sync_folder(data_dir)
    device = data_dir.stat().st_dev
    for folder in data_dir.resolve().parents:
        if folder.stat().st_dev != device or not os.access(folder, os.R_OK):
            break
        sync_folder(folder)


def sync_folder(path: Path) -> None:
    """Makes the names in one folder outlast a power loss. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(dir_fd: int, name: str, data: bytes, mode: int = 0o640) -> None:
    """Write a file so that after a power loss there is the old one or the new one, whole."""
    temporary = f"{name}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode, dir_fd=dir_fd)
    try:
        os.write(fd, data)
        crash.point("replace.written")
        os.fsync(fd)
    finally:
        os.close(fd)
    crash.point("replace.before")
    os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    crash.point("replace.renamed")
    os.fsync(dir_fd)


def _read(dir_fd: int, name: str) -> bytes | None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read()


def load_store(dir_fd: int) -> Store | None:
    """The store of this directory, None where there is none. Raises StartError when it cannot be read."""
    data = _read(dir_fd, STORE_FILE)
    if data is None:
        return None
    try:
        fields = json.loads(data)
        version = fields["format"]
        store = Store(bytes.fromhex(fields["store_id"]), bytes.fromhex(fields["did_key"]))
    except (ValueError, KeyError, TypeError) as exc:
        raise StartError(f"events/{STORE_FILE} is damaged ({exc}): put it back from a backup") from exc
    if version != FORMAT or len(store.store_id) != 16 or len(store.did_key) != 16:
        raise StartError(f"events/{STORE_FILE} has format {version}, this zlay knows {FORMAT}")
    return store


def write_store(dir_fd: int, store: Store) -> None:
    """Say who the log of this directory is; only its owner may read the key."""
    fields = {"format": FORMAT, "store_id": store.store_id.hex(), "did_key": store.did_key.hex()}
    replace_file(dir_fd, STORE_FILE, json.dumps(fields, indent=1).encode() + b"\n", 0o600)


def read_store(dir_fd: int, *, has_segments: bool) -> Store:
    """The store of this directory; a new one where there is none.

    Raises StartError when segments are there without it, or when it cannot be read.
    """
    store = load_store(dir_fd)
    if store is not None:
        return store
    if has_segments:
        raise StartError(f"events/ has segments but no {STORE_FILE}: put it back from a backup, or move both away")
    store = Store(secrets.token_bytes(16), secrets.token_bytes(16))
    write_store(dir_fd, store)
    return store


def read_run(dir_fd: int) -> Run | None:
    """The run before this one; None = the log is new. Raises StartError when the file cannot be read."""
    data = _read(dir_fd, RUN_FILE)
    if data is None:
        return None
    try:
        fields = json.loads(data)
        return Run(str(fields["boot_id"]), str(fields["durability"]), int(fields["next_seq"]))
    except (ValueError, KeyError, TypeError) as exc:
        raise StartError(
            f"events/{RUN_FILE} is damaged ({exc}): put it back from a backup, or remove it: numbers are then left out"
        ) from exc


def write_run(dir_fd: int, run: Run) -> None:
    """Note who is about to append, before the first seq is given out."""
    fields = {"boot_id": run.boot_id, "durability": run.durability, "next_seq": run.next_seq}
    replace_file(dir_fd, RUN_FILE, json.dumps(fields, indent=1).encode() + b"\n")


def open_published(dir_fd: int) -> int:
    """A descriptor of the file that tells other processes what is published; made where it is not there."""
    return os.open(PUBLISHED_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640, dir_fd=dir_fd)


def remove_published(dir_fd: int) -> None:
    """The log is closed in order: all that is in it counts."""
    with contextlib.suppress(OSError):  # what is left of it says nothing that is wrong
        os.unlink(PUBLISHED_FILE, dir_fd=dir_fd)


def read_published(dir_fd: int, store_id: bytes) -> int | None:
    """The published end of the process that has the log open, or had when it died; None = the whole log counts."""
    for _ in range(PUBLISHED_READS):
        data = _read(dir_fd, PUBLISHED_FILE)
        if data is None:
            return None
        note = _published.parse(data)
        if note is not None:
            return note[1] if note[0] == store_id else None
    return None
