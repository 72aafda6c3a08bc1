"""What zlay.state.interface.Store promises, on both databases."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.state.support import CID_A, CID_B, DELETED, delta, did, rev
from zlay.errors import StartError, StateError, StateUnavailable
from zlay.pipeline.types import HostCursor, Identity
from zlay.state import schema
from zlay.state.interface import Mirrored, MirrorPlace, NewHost
from zlay.state.store import BUSY_TIMEOUT_S

if TYPE_CHECKING:
    from tests.state.databases import Database
    from zlay.state.store import SqlStore


def ok(who: str, resolved_us: int, pds: str | None = "pds.example.com") -> Identity:
    """A resolved identity."""
    return Identity(who, "ok", pds, 1, b"\x02" + bytes(32), resolved_us)


def test_new_store_starts_at_zero(store: SqlStore) -> None:
    """A new store has no id and has applied nothing."""
    checkpoint = store.checkpoint()
    assert (checkpoint.store_id, checkpoint.applied_seq, checkpoint.dedup_from) == (None, 0, 0)


def test_store_id_is_given_once(store: SqlStore, database: Database) -> None:
    """A store keeps its id across openings and refuses another one."""
    store.set_store_id(b"a" * 16)
    store.set_store_id(b"a" * 16)
    with pytest.raises(StateError):
        store.set_store_id(b"b" * 16)
    store.close()
    again = database.open()
    assert again.checkpoint().store_id == b"a" * 16
    again.close()


def test_apply_stores_everything_together(store: SqlStore) -> None:
    """One apply writes account, repository, cursor and checkpoint."""
    (host,) = store.add_hosts([NewHost("pds.example.com", "config")])
    store.apply([delta(1, seq=7, rev=rev(1), host_id=host.id)], [HostCursor(host.id, 1, 99)], 7, 5)
    row = store.account(did(1))
    assert row is not None
    assert (row.rev, row.data, row.head, row.last_seq, row.host_id) == (rev(1), CID_A, CID_B, 7, host.id)
    assert row.identity is None
    checkpoint = store.checkpoint()
    assert (checkpoint.applied_seq, checkpoint.dedup_from) == (7, 5)
    assert store.hosts()[0].cursor == 99


def test_nothing_goes_back(store: SqlStore) -> None:
    """An older change, cursor or checkpoint handed in later changes nothing."""
    (host,) = store.add_hosts([NewHost("pds.example.com", "config")])
    store.apply([delta(1, seq=20, rev=rev(5), status=DELETED, host_id=host.id)], [HostCursor(host.id, 1, 50)], 20, 10)
    store.apply([delta(1, seq=9, rev=rev(2), host_id=host.id)], [HostCursor(host.id, 1, 40)], 9, 3)
    row = store.account(did(1))
    assert row is not None
    assert (row.rev, row.upstream_status, row.last_seq) == (rev(5), DELETED, 20)
    assert store.hosts()[0].cursor == 50
    assert (store.checkpoint().applied_seq, store.checkpoint().dedup_from) == (20, 10)


def test_status_change_with_same_rev(store: SqlStore) -> None:
    """An #account event without a new commit changes the status and leaves the repository."""
    store.apply([delta(1, seq=1, rev=rev(5))], [], 1, None)
    store.apply([delta(1, seq=2, rev=rev(5), status=DELETED, desynchronized=True)], [], 2, None)
    row = store.account(did(1))
    assert row is not None
    assert (row.rev, row.upstream_status, row.desynchronized, row.last_seq) == (rev(5), DELETED, True, 2)


def test_newest_of_one_group_wins(store: SqlStore) -> None:
    """Two changes of one DID in a group leave the one with the higher seq, whatever their order."""
    store.apply([delta(1, seq=8, rev=rev(8)), delta(1, seq=3, rev=rev(3))], [], 8, None)
    row = store.account(did(1))
    assert row is not None
    assert row.rev == rev(8)


def test_failed_apply_leaves_nothing(store: SqlStore) -> None:
    """A group that cannot be written leaves no part of itself behind."""
    broken = delta(2, seq=2, rev=rev(1), host_id=10**30)  # beyond what SQLite stores
    with pytest.raises((StateError, OverflowError)):
        store.apply([delta(1, seq=1, rev=rev(1)), broken], [], 2, None)
    assert store.account(did(1)) is None
    assert store.checkpoint().applied_seq == 0
    store.apply([delta(1, seq=1, rev=rev(1))], [], 1, None)
    assert store.account(did(1)) is not None


def test_counts_follow_accounts(store: SqlStore) -> None:
    """A host's account count goes up with new accounts and down with deletions and migrations."""
    a, b = store.add_hosts([NewHost("a.example.com", "config"), NewHost("b.example.com", "config")])
    store.apply([delta(n, seq=n, rev=rev(1), host_id=a.id) for n in range(1, 11)], [], 10, None)
    assert store.host_account_counts() == {a.id: 10, b.id: 0}
    store.apply([delta(1, seq=11, rev=rev(1), host_id=a.id, status=DELETED)], [], 11, None)
    store.apply([delta(2, seq=12, rev=rev(2), host_id=b.id)], [], 12, None)
    store.apply([delta(2, seq=12, rev=rev(2), host_id=b.id)], [], 12, None)
    assert store.host_account_counts() == {a.id: 8, b.id: 1}


