"""What only PostgreSQL has: a server that can be away, hang, come back older, or be somebody else's, too."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from psycopg_pool.pool import StopWorker

from tests.state.databases import PostgresDatabase
from tests.state.support import delta, did, rev
from zlay.bench.cluster import Cluster
from zlay.errors import StartError, StateError, StateUnavailable
from zlay.state.interface import NewHost
from zlay.state.postgresql import PostgresStore
from zlay.state.store import READER_WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zlay.state.store import SqlStore

PATIENCE_S = 30.0
OURS = "application_name = 'zlay' AND datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture
def database(cluster: Cluster) -> PostgresDatabase:
    """An empty schema."""
    return PostgresDatabase(cluster)


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    """A server that a test may stop."""
    with Cluster() as running:
        yield running


def cut_off(database: PostgresDatabase) -> None:
    """All connections of stores to the server end, as in a fail-over."""
    database.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}")
    deadline = time.monotonic() + PATIENCE_S
    while database.run(f"SELECT pid FROM pg_stat_activity WHERE {OURS}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def eventually[T](call: Callable[[], T]) -> T:
    """What it gives, once the database answers."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except StateUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def apply(store: SqlStore, seq: int) -> None:
    """One event of account `seq`."""
    store.apply([delta(seq, seq=seq, rev=rev(seq))], [], seq, None)


@pytest.mark.usefixtures("impatient")
def test_second_relay_is_refused(database: PostgresDatabase) -> None:
    """A second relay on one database is refused, with who holds it; one on another schema is not; the first one goes
    on, and when it has ended the second may start."""
    first = database.open()
    with pytest.raises(StartError, match=r"another relay uses this database \(server process \d+"):
        database.open()
    other = PostgresDatabase(database.cluster).open()
    other.close()
    apply(first, 1)
    first.close()
    second = database.open()
    assert second.checkpoint().applied_seq == 1
    second.close()


def test_start_waits_for_one_that_is_ending(database: PostgresDatabase) -> None:
    """A relay that is started while the server has not missed a killed one yet waits for it a little."""
    first = database.open()
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(database.open)
        with pytest.raises(TimeoutError):
            starting.result(0.3)
        first.close()
        starting.result(PATIENCE_S).close()


def test_lost_connection_is_made_anew(database: PostgresDatabase) -> None:
    """After the server has cut all connections the next calls work on new ones."""
    store = database.open()
    apply(store, 1)
    assert store.account(did(1)) is not None
    cut_off(database)
    apply(store, 2)
    assert store.account(did(2)) is not None
    store.close()


@pytest.mark.usefixtures("impatient")
def test_nothing_is_written_without_the_lock(database: PostgresDatabase) -> None:
    """A relay that lost its connection writes nothing while another one holds the lock, nor after that one has
    written, whatever it is asked for."""
    first = database.open()
    apply(first, 1)
    cut_off(database)
    second = database.open()
    for write in (lambda: apply(first, 2), lambda: first.add_hosts([NewHost("a.example.com", "admin")])):
        with pytest.raises(StateUnavailable, match="another relay uses this database"):
            write()
    apply(second, 7)
    second.close()
    for _ in range(2):
        with pytest.raises(StateError, match="another relay has written"):
            apply(first, 3)
    with pytest.raises(StateError, match="another relay has written"):
        first.set_domain_ban("example.com", banned=True)
    first.close()
    assert database.run("SELECT applied_seq FROM checkpoint") == [(7,)]
    assert database.run("SELECT did FROM account ORDER BY uid") == [(did(1),), (did(7),)]


def test_older_state_is_refused(database: PostgresDatabase) -> None:
    """When a fail-over has brought back less than was committed, nothing is written until a restart, which finds out
    from the log what is missing."""
    store = database.open()
    apply(store, 5)
    apply(store, 9)
    cut_off(database)
    database.run("UPDATE checkpoint SET applied_seq = 5")
    with pytest.raises(StateError, match="gone back to seq 5, from 9: restart zlay"):
        apply(store, 10)
    store.close()
    again = database.open()
    assert again.checkpoint().applied_seq == 5
    apply(again, 10)
    again.close()


