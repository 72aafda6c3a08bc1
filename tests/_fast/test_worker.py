"""The workers in this process: verdicts, holds, answers and their order, from frames in to the log."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests._fast.actor import Actor, changed, now_us, published_actor
from tests._fast.pipe import Pipe
from tests.reference.mst_ref import build, encode_tree
from zlay._fast import host, pipeline, requests, verdicts
from zlay._fast.syntax import tid_text
from zlay.eventlog.entries import TAKEN_DOWN
from zlay.pipeline.types import AccountRow, Identity
from zlay.sim.keys import SigningKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests._fast.pipe import Feed

S = {name: number for number, name in enumerate(verdicts.STATUSES)}


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    """A pipeline of one worker, which gives everything back at the end."""
    with Pipe(tmp_path) as made:
        yield made


@pytest.fixture
def alice(pipe: Pipe) -> Actor:
    """An account at host `a` with one commit published."""
    actor = published_actor(pipe)
    assert pipe.published() == [(pipe.feeds["a"].id, 1)]
    return actor


def sent(pipe: Pipe, feed: Feed, *frames: bytes) -> dict[str, int]:
    """What was dropped of these frames, once all have their verdict."""
    before = feed.dropped()
    feed.send(*frames)
    pipe.settle()
    return {label: n - before.get(label, 0) for label, n in feed.dropped().items() if n != before.get(label, 0)}


# --- first sight, order, holds ---


def test_first_sight_asks_once_and_keeps_order(pipe: Pipe) -> None:
    """All frames of an account wait for one load and one resolution, and leave in the order they came (R4)."""
    actor, feed = Actor("bob"), pipe.feed("a")
    pipe.identities[actor.did] = lambda: actor.identity("a")
    frames = [actor.identity_event(1), actor.account(2)] + [actor.commit(seq) for seq in range(3, 12)]
    feed.send(*frames)
    pipe.settle()
    assert [seq for _, seq in pipe.published()] == list(range(1, 12))
    assert pipe.asked == {("load", actor.did): 1, ("resolve", actor.did): 1}
    assert pipe.counts("hold")["hold_account"] == 1
    assert pipe.counts("hold")["hold_identity"] == 1
    assert pipe.counts("hold")["hold_behind"] == 10
    assert pipe.total("held") == pipe.total("held_bytes") == 0


def test_hosts_take_turns_at_the_directory(pipe: Pipe) -> None:
    """Of all the accounts that nobody has seen, one of each host is asked for in turn, however many one host names."""
    a, b = pipe.feed("a"), pipe.feed("b")
    crowd, single = [Actor(f"one of many {n}") for n in range(100)], Actor("single")
    for actor, home in [*((actor, "a") for actor in crowd), (single, "b")]:
        pipe.identities[actor.did] = lambda actor=actor, home=home: actor.identity(home)  # type: ignore[misc]
    pipe.mute.add("resolve")
    a.send(*(actor.account(a.next_seq()) for actor in crowd))
    pipe.until(lambda: requests.waiting()["resolve"][0] == len(crowd), "questions for the crowd")
    b.send(single.account(b.next_seq()))
    pipe.until(lambda: requests.waiting()["resolve"][0] == len(crowd) + 1, "one more")
    taken = [did for did, _, _ in requests.take(requests.RESOLVE, 2, 0)]
    assert single.did in taken
    for did in taken:
        pipe.tell(did)
    pipe.mute.clear()
    pipe.settle()
    assert len(pipe.published()) == len(crowd) + 1


def test_a_hold_delays_nobody_else(pipe: Pipe, alice: Actor) -> None:
    """While one account waits for its key the others' frames pass, of the same host and worker."""
    bob, feed = Actor("bob"), pipe.feeds["a"]
    feed.send(*(bob.commit(feed.next_seq()) for _ in range(3)))
    feed.send(alice.commit(feed.next_seq()))
    pipe.until(lambda: len(pipe.published()) == 2, "alice's commit")
    assert pipe.published()[-1] == (feed.id, 5)
    assert pipe.total("held") == 3
    assert host.stats(feed.index)["cursor"] == 1, "the cursor stays below what has no verdict"
    pipe.identities[bob.did] = lambda: bob.identity("a")
    pipe.tell(bob.did)
    pipe.settle()
    assert [seq for _, seq in pipe.published()] == [1, 5, 2, 3, 4]


