"""`state`: what the applier does with a group of changed accounts, on both databases (design 7).

Four figures: groups of accounts that are stored already (`state`, `state.postgresql`), and of accounts seen for the
first time (`.new`). Bound: the same rows of `account` and `account_repo`, whose numbers are known beforehand, written
in one transaction by the barest means into a database of the same form and size: `executemany` of the two upserts in
SQLite; COPY in PostgreSQL, straight into the tables where no row is there yet, else into temporary tables and from
there by one upsert each. Nothing is looked up, compared or counted for it.
"""

from __future__ import annotations

import contextlib
import gc
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zlay.bench.changes import Changes, new_hosts, uid_of
from zlay.bench.cluster import Cluster
from zlay.bench.report import Figure, Report, in_turn, rate
from zlay.housekeeping import GC_THRESHOLD
from zlay.state.postgresql import PostgresStore
from zlay.state.sqlite import CHECKPOINT_PAGES, WRITER_CACHE_KIB, SqliteStore
from zlay.state.store import ACCOUNT, REPO

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    import psycopg

    from zlay.pipeline.types import AccountDelta
    from zlay.state.interface import Store

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = "account changes per second into SQLite and PostgreSQL"
TARGET = 0.7
DATABASES = ("sqlite", "postgresql")
_TABLES = (ACCOUNT, REPO)

type Rows = tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--accounts, --group, --database."""
    parser.add_argument("--accounts", type=int, default=200_000, help="stored beforehand (default: 200000)")
    parser.add_argument("--group", type=int, default=10_000, help="changed in one transaction (default: 10000)")
    parser.add_argument("--database", choices=DATABASES, action="append", help="only this one (default: both)")


def measure(arguments: argparse.Namespace) -> Report:
    """Account changes per second, beside the same rows written barely."""
    figures: list[Figure] = []
    threshold = gc.get_threshold()
    gc.set_threshold(GC_THRESHOLD)
    try:
        for name in arguments.database or DATABASES:
            opened = _sqlite_sides if name == "sqlite" else _postgresql_sides
            with opened() as (store, bare):
                figures += _figures("state" if name == "sqlite" else f"state.{name}", store, bare, arguments)
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
    params = {"accounts": arguments.accounts, "group": arguments.group}
    return Report("state", params, figures, arguments.runs)


def _figures(
    name: str, store: Store, bare: Callable[[Rows, bool], None], arguments: argparse.Namespace
) -> list[Figure]:
    changes = Changes(arguments.group)
    store.add_hosts(new_hosts())
    while changes.accounts < arguments.accounts:
        deltas = changes.new()
        store.apply(deltas, [], changes.seq, None)
        bare(_rows(deltas), True)
    gc.collect()
    gc.freeze()  # as in a relay: what is there before is looked at no more
    return [
        _figure(name, changes.known, store, lambda rows: bare(rows, False), arguments),
        _figure(f"{name}.new", changes.new, store, lambda rows: bare(rows, True), arguments),
    ]


def _figure(
    name: str,
    make: Callable[[], list[AccountDelta]],
    store: Store,
    bare: Callable[[Rows], None],
    arguments: argparse.Namespace,
) -> Figure:
    """Both sides take the groups that `make` gives, each group once."""
    waiting: dict[str, list[AccountDelta]] = {}

    def take(side: str, other: str) -> list[AccountDelta]:
        if side not in waiting:
            waiting[side] = waiting[other] = make()
        return waiting.pop(side)

    def own() -> float:
        deltas = take("own", "bound")
        began = time.perf_counter()
        store.apply(deltas, [], deltas[-1].last_seq, None)
        return time.perf_counter() - began

    def bound() -> float:
        rows = _rows(take("bound", "own"))
        began = time.perf_counter()
        bare(rows)
        return time.perf_counter() - began

    taken = in_turn(arguments.runs, {"own": own, "bound": bound})
    per_s = {side: arguments.group / seconds for side, seconds in taken.items()}
    return rate(name, per_s["own"], "accounts/s", per_s["bound"], TARGET)


def _rows(deltas: Sequence[AccountDelta]) -> Rows:
    """As they stand in the tables afterwards."""
    accounts: list[tuple[Any, ...]] = []
    repos: list[tuple[Any, ...]] = []
    for delta in deltas:
        uid = uid_of(delta.did)
        accounts.append((uid, delta.did, delta.host_id, 0, 0, 0, delta.last_seq))
        repos.append((uid, delta.rev, delta.data, delta.head, delta.last_seq))
    return accounts, repos


@contextlib.contextmanager
def _sqlite_sides() -> Iterator[tuple[Store, Callable[[Rows, bool], None]]]:
    with tempfile.TemporaryDirectory(prefix="zlay-bench-") as folder:
        store = SqliteStore(Path(folder) / "state.sqlite")
        SqliteStore(Path(folder) / "bare.sqlite").close()  # the same tables
        bare = sqlite3.connect(Path(folder) / "bare.sqlite", autocommit=True)
        bare.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
        bare.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        bare.execute("PRAGMA synchronous = NORMAL")
        statements = [
            f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({', '.join('?' * len(table.columns))})"
            f" {table.on_conflict}"
            for table in _TABLES
        ]

        def write(rows: Rows, _fresh: bool) -> None:
            bare.execute("BEGIN IMMEDIATE")
            for statement, of_table in zip(statements, rows, strict=True):
                bare.executemany(statement, of_table)
            bare.execute("COMMIT")

        try:
            yield store, write
        finally:
            bare.close()
            store.close()


@contextlib.contextmanager
def _postgresql_sides() -> Iterator[tuple[Store, Callable[[Rows, bool], None]]]:
    with Cluster(durable=True) as cluster:
        store = PostgresStore(cluster.new_schema())
        url = cluster.new_schema()
        PostgresStore(url).close()
        bare = cluster.connect(url)
        for table in _TABLES:
            bare.execute(f"CREATE TEMP TABLE new_{table.name} (LIKE {table.name}) ON COMMIT DELETE ROWS".encode())

        def write(rows: Rows, fresh: bool) -> None:
            bare.execute("BEGIN")
            for table, of_table in zip(_TABLES, rows, strict=True):
                _copy(bare, table.name if fresh else f"new_{table.name}", table.types, of_table)
                if not fresh:
                    upsert = f"INSERT INTO {table.name} SELECT * FROM new_{table.name} {table.on_conflict}"
                    bare.execute(upsert.encode())
            bare.execute("COMMIT")

        try:
            yield store, write
        finally:
            bare.close()
            store.close()


def _copy(
    connection: psycopg.Connection[tuple[Any, ...]], table: str, types: Sequence[str], rows: list[tuple[Any, ...]]
) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN (FORMAT BINARY)".encode()) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)