def test_load_keeps_order_and_gaps(store: SqlStore) -> None:
    """load_accounts answers in the order asked, None where nothing is stored, over more DIDs than one query holds."""
    store.apply([delta(n, seq=n, rev=rev(n)) for n in range(1, 1201)], [], 1200, None)
    wanted = [did(n) for n in range(1300, 0, -1)]
    rows = store.load_accounts(wanted)
    assert [None if row is None else row.did for row in rows] == [None] * 100 + wanted[100:]


def test_identity_without_account(store: SqlStore) -> None:
    """An identity known before its account is answered as a row without a host."""
    store.save_identities([ok(did(1), 5)])
    row = store.account(did(1))
    assert row is not None
    assert row.host_id == 0
    assert row.identity == ok(did(1), 5)


def mirrored(store: SqlStore, made_us: int, pds: str | None) -> None:
    """An operation of account 1 made then; without a PDS the account's end."""
    identity = None if pds is None else ok(did(1), made_us, pds)
    store.save_mirrored("http://plc.test", [Mirrored(did(1), made_us, identity)], MirrorPlace(1, 1))


def known(store: SqlStore, complete_us: int) -> tuple[str | None, int] | None:
    """(PDS, time) of account 1's identity where a mirror is complete up to then."""
    (row,) = store.load_accounts([did(1)], complete_us)
    return None if row is None or row.identity is None else (row.identity.pds, row.identity.resolved_us)


def test_mirrored_identities_are_as_good_as_the_mirror(store: SqlStore) -> None:
    """What a mirror has said holds up to when it is complete, and is of no use without one; the newest counts."""
    mirrored(store, 7, "a.example.com")
    assert known(store, 0) is None
    assert known(store, 90) == ("a.example.com", 90)
    mirrored(store, 8, "b.example.com")
    assert known(store, 90) == ("b.example.com", 90)
    mirrored(store, 9, None)
    assert known(store, 90) is None
    assert store.mirror_place("http://plc.test") == MirrorPlace(1, 1)


def test_mirror_and_resolvers(store: SqlStore) -> None:
    """Of an operation and an answer the clearly later one counts; an answer of about the operation's time is not used
    but asked for again, or not taken; what is in doubt stays so."""
    hour = 3_600_000_000
    store.save_identities([ok(did(1), 5 * hour, "answer.example.com")])
    mirrored(store, 4 * hour, "old.example.com")
    mirrored(store, hour, None)
    assert known(store, 0) == ("answer.example.com", 5 * hour)
    mirrored(store, 6 * hour, "new.example.com")
    assert known(store, 9 * hour) == ("new.example.com", 9 * hour)
    store.save_identities([ok(did(1), 6 * hour + 1, "perhaps.example.com")])
    assert known(store, 9 * hour) == ("new.example.com", 9 * hour)
    store.save_identities([ok(did(1), 7 * hour, "later.example.com")])
    assert known(store, 0) == ("later.example.com", 7 * hour)
    mirrored(store, 7 * hour - 1, "about.example.com")
    assert known(store, 9 * hour) is None
    mirrored(store, 8 * hour, "doubted.example.com")
    assert known(store, 9 * hour) is None
    store.save_identities([ok(did(1), 9 * hour, "asked.example.com")])
    assert known(store, 0) == ("asked.example.com", 9 * hour)


def test_identities_never_go_back(store: SqlStore) -> None:
    """A newer answer stays when an older one arrives, failures are not stored, and an expired one is not loaded."""
    store.save_identities([ok(did(1), 10, "new.example.com")])
    store.save_identities([ok(did(1), 9, "old.example.com"), Identity(did(2), "failed", None, 0, b"", 11)])
    row = store.account(did(1))
    assert row is not None
    assert row.identity == ok(did(1), 10, "new.example.com")
    assert store.account(did(2)) is None
    store.expire_identities([did(1)])
    assert store.account(did(1)) is None
    store.save_identities([ok(did(1), 3)])
    assert store.account(did(1)) is not None
    store.forget_identities([did(1)])
    assert store.account(did(1)) is None


def test_stale_identity_travels_with_the_delta(store: SqlStore) -> None:
    """An #identity applied to the state makes the stored key unusable in the same transaction."""
    store.save_identities([ok(did(1), 10)])
    store.apply([delta(1, seq=1, rev=rev(1), identity_stale=True)], [], 1, None)
    row = store.account(did(1))
    assert row is not None
    assert row.identity is None


def test_list_repos_pages(store: SqlStore) -> None:
    """listRepos pages through every account with a repository once, in the order first seen."""
    store.apply([delta(n, seq=100 - n, rev=rev(1)) for n in range(1, 51)], [], 100, None)
    store.apply([delta(99, seq=101, rev=None)], [], 101, None)
    seen: list[str] = []
    cursor = 0
    while page := store.list_repos(cursor, 7):
        seen += [row.did for row in page]
        cursor = page[-1].uid
    assert seen == [did(n) for n in range(50, 0, -1)]