def test_with_a_wrong_clock_nothing_is_judged(pipe: Pipe, alice: Actor) -> None:
    """While our own clock is wrong frames wait, queued and held ones alike; nothing is dropped for its sake."""
    bob, feed = Actor("bob"), pipe.feeds["a"]
    feed.send(bob.commit(feed.next_seq()))
    pipe.until(lambda: pipe.asked["resolve", bob.did] == 1)
    pipeline.set_outages(False, False, True)
    pipe.identities[bob.did] = lambda: bob.identity("a")
    pipe.tell(bob.did)
    feed.send(alice.commit(feed.next_seq()))
    pipe.until(lambda: pipeline.queued()[0] == 1)
    assert len(pipe.published()) == 1
    pipeline.set_outages(False, False, False)
    pipe.settle()
    assert len(pipe.published()) == 3
    assert feed.dropped() == {}


def test_no_frame_is_judged_by_a_clock_set_back(pipe: Pipe, alice: Actor) -> None:
    """A worker takes the time that is expected where the clock says less: what is new is not "future"."""
    feed = pipe.feeds["a"]
    ahead_s = 1800
    late = alice.draft(feed.next_seq(), rev=(now_us() + ahead_s * 1_000_000) << 10)
    feed.send(late.frame())
    pipe.settle()
    assert feed.dropped() == {"rev_future": 1}
    pipeline.set_clock(int((time.time() + ahead_s - time.monotonic()) * 1e6))
    again = alice.draft(feed.next_seq(), rev=(now_us() + ahead_s * 1_000_000) << 10)
    feed.send(again.frame())
    pipe.until(lambda: len(pipe.published()) == 2)
    assert feed.dropped() == {"rev_future": 1}


def test_shutdown_lets_held_frames_go(tmp_path: Path) -> None:
    """At shutdown held frames get no verdict: the host's cursor stays below the first of them, credit comes back."""
    with Pipe(tmp_path) as pipe:
        actor, feed = Actor("bob"), pipe.feed("a")
        other = Actor("carol")
        pipe.identities[other.did] = lambda: other.identity("a")
        feed.send(other.commit(5), actor.commit(6), other.commit(7))
        pipe.until(lambda: len(pipe.published()) == 2)
        pipe.until(lambda: pipe.total("held") == 1)
        pipeline.stop()
        assert host.collect(feed.index, pipe.log.appended_end)[0] == 5
        assert pipe.counts("drop") == {"shutdown": 1}


# --- identity, keys, hosts ---


@pytest.mark.parametrize("curve", ["k256", "p256"])
@pytest.mark.parametrize("lag_s", [0.1, 2.0])
def test_key_rotation_while_the_directory_lags(pipe: Pipe, curve: str, lag_s: float) -> None:
    """After an #identity a commit with the new key passes, also when the directory is late with it; none is dropped."""
    actor, feed = Actor("bob", curve), pipe.feed("a")
    old = actor.key
    pipe.identities[actor.did] = lambda: actor.identity("a", key=old)
    feed.send(actor.commit(1))
    pipe.settle()
    actor.key = SigningKey(curve, b"the new key")
    began = now_us()
    pipe.identities[actor.did] = lambda: actor.identity("a", key=actor.key if now_us() > began + lag_s * 1e6 else old)
    assert sent(pipe, feed, actor.identity_event(2), actor.commit(3), actor.commit(4)) == {}
    assert [seq for _, seq in pipe.published()] == [1, 2, 3, 4]


