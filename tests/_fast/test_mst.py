"""zlay._fast.mst: a commit's ops are held against its partial tree and undone, as the slow reference does it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fixtures
from tests._fast.commits import (
    Draft,
    RawOp,
    Records,
    apply,
    draft,
    link_fields,
    proof,
    record,
    value,
)
from tests.reference.car_ref import read_car, write_car
from tests.reference.drisl_ref import Cid, decode, encode
from tests.reference.frame_ref import decode_frame
from tests.reference.mst_ref import EMPTY_ROOT, MissingBlockError, MstError, Op, build, depth, encode_tree
from tests.reference.mst_ref import invert as slow_invert
from zlay._fast import mst
from zlay.sim.keys import SigningKey

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

KEY = SigningKey("k256", b"mst test")
SUITE_VALUE = Cid.parse("bafyreie5cvv4h45feadgeuwhbcutmh6t2ceseocckahdoe6uat64zmz454")
MISSING = {"mst_missing_node", "mst_invert"}


def _pool() -> list[bytes]:
    """Keys of all heights up to 6, the rare high ones as many as the low ones, over several collections."""
    by_height: dict[int, list[bytes]] = defaultdict(list)
    for number in range(20000):
        key = b"com.example.%s/%d" % ((b"like", b"post", b"repost")[number % 3], number * 7919 % 100000)
        if len(by_height[depth(key)]) < 24:
            by_height[depth(key)].append(key)
    return sorted(key for keys in by_height.values() for key in keys)


POOL = _pool()


def invert(blocks: Mapping[Cid, bytes], root: Cid, ops: Sequence[RawOp]) -> tuple[str, bytes]:
    """What the core says of ops on the tree that these blocks hold."""
    return mst.invert(write_car([root], blocks.items()), bytes(root), list(ops))


def slowly(blocks: Mapping[Cid, bytes], root: Cid, ops: Sequence[RawOp]) -> Cid | type[MstError]:
    """What the reference says."""
    try:
        return slow_invert(root, blocks, [Op(*op) for op in ops])
    except MissingBlockError:
        return MissingBlockError
    except MstError:
        return MstError


@st.composite
def commits(draw: st.DrawFn, max_records: int = 60, max_ops: int = 8) -> tuple[Records, list[RawOp]]:
    """Records of an account and some ops on them, in any order."""
    indexes = draw(st.sets(st.integers(0, len(POOL) - 1), max_size=max_records))
    records = {POOL[i]: value(f"old {i}") for i in indexes}
    touched = draw(st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=max_ops, unique=True))
    # Half of what is touched lies where something is, so that updates and deletes are as frequent as creates.
    present = sorted(indexes)
    ops: dict[bytes, RawOp] = {}
    for number, i in enumerate(touched):
        if number % 2 and present:
            i = present[i % len(present)]
        key = POOL[i]
        old = records.get(key)
        if old is None:
            ops[key] = ("create", key, value(f"new {i}"), None)
        elif i % 3:
            ops[key] = ("delete", key, None, old)
        else:
            ops[key] = ("update", key, value(f"new {i}"), old)
    return records, list(ops.values())


# --- against what others published -----------------------------------------------------------------------------------


def test_commit_proofs_of_the_interop_suite() -> None:
    """Every commit of the suite is undone from exactly the blocks of its proof, to the root that it says."""
    cases = fixtures.interop("firehose/commit-proof-fixtures.json")
    assert len(cases) == 6
    for case in cases:
        records = dict.fromkeys((key.encode() for key in case["keys"]), SUITE_VALUE)
        ops: list[RawOp] = [("create", key.encode(), SUITE_VALUE, None) for key in case["adds"]]
        ops += [("delete", key.encode(), None, SUITE_VALUE) for key in case["dels"]]
        blocks: dict[Cid, bytes] = {}
        root = encode_tree(build(apply(records, ops)), blocks)
        assert str(root) == case["rootAfterCommit"]
        before = Cid.parse(case["rootBeforeCommit"])
        assert encode_tree(build(records)) == before
        assert invert({Cid.parse(cid): blocks[Cid.parse(cid)] for cid in case["blocksInProof"]}, root, ops) == (
            "ok",
            before,
        ), case["comment"]


def test_recorded_commits() -> None:
    """All 148 recorded commits lead back to their prevData."""
    frames = [frame for frame in fixtures.recorded_frames() if decode_frame(frame).kind == "#commit"]
    assert len(frames) == 148
    assert {mst.check(frame, False) for frame in frames} == {"ok"}


def test_recorded_commits_without_any_one_node() -> None:
    """A recorded commit less any one node is what the reference says: still enough, or a node is missing."""
    outcomes = set()
    for frame in fixtures.recorded_frames()[::7]:
        message = decode_frame(frame).payload
        if "ops" not in message:
            continue
        roots, blocks = read_car(message["blocks"])
        commit = decode(blocks[roots[0]])
        assert isinstance(commit, dict)
        root = commit["data"]
        assert isinstance(root, Cid)
        ops: list[RawOp] = [(op["action"], op["path"].encode(), op["cid"], op.get("prev")) for op in message["ops"]]
        for gone in blocks:
            rest = {cid: block for cid, block in blocks.items() if cid != gone}
            expected = slowly(rest, root, ops)
            label, before = invert(rest, root, ops)
            outcomes.add(label)
            assert label in MISSING if expected is MissingBlockError else (label, before) == ("ok", expected)
    assert outcomes == {"ok", "mst_missing_node", "mst_invert"}


def test_known_roots() -> None:
    """Undoing creates leads to the known roots of known keys, and to the empty tree (protocol.md H)."""
    prefix = b"com.example.record/3jqfcqzm"
    five = [prefix + end for end in (b"3fp2j", b"3fr2j", b"3fs2j", b"3ft2j", b"4fc2j")]
    one = prefix + b"3fo2j"
    blocks: dict[Cid, bytes] = {}
    root = encode_tree(build(dict.fromkeys([*five, one], SUITE_VALUE)), blocks)
    assert invert(blocks, root, [("create", one, SUITE_VALUE, None)]) == (
        "ok",
        Cid.parse("bafyreicmahysq4n6wfuxo522m6dpiy7z7qzym3dzs756t5n7nfdgccwq7m"),
    )
    assert invert(blocks, root, [("create", key, SUITE_VALUE, None) for key in five]) == (
        "ok",
        Cid.parse("bafyreibj4lsc3aqnrvphp5xmrnfoorvru4wynt6lwidqbm2623a6tatzdu"),
    )
    assert invert(blocks, root, [("create", key, SUITE_VALUE, None) for key in [*five, one]]) == ("ok", EMPTY_ROOT)
    back: list[RawOp] = [("delete", key, None, SUITE_VALUE) for key in [*five, one]]
    assert invert({EMPTY_ROOT: encode({"e": [], "l": None})}, EMPTY_ROOT, back) == ("ok", root)


def test_example_keys() -> None:
    """Every fourth of the suite's 156 keys can be created, updated and deleted last, from its proof alone."""
    keys = [line.encode() for line in fixtures.interop("mst/example_keys.txt")]
    assert len(keys) == 156
    records = dict.fromkeys(keys, SUITE_VALUE)
    other = value("other")
    for key in keys[::4]:
        for records_before, op in (
            ({k: v for k, v in records.items() if k != key}, ("create", key, SUITE_VALUE, None)),
            (records | {key: other}, ("update", key, SUITE_VALUE, other)),
            (records, ("delete", key, None, SUITE_VALUE)),
        ):
            tree = build(apply(records_before, [op]))
            assert invert(proof(tree, [key]), encode_tree(tree), [op]) == ("ok", encode_tree(build(records_before)))


