"""The registry of hosts, over a real store."""

from __future__ import annotations

import threading
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from zlay._fast import host as chost
from zlay._fast import limits as climits
from zlay.errors import HostRefused, StateUnavailable
from zlay.hosts.interface import Failure, HostRegistry
from zlay.hosts.limits import Given, TierRules
from zlay.hosts.registry import Registry
from zlay.pipeline.types import HostCursor
from zlay.state.interface import NewHost
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAILURE = Failure("dns", "no such name", 0, 1, 5.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An empty store."""
    opened = SqliteStore(tmp_path / "state.sqlite")
    yield opened
    opened.close()


def registry_of(store: SqliteStore) -> Registry:
    """A registry that has just started."""
    return Registry(store, store.hosts(), host_credit_bytes=1 << 20)


def new(*names: str) -> list[NewHost]:
    """Hosts to add."""
    return [NewHost(name, "config") for name in names]


def test_it_is_what_the_dialer_needs(store: SqliteStore) -> None:
    """The registry fits the dialer's seam."""
    registry: HostRegistry = registry_of(store)
    assert registry.host(1) is None


def test_added_hosts_are_announced_and_kept(store: SqliteStore) -> None:
    """A new host is dialled once, and is there after a restart with the same id."""
    registry = registry_of(store)
    announced: list[int] = []
    registry.on_added = announced.append
    first, second = registry.add(new("a.example.com", "b.example.com"))
    again = registry.add(new("b.example.com"))
    assert announced == [first.id, second.id]
    assert again[0].id == second.id
    assert registry.id_of("b.example.com") == second.id
    assert registry.id_of("c.example.com") == registry.id_of(None) == 0
    restarted = registry_of(store)
    assert [(host.id, host.hostname) for host in restarted.page(0, 10)] == [
        (first.id, "a.example.com"),
        (second.id, "b.example.com"),
    ]
    target = restarted.host(first.id)
    assert target is not None
    assert chost.stats(target.index)["id"] == first.id


def test_one_name_twice_in_one_batch(store: SqliteStore) -> None:
    """A name given twice is one host."""
    entries = registry_of(store).add(new("a.example.com", "a.example.com"))
    assert entries[0] == entries[1]
    assert len(store.hosts()) == 1


def test_restart_goes_on_from_the_cursor(store: SqliteStore) -> None:
    """A host never seen is dialled live, a known one after its saved cursor, in its epoch."""
    registry = registry_of(store)
    first, second = registry.add(new("a.example.com", "b.example.com"))
    store.apply([], [HostCursor(first.id, 1, 77)], 0, 0)
    restarted = registry_of(store)
    assert restarted.cursor_for_dial(first.id) == 77
    assert restarted.cursor_for_dial(second.id) is None


def test_new_epoch_is_live_and_durable(store: SqliteStore) -> None:
    """A host whose numbering starts again goes on live, in the C core, in memory and after a restart."""
    registry = registry_of(store)
    (host,) = registry.add(new("a.example.com"))
    store.apply([], [HostCursor(host.id, 1, 77)], 0, 0)
    registry = registry_of(store)
    assert registry.new_epoch(host.id) == 2
    assert registry.cursor_for_dial(host.id) is None
    entry = registry.get(host.id)
    assert entry is not None
    assert chost.stats(entry.index)["epoch"] == entry.epoch == 2
    restarted = registry_of(store).get(host.id)
    assert restarted is not None
    assert restarted.epoch == 2


def test_saved_cursors_let_readers_go_on(store: SqliteStore) -> None:
    """A first cursor that is in the database releases its host's reader, and no other host's."""
    registry = registry_of(store)
    first, second = registry.add([*new("a.example.com"), *new("b.example.com")])
    assert not chost.anchored(first.index, 41)
    assert not chost.anchored(second.index, 7)
    stranger = HostCursor(first.id + 1_000_000, 1, 3)
    registry.cursors_saved([stranger, *(HostCursor(*row) for row in chost.anchors() if row[0] == first.id)])
    assert chost.anchored(first.index, 41)
    assert not chost.anchored(second.index, 7)
    registry.cursors_saved([HostCursor(second.id, 1, 6)])


def test_statuses_are_written_behind(store: SqliteStore) -> None:
    """A reported status is seen at once and is in the store after a flush; its failure stays with it."""
    registry = registry_of(store)
    (host,) = registry.add(new("a.example.com"))
    registry.set_status(host.id, "offline", FAILURE)
    entry = registry.get(host.id)
    assert entry is not None
    assert (entry.status, entry.failure) == ("offline", FAILURE)
    assert store.hosts()[0].status == "idle"
    assert registry.flush()
    assert store.hosts()[0].status == "offline"
    assert registry.counts() == {"offline": 1}


def test_writer_ends_with_everything_written(store: SqliteStore) -> None:
    """`run` writes what was reported before `stop`."""
    registry = registry_of(store)
    (host,) = registry.add(new("a.example.com"))
    thread = threading.Thread(target=registry.run)
    thread.start()
    registry.set_status(host.id, "active", None)
    registry.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert store.hosts()[0].status == "active"


def test_streaming_ends_with_the_process(store: SqliteStore) -> None:
    """After a restart no host is active before it streams again, an offline one is still offline."""
    registry = registry_of(store)
    first, second = registry.add(new("a.example.com", "b.example.com"))
    registry.set_status(first.id, "active", None)
    registry.set_status(second.id, "offline", FAILURE)
    registry.flush()
    assert registry_of(store).counts() == {"idle": 1, "offline": 1}


def test_ban_holds_against_every_race(store: SqliteStore) -> None:
    """However many threads report statuses while a host is banned, it is banned in the end, everywhere."""
    registry = registry_of(store)
    (host,) = registry.add(new("a.example.com"))
    together = threading.Barrier(5)

    def report(n: int) -> None:
        together.wait(10)
        for i in range(50):
            registry.set_status(host.id, "active" if (i + n) % 2 else "offline", None)
            registry.flush()

    with ThreadPoolExecutor(5) as pool:
        reports = [pool.submit(report, n) for n in range(4)]
        together.wait(10)
        registry.ban(host.id, banned=True)
        for one in reports:
            one.result(30)
    target = registry.host(host.id)
    assert target is not None
    assert target.banned
    assert chost.stats(target.index)["banned"]
    assert store.hosts()[0].status == "banned"
    assert registry.dialled_ids() == []
    assert not registry.has_dialled()
    restarted = registry_of(store).host(host.id)
    assert restarted is not None
    assert restarted.banned


def test_lifted_ban_dials_again(store: SqliteStore) -> None:
    """A host whose ban is lifted is dialled."""
    registry = registry_of(store)
    (host,) = registry.add(new("a.example.com"))
    registry.ban(host.id, banned=True)
    announced: list[int] = []
    registry.on_added = announced.append
    registry.ban(host.id, banned=False)
    assert announced == [host.id]
    target = registry.host(host.id)
    assert target is not None
    assert not target.banned
    assert not chost.stats(target.index)["banned"]


def test_domain_ban(store: SqliteStore) -> None:
    """A ban of a domain bans its hosts, refuses new ones, and survives a restart."""
    registry = registry_of(store)
    inside, outside = registry.add(new("a.bad.example.com", "b.example.com"))
    assert registry.ban_domain("bad.example.com", banned=True) == [inside.id]
    assert registry.dialled_ids() == [outside.id]
    assert registry.has_dialled()
    restarted = registry_of(store)
    for name in ("a.bad.example.com", "new.bad.example.com", "bad.example.com"):
        with pytest.raises(HostRefused) as caught:
            restarted.refuse_banned(name)
        assert caught.value.error == "HostBanned"
    restarted.refuse_banned("notbad.example.com")


def test_strangers_are_rationed(store: SqliteStore) -> None:
    """Only so many hosts a day are added on a stranger's word, also across a restart; others do not count."""
    for _ in range(2):
        registry = Registry(store, store.hosts(), host_credit_bytes=1 << 20, max_new_per_day=2)
        registry.add([NewHost("a.example.com", "request"), NewHost("b.example.com", "upstream")])
        registry.admit_stranger()
    registry.add([NewHost("c.example.com", "request")])
    with pytest.raises(HostRefused) as caught:
        registry.admit_stranger()
    assert caught.value.status == 429


def test_waking_is_rationed(store: SqliteStore) -> None:
    """A host without connection is dialled at once when asked for, but not again and again; an active one never."""
    first, second = registry_of(store).add(new("a.example.com", "b.example.com"))
    registry = registry_of(store)
    registry.set_status(second.id, "active", None)
    announced: list[int] = []
    registry.on_added = announced.append
    for _ in range(5):
        registry.wake(first.id)
        registry.wake(second.id)
    assert announced == [first.id]


def test_what_was_logged_before_reaches_the_core(store: SqliteStore) -> None:
    """Events in the log above a host's cursor are known as duplicates to the core, and to the cursors."""
    registry = registry_of(store)
    (host,) = registry.add(new("a.example.com"))
    highest = registry.set_logged_above({host.id: array("Q", [5, 9]), 99: array("Q", [1])})
    assert highest == {host.id: (1, 9)}
    assert chost.is_duplicate(host.index, 1, 9)
    assert not chost.is_duplicate(host.index, 1, 8)


def test_pages(store: SqliteStore) -> None:
    """Pages give every host once, in the order first seen."""
    registry = registry_of(store)
    registry.add(new(*(f"h{n}.example.com" for n in range(25))))
    seen: list[str] = []
    after = 0
    while page := registry.page(after, 10):
        seen += [entry.hostname for entry in page]
        after = page[-1].id
    assert seen == [f"h{n}.example.com" for n in range(25)]


# --- bans and limits ---


def test_bans_of_host_and_domain_are_apart(store: SqliteStore) -> None:
    """Lifting one ban leaves the others: a host is dialled again when neither it nor a domain of its is banned."""
    registry = registry_of(store)
    (host,) = registry.add(new("a.bad.example.com"))
    told: list[tuple[str, int]] = []
    registry.on_added = lambda host_id: told.append(("dial", host_id))
    registry.on_banned = lambda host_id: told.append(("end", host_id))
    registry.ban(host.id, banned=True)
    registry.ban_domain("example.com", banned=True)
    registry.ban_domain("bad.example.com", banned=True)
    registry.ban(host.id, banned=False)
    registry.ban_domain("example.com", banned=False)
    restarted = registry_of(store)
    assert [one.dialled_ids() for one in (registry, restarted)] == [[], []]
    assert registry.counts() == restarted.counts() == {"banned": 1}
    assert chost.stats(host.index)["banned"]
    assert told == [("end", host.id)]
    registry.ban_domain("bad.example.com", banned=False)
    assert registry.dialled_ids() == [host.id]
    assert not chost.stats(host.index)["banned"]
    assert told == [("end", host.id), ("dial", host.id)]


def test_last_word_of_a_ban_is_the_same_everywhere(store: SqliteStore) -> None:
    """However bans and their lifting race, store, memory, core and dialer end with the same answer."""
    registry = registry_of(store)
    (host,) = registry.add(new("a.example.com"))
    told: list[bool] = []
    registry.on_added = lambda _: told.append(False)
    registry.on_banned = lambda _: told.append(True)
    together = threading.Barrier(4)

    def ban(n: int) -> None:
        together.wait(20)
        for i in range(10):
            registry.ban(host.id, banned=(n + i) % 2 == 0)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ban, range(4)))
    entry = registry.get(host.id)
    assert entry is not None
    assert (store.hosts()[0].status == "banned") == entry.banned == chost.stats(host.index)["banned"] == told[-1]


