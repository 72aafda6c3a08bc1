"""Both databases as the tests meet them: where one is, and what others may do to it behind the store's back."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any, Protocol

from zlay.state.postgresql import PostgresStore, _translated
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from zlay.bench.cluster import Cluster
    from zlay.state.store import SqlStore


class Database(Protocol):
    """An empty database; several stores may be opened on it, one after the other. `url`: as DATABASE_URL has it."""

    url: str

    def open(self) -> SqlStore:
        """A store on it."""

    def run(self, sql: str, params: Sequence[object] = ()) -> list[Any]:
        """One statement on a connection of the test's own, in the words of zlay.state.store."""

    def hold(self) -> AbstractContextManager[object]:
        """Inside, somebody else holds what every write needs."""


class SqliteDatabase:
    """A file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:{path}"

    def open(self) -> SqlStore:
        """A store on it."""
        return SqliteStore(self.path)

    def run(self, sql: str, params: Sequence[object] = ()) -> list[Any]:
        """One statement of the test's own."""
        with contextlib.closing(sqlite3.connect(self.path, autocommit=True)) as other:
            return other.execute(sql, params).fetchall()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Inside, somebody else is in the middle of a write."""
        with contextlib.closing(sqlite3.connect(self.path, autocommit=True)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")


class PostgresDatabase:
    """A schema of its own in the tests' cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.url = cluster.new_schema()

    def open(self) -> SqlStore:
        """A store on it."""
        return PostgresStore(self.url)

    def run(self, sql: str, params: Sequence[object] = ()) -> list[Any]:
        """One statement of the test's own."""
        with self.cluster.connect(self.url) as other:
            done = other.execute(_translated(sql), params or None)
            return done.fetchall() if done.description else []

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Inside, somebody's lock lets nobody write."""
        with self.cluster.connect(self.url) as other:
            other.execute("BEGIN")
            other.execute("LOCK TABLE checkpoint, host, account, identity IN SHARE ROW EXCLUSIVE MODE")
            yield
            other.execute("ROLLBACK")
