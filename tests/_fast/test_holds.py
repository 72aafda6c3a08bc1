"""How long frames wait: for a DID of its own trouble HOLD_SECONDS, for anything else as long as it takes.

The hold clock of one worker is seen to have run by an account of its that is given up meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests._fast.actor import Actor, changed, now_us
from tests._fast.pipe import WAIT_S, Pipe
from zlay._fast import pipeline
from zlay.pipeline.types import Identity
from zlay.sim.keys import SigningKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests._fast.pipe import Feed

RETRY_S = 0.2
HOLD_S = 0.1  # less than that: the second failure ends a hold


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    """A pipeline of one worker with short times."""
    with Pipe(tmp_path, hold_s=HOLD_S, retry_s=RETRY_S, unanswered_s=RETRY_S) as made:
        yield made


def fails(pipe: Pipe, actor: Actor, *, systemic: bool = False, postponed: bool = False) -> None:
    """From now on the directory has no answer for this account."""
    pipe.identities[actor.did] = lambda: Identity(
        actor.did, "failed", None, 0, b"", now_us(), "time-out", systemic, postponed
    )


def succeeds(pipe: Pipe, actor: Actor) -> None:
    """From now on it has, at the host `a`."""
    pipe.identities[actor.did] = lambda: actor.identity("a")


def somebody_else_expires(pipe: Pipe, feed: Feed) -> None:
    """The hold clock runs for longer than HOLD_S: an account that nobody knows is given up in that time."""
    before = feed.dropped().get("hold_expired", 0)
    nobody = Actor("nobody")
    fails(pipe, nobody)
    feed.send(nobody.commit(feed.next_seq()))
    pipe.until(lambda: feed.dropped().get("hold_expired", 0) > before, "the end of another hold")
    assert feed.dropped() == {"hold_expired": before + 1}, "only that one"


def web(name: str) -> Actor:
    """An account whose questions lie in a queue of their own: of did:web."""
    actor = Actor(name)
    actor.did = f"did:web:{name}.test"
    return actor


def test_a_hold_expires(pipe: Pipe) -> None:
    """A DID that gets no answer while others do is given up after HOLD_SECONDS; its host's cursor goes on."""
    actor, feed = Actor("bob"), pipe.feed("a")
    fails(pipe, actor)
    feed.send(actor.commit(1), actor.commit(2))
    pipe.settle()
    assert feed.dropped() == {"hold_expired": 2}
    assert pipe.asked["resolve", actor.did] == 2
    assert pipe.published() == []
    succeeds(pipe, actor)
    feed.send(actor.commit(3))
    pipe.until(lambda: len(pipe.published()) == 1, "the next frame asks anew")


@pytest.mark.parametrize("part", ["directory", "store"])
def test_the_hold_clock_stands_still_in_an_outage(pipe: Pipe, part: str) -> None:
    """No hold expires while directory or database are down as a whole; questions go on, so their return is noticed."""
    actor, feed = Actor("bob"), pipe.feed("a")
    pipeline.set_outages(directory=part == "directory", store=part == "store", clock=False)
    fails(pipe, actor)
    feed.send(actor.commit(feed.next_seq()))
    pipe.until(lambda: pipe.asked["resolve", actor.did] >= 3, "more questions during the outage")
    assert feed.dropped() == {}
    succeeds(pipe, actor)
    pipe.until(lambda: len(pipe.published()) == 1, "the event after the outage")
    pipeline.set_outages(False, False, False)
    somebody_else_expires(pipe, feed)


def test_a_failed_question_is_put_again(pipe: Pipe) -> None:
    """A failed look-up is asked again after a while, and the account's frames pass when it succeeds."""
    actor, feed = Actor("bob"), pipe.feed("a")
    fails(pipe, actor)
    feed.send(actor.commit(1))
    pipe.until(lambda: pipe.asked["resolve", actor.did] == 1)
    succeeds(pipe, actor)
    pipe.settle()
    assert pipe.asked["resolve", actor.did] == 2
    assert len(pipe.published()) == 1


