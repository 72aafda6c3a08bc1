"""Every reason to drop or hold a frame, through the whole relay: bytes on a socket in, silence and a counter out.

After each case the same host's next good commit must reach a strict consumer, and follow from the state before it: a
bad frame costs one frame (R6), and every rule has a test that proves it (R9).
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests._fast import frames
from tests._fast import test_commit as commits
from tests._fast import test_node as nodes
from tests._fast.actor import changed, now_us
from tests._fast.commits import apply, record, stored, value
from tests._fast.frames import ABSENT, Pairs, Raw
from tests.ops.command import state_stands_still
from tests.reference.drisl_ref import Cid, encode
from tests.reference.frame_ref import Frame
from tests.reference.mst_ref import build, encode_tree
from tests.verdicts.stage import WAIT_S, Stage
from zlay._fast import mst, node, verdicts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests._fast.actor import Actor
    from tests._fast.commits import Draft, RawOp

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

OWN_TESTS = {"host_banned", "shutdown", "duplicate"}  # below: they take a relay of their own, or a restart

_fresh = itertools.count()


# --- what a case sends ---


def identity(**changes: Any) -> Callable[[Stage], None]:
    """An #identity of alice with fields changed, added or left out."""
    return framed(lambda payload: frames.frame(payload | changes, "#identity"))


def framed(make: Callable[[dict[str, Any]], bytes]) -> Callable[[Stage], None]:
    """A frame made of the payload of a valid #identity of alice."""

    def send(stage: Stage) -> None:
        payload = frames.identity(seq=stage.main.next_seq(), did=stage.alice.did)
        stage.main.publish(make(payload))

    return send


def raw(change: Callable[[bytes], bytes]) -> Callable[[Stage], None]:
    """A valid #commit of alice, its bytes changed."""
    return lambda stage: stage.main.publish(change(stage.alice.draft(stage.main.next_seq()).frame()))


def commit(change: Callable[[Draft], object]) -> Callable[[Stage], None]:
    """A #commit of alice with one thing changed and signed anew."""
    return lambda stage: stage.main.publish(changed(stage.alice.draft(stage.main.next_seq()), change))


def message(**fields: Any) -> Callable[[Stage], None]:
    """A #commit of alice whose message has other fields."""
    return commit(lambda made: made.message.update(fields))


def ops(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Stage], None]:
    """A #commit of alice whose list of ops was changed."""
    return commit(lambda made: change(made.message["ops"]))


def creating(block: bytes) -> Callable[[Stage], None]:
    """A #commit of alice that creates a record of that block."""

    def send(stage: Stage) -> None:
        op: RawOp = ("create", b"app.bsky.feed.post/strange", stored(block), None)
        stage.main.publish(stage.alice.draft(stage.main.next_seq(), [op]).frame())

    return send


def first_sight(prepare: Callable[[Stage, Actor], object], *, known: bool = False) -> Callable[[Stage], None]:
    """A valid #commit of an account that nobody has seen (or that is known), with something wrong around it."""

    def send(stage: Stage) -> None:
        name = f"fresh {next(_fresh)}"
        actor = stage.known(name) if known else stage.actor(name)
        prepare(stage, actor)
        stage.main.publish(actor.draft(stage.main.next_seq()).frame())

    return send


def deep(op: RawOp, spoil: Callable[[Draft], Draft], label: str) -> Callable[[Stage], None]:
    """A #commit on a tree of several levels, seen for the first time; `label` is what the core alone says of it."""

    def send(stage: Stage) -> None:
        actor = stage.actor(f"fresh {next(_fresh)}")
        actor.records, actor.rev = dict(nodes.RECORDS), actor.next_rev()
        made = actor.draft(stage.main.next_seq(), [op])
        encode_tree(build(apply(actor.records, [op])), made.nodes)
        assert mst.check(made.frame(), False) == "ok"
        made = spoil(made)
        assert mst.check(made.frame(), False) == label
        stage.main.publish(made.frame())

    return send


def below_the_leaves(made: Draft) -> Draft:
    """A node at height 0 gets a child."""
    cid, fields = nodes.low(made)
    fields["e"][0]["t"] = value("deeper")
    made.replace_node(cid, encode(fields))
    return made


def not_to_be_undone(made: Draft) -> Draft:
    """Leaves out the one node that only undoing needs."""
    for cid in made.nodes:
        less = made.copy()
        del less.nodes[cid]
        if mst.check(less.frame(), False) == "mst_invert":
            return less
    raise AssertionError("every node is needed for something else")


