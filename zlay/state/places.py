"""Where a state is kept, for backups: how a copy of it is taken, and how one becomes a relay's state. One thread.

A copy is always one file of SQLite (see copies.py), wherever the state is: so a backup is one directory, and is
restored to either database.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any, Protocol

from zlay.errors import StateError
from zlay.state import schema
from zlay.state.copies import copy_state, give_state, sync_copy
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zlay.config import Config

__all__ = ["FilePlace", "Place", "ServerPlace", "place_of"]

# Every table but the one of migrations, which each database keeps for itself.
TABLES = ("checkpoint", "host", "account", "account_repo", "identity", "domain_ban", "backfill_progress", "plc_mirror")
ROWS = 10_000  # of one read
CONNECT_S = 10


class Place(Protocol):
    """A database that a relay's state is in, or is to be in. `str` of it is for people, and holds no password."""

    def copy_to(self, target: Path) -> None:
        """Makes a copy of the state as of one moment, also while a relay writes it, and syncs it. StateError."""

    def check_free(self) -> None:
        """StateError where there is a state already."""

    def take(self, copy: Path, store_id: bytes) -> None:
        """Makes a copy the state of a store, where there is none; durable when this returns. StateError, OSError."""


def place_of(config: Config) -> Place:
    """The one that DATABASE_URL names."""
    return ServerPlace(config.database_url) if config.postgresql else FilePlace(config.sqlite_path)


class FilePlace:
    """A file of SQLite."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def copy_to(self, target: Path) -> None:
        """See Place."""
        copy_state(self._path, target)

    def check_free(self) -> None:
        """See Place."""
        for suffix in ("", "-wal", "-shm", "-journal"):
            path = self._path.with_name(self._path.name + suffix)
            if path.exists():
                raise StateError(f"{path} is there already: move it away first, or restore elsewhere")

    def take(self, copy: Path, store_id: bytes) -> None:
        """See Place."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(copy, self._path)
        give_state(self._path, store_id)
        sync_copy(self._path)


class ServerPlace:
    """A schema of a database in PostgreSQL."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __str__(self) -> str:
        return "PostgreSQL"

    def copy_to(self, target: Path) -> None:
        """See Place. Takes no lock that a relay would wait for."""
        import psycopg

        from zlay.state.postgresql import words

        SqliteStore(target).close()
        try:
            with (
                contextlib.closing(sqlite3.connect(target, autocommit=False)) as file,
                psycopg.connect(self._url, connect_timeout=CONNECT_S, application_name="zlay backup") as server,
            ):
                server.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                server.read_only = True
                _check_version(server.execute("SELECT MAX(version) FROM schema_migration").fetchone())
                for table in TABLES:
                    names = ", ".join(_columns(file, table))
                    marks = ", ".join("?" * len(_columns(file, table)))
                    file.execute(f"DELETE FROM {table}")
                    with server.cursor(name="copying") as rows:
                        rows.execute(f"SELECT {names} FROM {table}".encode())
                        while some := rows.fetchmany(ROWS):
                            file.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", some)
                file.execute("UPDATE checkpoint SET writer = NULL")
                file.commit()
                file.autocommit = True
                file.execute("PRAGMA journal_mode = DELETE")
        except psycopg.Error as exc:
            raise StateError(f"the state in PostgreSQL cannot be read: {words(exc)}") from exc
        except sqlite3.Error as exc:
            raise StateError(f"the copy in {target} cannot be written: {exc}") from exc
        sync_copy(target)

    def check_free(self) -> None:
        """See Place. Where a relay runs on it, that is the refusal."""
        from zlay.state.postgresql import PostgresStore

        with contextlib.closing(PostgresStore(self._url)) as store:
            if store.checkpoint().store_id is not None or store.hosts() or store.account_count():
                raise StateError("there is a state in this database already: give it an empty one")

    def take(self, copy: Path, store_id: bytes) -> None:
        """See Place."""
        from zlay.state.postgresql import PostgresStore

        with (
            contextlib.closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)) as file,
            contextlib.closing(PostgresStore(self._url)) as store,
        ):
            (version,) = file.execute("SELECT MAX(version) FROM schema_migration").fetchall()
            _check_version(version)
            try:
                store.fill((table, _columns(file, table), _rows(file, table, store_id)) for table in TABLES)
            except sqlite3.Error as exc:
                raise StateError(f"the copy in {copy} cannot be read: {exc}") from exc


def _check_version(row: tuple[Any, ...] | None) -> None:
    known, found = len(schema.migrations()), row[0] if row else None
    if found != known:
        raise StateError(f"the state has schema {found}, this zlay knows {known}: use the version that wrote it")


def _columns(file: sqlite3.Connection, table: str) -> list[str]:
    return [name for _, name, *_ in file.execute(f"PRAGMA table_info({table})")]


def _rows(file: sqlite3.Connection, table: str, store_id: bytes) -> Iterator[tuple[Any, ...]]:
    columns = _columns(file, table)
    for row in file.execute(f"SELECT {', '.join(columns)} FROM {table}"):
        yield tuple(store_id if name == "store_id" else value for name, value in zip(columns, row, strict=True))