# --- against the reference -------------------------------------------------------------------------------------------


@settings(max_examples=1500, deadline=None)
@given(commits())
def test_any_commit_is_undone_from_its_proof(commit: tuple[Records, list[RawOp]]) -> None:
    """From the nodes that a producer must include (D11), undoing leads to the very tree of before."""
    records, ops = commit
    tree = build(apply(records, ops))
    assert invert(proof(tree, [op[1] for op in ops]), encode_tree(tree), ops) == ("ok", encode_tree(build(records)))


@settings(max_examples=1500, deadline=None)
@given(commits(max_records=30, max_ops=4), st.randoms(use_true_random=False))
def test_any_part_of_a_tree_does_or_does_not_suffice(commit: tuple[Records, list[RawOp]], rng: random.Random) -> None:
    """With any subset of the nodes the core undoes exactly what the reference undoes, and misses what it misses."""
    records, ops = commit
    blocks: dict[Cid, bytes] = {}
    root = encode_tree(build(apply(records, ops)), blocks)
    some = {cid: block for cid, block in blocks.items() if rng.random() < 0.85}
    expected = slowly(some, root, ops)
    label, before = invert(some, root, ops)
    assert label in MISSING if expected is MissingBlockError else (label, before) == ("ok", expected)


@settings(max_examples=600, deadline=None)
@given(commits(max_records=30, max_ops=6), st.randoms(use_true_random=False))
def test_ops_that_do_not_fit(commit: tuple[Records, list[RawOp]], rng: random.Random) -> None:
    """With actions, values or paths exchanged the core passes what the reference passes, and nothing else."""
    records, ops = commit
    blocks: dict[Cid, bytes] = {}
    root = encode_tree(build(apply(records, ops)), blocks)
    wrong = list(ops)
    at = rng.randrange(len(wrong))
    _, path, cid, prev = wrong[at]
    some = value("something else")
    wrong[at] = rng.choice(
        [
            ("create", path, some, None),
            ("update", path, some, prev or some),
            ("update", path, cid or some, some),
            ("delete", path, None, prev or some),
            ("create", path, cid or some, None),
            ("create", rng.choice(POOL), cid or some, None),
            ("delete", rng.choice([key for key in POOL if key not in {op[1] for op in wrong}]), None, some),
        ]
    )
    if len({op[1] for op in wrong}) < len(wrong):
        return
    expected = slowly(blocks, root, wrong)
    label, before = invert(blocks, root, wrong)
    assert label == "mst_op" if expected is MstError else (label, before) == ("ok", expected)