def test_a_revoked_key_signs_nothing(pipe: Pipe, alice: Actor) -> None:
    """After an #identity the stored key is not used before the directory was asked; then the old one is refused."""
    feed, old = pipe.feeds["a"], alice.key
    new = SigningKey("k256", b"another")
    pipe.identities[alice.did] = lambda: alice.identity("a", key=new)
    made = alice.draft(3)
    assert made.key is old
    pipe.mute.add("resolve")
    feed.send(alice.identity_event(2), made.frame())
    pipe.until(lambda: pipe.total("held") == 1)
    pipe.mute.clear()
    pipe.settle()
    assert feed.dropped() == {"sig_invalid": 1}


def test_an_answer_from_before_the_identity_event_is_not_enough(pipe: Pipe, alice: Actor) -> None:
    """An answer asked for before an #identity came does not set its account free."""
    feed, before = pipe.feeds["a"], now_us() - 1_000_000
    pipe.mute.add("resolve")
    feed.send(alice.identity_event(feed.next_seq()), alice.commit(feed.next_seq()))
    pipe.until(lambda: pipe.total("held") == 1)
    pipeline.post_identity(alice.identity("a", resolved_us=before), feed.id)
    feed.send(alice.account(feed.next_seq()))
    pipe.until(lambda: pipe.total("held") == 2)
    pipe.mute.clear()
    pipe.settle()
    assert len(pipe.published()) == 4


def test_a_failed_signature_is_asked_about_once(pipe: Pipe, alice: Actor) -> None:
    """Outside the lag of an #identity a failed signature refreshes the identity once, then is conclusive (E4)."""
    feed = pipe.feeds["a"]
    alice.key = SigningKey("k256", b"not the account's")
    pipe.identities[alice.did] = lambda: alice.identity("a", key=SigningKey("k256", b"alice"))
    assert sent(pipe, feed, alice.draft(feed.next_seq()).frame()) == {"sig_invalid": 1}
    assert pipe.asked["resolve", alice.did] == 2


def test_a_rotation_without_identity_event_passes_after_a_refresh(pipe: Pipe, alice: Actor) -> None:
    """A commit signed by a key that only the directory knows passes after one refresh (E4)."""
    feed = pipe.feeds["a"]
    alice.key = SigningKey("k256", b"rotated in silence")
    assert sent(pipe, feed, alice.commit(feed.next_seq())) == {}


def test_refreshes_are_limited_per_host(pipe: Pipe) -> None:
    """A host of nothing but bad signatures causes some fifty look-ups at once, not one for each (E19)."""
    feed = pipe.feed("a")
    actors = [Actor(f"many {n}") for n in range(120)]
    for actor in actors:
        pipe.identities[actor.did] = partial(actor.identity, "a")
    feed.send(*(actor.commit(feed.next_seq()) for actor in actors))
    pipe.settle()
    before = pipe.total("refreshes")
    wrong = SigningKey("k256", b"wrong")
    for actor in actors:
        actor.key = wrong
        pipe.identities[actor.did] = Identity(actor.did, "failed", None, 0, b"", 0)
    feed.send(*(actor.draft(feed.next_seq()).frame() for actor in actors))
    pipe.until(lambda: sum(feed.dropped().values()) >= 50, "those over the limit")
    assert pipe.total("refreshes") - before <= 65


def test_an_account_moves_when_the_directory_says_so(pipe: Pipe, alice: Actor) -> None:
    """A commit from the new host passes after one refresh; the old host has lost its authority (E2, E10)."""
    old, new = pipe.feeds["a"], pipe.feed("b")
    pipe.identities[alice.did] = lambda: alice.identity("b")
    assert sent(pipe, new, alice.commit(new.next_seq())) == {}
    assert sent(pipe, old, alice.draft(old.next_seq()).frame(), alice.account(old.next_seq(), active=False)) == {
        "wrong_host": 2
    }
    assert pipe.total("moves") == 1
    assert {delta.did: delta.host_id for delta in pipe.apply()} == {alice.did: new.id}


