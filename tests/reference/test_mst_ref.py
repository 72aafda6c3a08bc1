"""The reference tree against the interop suite, the known roots and every recorded commit."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fixtures
from tests.reference import mst_ref
from tests.reference.car_ref import read_car
from tests.reference.drisl_ref import Cid, decode, encode
from tests.reference.frame_ref import decode_frame
from tests.reference.mst_ref import EMPTY, EMPTY_ROOT, MissingBlockError, MstError, Node, Op, Tree

VALUE = Cid.parse("bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454")
TALL = next(key for key in (f"zzz/{n}".encode() for n in range(99)) if mst_ref.depth(key) > 0)


def root_of(keys: list[str]) -> str:
    """The root CID of a tree with these keys, all with the suite's value."""
    return str(mst_ref.encode_tree(mst_ref.build({key.encode(): VALUE for key in keys})))


def insert_all(keys: list[bytes], value: Cid = VALUE) -> Tree:
    """The tree grown by one insert after the other."""
    tree: Tree = EMPTY
    for key in keys:
        tree = mst_ref.insert(tree, key, value)
    return tree


def commit_parts(frame: bytes) -> tuple[dict[str, Any], Cid, dict[Cid, bytes], list[Op]]:
    """(message, data root, blocks, ops) of a #commit frame."""
    message = decode_frame(frame).payload
    roots, blocks = read_car(message["blocks"])
    assert roots[0] == message["commit"]
    commit = decode(blocks[roots[0]])
    assert isinstance(commit, dict)
    data = commit["data"]
    assert isinstance(data, Cid)
    ops = [Op(op["action"], op["path"].encode(), op["cid"], op.get("prev")) for op in message["ops"]]
    return message, data, blocks, ops


def test_key_heights() -> None:
    """Heights of keys are those of the interop suite (C8)."""
    cases = fixtures.interop("mst/key_heights.json")
    assert len(cases) == 9
    assert [mst_ref.depth(case["key"].encode()) for case in cases] == [case["height"] for case in cases]


def test_common_prefixes() -> None:
    """Common prefixes are those of the interop suite (C9)."""
    cases = fixtures.interop("mst/common_prefix.json")
    assert len(cases) == 13
    for case in cases:
        assert mst_ref.common_prefix(case["left"].encode(), case["right"].encode()) == case["len"]


def test_known_roots() -> None:
    """Trees of known keys have their known roots (protocol.md H)."""
    assert root_of([]) == str(EMPTY_ROOT)
    assert encode({"e": [], "l": None}) == bytes.fromhex("a2616580616cf6")
    prefix = "com.example.record/3jqfcqzm"
    assert root_of([prefix + "3fo2j"]) == "bafyreibj4lsc3aqnrvphp5xmrnfoorvru4wynt6lwidqbm2623a6tatzdu"
    five = [prefix + end for end in ("3fp2j", "3fr2j", "3fs2j", "3ft2j", "4fc2j")]
    assert root_of(five) == "bafyreicmahysq4n6wfuxo522m6dpiy7z7qzym3dzs756t5n7nfdgccwq7m"


def test_example_keys_in_any_order_give_one_tree() -> None:
    """The suite's 156 keys give the same tree built at once or inserted in any order."""
    keys = [line.encode() for line in fixtures.interop("mst/example_keys.txt")]
    assert len(keys) == 156
    built = mst_ref.build(dict.fromkeys(keys, VALUE))
    shuffled = random.Random(7).sample(keys, len(keys))
    assert insert_all(keys) == insert_all(shuffled) == built
    tree: Tree = built
    for key in shuffled:
        tree, value = mst_ref.remove(tree, key)
        assert value == VALUE
        tree = mst_ref.trim(tree)
    assert tree == EMPTY


def test_commit_proofs() -> None:
    """Each proof of the interop suite gives both its roots, forward and inverted from its blocks alone (D12)."""
    cases = fixtures.interop("firehose/commit-proof-fixtures.json")
    assert len(cases) == 6
    for case in cases:
        leaf = Cid.parse(case["leafValue"])
        before = mst_ref.build({key.encode(): leaf for key in case["keys"]})
        assert str(mst_ref.encode_tree(before)) == case["rootBeforeCommit"], case["comment"]
        after: Tree = before
        for key in case["adds"]:
            after = mst_ref.insert(after, key.encode(), leaf)
        for key in case["dels"]:
            after, _ = mst_ref.remove(after, key.encode())
        blocks: dict[Cid, bytes] = {}
        root = mst_ref.encode_tree(mst_ref.trim(after), blocks)
        assert str(root) == case["rootAfterCommit"], case["comment"]
        proof = {Cid.parse(cid): blocks[Cid.parse(cid)] for cid in case["blocksInProof"] if Cid.parse(cid) in blocks}
        ops = [Op("create", key.encode(), leaf, None) for key in case["adds"]]
        ops += [Op("delete", key.encode(), None, leaf) for key in case["dels"]]
        assert str(mst_ref.invert(root, proof, ops)) == case["rootBeforeCommit"], case["comment"]


def test_recorded_commits_invert_to_prev_data() -> None:
    """Every recorded commit of the public network inverts to its prevData."""
    commits = [frame for frame in fixtures.recorded_frames() if b"#commit" in frame[:20]]
    assert len(commits) == 148
    for frame in commits:
        message, data, blocks, ops = commit_parts(frame)
        assert mst_ref.invert(data, blocks, ops) == message["prevData"]