def _spoil(rng: random.Random, blocks: Mapping[Cid, bytes]) -> tuple[Cid, bytes]:
    """A node and another block for it: a bit turned, or its parts exchanged."""
    cid = rng.choice(sorted(blocks))
    if rng.random() < 0.3:
        block = bytearray(blocks[cid])
        block[rng.randrange(len(block))] ^= 1 << rng.randrange(8)
        return cid, bytes(block)
    node = link_fields(blocks[cid])
    entries = node["e"]
    above = {cid}
    while more := {c for c, block in blocks.items() if c not in above and any(a in block for a in above)}:
        above |= more
    pointers = [node["l"], *(entry["t"] for entry in entries), *(c for c in sorted(blocks) if c not in above)]
    match rng.randrange(6):
        case 0 if entries:
            del entries[rng.randrange(len(entries))]
        case 1 if entries:
            rng.choice(entries)["p"] += rng.choice((-1, 1, 7))
        case 2 if entries:
            rng.choice(entries)["t"] = rng.choice(pointers)
        case 3:
            node["l"] = rng.choice([*pointers, None])
        case 4 if len(entries) > 1:
            rng.shuffle(entries)
        case _ if entries:
            entry = rng.choice(entries)
            entry["k"] = rng.choice(POOL)[max(entry["p"], 0) :]
    try:
        return cid, encode(node)
    except ValueError:
        return cid, blocks[cid]


@settings(max_examples=1500, deadline=None)
@given(commits(max_records=30, max_ops=4), st.randoms(use_true_random=False))
def test_spoilt_trees(commit: tuple[Records, list[RawOp]], rng: random.Random) -> None:
    """What the core makes of a broken tree, the reference makes of it, too; it may only refuse what it has not read."""
    records, ops = commit
    tree = build(apply(records, ops))
    made = draft(records, ops, KEY)
    old, block = _spoil(rng, made.nodes)
    if block == made.nodes[old]:
        return
    made.replace_node(old, block)
    root = made.commit["data"]
    expected = slowly(made.nodes, root, ops)
    label, before = invert(made.nodes, root, ops)
    if label != "ok":
        assert isinstance(expected, type), (label, encode_tree(tree))
    elif not isinstance(expected, type):
        assert before == expected


# --- whole commits ---------------------------------------------------------------------------------------------------

