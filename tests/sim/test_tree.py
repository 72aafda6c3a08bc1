"""The simulation's tree against the reference tree and the published cases."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fixtures
from tests.reference import mst_ref
from tests.reference.car_ref import read_car, write_car
from tests.reference.drisl_ref import Cid
from tests.reference.mst_ref import Op
from zlay.sim.tree import TreeProbe, height_of

VALUE = Cid.parse("bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454")
PREFIX = b"\x01\x71\x12\x20"


def cid(digest: bytes) -> Cid:
    """The CID of a block from its digest."""
    return Cid(PREFIX + digest)


def digest_of(value: int) -> bytes:
    """A value's stand-in for a record's digest."""
    return hashlib.sha256(b"%d" % value).digest()


def blocks_of(proof: bytes) -> dict[Cid, bytes]:
    """The blocks of CAR sections without a CAR header."""
    return read_car(write_car([VALUE], []) + proof)[1]


def test_heights_are_the_published_ones() -> None:
    """Heights of keys are those of the interop suite (C8)."""
    for case in fixtures.interop("mst/key_heights.json"):
        assert height_of(case["key"].encode()) == case["height"]


def test_known_roots() -> None:
    """Trees of protocol.md H have the published roots, the empty one included."""
    tree = TreeProbe()
    assert cid(tree.root()) == mst_ref.EMPTY_ROOT
    tree.set(b"com.example.record/3jqfcqzm3fo2j", VALUE[4:])
    assert str(cid(tree.root())) == "bafyreibj4lsc3aqnrvphp5xmrnfoorvru4wynt6lwidqbm2623a6tatzdu"
    tree.delete(b"com.example.record/3jqfcqzm3fo2j")
    assert cid(tree.root()) == mst_ref.EMPTY_ROOT
    for end in ("3fp2j", "3fr2j", "3fs2j", "3ft2j", "4fc2j"):
        tree.set(b"com.example.record/3jqfcqzm" + end.encode(), VALUE[4:])
    assert str(cid(tree.root())) == "bafyreicmahysq4n6wfuxo522m6dpiy7z7qzym3dzs756t5n7nfdgccwq7m"


@pytest.mark.parametrize("number", range(6))
def test_published_proofs(number: int) -> None:
    """Roots before and after are the published ones, and the blocks are those of the published proof."""
    case = fixtures.interop("firehose/commit-proof-fixtures.json")[number]
    value = Cid.parse(case["leafValue"])[4:]
    tree = TreeProbe()
    for key in case["keys"]:
        tree.set(key.encode(), value)
    assert str(cid(tree.root())) == case["rootBeforeCommit"]
    for key in case["adds"]:
        tree.set(key.encode(), value)
    for key in case["dels"]:
        tree.delete(key.encode())
    changed = [key.encode() for key in case["adds"] + case["dels"]]
    proof = blocks_of(tree.proof(changed))
    assert str(cid(tree.root())) == case["rootAfterCommit"]
    assert {str(block) for block in proof} == set(case["blocksInProof"])
    assert inverted(case["rootAfterCommit"], proof, case, Cid(PREFIX + value)) == case["rootBeforeCommit"]


def inverted(root: str, blocks: dict[Cid, bytes], case: dict[str, Any], value: Cid) -> str:
    """The root that the reference gets by undoing the case's writes."""
    ops = [Op("create", key.encode(), value, None) for key in case["adds"]]
    ops += [Op("delete", key.encode(), None, value) for key in case["dels"]]
    return str(mst_ref.invert(Cid.parse(root), blocks, ops))


KEYS = st.sampled_from([b"a.b.c/%d" % number for number in range(60)])
COMMITS = st.lists(st.dictionaries(KEYS, st.none() | st.integers(0, 9), max_size=8), max_size=12)


@settings(max_examples=120, deadline=None)
@given(COMMITS)
def test_any_commits_give_the_reference_tree_and_invert(commits: list[dict[bytes, int | None]]) -> None:
    """After any writes the root is that of the reference, and the proof's blocks alone lead back to the root before."""
    tree = TreeProbe()
    records: dict[bytes, Cid] = {}
    before = cid(tree.root())
    for writes in commits:
        ops: list[Op] = []
        for key, value in writes.items():
            old = records.get(key)
            if value is None:
                if old is None:
                    continue
                tree.delete(key)
                del records[key]
                ops.append(Op("delete", key, None, old))
            else:
                tree.set(key, digest_of(value))
                records[key] = cid(digest_of(value))
                ops.append(Op("update" if old else "create", key, records[key], old))
        blocks = blocks_of(tree.proof([op.key for op in ops]))
        after = cid(tree.root())
        assert after == mst_ref.encode_tree(mst_ref.build(records))
        if ops:
            assert mst_ref.invert(after, blocks, ops) == before
        before = after


def test_deleting_what_is_not_there_is_an_error() -> None:
    """A key that the tree does not hold cannot be deleted."""
    with pytest.raises(KeyError):
        TreeProbe().delete(b"a.b.c/d")