def test_server_that_crashes(own_cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    """While the server is away every call says so at once, or soon, why, and nowhere else; what was committed before it
    crashed is there afterwards, and the same store goes on."""
    store = PostgresDatabase(own_cluster).open()
    apply(store, 1)
    own_cluster.stop(crash=True)
    capfd.readouterr()
    began = time.monotonic()
    for call in (lambda: apply(store, 2), store.hosts, lambda: store.account(did(1))):
        with pytest.raises(StateUnavailable, match=r"not answer: .*(refused|No such file|closed|terminat)"):
            call()
    assert time.monotonic() - began < READER_WAIT_S
    assert capfd.readouterr() == ("", "")
    own_cluster.start()
    apply(store, 2)
    assert all(eventually(lambda: store.load_accounts([did(1), did(2)])))
    store.close()


def test_server_that_hangs(own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is there and does not answer holds nobody for longer than a statement may take; what it had of us
    is ended when it wakes, so that its lock is ours again."""
    for name in ("STATEMENT_S", "READ_S"):
        monkeypatch.setattr(f"zlay.state.postgresql.{name}", 0.3)
    store = PostgresStore(f"{own_cluster.new_schema()}&connect_timeout=2")
    apply(store, 1)
    assert store.account(did(1)) is not None
    monkeypatch.undo()
    own_cluster.pause()
    try:
        began = time.monotonic()
        for call in (lambda: apply(store, 2), store.hosts):
            with pytest.raises(StateUnavailable):
                call()
        assert time.monotonic() - began < PATIENCE_S
    finally:
        own_cluster.resume()
    apply(store, 2)
    assert eventually(lambda: store.account(did(2))) is not None
    store.close()


def test_stop_does_not_wait_for_a_server_that_hangs(own_cluster: Cluster) -> None:
    """Once a stop has begun a server that does not answer holds it for a second or two."""
    store = PostgresDatabase(own_cluster).open()
    own_cluster.pause()
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(apply, store, 1)
            with pytest.raises(TimeoutError):
                waiting.result(0.2)
            store.hurry()
            with pytest.raises(StateUnavailable):
                waiting.result(PATIENCE_S)
        with pytest.raises(StateUnavailable, match="a stop has begun"):
            apply(store, 1)
        store.close()
    finally:
        own_cluster.resume()


def test_standby_is_not_written_to(database: PostgresDatabase) -> None:
    """A server that only reads is asked again, by a new connection each time, until one may write: a fail-over."""
    store = database.open()
    try:
        database.run("ALTER DATABASE postgres SET default_transaction_read_only = on")
        cut_off(database)
        for _ in range(2):
            with pytest.raises(StateUnavailable, match="may not be written"):
                apply(store, 1)
        assert store.account(did(1)) is None, "it reads"
    finally:
        with database.cluster.connect() as other:
            other.execute("SET default_transaction_read_only = off")
            other.execute("ALTER DATABASE postgres SET default_transaction_read_only = off")
    apply(store, 1)
    assert store.account(did(1)) is not None
    store.close()


def test_large_groups_go_in_pieces(database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written by one statement is bounded, so that a group that gathered for long can be written in time."""
    monkeypatch.setattr("zlay.state.postgresql.UPSERT_ROWS", 3)
    store = database.open()
    for first in (0, 100):
        store.apply([delta(n, seq=first + n, rev=rev(first + n)) for n in range(1, 11)], [], first + 10, None)
    assert [row.rev for row in store.list_repos(0, 20)] == [rev(100 + n) for n in range(1, 11)]
    store.close()


def test_server_that_is_not_there_is_a_refusal(database: PostgresDatabase) -> None:
    """A database that cannot be reached, or cannot be read as one, is a clear refusal to start without the password."""
    for url in (
        "postgresql://zlay@/postgres?host=/nonexistent",
        database.url.replace("search_path", "no_such"),
        f"{database.cluster.url}&options=-csearch_path%3Dno_such",
    ):
        with pytest.raises(StartError, match="cannot open the state") as told:
            PostgresStore(url.replace("zlay@", "zlay:secret@"))
        assert "secret" not in str(told.value)


def test_text_is_compared_by_bytes(database: PostgresDatabase) -> None:
    """Whatever the database's own language, text is ordered as in SQLite: revs, DIDs and names are bytes."""
    database.open().close()
    columns = database.run(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema()"
        " AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C'"
    )
    assert columns == []


def test_the_thread_of_the_pool_ends(database: PostgresDatabase) -> None:
    """Where the thread that makes readers' connections has ended, another takes its place: everybody is served, those
    who read just then, too."""
    store = database.open()
    assert isinstance(store, PostgresStore)
    (host,) = store.add_hosts([NewHost("pds.example.com", "admin", no_tls=False)])
    store.apply([delta(1, seq=1, rev=rev(1), host_id=host.id)], [], 1, 1)
    pool = store._readers
    with store._reader() as session:
        (thread,) = [one for one in threading.enumerate() if one.name == f"{pool.name}-worker-0"]
        pool._tasks.put_nowait(StopWorker(pool))  # as a fault in it would have it end
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        with ThreadPoolExecutor(8) as threads:  # more at once than there are connections
            rows = list(threads.map(lambda _: eventually(lambda: store.account(did(1))), range(40)))
        assert [row and row.did for row in rows] == [did(1)] * 40
        assert session.execute("SELECT 1").fetchone()[0] == 1
    assert store._readers is not pool
    assert pool.closed
    store.close()