def test_a_lie_in_a_recorded_commit_is_seen() -> None:
    """A wrong value, a missing op and a missing node each make the inversion fail or miss prevData."""
    frame = next(frame for frame in fixtures.recorded_frames() if b"#commit" in frame[:20])
    message, data, blocks, ops = commit_parts(frame)
    other = Cid.of(b"another record")
    with pytest.raises(MstError, match="not in the tree"):
        mst_ref.invert(data, blocks, [Op("create", ops[0].key, other, None)])
    assert mst_ref.invert(data, blocks, []) != message["prevData"]
    with pytest.raises(MissingBlockError):
        mst_ref.invert(data, {cid: block for cid, block in blocks.items() if cid != data}, ops)


KEYS = st.lists(
    st.text("ab", min_size=1, max_size=7).map(lambda text: f"com.example.a/{text}".encode()), unique=True, max_size=60
)


@given(KEYS, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_a_tree_depends_on_its_content_alone(keys: list[bytes], rng: random.Random) -> None:
    """Inserting in any order, and removing again, gives the tree that is built from the same records at once."""
    shuffled = rng.sample(keys, len(keys))
    tree: Tree = insert_all(shuffled)
    blocks: dict[Cid, bytes] = {}
    root = mst_ref.encode_tree(tree, blocks)
    assert tree == mst_ref.build(dict.fromkeys(keys, VALUE))
    assert mst_ref.load(root, blocks) == tree
    half = len(keys) // 2
    for key in shuffled[:half]:
        tree, _ = mst_ref.remove(tree, key)
    assert mst_ref.trim(tree) == mst_ref.build(dict.fromkeys(shuffled[half:], VALUE))


@given(KEYS, st.data())
@settings(max_examples=60)
def test_random_commits_invert(keys: list[bytes], data: st.DataObject) -> None:
    """Any mix of creates, updates and deletes inverts to the root before it."""
    other = Cid.of(b"other")
    before = {key: VALUE for key in keys if data.draw(st.booleans())}
    after = dict(before)
    ops = []
    for key in keys:
        if not data.draw(st.booleans()):
            continue
        if key not in before:
            after[key] = other
            ops.append(Op("create", key, other, None))
        elif data.draw(st.booleans()):
            after[key] = other
            ops.append(Op("update", key, other, VALUE))
        else:
            del after[key]
            ops.append(Op("delete", key, None, VALUE))
    blocks: dict[Cid, bytes] = {}
    root = mst_ref.encode_tree(mst_ref.build(after), blocks)
    assert mst_ref.invert(root, blocks, ops) == mst_ref.encode_tree(mst_ref.build(before))


def _tampered(change: Any) -> tuple[Cid, dict[Cid, bytes]]:
    # a tree of one node whose encoding `change` has altered
    keys = sorted(key for key in (f"com.example.a/{n:03}".encode() for n in range(40)) if mst_ref.depth(key) == 0)
    blocks: dict[Cid, bytes] = {}
    root = mst_ref.encode_tree(mst_ref.build(dict.fromkeys(keys[:4], VALUE)), blocks)
    node = decode(blocks[root])
    assert isinstance(node, dict)
    change(node)
    block = encode(node)
    return Cid.of(block), {Cid.of(block): block}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda node: node["e"][0].update(p=1), "prefix length"),
        (lambda node: node["e"][1].update(p=-1), "prefix length"),
        (lambda node: node["e"][1].update(p=10_000), "prefix length"),
        (lambda node: node["e"][1].update(p=0, k=b"com.example.a/" + b"0" * 9), "prefix not maximal"),
        (lambda node: node["e"].insert(1, dict(node["e"][0], p=len(node["e"][0]["k"]), k=b"")), "not ascending"),
        (lambda node: node["e"].append({"p": 0, "k": TALL, "v": VALUE, "t": None}), "wrong height"),
        (lambda node: node.update(l=VALUE), "below height 0"),
        (lambda node: node.update(e=[], l=VALUE), "no key"),
        (lambda node: node.update(x=1), "node fields"),
        (lambda node: node["e"][0].pop("t"), "entry fields"),
        (lambda node: node["e"][0].update(p="0"), "entry types"),
        (lambda node: node["e"][0].update(t=Cid.of(b"", 0x55)), "blessed"),
        (lambda node: node.update(e=[None]), "entry fields"),
    ],
)
def test_invalid_nodes_are_rejected(change: Any, reason: str) -> None:
    """Each rule for nodes (C9) rejects the node that breaks it."""
    root, blocks = _tampered(change)
    with pytest.raises(MstError, match=reason):
        mst_ref.load(root, blocks)


def test_a_subtree_must_lie_between_its_neighbours() -> None:
    """Keys of a subtree outside its place are rejected (C9)."""
    low = next(f"a/{n}".encode() for n in range(999) if mst_ref.depth(f"a/{n}".encode()) == 0)
    high = next(f"b/{n}".encode() for n in range(999) if mst_ref.depth(f"b/{n}".encode()) == 1)
    wrong = Node(1, (mst_ref.Leaf(high, VALUE), Node(0, (mst_ref.Leaf(low, VALUE),))))
    blocks: dict[Cid, bytes] = {}
    root = mst_ref.encode_tree(wrong, blocks)
    with pytest.raises(MstError, match="not ascending"):
        mst_ref.load(root, blocks)
