"""Frames built to cost a verdict as much as they can: what a hostile PDS may send. All are signed as they should be.

Pure functions of nothing, slow to make. Each gives a #commit of at most two million bytes of blocks.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tests._fast import frames
from tests._fast.commits import Draft, RawOp, Records, draft, stored, value
from tests._fast.frames import Raw
from tests.reference.drisl_ref import Cid, encode, head
from tests.reference.mst_ref import build, common_prefix, depth, encode_tree
from zlay.sim.keys import SigningKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

KEY = SigningKey("k256", b"slow")
PREFIX = b"com.example.record/"
BLOCKS = 1_990_000  # bytes of blocks, with room for the commit
TINY = Cid(b"\x01\x55\x00\x00")  # the shortest link there is: tolerated in trees (C9)
OLD, NEW = value("old"), value("new")


def keys(height: int, prefix: bytes = PREFIX) -> Iterator[bytes]:
    """Endless keys of one height, in ascending order."""
    return (key for key in (prefix + b"%07d" % i for i in itertools.count()) if depth(key) == height)


def of_height(most: int, count: int, *, least: int = 0) -> list[bytes]:
    """Of the first `count` keys those of a height between two."""
    return [key for key in (PREFIX + b"%07d" % i for i in range(count)) if least <= depth(key) <= most]


# --- ordinary ---


def honest() -> Draft:
    """What others make of that size: two large records in an ordinary tree."""
    records = {PREFIX + b"%07d" % i: OLD for i in range(40)}
    large = [stored(encode({"$type": "com.example.record", "text": f"{i}" * 950_000})) for i in range(2)]
    return draft(records, [("create", PREFIX + b"large%d" % i, cid, None) for i, cid in enumerate(large)], KEY)


# --- wide trees: a root over children as large as may be, each of which changes ---


def _pack(cid: bytes | None) -> bytes:
    return b"\xf6" if cid is None else b"\xd8\x2a" + head(2, len(cid) + 1) + b"\0" + cid


def _node(entries: Iterable[tuple[bytes, bytes, Cid | None]], left: Cid | None = None) -> tuple[Cid, bytes]:
    """(CID, block) of a node of (key, value, what lies after it); the reference would take minutes for all of them."""
    parts = []
    before = b""
    for key, link, right in entries:
        shared = common_prefix(before, key)
        own = key[shared:]
        parts.append(
            b"\xa4\x61k"
            + head(2, len(own))
            + own
            + b"\x61p"
            + head(0, shared)
            + b"\x61t"
            + _pack(right)
            + b"\x61v"
            + link
        )
        before = key
    block = b"\xa2\x61e" + head(4, len(parts)) + b"".join(parts) + b"\x61l" + _pack(left)
    return Cid.of(block), block


def wide(prefix: bytes, children: int, each: int) -> Draft:
    """A commit that updates one key in each of so many children of so many keys."""
    numbers = (prefix + b"%07d" % i for i in itertools.count())
    groups: list[list[bytes]] = []
    tops: list[bytes] = []
    while len(groups) < children:
        group: list[bytes] = []
        while len(group) < each:
            if depth(key := next(numbers)) == 0:
                group.append(key)
        groups.append(group)
        tops.append(next(key for key in numbers if depth(key) == 1))
    ops: list[RawOp] = [("update", group[each // 2], NEW, OLD) for group in groups]
    made = draft({op[1]: OLD for op in ops}, ops, KEY)
    roots = []
    for cid in (NEW, OLD):
        changed = dict.fromkeys((op[1] for op in ops), _pack(cid))
        below = [_node((key, changed.get(key, _pack(TINY)), None) for key in group) for group in groups]
        root = _node(((key, _pack(TINY), child) for key, (child, _) in zip(tops, below[1:], strict=False)), below[0][0])
        roots.append(root[0])
        if cid == NEW:
            made.nodes = dict([root, *below])
    made.commit["data"], made.message["prevData"] = roots
    return made


def short_keys() -> Draft:
    """As many entries as one frame may have read, one hash each, and nearly as many bytes again to be written."""
    return wide(b"a.b.c/", 57, 1020)


def two_hashes_each() -> Draft:
    """Keys just too long for one block of SHA-256, which share nearly all they have."""
    return wide(b"a.b.c/" + b"x" * 44, 29, 1000)


def too_many_keys() -> Draft:
    """Two million bytes of the smallest entries."""
    return wide(b"a.b.c/", 90, 1000)


def unfolding() -> Draft:
    """Keys of half a kilobyte that share nearly all of it: two million bytes that stand for fifteen."""
    return wide(PREFIX + b"x" * 480, 28, 1000)


# --- moving what is in nodes ---


def _created(records: Records, made_now: list[bytes]) -> Draft:
    """The commit that has created these keys, with all its nodes."""
    before = {key: cid for key, cid in records.items() if key not in made_now}
    made = draft(before, [("create", key, records[key], None) for key in made_now], KEY)
    encode_tree(build(records), made.nodes)
    return made


def merging() -> Draft:
    """Two hundred creates of the highest keys, so that undoing joins everything below them, level by level."""
    high = of_height(3, 17_500, least=3)[:200]
    return _created(dict.fromkeys(of_height(3, 12_000), OLD) | dict.fromkeys(high, OLD), high)


def joining() -> Draft:
    """Two hundred joins that make one node ever wider, in which everything is moved each time."""
    low = iter(of_height(0, 2_000))
    high = of_height(1, 4_000, least=1)
    records = dict.fromkeys([*high[:201], *itertools.islice((key for key in low), 1000)], OLD)
    return _created(records, high[:200])


def splitting() -> Draft:
    """Two hundred deletes of the highest keys, so that undoing splits everything below them."""
    high = of_height(3, 17_500, least=3)[:200]
    kept = dict.fromkeys((key for key in of_height(3, 12_000) if key not in high), OLD)
    made = draft(kept | dict.fromkeys(high, OLD), [("delete", key, None, OLD) for key in high], KEY)
    encode_tree(build(kept), made.nodes)
    return made


def moving() -> Draft:
    """Two hundred deletes whose undoing splits the same three wide nodes, moving nearly all they hold each time."""
    gone = list(itertools.islice(keys(3, PREFIX + b"a"), 200))
    kept = [next(key for key in (high + b"x%d" % i for i in itertools.count()) if depth(key) == 0) for high in gone]
    kept += itertools.islice(keys(0, PREFIX + b"a:"), 800)
    kept += itertools.islice(keys(1, PREFIX + b"aa"), 1000)
    kept += itertools.islice(keys(2, PREFIX + b"b"), 1000)
    records = dict.fromkeys([*gone, *kept], OLD)
    return draft(records, [("delete", key, None, records[key]) for key in gone], KEY)


def deep() -> Draft:
    """Two hundred ops under a key as high as a minute's search finds, each of which goes all the way down."""
    highest = PREFIX + b"0027651749"
    assert depth(highest) == 12
    low = [highest + b"%04d" % i for i in range(300)]
    gone = [key for key in low if depth(key) == 0][:200]
    return draft({highest: OLD} | dict.fromkeys(gone, OLD), [("delete", key, None, OLD) for key in gone], KEY)