def test_an_unregistered_host_has_no_authority_and_changes_no_row(pipe: Pipe, alice: Actor) -> None:
    """When the document names a host that is not ours the events stop, and the stored account keeps its last host."""
    feed = pipe.feeds["a"]
    pipe.identities[alice.did] = lambda: alice.identity("elsewhere.example")
    pipe.apply()
    feed.send(alice.identity_event(feed.next_seq()))
    pipe.settle()
    assert sent(pipe, feed, alice.draft(feed.next_seq()).frame()) == {"wrong_host": 1}
    assert [delta.host_id for delta in pipe.apply()] == [feed.id]


@pytest.mark.parametrize(
    ("outcome", "reason"), [("not_found", "did_not_found"), ("tombstoned", "did_tombstoned"), ("no_pds", "no_pds")]
)
def test_conclusive_answers_drop_and_are_remembered(pipe: Pipe, outcome: str, reason: str) -> None:
    """What the directory denies is dropped, and the directory is not asked again for each frame (E1, G5)."""
    actor, feed = Actor("bob"), pipe.feed("a")

    def answer() -> Identity:
        if outcome == "no_pds":
            return actor.identity(None)
        return Identity(actor.did, outcome, None, 0, b"", now_us())  # type: ignore[arg-type]

    pipe.identities[actor.did] = answer
    assert sent(pipe, feed, *(actor.commit(feed.next_seq()) for _ in range(20))) == {reason: 20}
    asked = pipe.asked["resolve", actor.did]
    assert asked == (2 if outcome == "not_found" else 1)
    assert sent(pipe, feed, actor.commit(feed.next_seq())) == {reason: 1}
    assert pipe.asked["resolve", actor.did] == asked


def test_a_new_account_may_be_newer_than_a_replica(pipe: Pipe) -> None:
    """ "No such DID" is asked about once more a second later: the first events of a new account are not lost (G5)."""
    actor, feed = Actor("bob"), pipe.feed("a")
    answers = [Identity(actor.did, "not_found", None, 0, b"", now_us() + 1_000)]
    pipe.identities[actor.did] = lambda: answers.pop() if answers else actor.identity("a")
    assert sent(pipe, feed, actor.identity_event(1), actor.account(2), actor.commit(3)) == {}
    assert [seq for _, seq in pipe.published()] == [1, 2, 3]


def test_no_key(pipe: Pipe) -> None:
    """A document without a usable key lets #account pass and stops commits, from the account's host only."""
    actor, feed, other = Actor("bob"), pipe.feed("a"), pipe.feed("b")
    pipe.identities[actor.did] = lambda: Identity(actor.did, "ok", "a", 0, b"", now_us())
    assert sent(pipe, feed, actor.account(1), actor.commit(2)) == {"no_key": 1}
    assert sent(pipe, other, actor.account(1)) == {"wrong_host": 1}
    assert pipe.published() == [(feed.id, 1)]


# --- repository ---


def test_rev_rules(pipe: Pipe, alice: Actor) -> None:
    """A rev not above the stored one is dropped, one over five minutes ahead too; less than that passes (C6, E6)."""
    feed = pipe.feeds["a"]
    ahead = (now_us() + 6 * 60 * 1_000_000) << 10
    near = (now_us() + 4 * 60 * 1_000_000) << 10
    frames = [alice.draft(feed.next_seq(), rev=rev).frame() for rev in (alice.rev, alice.rev - 1, ahead)]
    assert sent(pipe, feed, *frames) == {"rev_stale": 2, "rev_future": 1}
    assert sent(pipe, feed, alice.take(alice.draft(feed.next_seq(), rev=near))) == {}


