"""The applier and the loader, with a real store and the pipeline's edge in memory."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.state.support import delta, did, rev
from zlay.pipeline.types import AccountDelta, AccountRow, HostCursor
from zlay.state.applier import Applier
from zlay.state.interface import NewHost
from zlay.state.loader import Loader
from zlay.state.store import READERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.state.databases import Database
    from zlay.state.store import SqlStore

PATIENCE_S = 20.0


class Edge:
    """Log and pipeline as the applier meets them. One lock for everything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.synced = 0
        self.dirty: list[AccountDelta] = []
        self.applied: list[int] = []
        self.cursors: list[HostCursor] = []
        self.anchors: list[HostCursor] = []
        self.saved: list[HostCursor] = []
        self.dedup_from = 0

    def log(self, *changes: AccountDelta, synced: int | None = None) -> None:
        """Events that changed accounts; all synced unless said otherwise."""
        with self._lock:
            self.dirty += changes
            self.synced = max(change.last_seq for change in changes) if synced is None else synced

    def synced_end(self) -> int:
        """As the log's."""
        with self._lock:
            return self.synced

    def collect_dirty(self, _end: int) -> list[AccountDelta]:
        """As the pipeline's."""
        with self._lock:
            taken, self.dirty = self.dirty, []
            return taken

    def collect_cursors(self, _end: int) -> tuple[list[HostCursor], int]:
        """As the hosts'."""
        with self._lock:
            return self.cursors, self.dedup_from

    def collect_anchors(self) -> list[HostCursor]:
        """As the hosts': those not saved yet."""
        with self._lock:
            return [anchor for anchor in self.anchors if anchor not in self.saved]

    def cursors_saved(self, cursors: list[HostCursor]) -> None:
        """As the registry's."""
        with self._lock:
            self.saved += cursors


pytestmark = pytest.mark.usefixtures("impatient")


def applier_of(store: SqlStore, edge: Edge) -> Applier:
    """An applier that looks often."""
    return Applier(
        store,
        collect_dirty=edge.collect_dirty,
        set_applied=edge.applied.append,
        synced_end=edge.synced_end,
        collect_cursors=edge.collect_cursors,
        collect_anchors=edge.collect_anchors,
        cursors_saved=edge.cursors_saved,
        interval_s=0.01,
    )