RECORDS: Records = {POOL[i]: value(f"old {i}") for i in range(0, len(POOL), 2)}
NEW = POOL[41]
OLD = POOL[40]
CREATE: RawOp = ("create", NEW, value("new"), None)
UPDATE: RawOp = ("update", OLD, value("changed"), RECORDS[OLD])
DELETE: RawOp = ("delete", POOL[60], None, RECORDS[POOL[60]])


def valid(*ops: RawOp) -> Draft:
    """A valid commit with these ops, or one of each kind."""
    return draft(RECORDS, ops or (CREATE, UPDATE, DELETE), KEY)


def verdict(made: Draft, *, first: bool = False) -> str:
    """What the core says of a draft's frame."""
    return mst.check(made.frame(), first)


@settings(max_examples=200, deadline=None)
@given(commits())
def test_any_commit_passes_as_a_frame(commit: tuple[Records, list[RawOp]]) -> None:
    """From the frame's bytes: what the reference makes, the core passes, and with this prevData only."""
    made = draft(*commit, KEY)
    assert verdict(made) == "ok"
    made.message["prevData"] = made.commit["data"]
    unchanged = encode_tree(build(commit[0])) == made.commit["data"]
    assert verdict(made) == ("ok" if unchanged else "prev_data_mismatch")


def test_extra_blocks_are_tolerated() -> None:
    """Nodes of other trees, duplicates and unlinked blocks change nothing (C10, D11)."""
    made = valid()
    blocks: dict[Cid, bytes] = {}
    encode_tree(build(RECORDS), blocks)
    made.extra = [*blocks.items(), *made.nodes.items(), (value("unlinked"), record("unlinked"))]
    assert verdict(made) == "ok"


def test_two_hundred_ops() -> None:
    """A batch as large as a commit may carry is undone."""
    records = {b"com.example.post/%05d" % i: value(f"{i}") for i in range(300)}
    ops: list[RawOp] = [("delete", b"com.example.post/%05d" % i, None, value(f"{i}")) for i in range(0, 200, 2)]
    ops += [("create", b"com.example.post/1%05d" % i, value(f"n{i}"), None) for i in range(100)]
    assert verdict(draft(records, ops, KEY)) == "ok"


def test_update_to_the_same_value() -> None:
    """An update whose prev is its cid is valid and changes nothing (design 14)."""
    same = RECORDS[OLD]
    made = valid(("update", OLD, same, same))
    assert made.message["prevData"] == made.commit["data"]
    assert verdict(made) == "ok"
    made.message["prevData"] = EMPTY_ROOT
    assert verdict(made) == "prev_data_mismatch"


def test_empty_commits() -> None:
    """No ops: the tree must be the same and need not be there (B10, D2)."""
    made = valid()
    made.message |= {"ops": [], "prevData": made.commit["data"]}
    assert verdict(made) == "ok"
    made.nodes = {}
    assert verdict(made) == "ok"
    made.message["prevData"] = EMPTY_ROOT
    assert verdict(made) == "prev_data_mismatch"


def test_first_commits() -> None:
    """An account's first commit alone may lack prevData, and then it starts from the empty tree (D10, design 14)."""
    for ops in ([CREATE], [CREATE, ("create", OLD, value("more"), None)], []):
        made = draft({}, ops, KEY, first=True)
        assert verdict(made, first=True) == "ok"
        assert verdict(made, first=False) == "missing_prev_data"
        made.message["since"] = "3mpxu7ppxtc2x"
        assert verdict(made, first=True) == "missing_prev_data"
    grown = draft({OLD: value("there before")}, [CREATE], KEY, first=True)
    assert verdict(grown, first=True) == "prev_data_mismatch"
    grown.message["ops"] = []
    assert verdict(grown, first=True) == "prev_data_mismatch"
    with_prev = draft(RECORDS, [CREATE], KEY)
    assert verdict(with_prev, first=True) == "ok"


def op(at: int, **fields: object) -> Callable[[Draft], None]:
    """Gives one op of the message other fields."""

    def change(made: Draft) -> None:
        made.message["ops"][at].update(fields)

    return change


def prev_data(cid: Cid) -> Callable[[Draft], None]:
    """Names another tree before."""
    return lambda made: made.message.update(prevData=cid)


def without_root(made: Draft) -> None:
    """Leaves the root's node out."""
    del made.nodes[made.commit["data"]]


def without_records(made: Draft) -> None:
    """Leaves the records out."""
    made.records = {}