def test_sync_rules(pipe: Pipe, alice: Actor) -> None:
    """A #sync with the stored rev and data says nothing; with other data, or older, it is stale; a newer one passes."""
    feed = pipe.feeds["a"]
    same = alice.sync(feed.next_seq(), rev=alice.rev).frame()
    older = alice.sync(feed.next_seq(), rev=alice.rev - 1).frame()
    records, alice.records = alice.records, {}
    fork = alice.sync(feed.next_seq(), rev=alice.rev).frame()
    alice.records = records
    assert sent(pipe, feed, same, older, fork) == {"sync_noop": 1, "rev_stale": 2}
    assert sent(pipe, feed, alice.take(alice.sync(feed.next_seq())), alice.commit(feed.next_seq())) == {}
    assert pipe.total("chain_breaks") == 0, "a commit on the state of a #sync follows from it"


def test_a_chain_break_passes_is_counted_and_asked_about(pipe: Pipe, alice: Actor) -> None:
    """A valid commit that does not build on the stored state passes, marks the account and asks for a resync once."""
    feed = pipe.feeds["a"]
    alice.commit(feed.next_seq())  # never sent
    assert sent(pipe, feed, alice.commit(feed.next_seq()), alice.commit(feed.next_seq())) == {}
    assert pipe.total("chain_breaks") == 1
    pipe.until(lambda: pipe.asked["resync", alice.did] == 1)
    assert [delta.desynchronized for delta in pipe.apply()] == [True]
    pipeline.post_resync(alice.did, True)
    healed: list[bool] = []
    pipe.until(lambda: bool(healed.extend(delta.desynchronized for delta in pipe.apply()) or healed))
    assert healed == [False]


def test_a_break_while_another_is_being_healed_is_not_forgotten(pipe: Pipe, alice: Actor) -> None:
    """An answer that may know nothing of a newer break does not heal it: it is asked again."""
    feed = pipe.feeds["a"]
    for _ in range(2):
        alice.commit(feed.next_seq())
        assert sent(pipe, feed, alice.commit(feed.next_seq())) == {}
    pipe.until(lambda: pipe.asked["resync", alice.did] == 1)
    pipeline.post_resync(alice.did, True)
    pipe.until(lambda: pipe.asked["resync", alice.did] == 2)
    assert [delta.desynchronized for delta in pipe.apply()] == [True]


def test_only_the_first_commit_may_lack_prev_data(pipe: Pipe, alice: Actor) -> None:
    """An account's first commit needs no prevData, every other one does, also where we see it for the first time."""
    feed, bob = pipe.feeds["a"], Actor("bob")
    pipe.identities[bob.did] = lambda: bob.identity("a")
    bob.commit(1)
    second = bob.draft(4)
    lacking = [
        changed(bob.draft(2), lambda made: made.message.pop("prevData")),
        changed(alice.draft(3), lambda made: made.message.pop("prevData")),
    ]
    assert sent(pipe, feed, *lacking) == {"missing_prev_data": 2}
    assert sent(pipe, feed, bob.take(second)) == {}, "a later commit that we see first, with prevData"


def test_no_drop_changes_the_state(pipe: Pipe, alice: Actor) -> None:
    """After any number of bad frames the next good commit follows from the state before them (R6)."""
    feed = pipe.feeds["a"]
    good = alice.draft(5)
    bad = [
        changed(alice.draft(feed.next_seq()), lambda made: made.message.update(prevData=made.commit["data"])),
        changed(alice.draft(feed.next_seq()), lambda made: setattr(made, "sign", lambda data: bytes(64))),
        changed(alice.draft(feed.next_seq()), lambda made: made.nodes.clear()),
    ]
    assert sum(sent(pipe, feed, *bad).values()) == 3
    assert sent(pipe, feed, alice.take(good)) == {}
    assert pipe.total("chain_breaks") == 0


# --- account status ---