@contextmanager
def running(target: Applier | Loader) -> Iterator[None]:
    """`run` on a thread, which has ended afterwards."""
    thread = threading.Thread(target=target.run)
    thread.start()
    try:
        yield
    finally:
        target.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def eventually(condition: Callable[[], bool]) -> None:
    """Waits until `condition` holds; fails when it does not in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "condition never held"
        time.sleep(0.005)


def test_changes_reach_the_store(store: SqlStore) -> None:
    """What the log changed is in the store soon, applied_seq with it, and the pipeline hears of it afterwards."""
    edge = Edge()
    with running(applier_of(store, edge)):
        for n in range(1, 51):
            edge.log(delta(n, seq=n, rev=rev(n)))
        eventually(lambda: store.checkpoint().applied_seq == 50)
        eventually(lambda: bool(edge.applied) and edge.applied[-1] == 50)
    assert all(store.load_accounts([did(n) for n in range(1, 51)]))
    assert edge.applied == sorted(edge.applied)


def test_state_never_outruns_the_log(store: SqlStore) -> None:
    """A change whose event is not synced yet is not written before it is, nor is anything collected with it."""
    edge = Edge()
    edge.log(delta(1, seq=5, rev=rev(1)), delta(2, seq=9, rev=rev(1)), synced=5)
    with running(applier_of(store, edge)):
        time.sleep(0.1)  # long enough for ten groups
        assert store.account(did(1)) is None
        assert store.checkpoint().applied_seq == 0
        with edge._lock:
            edge.synced = 9
        eventually(lambda: store.account(did(2)) is not None)
        eventually(lambda: store.checkpoint().applied_seq == 9)


def test_database_that_is_away(store: SqlStore, database: Database) -> None:
    """While the database takes nothing `fault` says so, nothing is lost, and it catches up by itself."""
    edge = Edge()
    applier = applier_of(store, edge)
    with running(applier):
        with database.hold():
            edge.log(delta(1, seq=1, rev=rev(1)))
            eventually(lambda: applier.fault is not None)
            edge.log(delta(2, seq=2, rev=rev(2)))
            assert edge.applied == []
        eventually(lambda: store.checkpoint().applied_seq == 2)
        eventually(lambda: applier.fault is None)
    assert all(store.load_accounts([did(1), did(2)]))


def test_first_cursors_do_not_wait_for_their_turn(store: SqlStore, database: Database) -> None:
    """First cursors go with the next group, all in one, and are said to be saved when they are, not before."""
    hosts = store.add_hosts([NewHost(f"h{n}.example.com", "config") for n in range(300)])
    edge = Edge()
    applier = applier_of(store, edge)
    with running(applier):
        edge.log(delta(1, seq=1, rev=rev(1)))
        eventually(lambda: applier.groups > 0)  # the one with cursors, which is due in seconds again
        with database.hold():
            with edge._lock:
                edge.anchors = [HostCursor(host.id, 1, host.id - 1) for host in hosts]
            eventually(lambda: applier.fault is not None)
            assert edge.saved == []
            groups = applier.groups
        eventually(lambda: len(edge.saved) == 300)
        assert applier.groups == groups + 1
    assert [host.cursor for host in store.hosts()] == [host.id - 1 for host in hosts]


def test_finish_writes_everything(store: SqlStore) -> None:
    """At shutdown the last changes and cursors are written, whatever was still held."""
    (host,) = store.add_hosts([NewHost("a.example.com", "config")])
    edge = Edge()
    edge.log(delta(1, seq=7, rev=rev(1), host_id=host.id))
    edge.cursors, edge.dedup_from = [HostCursor(host.id, 1, 33)], 6
    applier = applier_of(store, edge)
    assert applier.finish(PATIENCE_S)
    assert store.account(did(1)) is not None
    assert store.hosts()[0].cursor == 33
    assert (store.checkpoint().applied_seq, store.checkpoint().dedup_from) == (7, 6)
    assert (applier.applied_seq, applier.dedup_from) == (7, 6)


def test_finish_gives_up_in_time(store: SqlStore, database: Database) -> None:
    """A database that is away does not hold the shutdown for longer than it is given."""
    edge = Edge()
    edge.log(delta(1, seq=7, rev=rev(1)))
    with database.hold():
        started = time.monotonic()
        assert not applier_of(store, edge).finish(0.3)
        assert time.monotonic() - started < 5


class Workers:
    """The loader's side of the pipeline."""

    def __init__(self) -> None:
        self.asked: queue.Queue[list[str]] = queue.Queue()
        self.rows: queue.Queue[tuple[list[str], list[AccountRow | None]]] = queue.Queue()

    def next_loads(self, _most: int, timeout_s: float) -> list[str]:
        """As the pipeline's."""
        try:
            return self.asked.get(timeout=timeout_s)
        except queue.Empty:
            return []

    def post(self, dids: Sequence[str], rows: list[AccountRow | None]) -> None:
        """As the pipeline's."""
        self.rows.put((list(dids), rows))


def test_loader_answers_every_did(store: SqlStore) -> None:
    """Every DID asked for is answered, those that are not stored too."""
    store.apply([delta(1, seq=1, rev=rev(1))], [], 1, None)
    workers = Workers()
    with running(Loader(store, next_loads=workers.next_loads, post_accounts=workers.post)):
        workers.asked.put([did(2), did(1)])
        dids, rows = workers.rows.get(timeout=PATIENCE_S)
        assert dids == [did(2), did(1)]
        assert rows[0] is None
        assert rows[1] is not None
        assert rows[1].rev == rev(1)


def test_loader_waits_for_the_database(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database does not answer the request waits and the fault is told, then it is answered."""
    workers = Workers()
    faults: list[bool] = []
    loader = Loader(store, next_loads=workers.next_loads, post_accounts=workers.post, on_fault=faults.append)
    with running(loader):
        with ExitStack() as taken:  # the database lets nobody read
            for _ in range(READERS):
                taken.enter_context(store._reader())
            monkeypatch.setattr("zlay.state.store.READER_WAIT_S", 0.05)
            workers.asked.put([did(1)])
            eventually(lambda: loader.fault is not None)
            assert workers.rows.empty()
        assert workers.rows.get(timeout=PATIENCE_S) == ([did(1)], [None])
        eventually(lambda: loader.fault is None)
    assert faults == [True, False]