# --- blocks and items ---


def _one_create() -> Draft:
    return draft({PREFIX + b"a": OLD}, [("create", PREFIX + b"b", NEW, None)], KEY)


def tiny_blocks() -> Draft:
    """As many blocks as a CAR may have, each a byte too long for one block of SHA-256."""
    made = _one_create()
    made.extra = [(Cid.of(block), block) for block in (b"%056d" % i for i in range(19_990))]
    return made


def equal_blocks() -> Draft:
    """One block, as often as a CAR may have it."""
    made = _one_create()
    made.extra = [(Cid.of(b"\xa0"), b"\xa0")] * 19_990
    return made


def large_commit() -> Draft:
    """A commit block of two million bytes of the smallest items, which is hashed twice."""
    made = _one_create()
    fields = made.commit | {"zzzzzzzzzz": Raw(head(4, 15) + (head(4, 130_000) + b"\x80" * 130_000) * 15)}
    made.commit_block = frames.pack(fields | {"sig": KEY.sign(frames.pack(fields))})
    return made


def deep_records() -> Draft:
    """Records of nothing but nesting."""
    body = (b"\x81" * 61 + b"\x80") * 15_000
    ops: list[RawOp] = []
    for i in range(2):
        block = frames.pack({"i": i, "x": Raw(head(4, 15_000) + body)})
        ops.append(("create", PREFIX + b"%d" % i, stored(block), None))
    return draft({}, ops, KEY, first=True)


def _mixed(h: int, part: bytes) -> int:
    """One step of the hash that ops.pyx has for the paths of a commit. It has no key, since its table is bounded."""
    h = ((h ^ int.from_bytes(part, "little")) * 0x9E3779B97F4A7C15) & (1 << 64) - 1
    return h ^ h >> 32


def colliding_paths() -> Draft:
    """Two hundred paths that share all but their end and fall on one slot of the table that looks for duplicates."""
    base = b"app.bsky.feed.post/" + b"x" * 501
    assert len(base) % 8 == 0
    start = len(base) + 8
    for at in range(0, len(base), 8):
        start = _mixed(start, base[at : at + 8])
    ends = (end for end in (b"%08d" % i for i in itertools.count()) if _mixed(_mixed(start, end), b"") % 512 == 7)
    paths = [base + end for end in itertools.islice(ends, 200)]
    return draft({}, [("create", path, NEW, None) for path in paths], KEY, first=True)


MOST: dict[str, tuple[Callable[[], Draft], str]] = {  # and the verdict on each
    "short keys": (short_keys, "ok"),
    "two hashes each": (two_hashes_each, "ok"),
    "too many keys": (too_many_keys, "work_limit"),
    "unfolding": (unfolding, "work_limit"),
    "merging": (merging, "ok"),
    "joining": (joining, "ok"),
    "splitting": (splitting, "ok"),
    "moving": (moving, "work_limit"),
    "deep": (deep, "ok"),
    "tiny blocks": (tiny_blocks, "ok"),
    "equal blocks": (equal_blocks, "ok"),
    "large commit": (large_commit, "ok"),
    "deep records": (deep_records, "ok"),
    "colliding paths": (colliding_paths, "ok"),
}
