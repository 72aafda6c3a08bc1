"""The state as the crash checks read and hold it, by connections of their own, in either database. Any thread."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any, Protocol

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    type Query = Callable[[str], list[tuple[Any, ...]]]

LAST_TABLE = "backfill_progress"  # of the first migration: where it is, all of them are
HELD_WAIT_S = 0.5


class NotNowError(Exception):
    """It is not there yet, or a relay holds it."""


class StateDatabase(Protocol):
    """Where a history's state is. `settings`: what the relay is told of it."""

    settings: dict[str, str]

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a statement gives, also while a relay writes. NotNowError where there is no state."""

    def as_left(self) -> AbstractContextManager[Query]:
        """One moment of a state that nobody writes; nothing is changed, not even by opening it. NotNowError."""

    def held(self) -> AbstractContextManager[object]:
        """Inside, no relay can write. NotNowError."""


class StateFile:
    """state.sqlite in a data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.settings: dict[str, str] = {}
        self._path = data_dir / "state.sqlite"
        self._scratch = data_dir.parent / f"{data_dir.name}-state"

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a statement gives."""
        with self._opened(self._path, 30.0) as state:
            return state.execute(sql).fetchall()

    @contextlib.contextmanager
    def as_left(self) -> Iterator[Query]:
        """By a copy: opening the file itself would finish what a kill has left half done."""
        self._scratch.mkdir()
        try:
            for path in (self._path, self._path.with_name(self._path.name + "-wal")):
                if path.exists():
                    shutil.copy(path, self._scratch / path.name)
            with self._opened(self._scratch / self._path.name, 0.0) as copy:
                if not copy.execute("SELECT name FROM sqlite_master WHERE name = ?", (LAST_TABLE,)).fetchall():
                    raise NotNowError
                yield lambda sql: copy.execute(sql).fetchall()
        finally:
            shutil.rmtree(self._scratch)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, the write lock is taken."""
        with self._opened(self._path, HELD_WAIT_S) as state:
            try:
                state.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:  # the relay holds the lock at this moment, or is just making the file
                raise NotNowError from None
            yield
            state.execute("ROLLBACK")

    @contextlib.contextmanager
    def _opened(self, path: Path, timeout_s: float) -> Iterator[sqlite3.Connection]:
        if not path.exists():
            raise NotNowError
        with contextlib.closing(sqlite3.connect(path, timeout=timeout_s, autocommit=True)) as connection:
            yield connection


class StateServer:
    """A schema in PostgreSQL."""

    def __init__(self, url: str) -> None:
        self.settings = {"DATABASE_URL": url}
        self._url = url

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a statement gives."""
        with self.as_left() as query:
            return query(sql)

    @contextlib.contextmanager
    def as_left(self) -> Iterator[Query]:
        """One snapshot."""
        with psycopg.connect(self._url, autocommit=True) as state:
            state.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            if state.execute("SELECT to_regclass(%s)", (LAST_TABLE,)).fetchone() == (None,):
                raise NotNowError
            yield lambda sql: state.execute(sql.encode()).fetchall()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, no group can be written."""
        with psycopg.connect(self._url, autocommit=True) as state:
            try:
                state.execute(f"SET lock_timeout = {int(HELD_WAIT_S * 1000)}".encode())
                state.execute("BEGIN")
                state.execute("LOCK TABLE checkpoint IN SHARE ROW EXCLUSIVE MODE")
            except psycopg.Error:  # a relay is writing, or has made no tables yet
                raise NotNowError from None
            yield
            state.execute("ROLLBACK")
