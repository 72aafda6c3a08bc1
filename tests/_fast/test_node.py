"""zlay._fast.node: a tree node has one form, everything else is dropped; its size and the work on it are bounded."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import fixtures
from tests._fast.commits import Draft, RawOp, Records, apply, draft, link_fields, value
from tests.reference.car_ref import write_car
from tests.reference.drisl_ref import Cid, encode
from tests.reference.mst_ref import Leaf, Node, Stub, build, common_prefix, depth, encode_tree
from zlay._fast import mst, node
from zlay.sim.keys import SigningKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

KEY = SigningKey("k256", b"node test")
PREFIX = b"com.example.record/"
RAW_CID = Cid.of(b"raw", 0x55)
SHA512_CID = Cid(b"\x01\x71\x13\x40" + bytes(range(64)))


def keys(height: int, prefix: bytes = PREFIX) -> Iterator[bytes]:
    """Endless keys of one height, in ascending order."""
    return (key for key in (prefix + b"%07d" % i for i in itertools.count()) if depth(key) == height)


# --- heights and prefixes --------------------------------------------------------------------------------------------


def test_interop_heights() -> None:
    """Heights of keys are those of the interop suite (C8)."""
    cases = fixtures.interop("mst/key_heights.json")
    assert len(cases) == 9
    assert [node.height(case["key"].encode()) for case in cases] == [case["height"] for case in cases]


@given(st.binary(max_size=200))
def test_heights(key: bytes) -> None:
    """A height is that of the reference, whatever the key."""
    assert node.height(key) == depth(key)


def test_heights_of_every_length() -> None:
    """So they are at every length, those included at which SHA-256 needs another block."""
    for length in range(200):
        for fill in (b"a", b"\0", b"\xff"):
            assert node.height(fill * length) == depth(fill * length)


def test_rare_heights() -> None:
    """Heights that need whole zero bytes are counted right, too."""
    rare = [key for key in (b"%d" % i for i in range(200_000)) if depth(key) >= 4]
    assert {depth(key) for key in rare} >= {4, 5, 6, 7, 8}
    assert [node.height(key) for key in rare] == [depth(key) for key in rare]


def test_interop_prefixes() -> None:
    """Common prefixes are those of the interop suite (C9)."""
    cases = fixtures.interop("mst/common_prefix.json")
    assert len(cases) == 13
    for case in cases:
        assert node.common_prefix(case["left"].encode(), case["right"].encode()) == case["len"]


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40))
def test_prefixes(shared: bytes, left: bytes, right: bytes) -> None:
    """A common prefix is that of the reference."""
    assert node.common_prefix(shared + left, shared + right) == common_prefix(shared + left, shared + right)


# --- the rules of C9 -------------------------------------------------------------------------------------------------
#
# One tree: three keys at height 1 with three at height 0 between each two. The op updates a key of a node at height 0,
# so that this node and the root are read. Each case alters one of the two.

TOP = list(itertools.islice(keys(1), 0, 24, 8))
LOW = sorted(
    key
    for first, last in itertools.pairwise([b"", *TOP, b"\xff"])
    for key in itertools.islice((key for key in keys(0) if first < key), 3)
    if key < last
)
RECORDS: Records = {key: value(f"old {key!r}") for key in [*TOP, *LOW]}
BELOW = next(key for key in LOW if TOP[0] < key < TOP[1])
UPDATE: RawOp = ("update", BELOW, value("changed"), RECORDS[BELOW])


def valid() -> Draft:
    """A valid commit whose op goes through the root to the node between the first two keys of the root."""
    made = draft(RECORDS, [UPDATE], KEY)
    encode_tree(build(apply(RECORDS, [UPDATE])), made.nodes)
    return made


def verdict(made: Draft) -> str:
    """What the core says of a draft's frame."""
    return mst.check(made.frame(), False)


def root(made: Draft) -> tuple[Cid, dict[str, Any]]:
    """The root's CID and fields."""
    cid = made.commit["data"]
    return cid, link_fields(made.nodes[cid])


