"""`zlay consume --verify`: nothing bad is called good, nothing good bad, and what cannot be checked is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests._fast.actor import Actor, changed
from tests.consume.support import FakeRelay, follow
from tests.e2e.fakes import FakePlc
from zlay.consume import follow as follow_module
from zlay.consume import verify
from zlay.sim.keys import SigningKey

if TYPE_CHECKING:
    import socket

    from tests.e2e.fakes import Subscription

HOST = "pds.example"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back at once."""
    monkeypatch.setattr(follow_module, "PAUSES_S", (0.01,))


def sending(frames: list[bytes]) -> FakeRelay:
    """A relay that sends these messages."""

    def script(subscription: Subscription, sock: socket.socket) -> None:
        for frame in frames:
            subscription.send(frame)

    return FakeRelay(script)


def run(frames: list[bytes], plc: FakePlc, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status, and what was said."""
    with sending(frames) as relay:
        status, _, err = follow(relay, capsys, limit=len(frames), plc_urls=[plc.url])
    return status, err


def test_good_events_are_good(capsys: pytest.CaptureFixture[str]) -> None:
    """Commits of both curves, first ones and later ones, #sync, #identity and #account are good."""
    actors = [Actor("alice"), Actor("bob", "p256")]
    seq = 0
    frames = [actor.commit(seq := seq + 1) for _ in range(3) for actor in actors]
    for actor in actors:
        frames.append(actor.take(actor.sync(seq := seq + 1)))
        frames.append(actor.account(seq := seq + 1))
        frames.append(actor.identity_event(seq := seq + 1))
    with FakePlc({actor.did: actor.document(HOST) for actor in actors}) as plc:
        status, err = run(frames, plc, capsys)
        assert len(plc.requests) == len(actors)  # one look-up for each account
    assert status == 0, err
    assert f"{len(frames)} good, 0 bad, 0 unresolved" in err


def test_bad_events_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong signature, a changed tree, a wrong field and an unknown DID are each named with their reason; the exit
    status is 1."""
    alice, mallory, nobody = Actor("alice"), Actor("mallory"), Actor("nobody")
    forged = alice.draft(2)
    forged.key = mallory.key
    lying = alice.draft(3)
    frames = [
        alice.commit(1),
        forged.frame(),
        changed(lying, lambda made: made.message.update(ops=[{**made.message["ops"][0], "path": "a.b.c/other"}])),
        changed(alice.draft(4), lambda made: made.message.update(tooBig=True)),
        nobody.commit(5),
        alice.account(6),
    ]
    with FakePlc({alice.did: alice.document(HOST)}) as plc:
        status, err = run(frames, plc, capsys)
    assert status == 1
    for said in (
        f"BAD seq 2 #commit of {alice.did}: sig_invalid",
        f"BAD seq 3 #commit of {alice.did}: mst_op",
        f"BAD seq 4 #commit of {alice.did}: field_too_big",
        f"BAD seq 5 #commit of {nobody.did}: did_not_found",
        "2 good, 4 bad, 0 unresolved",
    ):
        assert said in err, err


class Changing(FakePlc):
    """Answers with one document after the other; the last one for ever."""

    def __init__(self, *documents: Any) -> None:
        super().__init__()
        self._answers = list(documents)

    def answer(self, method: str, target: str) -> tuple[int, Any]:
        """The next one."""
        return 200, self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def test_a_new_key_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """After a key has been changed its account's events are good: the document is asked for once more."""
    alice = Actor("alice")
    before = alice.document(HOST)
    frames = [alice.commit(1)]
    alice.key = SigningKey("p256", b"another key of alice")
    frames += [alice.commit(2), alice.commit(3)]
    with Changing(before, alice.document(HOST)) as plc:
        status, err = run(frames, plc, capsys)
        assert len(plc.requests) == 2
    assert (status, "3 good, 0 bad" in err) == (0, True), err


def test_what_cannot_be_checked_is_not_called_good(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a directory commits are counted as unresolved."""
    alice = Actor("alice")
    with FakePlc() as plc:
        pass
    status, err = run([alice.commit(1), alice.account(2)], plc, capsys)
    assert status == 0
    assert "1 good, 0 bad, 1 unresolved" in err


def test_events_wait_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the directory is slow no more than so many bytes wait; the next one is not taken."""
    alice = Actor("alice")
    frames = [alice.commit(n) for n in range(1, 8)]
    monkeypatch.setattr(verify, "QUEUE_BYTES", sum(map(len, frames[:3])))
    with FakePlc({alice.did: alice.document(HOST)}) as plc:
        plc.delay_s = 0.5
        verifier = verify.Verifier([plc.url], allow_private=True, on_bad=print)
        taken = [verifier.put(frame, alice.did, 0.0) for frame in frames]
        assert taken[:3] == [True] * 3
        assert not all(taken)
        assert verifier.drain(20)
        assert (verifier.good, verifier.waiting) == (sum(taken), 0)
        verifier.close()
