"""State in SQLite: the store that needs no server (design 7).

Connections: one writer behind `_write_lock`, and up to READERS readers of which each is lent to one thread at a time (a
connection used by two threads at once misuses SQLite's API). WAL, so that readers never wait for the writer.

Durability: what is a view of the log (apply, identities, statuses) commits with synchronous=NORMAL. In WAL mode that
may lose the last transactions when the machine loses power, whole transactions from the end, never half of one; they
carry applied_seq, cursors and dedup_from along, so the log brings them back, and the log's own fdatasync has no rival
on the disk. What stands nowhere else (hosts, bans, epochs, ids) commits with synchronous=FULL; that also makes every
transaction before it durable.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sqlite3
import time
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

from zlay.errors import StartError, StateError, StateUnavailable
from zlay.state import store
from zlay.state.store import SqlStore

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from zlay.state.store import Session, Table

__all__ = ["SqliteStore"]

BUSY_LOOK_S = 0.1  # of BUSY_TIMEOUT_S, between two looks at whether a stop has begun
WRITER_CACHE_KIB = 32 * 1024  # the upper levels of the indexes of some million accounts
READER_CACHE_KIB = 4 * 1024
CHECKPOINT_PAGES = 4000  # 16 MiB of WAL before its pages go back into the file: fewer rewrites of the same page
WAL_LIMIT_BYTES = 64 * 1024 * 1024  # the WAL file is cut back to this after a burst


class SqliteStore(SqlStore[sqlite3.Connection]):
    """The Store of zlay.state.interface in one SQLite file. Any thread may call any method but close."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file and brings its schema up. StartError when that cannot be."""
        super().__init__()
        self._idle: queue.SimpleQueue[sqlite3.Connection | None] = queue.SimpleQueue()  # None = not connected
        for _ in range(store.READERS):
            self._idle.put(None)
        self._path = path
        if path.exists() and not os.access(path, os.W_OK):  # SQLite would open it, and fail at the first write
            raise StartError(f"cannot open the state in {path}: no permission to write")
        try:
            self._writer = self._connect(WRITER_CACHE_KIB)
        except sqlite3.Error as exc:
            raise StartError(f"cannot open the state in {path}: {exc}") from exc
        try:
            self._writer.execute(f"PRAGMA busy_timeout = {int(BUSY_LOOK_S * 1000)}")
            self._migrate()
        except (sqlite3.Error, StateError) as exc:
            self.close()
            raise StartError(f"cannot open the state in {path}: {exc}") from exc
        except StartError:
            self.close()
            raise

    # --- connections ---

    def _connect(self, cache_kib: int) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=store.BUSY_TIMEOUT_S, check_same_thread=False, autocommit=True, cached_statements=64
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA cache_size = -{cache_kib}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
            connection.execute("PRAGMA temp_store = MEMORY")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Session]:
        """Lends a reader to this thread; StateUnavailable when none comes free in time."""
        try:
            reader = self._idle.get(timeout=store.READER_WAIT_S)
        except queue.Empty:
            raise StateUnavailable("no database connection came free") from None
        try:
            if reader is None:
                reader = self._connect(READER_CACHE_KIB)
                reader.execute("PRAGMA query_only = 1")
            yield self._session(reader)
        finally:
            if reader is not None and self._closed.is_set():
                reader.close()
                reader = None
            self._idle.put(reader)

    def _close_readers(self, deadline: float) -> None:
        for _ in range(store.READERS):
            try:
                reader = self._idle.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if reader is not None:
                reader.close()

    def _session(self, connection: sqlite3.Connection) -> Session:
        return cast("Session", connection)

    def _drop_writer(self) -> None:
        self._writer.close()

    def _begin(self, *, durable: bool) -> Session:
        """Takes the file's write lock, within BUSY_TIMEOUT_S; a reader's has no part in it (WAL). sqlite3.Error."""
        writer = self._writer
        writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        deadline = time.monotonic() + store.BUSY_TIMEOUT_S
        while True:
            try:
                writer.execute("BEGIN IMMEDIATE")
                return self._session(writer)
            except sqlite3.OperationalError as exc:
                late = self._hurried.is_set() or time.monotonic() >= deadline
                if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or late:
                    raise

    def _roll_back(self) -> None:
        if self._writer.in_transaction:  # some errors (a full disk) have rolled back already
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as exc:  # locked, full, unreadable, gone
            raise StateUnavailable(f"the state database does not answer: {exc}") from exc
        except sqlite3.Error as exc:
            raise StateError(f"the state database refuses: {exc}") from exc

    # --- many rows ---

    def _by_did(self, session: Session, sql: str, dids: Collection[str]) -> Iterable[tuple[Any, ...]]:
        """In order, neighbours in the index are looked up one after the other: a third less work than at random."""
        statement = sql.format(keys="json_each(?) CROSS JOIN ", match="= value")
        rows: list[tuple[Any, ...]] = session.execute(statement, (json.dumps(sorted(dids)),)).fetchall()
        return rows

    def _insert(self, session: Session, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        if table.second_key is not None:  # neighbours in that index, as in `_by_did`; row numbers are near each other
            rows = sorted(rows, key=itemgetter(table.second_key))
        session.executemany(_insert_into(table), rows)

    def _upsert(self, session: Session, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        session.executemany(f"{_insert_into(table)} {table.on_conflict}", rows)


def _insert_into(table: Table) -> str:
    marks = ", ".join("?" * len(table.columns))
    return f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({marks})"