def too_wide(stage: Stage) -> None:
    """A tree of one node with one entry too many."""
    actor = stage.actor(f"fresh {next(_fresh)}")
    actor.records = {key: value("x") for key in itertools.islice(nodes.keys(0), node.MAX_ENTRIES)}
    actor.rev = actor.next_rev()
    last = next(nodes.keys(0, nodes.PREFIX + b"z"))
    stage.main.publish(actor.draft(stage.main.next_seq(), [("create", last, value("x"), None)]).frame())


def expiring(stage: Stage) -> None:
    """A frame of a DID that does not answer, while others do."""
    actor = stage.actor(f"fresh {next(_fresh)}")
    stage.plc.failing.add(actor.did)
    before = stage.counts()
    stage.main.publish(actor.commit(stage.main.next_seq()))
    deadline = time.monotonic() + WAIT_S
    while not stage.since(before, "drop"):
        assert time.monotonic() < deadline
        stage.known(f"fresh {next(_fresh)}")
        time.sleep(0.2)
    stage.plc.failing.clear()  # it comes again after a restart


def inactive(stage: Stage, actor: Actor) -> None:
    """A commit of a known account that its host has just called inactive."""
    gone = actor.account(stage.main.next_seq(), active=False, status="deactivated")
    stage.main.publish(gone, actor.draft(stage.main.next_seq()).frame())


def unseen(stage: Stage, _known: Actor) -> None:
    """Two events of an account that nobody has seen."""
    actor = stage.actor(f"fresh {next(_fresh)}")
    stage.main.publish(actor.account(stage.main.next_seq()), actor.commit(stage.main.next_seq()))


def sync_again(stage: Stage) -> None:
    """A #sync that says what is known."""
    stage.main.publish(stage.alice.sync(stage.main.next_seq(), rev=stage.alice.rev).frame())


def large_sync(stage: Stage) -> None:
    """A #sync whose CAR has one more block than fits."""
    made = stage.alice.sync(stage.main.next_seq())
    made.extra.append((Cid.of(bytes(10_000)), bytes(10_000)))
    stage.main.publish(made.frame())


def taken_down(stage: Stage) -> None:
    """A commit of an account that was taken down here."""
    stage.main.publish(stage.banished.draft(stage.main.next_seq()).frame())


def long_number(data: bytes) -> bytes:
    """An array's length in two bytes instead of one."""
    return data.replace(b"eblobs\x80", b"eblobs\x98\x00")


