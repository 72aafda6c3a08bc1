"""An account moves from one host to another (E2, E10), through a whole relay with both."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest

from tests._fast.actor import Actor
from tests.reference.frame_ref import Frame, decode_frame

if TYPE_CHECKING:
    from tests.verdicts.stage import Host, Stage

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def normalized(stage: Stage, actor: Actor) -> list[bytes]:
    """What the consumer has of the account."""
    return [f.normalized for f in stage.consumer.frames if isinstance(f, Frame) and f.did == actor.did]


def refused_at(host: Host, stage: Stage, actor: Actor) -> None:
    """Everything that the host says of the account's content is dropped: it is another's now."""
    before, passed = stage.counts(), len(normalized(stage, actor))
    host.publish(actor.commit(host.next_seq()))
    host.publish(actor.account(host.next_seq(), active=False, status="deactivated"))
    host.publish(actor.account(host.next_seq(), active=False, status="deleted"))
    host.publish(actor.take(actor.sync(host.next_seq())))
    stage.wait_settled(before, 4)
    assert stage.since(before, "drop") == {"wrong_host": 4}
    assert len(normalized(stage, actor)) == passed


def moved(stage: Stage, name: str, *, told: bool) -> tuple[Actor, Actor]:
    """An account that has moved from the main host to the other, and what the main one still has of it."""
    mover = stage.known(name)
    old = copy.copy(mover)
    start = len(normalized(stage, mover))
    mover.key = Actor(f"new key of {name}").key
    stage.plc.documents[mover.did] = mover.document(stage.other.name)
    new = stage.other
    frames = [mover.identity_event(new.next_seq())] if told else []
    frames += [mover.account(new.next_seq(), active=True), *(mover.commit(new.next_seq()) for _ in range(3))]
    new.publish(*frames)
    stage.wait_seen(mover)
    assert normalized(stage, mover)[start:] == [decode_frame(frame).normalized for frame in frames]
    return mover, old


def test_accounts_move(stage: Stage) -> None:
    """After a move #identity, #account and commits of the new host come out in that order, and nothing that the old one
    still says of the account, whether the relay was told by an #identity or finds out by itself, also after a restart;
    the hosts' counts of accounts follow."""
    pairs = [moved(stage, "told", told=True), moved(stage, "not told", told=False)]
    for mover, old in pairs:
        refused_at(stage.main, stage, copy.copy(old))
        refused_at(stage.main, stage, copy.copy(mover))
    subscriptions = len(stage.main.pds.cursors), len(stage.other.pds.cursors)
    assert stage.relay.terminate() == 0
    stage.relay.start()
    stage.main.pds.wait_subscribed(subscriptions[0] + 1)
    stage.other.pds.wait_subscribed(subscriptions[1] + 1)
    for mover, old in pairs:
        refused_at(stage.main, stage, old)
        stage.pass_on(mover, stage.other)
        assert stage.relay.xrpc("getRepoStatus", f"did={mover.did}")["active"] is True
    assert counted(stage) == (2, 1 + len(pairs))  # alice and the banished; bob and those who came


def counted(stage: Stage) -> tuple[int, int]:
    """How many accounts each of the hosts has, as anybody may ask; some seconds old, and fresh after a start."""
    told = [stage.relay.xrpc("getHostStatus", f"hostname={host.name}") for host in (stage.main, stage.other)]
    return told[0]["accountCount"], told[1]["accountCount"]
