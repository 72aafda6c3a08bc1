"""Takedowns in the worker that owns the account: order, outcomes, what passes, and what waits for what."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests._fast.actor import Actor, published_actor
from tests._fast.pipe import Pipe
from tests.reference.frame_ref import decode_frame
from zlay._fast import hidden, pipeline, verdicts
from zlay.eventlog.entries import LOCAL, TAKEN_DOWN
from zlay.eventlog.spans import seq_span
from zlay.firehose.frames import account_message
from zlay.pipeline.types import AccountRow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

S = {name: number for number, name in enumerate(verdicts.STATUSES)}
WAIT_S = 15.0
ALL = 2**64 - 1


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    """A pipeline of one worker."""
    with Pipe(tmp_path) as made:
        yield made
    hidden.clear()


@pytest.fixture
def alice(pipe: Pipe) -> Actor:
    """An account at host `a` with one commit published."""
    return published_actor(pipe)


def give(did: str, local: str, upstream: str = "active", timeout_s: float = WAIT_S) -> tuple[str, int, str]:
    """One try to give an account a status: outcome, seq, its status at its host."""
    shown = local if local != "active" else upstream
    message = account_message(did, active=shown == "active", status=None if shown == "active" else shown)
    outcome, seq, told = pipeline.set_local_status(did, message, *seq_span(message), S[local], S[upstream], timeout_s)
    return outcome, seq, verdicts.STATUSES[told]


def test_there_and_back(pipe: Pipe, alice: Actor) -> None:
    """A takedown is an #account of ours in the log; from there on commits are dropped, #identity passes, and earlier
    events are hidden. Its reverse says what the host says; later events pass, earlier ones stay hidden for now."""
    feed = pipe.feeds["a"]
    assert give(alice.did, "takendown") == ("done", 2, "active")
    assert (hidden.below(alice.did.encode()), hidden.count()) == (ALL, 1)
    assert give(alice.did, "takendown") == ("same", 0, "active")
    feed.send(alice.commit(feed.next_seq()), alice.identity_event(feed.next_seq()), alice.account(feed.next_seq()))
    pipe.settle()
    assert feed.dropped() == {"account_takedown": 2}
    assert give(alice.did, "active") == ("done", 4, "active")
    assert hidden.below(alice.did.encode()) == 4
    feed.send(alice.commit(feed.next_seq()))
    pipe.settle()
    events = pipe.events()
    said = [(entry.seq, entry.flags, entry.host_id != 0, verdicts.STATUSES[entry.effective_status]) for entry in events]
    assert said == [
        (1, 0, True, "active"),
        (2, LOCAL | TAKEN_DOWN, False, "takendown"),
        (3, TAKEN_DOWN, True, "takendown"),
        (4, LOCAL, False, "active"),
        (5, 0, True, "active"),
    ]
    assert {entry.did_hash for entry in events} == {events[0].did_hash}
    ours = [decode_frame(entry.frame or b"") for entry in events if entry.flags & LOCAL]
    assert [(frame.kind, frame.seq, frame.did) for frame in ours] == [
        ("#account", 2, alice.did),
        ("#account", 4, alice.did),
    ]
    assert [(frame.payload["active"], frame.payload.get("status")) for frame in ours] == [
        (False, "takendown"),
        (True, None),
    ]
    assert pipe.total("chain_breaks") == 1  # a commit was dropped in between
    assert [delta.local_status for delta in pipe.apply()] == [S["active"]]


def test_the_reverse_says_what_the_host_says(pipe: Pipe, alice: Actor) -> None:
    """What the host has said of the account meanwhile is what the end of the takedown must tell: a message made for
    another status is refused."""
    feed = pipe.feeds["a"]
    assert give(alice.did, "takendown")[0] == "done"
    feed.send(alice.account(feed.next_seq(), active=False, status="deactivated"))
    pipe.settle()
    assert give(alice.did, "active") == ("other", 0, "deactivated")
    assert hidden.below(alice.did.encode()) == ALL
    outcome, seq, upstream = give(alice.did, "active", "deactivated")
    assert (outcome, upstream) == ("done", "deactivated")
    event = pipe.events()[-1]
    assert (event.seq, event.flags, event.upstream_status, event.effective_status) == (
        seq,
        LOCAL,
        S["deactivated"],
        S["deactivated"],
    )


def test_an_account_taken_down_at_its_host_too(pipe: Pipe, alice: Actor) -> None:
    """Our takedown and the host's are two: the end of ours leaves the host's."""
    feed = pipe.feeds["a"]
    feed.send(alice.account(feed.next_seq(), active=False, status="takendown"))
    pipe.settle()
    assert give(alice.did, "takendown")[0] == "done"
    assert [(d.upstream_status, d.local_status) for d in pipe.apply()] == [(S["takendown"], S["takendown"])]
    assert give(alice.did, "active", "takendown")[0] == "done"
    assert [(d.upstream_status, d.local_status) for d in pipe.apply()] == [(S["takendown"], S["active"])]


def test_unknown_accounts(pipe: Pipe) -> None:
    """An account that is not in memory is loaded first; one that nobody knows is said to be unknown."""
    nobody = "did:plc:" + "a" * 24
    assert give(nobody, "takendown") == ("not_loaded", 0, "active")
    pipe.until(lambda: give(nobody, "takendown")[0] == "unknown", "the loader's answer")
    assert pipe.asked["load", nobody] == 1
    assert (hidden.count(), len(pipe.events())) == (0, 0)


def test_an_account_that_sql_has(tmp_path: Path) -> None:
    """An account that was evicted, or known before a restart, is taken down as any other."""
    with Pipe(tmp_path / "one") as pipe:
        actor = published_actor(pipe)
        (delta,) = pipe.apply()
    with Pipe(tmp_path / "two") as pipe:
        feed = pipe.feed("a")
        pipe.rows[actor.did] = AccountRow(
            actor.did, feed.id, 0, 0, delta.rev, delta.data, delta.head, 1, actor.identity("a")
        )
        pipe.until(lambda: give(actor.did, "takendown")[0] == "done", "the takedown")
        feed.send(actor.commit(feed.next_seq()))
        pipe.settle()
        assert feed.dropped() == {"account_takedown": 1}
    hidden.clear()


def test_held_frames_meet_the_takedown(pipe: Pipe, alice: Actor) -> None:
    """Frames that wait for a key when the takedown comes are dropped when they run."""
    feed = pipe.feeds["a"]
    pipe.mute.add("resolve")
    feed.send(alice.identity_event(feed.next_seq()), alice.commit(feed.next_seq()))
    pipe.until(lambda: pipe.total("held") == 1, "the hold")
    assert give(alice.did, "takendown")[0] == "done"
    pipe.mute.clear()
    pipe.settle()
    assert feed.dropped() == {"account_takedown": 1}


def test_no_event_slips_past_a_takedown(pipe: Pipe, alice: Actor) -> None:
    """While commits pour in and takedowns come and go, the log never holds a commit after a takedown and before its
    reverse."""
    feed = pipe.feeds["a"]
    stop = threading.Event()

    def pour() -> None:
        while not stop.is_set():
            feed.send(alice.identity_event(feed.next_seq()), alice.account(feed.next_seq()))

    pouring = threading.Thread(target=pour)
    pouring.start()
    try:
        for _ in range(60):
            assert give(alice.did, "takendown")[0] == "done"
            assert give(alice.did, "active")[0] == "done"
            pipe.pump()
    finally:
        stop.set()
        pouring.join()
    pipe.settle()
    down = False
    changes = 0
    for event in pipe.events():
        if event.flags & LOCAL:
            down = bool(event.flags & TAKEN_DOWN)
            changes += 1
        else:
            assert bool(event.flags & TAKEN_DOWN) == down
            assert not (down and event.kind == verdicts.KINDS.index("account"))
    assert changes == 120


def test_after_the_end_nobody_is_answered_late(tmp_path: Path) -> None:
    """A log that is closed, and workers that have ended, are said so at once."""
    with Pipe(tmp_path) as pipe:
        actor = published_actor(pipe)
        pipe.log.seal()
        assert give(actor.did, "takendown")[0] == "closed"
        assert hidden.count() == 0
        pipeline.stop()
        assert give(actor.did, "takendown")[0] == "closed"
    assert give(actor.did, "takendown")[0] == "closed"
    hidden.clear()


def test_bad_arguments() -> None:
    """A DID that is too long, or a message without bounds, is refused before anything is sent."""
    with pytest.raises(ValueError, match="DID"):
        give("did:plc:" + "a" * 300, "takendown")
