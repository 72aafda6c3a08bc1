"""`listrepos`: a page of listRepos wherever its cursor stands, in a state of a million accounts, on both databases.

Bound: the first page of the same state. The figure is the slowest of pages a quarter, half and three quarters through,
and the last one: were anything before the cursor looked at, it would grow with the cursor.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from zlay.bench.changes import Changes, new_hosts
from zlay.bench.cluster import Cluster
from zlay.bench.report import Figure, Report, cost, in_turn
from zlay.state.interface import MAX_LIST_REPOS
from zlay.state.postgresql import PostgresStore
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from zlay.state.interface import Store

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = "a page of listRepos at any cursor, out of a million accounts"
TARGET = 0.5  # constant, but for what is in no cache yet
GROUP = 20_000
PARTS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--accounts."""
    parser.add_argument("--accounts", type=int, default=1_000_000, help="accounts stored (default: 1000000)")


def measure(arguments: argparse.Namespace) -> Report:
    """Milliseconds per page of 1,000."""
    with _sqlite() as store:
        figures = [_figure("listrepos", store, arguments)]
    with Cluster() as cluster, contextlib.closing(PostgresStore(cluster.new_schema())) as store:
        figures.append(_figure("listrepos.postgresql", store, arguments))
    return Report("listrepos", {"accounts": arguments.accounts, "page": MAX_LIST_REPOS}, figures, arguments.runs)


@contextlib.contextmanager
def _sqlite() -> Iterator[Store]:
    with (
        tempfile.TemporaryDirectory(prefix="zlay-bench-") as folder,
        contextlib.closing(SqliteStore(Path(folder) / "state.sqlite")) as store,
    ):
        yield store


def _figure(name: str, store: Store, arguments: argparse.Namespace) -> Figure:
    last = _fill(store, arguments.accounts)
    page = min(MAX_LIST_REPOS, last // PARTS)
    cursors = [(last - page) * part // PARTS for part in range(PARTS + 1)]

    def read(cursor: int) -> Callable[[], float]:
        def one() -> float:
            began = time.perf_counter()
            rows = store.list_repos(cursor, page)
            taken_s = time.perf_counter() - began
            assert (rows[0].uid, len(rows)) == (cursor + 1, page)
            return taken_s

        return one

    taken = in_turn(arguments.runs, {str(cursor): read(cursor) for cursor in cursors})
    first, *others = (taken[str(cursor)] * 1000 for cursor in cursors)
    return cost(name, max(others), "ms/page", first, TARGET)


def _fill(store: Store, accounts: int) -> int:
    """At least so many accounts, whose numbers end with what is returned."""
    changes = Changes(min(GROUP, accounts))
    store.add_hosts(new_hosts())
    while changes.accounts < accounts:
        store.apply(changes.new(), [], changes.seq, None)
    return changes.accounts