def with_record(body: bytes) -> Callable[[Draft], None]:
    """Creates a record of that block."""

    def change(made: Draft) -> None:
        cid = Cid.of(body)
        other = draft(RECORDS, [UPDATE, DELETE], KEY)
        records = apply(RECORDS, [UPDATE, DELETE]) | {NEW: cid}
        tree = build(records)
        made.commit["data"] = encode_tree(tree)
        made.nodes = proof(tree, [NEW, OLD, POOL[60]])
        made.records = other.records | {cid: body}
        made.message["ops"][0]["cid"] = cid

    return change


OTHER = value("another record")
WRONG: dict[str, tuple[str, Callable[[Draft], None]]] = {
    "created value is another": (
        "mst_op",
        lambda made: (op(0, cid=OTHER)(made), made.records.update({OTHER: record("another record")}))[0],
    ),
    "created path is absent": ("mst_op", op(0, path=POOL[43].decode())),
    "updated path is absent": ("mst_op", op(1, path=POOL[43].decode())),
    "deleted path is there": ("mst_op", op(2, path=POOL[62].decode())),
    "deleted path is there, at the root": ("mst_op", op(2, path=max(RECORDS, key=depth).decode())),
    "updated from another value": ("prev_data_mismatch", op(1, prev=OTHER)),
    "deleted another value": ("prev_data_mismatch", op(2, prev=OTHER)),
    "another prevData": ("prev_data_mismatch", prev_data(OTHER)),
    "empty prevData": ("prev_data_mismatch", prev_data(EMPTY_ROOT)),
    "no prevData": ("missing_prev_data", lambda made: made.message.pop("prevData")),
    "no root node": ("mst_missing_node", without_root),
    "no records": ("record_missing", without_records),
    "record is a list": ("record_not_map", with_record(encode(["a", "list"]))),
    "record is no CBOR": ("record_not_map", with_record(b"\xa1\x61")),
    "record is too big": ("block_size", with_record(encode({"x": bytes(1_000_000)}))),
    "data names a record": ("mst_node", lambda made: made.commit.update(data=value("new"))),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_commits(name: str) -> None:
    """A commit with one thing wrong, signed anew, is dropped for that thing; without the change it passes."""
    label, change = WRONG[name]
    made = valid()
    encode_tree(build(apply(RECORDS, [CREATE, UPDATE, DELETE])), made.nodes)
    assert verdict(made) == "ok"
    change(made)
    assert verdict(made) == label


def test_nodes_on_the_way_to_an_op() -> None:
    """Each node between the root and an op's key is needed; what is missing is named (D2, D3)."""
    deep = next(key for key in sorted(RECORDS) if depth(key) == 0)
    tree = build(apply(RECORDS, [("update", deep, value("changed"), RECORDS[deep])]))
    made = valid(("update", deep, value("changed"), RECORDS[deep]))
    way = [
        cid
        for cid in made.nodes
        if slowly(
            {c: b for c, b in made.nodes.items() if c != cid},
            encode_tree(tree),
            [("update", deep, value("changed"), RECORDS[deep])],
        )
        is MissingBlockError
    ]
    assert len(way) == tree.height + 1
    for cid in way:
        less = made.copy()
        del less.nodes[cid]
        assert verdict(less) == "mst_missing_node"


def test_undoing_needs_more_than_the_ops_paths() -> None:
    """Where undoing a create joins two subtrees, both must be there: else the op cannot be undone (D8)."""
    needed = 0
    for key in POOL[1::2]:
        if depth(key) == 0:
            continue
        made = valid(("create", key, value("new"), None))
        for cid in list(made.nodes):
            less = made.copy()
            del less.nodes[cid]
            label = verdict(less)
            assert label in {"ok", *MISSING}
            needed += label == "mst_invert"
    assert needed > 10


def test_the_same_path_twice() -> None:
    """A path that stands twice in the ops cannot be undone twice, even if the message's decoder let it through (D4)."""
    blocks: dict[Cid, bytes] = {}
    root = encode_tree(build(apply(RECORDS, [CREATE, DELETE])), blocks)
    assert invert(blocks, root, [CREATE, CREATE])[0] == "mst_invert"
    assert invert(blocks, root, [DELETE, DELETE])[0] == "mst_invert"