def test_an_inactive_account_is_asked_about_once(pipe: Pipe, alice: Actor) -> None:
    """Commits of an account that its host called inactive are dropped after one question to the PDS (E5)."""
    feed = pipe.feeds["a"]
    gone = alice.account(feed.next_seq(), active=False, status="deactivated")
    pipe.statuses[alice.did] = S["deactivated"]
    frames = [alice.draft(feed.next_seq()).frame() for _ in range(5)]
    assert sent(pipe, feed, gone, *frames) == {"account_inactive": 5}
    assert pipe.asked["status", alice.did] == 1
    back = [alice.account(feed.next_seq()), alice.commit(feed.next_seq())]
    assert sent(pipe, feed, *back) == {}
    assert [entry.upstream_status for entry in pipe.events()] == [0, S["deactivated"], 0, 0]


def test_the_pds_may_say_that_the_account_is_active(pipe: Pipe, alice: Actor) -> None:
    """When the PDS calls the account active its commits pass again (E5)."""
    feed = pipe.feeds["a"]
    pipe.statuses[alice.did] = S["active"]
    gone = alice.account(feed.next_seq(), active=False)
    assert sent(pipe, feed, gone, alice.commit(feed.next_seq())) == {}


@pytest.mark.parametrize("status", ["deactivated", "suspended", "takendown", "deleted", None])
def test_statuses_reach_the_state(pipe: Pipe, alice: Actor, status: str | None) -> None:
    """Every status of an #account, and the lack of one, reaches the log and the applier (B6, E8)."""
    feed = pipe.feeds["a"]
    given = {} if status is None else {"status": status}
    assert sent(pipe, feed, alice.account(feed.next_seq(), active=False, **given)) == {}
    expected = S[status or "inactive"]
    assert [delta.upstream_status for delta in pipe.apply()] == [expected]
    assert pipe.events()[-1].effective_status == expected


def test_the_end_of_an_account_passes_though_its_did_is_tombstoned(pipe: Pipe, alice: Actor) -> None:
    """A tombstoned account's own host may still say that it is gone; nothing else of it passes (E1, E8)."""
    feed, other = pipe.feeds["a"], pipe.feed("b")
    pipe.identities[alice.did] = lambda: Identity(alice.did, "tombstoned", None, 0, b"", now_us())
    feed.send(alice.identity_event(feed.next_seq()))
    pipe.settle()
    deleted = {"active": False, "status": "deleted"}
    assert sent(pipe, other, alice.account(1, **deleted)) == {"did_tombstoned": 1}
    assert sent(pipe, feed, alice.draft(feed.next_seq()).frame()) == {"did_tombstoned": 1}
    assert sent(pipe, feed, alice.account(feed.next_seq(), **deleted)) == {}


def row_of(actor: Actor, feed: Feed, **changes: object) -> AccountRow:
    """What SQL has of the actor's newest state."""
    data = bytes(encode_tree(build(actor.records)))
    fields = {
        "did": actor.did, "host_id": feed.id, "upstream_status": 0, "local_status": 0, "rev": tid_text(actor.rev),
        "data": data, "head": data, "last_seq": 1, "identity": actor.identity("a"), "desynchronized": False,
    }  # fmt: skip
    return AccountRow(**{**fields, **changes})  # type: ignore[arg-type]


def test_what_sql_has_is_used(pipe: Pipe) -> None:
    """A stored account goes on where it stands: no resolution, no chain break, its old revs refused."""
    actor, feed = Actor("bob"), pipe.feed("a")
    stale = actor.commit(1)
    pipe.rows[actor.did] = row_of(actor, feed)
    assert sent(pipe, feed, stale, actor.commit(2)) == {"rev_stale": 1}
    assert pipe.asked == {("load", actor.did): 1}
    assert pipe.total("chain_breaks") == 0


