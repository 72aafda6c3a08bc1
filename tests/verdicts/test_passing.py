"""What is odd but allowed passes through a whole relay byte for byte, `seq` apart (R7), and consumers can read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests._fast import frames
from tests._fast.actor import Actor
from tests._fast.commits import value
from tests._fast.frames import pack
from tests._fast.test_mst import POOL
from tests.reference import go_ref
from tests.reference.drisl_ref import Cid, encode
from tests.reference.frame_ref import Frame, decode_frame
from tests.reference.mst_ref import build, encode_tree
from tests.verdicts.stage import WAIT_S, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests._fast.commits import Draft, RawOp

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

ODD: dict[str, Any] = {"a": 1.5, "zzzzzzzzzzzz": {"b": [None, -(2**63), "é\0", b"", frames.cid(codec=0x55)]}}
PATHS = [key.decode().replace("com.example.", "com.example.x").encode() for key in POOL]

type Case = Callable[[Stage], bytes]


def commit(change: Callable[[Draft], object], ops: list[RawOp] | None = None) -> Case:
    """A #commit of alice with something odd about it."""

    def make(stage: Stage) -> bytes:
        made = stage.alice.draft(stage.main.next_seq(), ops)
        change(made)
        return stage.alice.take(made)

    return make


def other(t: str, payload: Callable[..., dict[str, Any]], **fields: Any) -> Case:
    """A message of alice's of another type, with these fields."""
    return lambda stage: frames.frame(payload(seq=stage.main.next_seq(), did=stage.alice.did) | fields, t)


def odd_everywhere(stage: Stage) -> bytes:
    """Unknown fields in the header, in the message, in an op."""
    made = stage.alice.draft(stage.main.next_seq())
    made.message["ops"] = [op | ODD for op in made.message["ops"]]
    payload = made.message | {"commit": Cid.of(made.block()), "blocks": made.car()} | ODD
    stage.alice.take(made)
    return pack({"op": 1, "t": "#commit"} | ODD) + pack(payload)


def with_whole_tree(made: Draft) -> None:
    """More nodes than are needed, twice, under more roots than one."""
    assert made.after is not None
    encode_tree(build(made.after[1]), made.nodes)
    block = encode({"nobody": "links here"})
    made.extra = [*made.nodes.items(), (Cid.of(block), block)]
    made.roots = [Cid.of(made.block()), Cid.of(b"not here"), Cid.of(block)]


def of_p256(stage: Stage) -> bytes:
    """A first commit by a key of the other curve."""
    actor = Actor("p256", "p256")
    stage.plc.documents[actor.did] = actor.document(stage.main.name)
    return actor.commit(stage.main.next_seq())


def without_ops(made: Draft) -> None:
    """Nothing changed but rev and signature; the tree is left out."""
    made.nodes = {}


ODD_CASES: dict[str, Case] = {
    "unknown fields everywhere": odd_everywhere,
    "64 unknown fields": commit(lambda made: made.message.update({f"x{n:02}": n for n in range(64)})),
    "unknown fields in the commit": commit(lambda made: made.commit.update(aaaa=1, zzzzzzzzzzzz=[{}, None, "x"])),
    "a link as prev": commit(lambda made: made.commit.update(prev=value("the one before"))),
    "blobs": commit(lambda made: made.message.update(blobs=[frames.cid(codec=0x55)])),
    "extra, unlinked and repeated blocks, several roots": commit(with_whole_tree),
    "no ops": commit(without_ops, []),
    "200 ops": commit(lambda made: None, [("create", path, value(f"{path!r}"), None) for path in PATHS[:200]]),
    "an update that changes nothing": commit(
        lambda made: None, [("update", PATHS[0], value(f"{PATHS[0]!r}"), value(f"{PATHS[0]!r}"))]
    ),
    "200 deletes": commit(lambda made: None, [("delete", path, None, value(f"{path!r}")) for path in PATHS[:200]]),
    "a key of the other curve": of_p256,
    "a sync": lambda stage: stage.alice.take(stage.alice.sync(stage.main.next_seq())),
    "an unknown type": other("#novelty", lambda **fields: fields, **ODD),
    "an unknown type of 300 fields": other("#novelty", lambda **fields: fields, **{f"x{n}": n for n in range(300)}),
    "a status nobody knows": other("#account", frames.account, status="asleep", active=True),
    "an identity without handle": other("#identity", frames.identity, handle=frames.ABSENT, **ODD),
    "an identity with handle.invalid": other("#identity", frames.identity, handle="handle.invalid"),
}


@pytest.mark.parametrize("name", ODD_CASES)
def test_what_is_odd_passes_unchanged(stage: Stage, name: str) -> None:
    """Every byte but those of `seq` comes out as it went in, and a typed Go consumer reads it (design 14)."""
    before, passed = stage.counts(), len(stage.consumer.frames)
    raw = ODD_CASES[name](stage)
    stage.main.publish(raw)
    stage.wait_settled(before, 1)
    assert stage.since(before, "drop") == {}
    (frame,) = stage.consumer.wait_count(passed + 1, WAIT_S)[passed:]
    assert isinstance(frame, Frame)
    assert frame.normalized == decode_frame(raw).normalized
    go_ref.read_frame(frame.raw)
    assert stage.relay.metrics()["relay_chain_breaks_total"] == 0
