"""Copies of a state in SQLite: taken of a running relay, looked at, given another owner. One thread.

A copy is one file that needs no other beside it, consistent in itself: all of some transaction and nothing of the next.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zlay.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["StateCopy", "copy_state", "give_state", "look_at_state", "sync_copy"]

BUSY_TIMEOUT_S = 30.0  # a relay's own transactions take far less


@dataclass(frozen=True, slots=True)
class StateCopy:
    """How far a state follows its log."""

    store_id: bytes | None  # None = it has never been given one: no relay has run on it
    applied_seq: int
    dedup_from: int
    highest_seq: int  # the newest event that any row knows of; applied_seq at least


def copy_state(source: Path, target: Path) -> None:
    """Copies a database, also one that a relay is writing, into a new file, and syncs it. Raises StateError."""
    if not source.exists():
        raise StateError(f"there is no state at {source}")
    with _opened(source) as one, _opened(target) as other:
        one.execute("PRAGMA query_only = 1")
        one.backup(other)  # in one step: a moment of the source, whatever is written meanwhile
        other.execute("PRAGMA journal_mode = DELETE")
    sync_copy(target)


def sync_copy(path: Path) -> None:
    """Makes a file and its name outlast a power loss. Raises OSError."""
    for name in (path, path.parent):
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def look_at_state(path: Path, *, thoroughly: bool = False) -> StateCopy:
    """What a state says of itself; `thoroughly`: its pages are looked through first. Raises StateError."""
    with _opened(path) as database:
        if thoroughly:
            said = [row[0] for row in database.execute("PRAGMA quick_check(10)")]
            if said != ["ok"]:
                raise StateError(f"the state in {path} is damaged: {'; '.join(map(str, said))}")
        row = database.execute("SELECT store_id, applied_seq, dedup_from FROM checkpoint").fetchone()
        highest = [
            database.execute(f"SELECT COALESCE(MAX(last_seq), 0) FROM {table}").fetchone()[0]
            for table in ("account", "account_repo")
        ]
    if row is None:
        raise StateError(f"the state in {path} has no checkpoint")
    return StateCopy(row[0], row[1], row[2], max(row[1], *highest))


def give_state(path: Path, store_id: bytes) -> None:
    """Makes a copy the state of another store. Raises StateError."""
    with _opened(path) as database:
        database.execute("PRAGMA synchronous = FULL")
        with database:
            database.execute("UPDATE checkpoint SET store_id = ?", (store_id,))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
            yield connection
    except sqlite3.Error as exc:
        raise StateError(f"the state in {path} cannot be read or written: {exc}") from exc