def test_a_takedown_stands(pipe: Pipe) -> None:
    """A taken-down account passes #identity only; what its host says of it is remembered for the day it is lifted."""
    actor, feed = Actor("bob"), pipe.feed("a")
    actor.commit(1)
    pipe.rows[actor.did] = row_of(actor, feed, local_status=S["takendown"])
    frames = [actor.commit(1), actor.account(2, active=False), actor.unknown(3), actor.identity_event(4)]
    assert sent(pipe, feed, *frames) == {"account_takedown": 3}
    assert [(entry.effective_status, entry.flags) for entry in pipe.events()] == [(S["takendown"], TAKEN_DOWN)]
    assert [(delta.upstream_status, delta.local_status) for delta in pipe.apply()] == [(S["inactive"], S["takendown"])]


def test_a_takedown_survives_a_move_to_a_host_that_is_not_ours(pipe: Pipe) -> None:
    """The row of a taken-down account is used whatever host its document names."""
    actor, feed = Actor("bob"), pipe.feed("a")
    actor.commit(1)
    moved = actor.identity("elsewhere.example", resolved_us=now_us() - 10**9)
    pipe.rows[actor.did] = row_of(actor, feed, local_status=S["takendown"], identity=moved)
    pipe.identities[actor.did] = lambda: actor.identity("a")
    assert sent(pipe, feed, actor.commit(1)) == {"account_takedown": 1}


def test_a_stored_break_is_healed_after_a_restart(pipe: Pipe) -> None:
    """An account stored as desynchronized stays so, and its resync is asked for when it is loaded."""
    actor, feed = Actor("bob"), pipe.feed("a")
    actor.commit(1)
    pipe.rows[actor.did] = row_of(actor, feed, desynchronized=True)
    assert sent(pipe, feed, actor.commit(1)) == {}
    pipe.until(lambda: pipe.asked["resync", actor.did] == 1)
    assert [delta.desynchronized for delta in pipe.apply()] == [True]


def test_duplicates_after_a_restart(pipe: Pipe, alice: Actor) -> None:
    """What the log has of the host's epoch above its cursor is not logged again (design 4)."""
    feed = pipe.feeds["a"]
    host.set_dedup(feed.index, 1, [2, 4])
    frames = [alice.account(seq) for seq in (2, 3, 4, 5)]
    assert sent(pipe, feed, *frames) == {"duplicate": 2}
    assert [seq for _, seq in pipe.published()] == [1, 3, 5]


def test_a_banned_host_ends_at_once(pipe: Pipe, alice: Actor) -> None:
    """What a banned host still has in flight is dropped, held frames included."""
    bob, feed = Actor("bob"), pipe.feeds["a"]
    feed.send(bob.commit(feed.next_seq()))
    pipe.until(lambda: pipe.asked["resolve", bob.did] == 1)
    host.ban(feed.index)
    pipe.identities[bob.did] = lambda: bob.identity("a")
    pipe.tell(bob.did)
    assert sent(pipe, feed, alice.account(feed.next_seq())).get("host_banned", 0) >= 1
    assert feed.dropped() == {"host_banned": 2}


# --- the table ---


def test_a_taken_key_is_loaded_again(tmp_path: Path) -> None:
    """With more accounts than parsed keys the key is loaded again, and the newer state in memory stays."""
    with Pipe(tmp_path, keys=64) as pipe:
        feed = pipe.feed("a")
        actors = [Actor(f"many {n}") for n in range(80)]
        for actor in actors:
            pipe.identities[actor.did] = partial(actor.identity, "a")
        feed.send(*(actor.commit(feed.next_seq()) for actor in actors))
        pipe.settle()
        for actor in actors[:20]:  # SQL lags behind memory, and is not believed
            pipe.rows[actor.did] = row_of(actor, feed, rev=None, data=None, head=None)
        assert sent(pipe, feed, *(actor.commit(feed.next_seq()) for actor in actors)) == {}
        assert pipe.total("chain_breaks") == 0
        assert pipe.total("key_evictions") >= 16