def low(made: Draft) -> tuple[Cid, dict[str, Any]]:
    """CID and fields of the node at height 0 that the op leads to."""
    _, top = root(made)
    cid = top["e"][0]["t"]
    return cid, link_fields(made.nodes[cid])


type Where = Callable[[Draft], tuple[Cid, dict[str, Any]]]
type Change = Callable[[dict[str, Any]], object]


def full(fields: dict[str, Any]) -> list[bytes]:
    """The whole keys of a node."""
    found = [b""]
    for entry in fields["e"]:
        found.append(found[-1][: entry["p"]] + entry["k"])
    return found[1:]


def with_keys(fields: dict[str, Any], new: list[bytes]) -> None:
    """Gives the entries other keys, compressed as they should be."""
    for entry, before, key in zip(fields["e"], [b"", *new], new, strict=False):
        entry["p"] = common_prefix(before, key)
        entry["k"] = key[entry["p"] :]


def swap(fields: dict[str, Any]) -> None:
    """Exchanges the first two keys."""
    a, b, *rest = full(fields)
    with_keys(fields, [b, a, *rest])


def rekey(at: int, key: bytes) -> Change:
    """Another key at one place."""

    def change(fields: dict[str, Any]) -> None:
        new = full(fields)
        new[at] = key
        with_keys(fields, new)

    return change


def repeat(fields: dict[str, Any]) -> None:
    """The first key twice, compressed to nothing."""
    fields["e"].insert(1, fields["e"][0] | {"p": len(full(fields)[0]), "k": b""})


def entry(at: int, **new: object) -> Change:
    """Other fields of one entry."""
    return lambda fields: fields["e"][at].update(new)


def shift_prefix(by: int) -> Change:
    """Less or more shared than is: the key stays the same where it can."""

    def change(fields: dict[str, Any]) -> None:
        key = full(fields)[1]
        fields["e"][1]["p"] += by
        fields["e"][1]["k"] = key[fields["e"][1]["p"] :]

    return change


def first_prefix(fields: dict[str, Any]) -> None:
    """A prefix where there is nothing to share with."""
    fields["e"][0]["p"] = 1


def drop(name: str) -> Change:
    """Takes a field of the node away."""
    return lambda fields: fields.pop(name)


def drop_in_entry(name: str) -> Change:
    """Takes a field of the first entry away."""
    return lambda fields: fields["e"][0].pop(name)


def setting(**new: object) -> Change:
    """Other or more fields of the node."""
    return lambda fields: fields.update(new)


def misspelt(form: bytes) -> bytes:
    """A key of that form, "%d" in it, that may stand last at height 1."""
    return next(key for key in (form % i for i in itertools.count()) if depth(key) == 1)