def test_a_question_in_our_own_queue_costs_no_time(pipe: Pipe) -> None:
    """While nobody has taken its question an account's frames wait for as long as it takes; it is put once."""
    actor, feed = web("carol"), pipe.feed("a")
    pipe.mute.add("resolve_web")
    feed.send(actor.commit(feed.next_seq()))
    for _ in range(2):
        somebody_else_expires(pipe, feed)
    assert pipe.total("held") == 1
    succeeds(pipe, actor)
    pipe.mute.clear()
    pipe.settle()
    assert len(pipe.published()) == 1
    assert pipe.asked["resolve_web", actor.did] == 1


def test_one_failure_ends_no_hold(pipe: Pipe) -> None:
    """After a failure, too, time in our own queue costs nothing: only another failure ends the hold."""
    actor, feed = web("carol"), pipe.feed("a")
    fails(pipe, actor)
    feed.send(actor.commit(feed.next_seq()))
    pipe.until(lambda: pipe.asked["resolve_web", actor.did] == 1)
    pipe.mute.add("resolve_web")
    somebody_else_expires(pipe, feed)
    assert pipe.total("held") == 1
    succeeds(pipe, actor)
    pipe.mute.clear()
    pipe.settle()
    assert len(pipe.published()) == 1


@pytest.mark.parametrize("how", ["systemic", "postponed"])
def test_what_the_directory_does_to_all_ends_no_hold(pipe: Pipe, how: str) -> None:
    """Answers that say nothing of the DID itself are asked again for as long as it takes."""
    actor, feed = Actor("bob"), pipe.feed("a")
    fails(pipe, actor, systemic=how == "systemic", postponed=how == "postponed")
    feed.send(actor.commit(feed.next_seq()))
    somebody_else_expires(pipe, feed)
    pipe.until(lambda: pipe.asked["resolve", actor.did] >= 3)
    succeeds(pipe, actor)
    pipe.settle()
    assert len(pipe.published()) == 1
    assert feed.dropped() == {"hold_expired": 1}


def test_failures_count_from_the_last_answer(pipe: Pipe) -> None:
    """A failure from before the directory knew the DID again counts no more, also where that answer was too old."""
    actor, feed = Actor("bob"), pipe.feed("a")
    succeeds(pipe, actor)
    feed.send(actor.commit(feed.next_seq()))
    pipe.settle()
    too_old = actor.identity("a", resolved_us=now_us() - 1_000_000)
    fails(pipe, actor)
    feed.send(actor.identity_event(feed.next_seq()), actor.commit(feed.next_seq()))
    pipe.until(lambda: pipe.asked["resolve", actor.did] >= 2, "the first failure")
    pipeline.post_identity(too_old, feed.id)
    asked = pipe.asked["resolve", actor.did]
    pipe.until(lambda: pipe.asked["resolve", actor.did] > asked, "the second failure")
    succeeds(pipe, actor)
    pipe.settle()
    assert feed.dropped() == {}
    assert len(pipe.published()) == 3


def test_a_question_that_was_taken_and_never_answered_is_put_again(pipe: Pipe) -> None:
    """Who took a question may have failed: it is put again, and the account's frames are not lost for it."""
    actor, feed = Actor("bob"), pipe.feed("a")
    feed.send(actor.commit(1))
    pipe.until(lambda: pipe.asked["resolve", actor.did] == 2, "the same question again")
    assert feed.dropped() == {}
    succeeds(pipe, actor)
    pipe.settle()
    assert len(pipe.published()) == 1