BAD: dict[str, Callable[[Stage], None]] = {
    # encoding
    "cbor_truncated": raw(lambda data: data[:-1]),
    "cbor_not_shortest": raw(long_number),
    "cbor_indefinite": identity(handle=Raw(b"\x7f\x61a\xff")),
    "cbor_key_order": framed(lambda p: frames.frame(Pairs(tuple(reversed(p.items()))), "#identity")),
    "cbor_key_type": framed(lambda p: frames.frame(Pairs(((3, 1), *p.items())), "#identity")),
    "cbor_float": identity(handle=Raw(b"\xf9\x3c\x00")),
    "cbor_tag": identity(handle=Raw(b"\xc1\x01")),
    "cbor_simple": identity(handle=Raw(b"\xf7")),
    "cbor_utf8": identity(handle=Raw(b"\x62\xc3\x28")),
    "cbor_cid": identity(x=Raw(b"\xd8\x2a\x41\x01")),
    "cbor_depth": identity(x=Raw(b"\x81" * 70 + b"\x01")),
    "cbor_int_range": identity(x=Raw(b"\x1b" + b"\xff" * 8)),
    "cbor_trailing": raw(lambda data: data + b"\x00"),
    "cbor_limit": identity(**{f"x{n:02}": n for n in range(65)}),
    # frame
    "frame_too_large": identity(x=bytes(5_000_000)),
    "frame_header": framed(lambda p: frames.frame(p, ABSENT)),
    "frame_op": framed(lambda p: frames.frame(p, "#identity", 2)),
    "frame_payload": framed(lambda p: frames.frame(p | {"$type": "#identity"}, "#identity")),
    "frame_obsolete": framed(lambda p: frames.frame(p, "#tombstone")),
    "frame_info": framed(lambda p: frames.frame({"name": "Hello"}, "#info")),
    "frame_no_account": framed(lambda p: frames.frame({"seq": p["seq"], "x": 1}, "#novelty")),
    # fields
    "field_missing": identity(time=ABSENT),
    "field_type": identity(time=7),
    "field_seq": identity(seq="1"),
    "field_did": identity(did="did:plc:tooshort"),
    "field_rev": message(rev="today"),
    "field_time": identity(time="yesterday"),
    "field_handle": identity(handle="-"),
    "field_too_big": message(tooBig=True),
    "field_rebase": message(rebase=True),
    "field_blocks_size": large_sync,
    "ops_too_many": ops(lambda o: o.extend([dict(o[0], path=f"app.bsky.feed.post/{n}") for n in range(200)])),
    "op_shape": ops(lambda o: o[0].update(prev=value("before"))),
    "op_path": ops(lambda o: o[0].update(path="nowhere")),
    "op_duplicate_path": ops(lambda o: o.append(dict(o[0]))),
    # CAR and blocks
    "car_header": message(blocks=b"\x00"),
    "car_no_root": commit(commits.roots()),
    "car_block": commit(lambda made: made.message.update(blocks=made.car()[:-1])),
    "car_too_many_blocks": commit(lambda made: made.extra.extend([(Cid.of(b"\xa0"), b"\xa0")] * 20_000)),
    "block_hash": commit(commits.another_hash),
    "block_size": creating(encode({"x": bytes(1_000_001)})),
    "record_not_map": creating(encode(["a", "list"])),
    "root_mismatch": commit(commits.another_commit),
    "commit_missing": commit(commits.not_in_car),
    "commit_shape": commit(commits.without("prev")),
    "commit_version": commit(commits.having(version=2)),
    "commit_did": commit(commits.having(did="did:plc:" + "a" * 24)),
    "commit_rev": commit(commits.having(rev="3jzfcijpj2z2a")),
    "commit_prev": commit(commits.having(prev=0)),
    # signature
    "sig_form": commit(commits.signing(lambda key, data: key.sign(data)[:-1])),
    "sig_high_s": commit(commits.signing(commits.high_s)),
    "sig_invalid": commit(commits.signing(lambda key, data: key.sign(data + b"\0"))),
    # tree
    "mst_node": commit(lambda made: made.commit.update(data=made.message["ops"][0]["cid"])),
    "mst_depth": deep(nodes.UPDATE, below_the_leaves, "mst_depth"),
    "mst_missing_node": commit(lambda made: made.nodes.clear()),
    "mst_op": commit(
        lambda made: (
            made.message["ops"][0].update(cid=value("other")),
            made.records.update({value("other"): record("other")}),
        )
    ),
    "record_missing": commit(lambda made: made.records.clear()),
    "mst_invert": deep(
        ("create", next(key for key in nodes.keys(1) if key not in nodes.RECORDS), value("x"), None),
        not_to_be_undone,
        "mst_invert",
    ),
    "prev_data_mismatch": message(prevData=value("another tree")),
    "missing_prev_data": commit(lambda made: made.message.pop("prevData")),
    "work_limit": too_wide,
    # identity and account
    "did_not_found": first_sight(lambda stage, actor: stage.plc.documents.pop(actor.did)),
    "did_tombstoned": first_sight(lambda stage, actor: stage.plc.tombstoned.add(actor.did)),
    "no_key": first_sight(lambda stage, actor: stage.plc.documents[actor.did].update(verificationMethod=[])),
    "no_pds": first_sight(lambda stage, actor: stage.plc.documents[actor.did].update(service=[])),
    "wrong_host": lambda stage: stage.main.publish(stage.bob.draft(stage.main.next_seq()).frame()),
    "account_inactive": lambda stage: inactive(stage, stage.known(f"fresh {next(_fresh)}")),
    "account_takedown": taken_down,
    "hold_expired": expiring,
    "rev_stale": lambda stage: stage.main.publish(
        stage.alice.draft(stage.main.next_seq(), rev=stage.alice.rev).frame()
    ),
    "rev_future": lambda stage: stage.main.publish(
        stage.alice.draft(stage.main.next_seq(), rev=(now_us() + 3_600_000_000) << 10).frame()
    ),
    "sync_noop": sync_again,
    # stream
    "seq_regression": lambda stage: stage.main.publish(stage.alice.account(stage.main.seq)),
}

HELD: dict[str, Callable[[Stage, Actor], None]] = {  # what a case does with an account that is known
    "hold_account": unseen,
    "hold_identity": unseen,
    "hold_behind": unseen,
    "hold_status": inactive,
}