def test_hosts_are_added_once(store: SqlStore, database: Database) -> None:
    """Adding a known host gives the row that is there; ids count up in the order added."""
    first = store.add_hosts([NewHost("a.example.com", "config"), NewHost("b.example.com", "upstream")])
    again = store.add_hosts([NewHost("b.example.com", "admin"), NewHost("localhost:2583", "admin", no_tls=True)])
    assert [row.id for row in first + again] == [1, 2, 2, 3]
    assert again[0].source == "upstream"
    store.close()
    other = database.open()
    assert other.hosts() == [*first, again[1]]
    assert other.host("localhost:2583") == again[1]
    assert other.host("c.example.com") is None
    other.close()


def test_ban_outlives_statuses_and_cursors(store: SqlStore) -> None:
    """Neither a status report nor a cursor save lifts a ban; lifting it makes the host idle."""
    (host,) = store.add_hosts([NewHost("a.example.com", "config")])
    store.set_host_banned(host.id, banned=True)
    store.set_host_statuses([(host.id, "active")])
    store.apply([], [HostCursor(host.id, 1, 5)], 0, 0)
    assert store.hosts()[0].status == "banned"
    store.set_host_banned(host.id, banned=False)
    assert store.hosts()[0].status == "idle"
    store.set_host_statuses([(host.id, "offline")])
    assert store.hosts()[0].status == "offline"


def test_new_epoch_forgets_the_cursor(store: SqlStore) -> None:
    """A new epoch starts live, and a late cursor of the old one does not come back."""
    (host,) = store.add_hosts([NewHost("a.example.com", "config")])
    store.apply([], [HostCursor(host.id, 1, 500)], 0, 0)
    assert store.begin_epoch(host.id) == 2
    store.apply([], [HostCursor(host.id, 1, 600)], 0, 0)
    assert (store.hosts()[0].cursor, store.hosts()[0].epoch) == (None, 2)
    store.apply([], [HostCursor(host.id, 2, 3)], 0, 0)
    assert (store.hosts()[0].cursor, store.hosts()[0].epoch) == (3, 2)


def test_domain_bans(store: SqlStore) -> None:
    """Domain bans are kept, once each, and can be lifted."""
    store.set_domain_ban("b.example", banned=True)
    store.set_domain_ban("a.example", banned=True)
    store.set_domain_ban("a.example", banned=True)
    assert store.domain_bans() == ["a.example", "b.example"]
    store.set_domain_ban("a.example", banned=False)
    assert store.domain_bans() == ["b.example"]


def test_many_threads(store: SqlStore) -> None:
    """Readers and writers in many threads at once neither fail nor lose a row."""
    threads, each = 8, 25
    together = threading.Barrier(threads)

    def work(n: int) -> None:
        together.wait(10)
        for i in range(each):
            number = n * each + i + 1
            store.apply([delta(number, seq=number, rev=rev(number))], [], number, None)
            row = store.account(did(number))
            assert row is not None
            assert row.rev == rev(number)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    assert store.account_count() == threads * each
    assert store.checkpoint().applied_seq == threads * each


@pytest.mark.usefixtures("impatient")
def test_database_held_by_another_process(database: Database) -> None:
    """While somebody else holds the tables a write says that it may be tried again, and then it works."""
    store = database.open()
    with database.hold(), pytest.raises(StateUnavailable):
        store.apply([delta(1, seq=1, rev=rev(1))], [], 1, None)
    store.apply([delta(1, seq=1, rev=rev(1))], [], 1, None)
    assert store.account(did(1)) is not None
    store.close()


def test_stop_does_not_wait_for_a_foreign_lock(store: SqlStore, database: Database) -> None:
    """Once a stop has begun nobody waits for another process's lock, neither who waits already nor who comes later."""
    with ThreadPoolExecutor(1) as pool, database.hold():
        waiting = pool.submit(store.apply, [], [], 5, None)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        began = time.monotonic()
        store.hurry()
        with pytest.raises(StateUnavailable):
            waiting.result()
        with pytest.raises(StateUnavailable):
            store.apply([], [], 5, None)
        assert time.monotonic() - began < BUSY_TIMEOUT_S / 2
    assert database.run("SELECT applied_seq FROM checkpoint") == [(0,)]


def test_newer_schema_is_refused(database: Database) -> None:
    """A file written by a newer zlay is refused with a message that says so."""
    database.open().close()
    database.run(f"INSERT INTO schema_migration VALUES ({len(schema.migrations()) + 1}, 'future', 0)")
    with pytest.raises(StartError, match="newer zlay"):
        database.open()


def test_closed_store_says_so(database: Database) -> None:
    """Calls that come after the end fail at once; a reader still lent out does not hold up the end for long."""
    closing = database.open()
    with closing._reader() as reader:
        closing.close()
        assert reader.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(StateUnavailable):
        closing.account(did(1))
    with pytest.raises(StateUnavailable):
        closing.apply([], [], 1, None)