def test_a_key_that_sql_has_only_an_older_one_of_is_resolved(tmp_path: Path) -> None:
    """A key taken by the clock whose stored identity is older than what was known is asked of the directory."""
    with Pipe(tmp_path, keys=64) as pipe:
        feed, bob = pipe.feed("a"), Actor("bob")
        pipe.identities[bob.did] = lambda: bob.identity("a")
        feed.send(bob.commit(feed.next_seq()))
        pipe.settle()
        pipe.rows[bob.did] = row_of(bob, feed, identity=bob.identity("a", resolved_us=now_us() - 10**9))
        actors = [Actor(f"many {n}") for n in range(130)]
        for actor in actors:
            pipe.identities[actor.did] = partial(actor.identity, "a")
        feed.send(*(actor.commit(feed.next_seq()) for actor in actors))
        pipe.settle()
        assert sent(pipe, feed, bob.commit(feed.next_seq())) == {}
        assert pipe.asked["resolve", bob.did] == 2


def test_a_full_table_waits_for_the_applier(tmp_path: Path) -> None:
    """When every account is pinned the worker waits, nothing is dropped, and it goes on when the state is applied."""
    with Pipe(tmp_path, entries=64) as pipe:
        feed = pipe.feed("a")
        actors = [Actor(f"many {n}") for n in range(80)]
        for actor in actors:
            pipe.identities[actor.did] = partial(actor.identity, "a")
        feed.send(*(actor.commit(feed.next_seq()) for actor in actors))
        pipe.until(lambda: len(pipe.published()) == 64 and pipe.total("stalls") == 1)
        assert pipe.total("accounts") == 64
        deltas = pipe.apply()
        assert len(deltas) == 64
        pipe.settle()
        assert feed.dropped() == {}
        assert len(pipe.published()) == 80
        assert pipe.total("accounts") == 64


def test_a_full_table_of_holds_does_not_grow_old(tmp_path: Path) -> None:
    """Accounts that hold frames are not evicted; as their holds end there is room again."""
    with Pipe(tmp_path, entries=64, hold_s=1.0) as pipe:
        feed = pipe.feed("a")
        actors = [Actor(f"many {n}") for n in range(70)]
        feed.send(*(actor.commit(feed.next_seq()) for actor in actors))
        pipe.until(lambda: pipe.total("stalls") == 1 and pipe.total("held") == 64)
        pipe.until(lambda: sum(n for (kind, _), n in pipe.asked.items() if kind == "resolve") == 64)
        for actor in actors:
            pipe.identities[actor.did] = partial(actor.identity, "a")
        for actor in actors[:64]:
            pipe.tell(actor.did)
        pipe.until(lambda: len(pipe.published()) == 64)
        pipe.apply()
        pipe.settle()
        assert feed.dropped() == {}


def test_an_evicted_account_comes_back_from_sql(tmp_path: Path) -> None:
    """An account that was evicted is loaded again, and an answer that comes late finds nobody."""
    with Pipe(tmp_path, entries=64) as pipe:
        feed, bob = pipe.feed("a"), Actor("bob")
        actors = [Actor(f"many {n}") for n in range(64)]
        for actor in [bob, *actors]:
            pipe.identities[actor.did] = partial(actor.identity, "a")
        feed.send(bob.commit(feed.next_seq()))
        pipe.settle()
        pipe.apply()
        pipe.rows[bob.did] = row_of(bob, feed)
        feed.send(*(actor.commit(feed.next_seq()) for actor in actors))
        pipe.settle()
        assert pipe.total("account_evictions") == 1
        pipeline.post_resync(bob.did, True)
        pipeline.post_status(bob.did, S["deleted"])
        pipe.apply()
        assert sent(pipe, feed, bob.commit(feed.next_seq())) == {}
        assert pipe.total("chain_breaks") == 0
        assert pipe.asked["load", bob.did] == 2