def test_a_stranger_costs_an_account_nothing(pipe: Pipe) -> None:
    """A host that names an account of another's has neither its events dropped nor the account marked.

    Not even when the directory then fails for that account alone: only the stranger's own frame expires.
    """
    actor, feed, stranger = Actor("bob"), pipe.feed("a"), pipe.feed("b")
    known(pipe, feed, actor)
    fails(pipe, actor)
    for number in range(1, 3):
        stranger.send(actor.account(stranger.next_seq(), active=False))
        pipe.until(lambda: pipe.total("held") == 1, "the stranger's frame is held")
        feed.send(actor.commit(feed.next_seq()))
        pipe.settle()
        assert (stranger.dropped(), feed.dropped()) == ({"hold_expired": number}, {})
    assert [host for host, _ in pipe.published()] == [feed.id] * 3
    assert pipe.asked["resync", actor.did] == 0
    assert [delta.desynchronized for delta in pipe.apply()] == [False]


def known(pipe: Pipe, feed: Feed, actor: Actor) -> None:
    """The account is known, its document not just now."""
    pipe.identities[actor.did] = lambda: actor.identity("a", resolved_us=now_us() - 10_000_000)
    feed.send(actor.commit(feed.next_seq()))
    pipe.settle()


@pytest.mark.parametrize("systemic", [True, False])
def test_a_new_key_waits_for_a_directory_that_fails(tmp_path: Path, systemic: bool) -> None:
    """A signature by another key than the stored one is no verdict before the directory has answered (design 5)."""
    with Pipe(tmp_path, hold_s=WAIT_S, retry_s=0.05) as pipe:
        actor, feed = Actor("bob"), pipe.feed("a")
        known(pipe, feed, actor)
        actor.key = SigningKey("k256", b"the new key")
        fails(pipe, actor, systemic=systemic)
        asked = pipe.asked["resolve", actor.did]
        feed.send(actor.commit(feed.next_seq()), actor.commit(feed.next_seq()))
        pipe.until(lambda: pipe.asked["resolve", actor.did] >= asked + 3, "more questions")
        succeeds(pipe, actor)
        pipe.settle()
        assert (feed.dropped(), len(pipe.published())) == ({}, 3)
        wrong = changed(actor.draft(feed.next_seq()), lambda made: setattr(made, "sign", Actor("eve").key.sign))
        feed.send(wrong)
        pipe.settle()
        assert feed.dropped() == {"sig_invalid": 1}, "with an answer it is one"


def test_a_moved_account_waits_for_a_directory_that_fails(tmp_path: Path) -> None:
    """Frames of the new host wait until the directory says whose the account is, and pass if it says so."""
    with Pipe(tmp_path, hold_s=WAIT_S, retry_s=0.05) as pipe:
        actor, feed, new = Actor("bob"), pipe.feed("a"), pipe.feed("b")
        known(pipe, feed, actor)
        fails(pipe, actor)
        asked = pipe.asked["resolve", actor.did]
        new.send(actor.commit(new.next_seq()))
        pipe.until(lambda: pipe.asked["resolve", actor.did] >= asked + 3, "more questions")
        pipe.identities[actor.did] = lambda: actor.identity("b")
        pipe.settle()
        assert (new.dropped(), pipe.published()[-1]) == ({}, (new.id, 1))
        feed.send(actor.account(feed.next_seq()))
        pipe.settle()
        assert feed.dropped() == {"wrong_host": 1}


def test_a_new_account_waits_for_a_directory_that_fails(tmp_path: Path) -> None:
    """A replica that does not know a DID yet is asked again until there is another answer, not only until it fails."""
    with Pipe(tmp_path, hold_s=WAIT_S, retry_s=0.05) as pipe:
        actor, feed = Actor("bob"), pipe.feed("a")
        pipe.identities[actor.did] = lambda: Identity(actor.did, "not_found", None, 0, b"", now_us())
        feed.send(actor.commit(feed.next_seq()))
        pipe.until(lambda: pipe.asked["resolve", actor.did] == 1)
        fails(pipe, actor)
        pipe.until(lambda: pipe.asked["resolve", actor.did] >= 4, "more questions")
        succeeds(pipe, actor)
        pipe.settle()
        assert (feed.dropped(), len(pipe.published())) == ({}, 1)