@pytest.mark.parametrize("what", ["host", "domain"])
def test_database_that_fails_in_the_middle_of_a_ban(
    store: SqliteStore, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ban that the database has refused is none, and is told; one that it has taken is in force at once, everywhere,
    whatever the database does next."""
    registry = registry_of(store)
    (host,) = registry.add(new("a.bad.example.com"))

    def ban() -> None:
        if what == "host":
            registry.ban(host.id, banned=True)
        else:
            registry.ban_domain("bad.example.com", banned=True)

    def away(*_: object, **__: object) -> None:
        raise StateUnavailable("the server has gone")

    writes = {"set_host_banned": store.set_host_banned, "set_domain_ban": store.set_domain_ban}
    for name in ("domain_bans", "hosts", "host", "set_host_statuses", *writes):
        monkeypatch.setattr(store, name, away)
    with pytest.raises(StateUnavailable):
        ban()
    assert registry.dialled_ids() == [host.id]
    assert not chost.stats(host.index)["banned"]
    for name, write in writes.items():
        monkeypatch.setattr(store, name, write)
    ban()
    registry.set_status(host.id, "active", None)
    registry.flush()
    assert registry.dialled_ids() == []
    assert chost.stats(host.index)["banned"]
    with pytest.raises(HostRefused, match="banned"):
        registry.refuse_banned("a.bad.example.com")
    monkeypatch.undo()
    assert registry.flush()
    assert registry_of(store).dialled_ids() == []


def test_no_host_slips_into_a_banned_domain(store: SqliteStore) -> None:
    """Hosts that are added while their domain is being banned are banned, or are not added."""
    registry = registry_of(store)
    together = threading.Barrier(4)
    dialled: list[int] = []
    registry.on_added = dialled.append
    registry.on_banned = dialled.remove

    def add(n: int) -> None:
        together.wait(20)
        for i in range(8):
            registry.add(new(f"h{n}-{i}.bad.example.com"))

    with ThreadPoolExecutor(3) as pool:
        adding = [pool.submit(add, n) for n in range(3)]
        together.wait(20)
        registry.ban_domain("bad.example.com", banned=True)
        for one in adding:
            one.result(30)
    assert registry.dialled_ids() == registry_of(store).dialled_ids() == dialled == []
    assert all(chost.stats(entry.index)["banned"] for entry in registry.page(0, 100))
    assert registry.add(new("late.bad.example.com")) == []


def test_limits_follow_accounts_up_and_down(store: SqliteStore) -> None:
    """A host's limits grow with its accounts; too many throttle it, until there are fewer again."""
    registry = registry_of(store)
    (host,) = registry.add(new("a.example.com"))
    assert climits.limits(host.index)[:3] == (50, 2_500, 20_000)
    registry.set_status(host.id, "active", None)
    for count, per_hour, status in ((4_000, 6_500, "active"), (10_001, 1_250, "throttled"), (5, 2_505, "active")):
        registry.set_account_counts({host.id: count})
        assert climits.limits(host.index)[1] == per_hour
        assert registry.counts() == {status: 1}


def test_given_limits_outlast_a_restart(store: SqliteStore) -> None:
    """What an operator gives a host is in force at once and after a restart; what is bad changes nothing."""
    registry = registry_of(store)
    (host,) = registry.add(new("a.example.com"))
    registry.change_limits(host.id, Given(tier="trusted", per_hour=7), 3)
    with pytest.raises(ValueError, match="tier"):
        registry.change_limits(host.id, Given(tier="none"), None)
    for one in (registry, registry_of(store)):
        entry = one.get(host.id)
        assert entry is not None
        assert climits.limits(entry.index)[:3] == (5_000, 7, 500_000_000)
        assert (entry.tier.name, entry.accounts_allowed) == ("trusted", 3)


def test_tier_by_name(store: SqliteStore) -> None:
    """HOST_TIERS gives a host its tier by its name."""
    registry = Registry(store, store.hosts(), host_credit_bytes=1 << 20, tiers=TierRules.parse("*.example.com:trusted"))
    first, second = registry.add(new("a.example.com", "a.example.org"))
    assert (first.tier.name, second.tier.name) == ("trusted", "default")


def test_old_cursor_is_told(store: SqliteStore) -> None:
    """A host dialled with a cursor older than MAX_REPLAY_HOURS is shown, until it is dialled with a newer one."""
    registry_of(store).add(new("a.example.com", "b.example.com"))
    store.apply([], [HostCursor(1, 1, 77)], 0, 0)
    patient = registry_of(store)
    assert patient.cursor_for_dial(1) == 77
    assert patient.old_cursors() == 0
    hasty = Registry(store, store.hosts(), host_credit_bytes=1 << 20, max_replay_hours=0.0)
    assert (hasty.cursor_for_dial(1), hasty.cursor_for_dial(2)) == (77, None)
    assert hasty.old_cursors() == 1
    hasty.new_epoch(1)
    assert hasty.cursor_for_dial(1) is None
    assert hasty.old_cursors() == 0