HIGH = next(keys(2))
WRONG: dict[str, tuple[str, Where, Change]] = {
    "first entry shares": ("mst_node", root, first_prefix),
    "prefix not maximal": ("mst_node", root, shift_prefix(-1)),
    "nothing shared": ("mst_node", low, shift_prefix(-100)),
    "prefix beyond the key before": ("mst_node", root, entry(1, p=200)),
    "prefix negative": ("mst_node", root, entry(1, p=-1)),
    "prefix enormous": ("mst_node", root, entry(1, p=2**40)),
    "prefix no number": ("mst_node", root, entry(1, p=None)),
    "keys descend": ("mst_node", root, swap),
    "a key twice": ("mst_node", root, repeat),
    "an empty key": ("mst_node", root, entry(0, k=b"")),
    "an empty suffix": ("mst_node", root, entry(1, k=b"")),
    "a key of text": ("mst_node", root, entry(0, k="text")),
    "a key too high": ("mst_node", low, rekey(2, HIGH)),
    "a key too low": (
        "mst_node",
        root,
        rekey(2, TOP[2] + b"x" * next(i for i in range(1, 99) if depth(TOP[2] + b"x" * i) == 0)),
    ),
    "a key too long": ("mst_node", root, rekey(2, next(keys(1, TOP[2] + b"x" * 1024)))),
    **{
        f"a key {form!r}": ("mst_node", root, rekey(2, misspelt(form)))
        for form in (b"d%d", b"d/%d/", b"d/%d/x", b"d//%d", b"d%d/", b"d/\xc3\xa9%d", b"d/%d\0", b"d/a b%d", b"d@/%d")
    },
    "a key below its bounds": ("mst_node", low, rekey(0, LOW[0])),
    "a key that is its lower bound": ("mst_node", low, rekey(0, TOP[0])),
    "a key above its bounds": ("mst_node", low, rekey(2, next(key for key in keys(0) if key > TOP[1]))),
    "value null": ("mst_node", root, entry(0, v=None)),
    "value bytes": ("mst_node", root, entry(0, v=bytes(RECORDS[TOP[0]]))),
    "pointer raw": ("mst_node", root, entry(1, t=RAW_CID)),
    "pointer of another hash": ("mst_node", root, entry(1, t=SHA512_CID)),
    "pointer a number": ("mst_node", root, entry(1, t=1)),
    "left raw": ("mst_node", root, setting(l=RAW_CID)),
    "left a list": ("mst_node", root, setting(l=[])),
    "no e": ("mst_node", root, drop("e")),
    "no l": ("mst_node", root, drop("l")),
    "e no list": ("mst_node", root, setting(e={})),
    "an unknown field": ("mst_node", root, setting(x=1)),
    "an unknown field that comes first": ("mst_node", root, setting(a=1)),
    **{f"entry without {name}": ("mst_node", root, drop_in_entry(name)) for name in "pktv"},
    "an unknown field in an entry": ("mst_node", root, entry(0, x=1)),
    "an entry that is no map": ("mst_node", root, setting(e=[1])),
    "below height 0": ("mst_depth", low, entry(0, t=value("deeper"))),
    "left of height 0": ("mst_depth", low, setting(l=value("deeper"))),
    "empty inside the tree": ("mst_node", low, setting(e=[])),
    "keyless at height 0": ("mst_depth", low, setting(e=[], l=value("deeper"))),
    "keyless top": ("mst_node", root, setting(e=[])),
    "no node at all": ("mst_node", low, lambda fields: fields.clear()),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_nodes(name: str) -> None:
    """A node that breaks one rule of C9 costs its commit, although every CID and link is right."""
    label, where, change = WRONG[name]
    made = valid()
    assert verdict(made) == "ok"
    cid, fields = where(made)
    change(fields)
    made.replace_node(cid, encode(fields))
    assert verdict(made) == label


@pytest.mark.parametrize(
    ("label", "change"),
    [
        ("cbor_trailing", lambda block: block + b"\0"),
        ("cbor_truncated", lambda block: block[:-1]),
        ("cbor_truncated", lambda block: b""),
        ("cbor_not_shortest", lambda block: b"\xb8\x02" + block[1:]),
        ("cbor_not_shortest", lambda block: block.replace(b"\x61e\x83", b"\x61e\x98\x03")),
        ("cbor_indefinite", lambda block: b"\xbf" + block[1:] + b"\xff"),
        ("cbor_key_order", lambda block: b"\xa3" + block[1:] + b"\x61a\x01"),
        ("cbor_key_order", lambda block: b"\xa3" + block[1:] + b"\x61l\xf6"),
        ("cbor_tag", lambda block: block.replace(b"\x61v\xd8\x2a", b"\x61v\xd8\x2b", 1)),
        ("cbor_cid", lambda block: block.replace(b"\x61v\xd8\x2a\x58\x25\0", b"\x61v\xd8\x2a\x58\x25\x05", 1)),
        ("mst_node", lambda block: b"\x80"),
    ],
)
def test_wrong_encodings(label: str, change: Callable[[bytes], bytes]) -> None:
    """Where a node's encoding is at fault, the reason says what of it (C12)."""
    made = valid()
    cid, _ = root(made)
    made.replace_node(cid, change(made.nodes[cid]))
    assert verdict(made) == label


def test_no_bit_of_a_node_can_be_turned() -> None:
    """Whatever bit is turned in the nodes that are read, the commit does not lead back to its prevData."""
    good = valid()
    for cid in (root(good)[0], low(good)[0]):
        block = good.nodes[cid]
        for bit in range(len(block) * 8):
            made = good.copy()
            made.replace_node(cid, block[: bit // 8] + bytes((block[bit // 8] ^ 1 << bit % 8,)) + block[bit // 8 + 1 :])
            assert verdict(made) != "ok"


def test_a_skipped_level() -> None:
    """A child stands exactly one level below its node: what is deeper hangs from a node with nothing but a pointer."""
    high = next(keys(2))
    records = {high: value("high"), LOW[0]: value("low")}
    op: RawOp = ("update", LOW[0], value("changed"), records[LOW[0]])
    made = draft(records, [op], KEY)
    assert verdict(made) == "ok"
    cid, fields = root(made)
    at = "l" if LOW[0] < high else "t"
    holder = fields if at == "l" else fields["e"][0]
    between = link_fields(made.nodes[holder[at]])
    assert between["e"] == []
    holder[at] = between["l"]
    made.replace_node(cid, encode(fields))
    assert verdict(made) == "mst_node"


@pytest.mark.parametrize("cid", [RAW_CID, SHA512_CID, Cid(b"\x01\x55\x00\x00")])
def test_values_of_any_cid(cid: Cid) -> None:
    """Links to records are kept byte by byte, whatever form of CID other software has put there (C9)."""
    records = RECORDS | dict.fromkeys([*TOP, *LOW], cid) | {BELOW: RECORDS[BELOW]}
    made = draft(records, [UPDATE], KEY)
    assert verdict(made) == "ok"


def test_bounds_hold_however_late_a_node_is_read() -> None:
    """A subtree is held to the keys that stood beside it in the commit, although undoing has taken them away before."""
    first, second, after = TOP[0], TOP[1], next(key for key in keys(0) if key > TOP[1])
    stray = next(key for key in keys(0) if first < key < second)
    ops: list[RawOp] = [("create", first, value("one"), None), ("create", second, value("two"), None)]
    blocks: dict[Cid, bytes] = {}
    left = encode_tree(Node(0, (Leaf(stray, value("stray")),)), blocks)
    right = encode_tree(Node(0, (Leaf(after, value("after")),)), blocks)
    tree = Node(1, (Stub(left), Leaf(first, value("one")), Leaf(second, value("two")), Stub(right)))
    data = encode_tree(tree, blocks)
    made = draft({stray: value("stray"), after: value("after")}, ops, KEY)
    assert verdict(made) == "ok"
    made.nodes = blocks
    made.commit["data"] = data
    assert verdict(made) == "mst_node"


# --- limits ----------------------------------------------------------------------------------------------------------


def wide(count: int) -> tuple[dict[Cid, bytes], Cid, list[RawOp]]:
    """A tree of one node with so many keys, and an op on it."""
    records = {key: value("x") for key in itertools.islice(keys(0), count)}
    blocks: dict[Cid, bytes] = {}
    data = encode_tree(build(records), blocks)
    return blocks, data, [("create", min(records), value("x"), None)]


def invert(blocks: Mapping[Cid, bytes], data: Cid, ops: list[RawOp]) -> str:
    """What the core says of ops on a tree."""
    return mst.invert(write_car([data], blocks.items()), bytes(data), ops)[0]


def test_entries_of_a_node() -> None:
    """A node may have MAX_ENTRIES entries, and no more: neither as it comes nor after an insert (C9)."""
    assert invert(*wide(node.MAX_ENTRIES)) == "ok"
    assert invert(*wide(node.MAX_ENTRIES + 1)) == "work_limit"
    blocks, data, ops = wide(node.MAX_ENTRIES)
    back: RawOp = ("delete", next(keys(0, PREFIX + b"z")), None, value("x"))
    assert invert(blocks, data, [back]) == "work_limit"
    assert invert(blocks, data, [*ops, back]) == "work_limit"


def test_keys_of_the_longest_kind() -> None:
    """A key may have MAX_KEY bytes, and no more."""
    for size, label in ((node.MAX_KEY, "ok"), (node.MAX_KEY + 1, "mst_node")):
        long = b"x/" + b"x" * (size - 2)
        blocks: dict[Cid, bytes] = {}
        data = encode_tree(build({long: value("x")}), blocks)
        assert invert(blocks, data, [("create", long, value("x"), None)]) == label