def test_every_reason_has_a_case(stage: Stage) -> None:
    """Each reason of the table of verdicts is provoked here, and each has its counter from the start."""
    dropped = {reason.label for reason in verdicts.REASONS if reason.verdict == "drop"}
    held = {reason.label for reason in verdicts.REASONS if reason.verdict == "hold"}
    assert set(BAD) | OWN_TESTS == dropped
    assert OWN_TESTS.isdisjoint(BAD)
    assert set(HELD) == held
    assert set(stage.counts()) == {(reason.verdict, reason.label) for reason in verdicts.REASONS}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_frame_costs_itself(stage: Stage, reason: str) -> None:
    """The frame is dropped for this reason and no other, nothing of it reaches a consumer, and its host goes on."""
    before, sent, passed = stage.counts(), stage.sent, len(stage.consumer.frames)
    BAD[reason](stage)
    stage.pass_on(stage.alice, stage.main)
    stage.wait_settled(before, stage.sent - sent)
    assert stage.since(before, "drop") == {reason: 1}
    assert stage.since(before, "pass") == {"ok": stage.sent - sent - 1}
    assert len(stage.consumer.frames) - passed == stage.sent - sent - 1
    assert stage.relay.metrics()["relay_chain_breaks_total"] == 0


@pytest.mark.parametrize("reason", HELD)
def test_a_held_frame_delays_nobody(stage: Stage, reason: str) -> None:
    """The frame is put aside for this reason, and counted; its host's other accounts go on; then it has its verdict."""
    actor = stage.known(f"fresh {next(_fresh)}")
    before, sent = stage.counts(), stage.sent
    with stage.unanswered():
        HELD[reason](stage, actor)
        stage.wait_counts(before, "hold", {reason: 1})
        stage.pass_on(stage.alice, stage.main)
        assert stage.relay.metrics()["relay_held_frames"] >= 1
    stage.wait_settled(before, stage.sent - sent)
    assert stage.relay.metrics()["relay_held_frames"] == 0


def test_duplicates(stage: Stage) -> None:
    """After a kill events that the log has are counted when they come again, and reach no consumer twice (design 4)."""
    with state_stands_still(stage.relay.data_dir):  # or the host's cursor would be saved above some of them
        for _ in range(20):
            stage.pass_on(stage.alice, stage.main)
        stage.relay.kill()
    subscriptions = len(stage.main.pds.cursors)
    stage.relay.start()
    stage.main.pds.wait_subscribed(subscriptions + 1)
    stage.pass_on(stage.alice, stage.main)
    assert stage.counts()["drop", "duplicate"] >= 20
    assert stage.relay.metrics()["relay_chain_breaks_total"] == 0
    seen = [
        (frame.did, frame.payload["rev"])
        for frame in stage.consumer.frames
        if isinstance(frame, Frame) and frame.kind == "#commit"
    ]
    assert len(seen) == len(set(seen))


def test_shutdown(stage: Stage) -> None:
    """What waits at shutdown is let go, and said; the host sends it again to the next run, which passes it on."""
    stage.wait_nothing_held()
    actor, before = stage.actor(f"fresh {next(_fresh)}"), stage.counts()
    with stage.unanswered():
        stage.main.publish(actor.commit(stage.main.next_seq()))
        stage.wait_counts(before, "hold", {"hold_identity": 1})
        stage.pass_on(stage.alice, stage.main)
        assert stage.relay.terminate() == 0
    assert '"let_go":1' in stage.relay.log_tail()
    stage.relay.start()
    stage.wait_seen(actor)
    stage.pass_on(stage.alice, stage.main)


def test_a_banned_host_is_heard_no_more(tmp_path: Path) -> None:
    """What a host still has under way when it is banned is dropped and counted; other hosts go on."""
    with Stage(tmp_path / "data") as stage:
        actor, before = stage.actor("fresh"), stage.counts()
        with stage.unanswered():
            stage.main.publish(actor.commit(stage.main.next_seq()))
            stage.wait_counts(before, "hold", {"hold_identity": 1})
            stage.relay.admin("POST", "/admin/hosts/block", {"hostname": stage.main.name})
        stage.pass_on(stage.bob, stage.other)
        stage.wait_settled(before, 2)
        assert stage.since(before, "drop") == {"host_banned": 1}
        assert not any(isinstance(frame, Frame) and frame.did == actor.did for frame in stage.consumer.frames)
