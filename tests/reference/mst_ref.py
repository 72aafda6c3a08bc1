"""Reference Merkle search tree with inversion, protocol.md C7 to C9 and D2 to D9. Pure functions on values, any thread.

A node is a height and a list of items in key order; an item is a `Leaf` or a subtree (`Node`, or `Stub` where only the
CID is known). Nothing is changed in place: every operation returns new nodes.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.reference.drisl_ref import Cid, DrislError, decode, encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EMPTY_ROOT = Cid.parse("bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm")  # C7
MAX_HEIGHT = 128  # C9: 256 bits / 2
KEY_MAX = 1024  # C1
_KEY = re.compile(
    rb"[A-Za-z0-9._:~-]+/[A-Za-z0-9._:~-]+"
)  # C1; looser than NSID "/" record key, as the packages in use are


class MstError(ValueError):
    """Not a valid tree, or not a valid operation on it; the text is the reason."""


class MissingBlockError(MstError):
    """The operation needs a node of which only the CID is known (D8)."""


@dataclass(frozen=True, slots=True)
class Leaf:
    key: bytes
    value: Cid


@dataclass(frozen=True, slots=True)
class Stub:
    cid: Cid


@dataclass(frozen=True, slots=True)
class Node:
    height: int
    items: tuple[Leaf | Node | Stub, ...]


type Tree = Node | Stub

EMPTY = Node(0, ())


def depth(key: bytes) -> int:
    """C8: leading zero bits of sha256(key), in pairs."""
    number = int.from_bytes(hashlib.sha256(key).digest(), "big")
    return (256 - number.bit_length()) // 2


def common_prefix(left: bytes, right: bytes) -> int:
    """How many first bytes two keys share."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def build(records: Mapping[bytes, Cid]) -> Node:
    """The one tree that holds exactly these keys and values."""
    if not records:
        return EMPTY
    return _build(sorted(records), records, max(depth(key) for key in records))


def _build(keys: Sequence[bytes], records: Mapping[bytes, Cid], height: int) -> Node:
    items: list[Leaf | Node | Stub] = []
    below: list[bytes] = []
    for key in [*keys, None]:
        if key is not None and depth(key) != height:
            below.append(key)
            continue
        if below:
            items.append(_build(below, records, height - 1))
            below = []
        if key is not None:
            items.append(Leaf(key, records[key]))
    return Node(height, tuple(items))


def encode_tree(tree: Tree, blocks: dict[Cid, bytes] | None = None) -> Cid:
    """The CID of a tree; its known nodes' blocks are put into `blocks`."""
    if isinstance(tree, Stub):
        return tree.cid
    left: Cid | None = None
    entries: list[dict[str, Any]] = []
    previous = b""
    for item in tree.items:
        if isinstance(item, Leaf):
            shared = common_prefix(previous, item.key)
            entries.append({"p": shared, "k": item.key[shared:], "v": item.value, "t": None})
            previous = item.key
        elif entries:
            entries[-1]["t"] = encode_tree(item, blocks)
        else:
            left = encode_tree(item, blocks)
    block = encode({"l": left, "e": entries})  # type: ignore[dict-item]
    cid = Cid.of(block)
    if blocks is not None:
        blocks[cid] = block
    return cid


def load(root: Cid, blocks: Mapping[Cid, bytes]) -> Node:
    """The partial tree below `root` of which `blocks` holds nodes; checks all of C9. The root's block must be there."""
    if root not in blocks:
        raise MissingBlockError("the root node's block is missing")
    left, entries = _read_node(blocks[root])
    if not entries:
        if left is not None:
            raise MstError("the top node holds no key")
        return EMPTY
    return _load(root, blocks, depth(entries[0][0]), None, None)


def _load(cid: Cid, blocks: Mapping[Cid, bytes], height: int, low: bytes | None, high: bytes | None) -> Node:
    left, entries = _read_node(blocks[cid])
    if not entries and left is None:
        raise MstError("an empty node inside the tree")
    keys = [entry[0] for entry in entries]
    bounds = [low, *keys, high]
    for before, after in itertools.pairwise(bounds):
        if before is not None and after is not None and before >= after:
            raise MstError("keys not ascending")
    if any(depth(key) != height for key in keys):
        raise MstError("a key at the wrong height")
    items: list[Leaf | Node | Stub] = []
    pointers = [left, *(entry[2] for entry in entries)]
    for index, pointer in enumerate(pointers):
        if index:
            items.append(Leaf(keys[index - 1], entries[index - 1][1]))
        if pointer is None:
            continue
        if height == 0:
            raise MstError("a subtree below height 0")
        if pointer in blocks:
            items.append(_load(pointer, blocks, height - 1, bounds[index], bounds[index + 1]))
        else:
            items.append(Stub(pointer))
    return Node(height, tuple(items))


def _read_node(block: bytes) -> tuple[Cid | None, list[tuple[bytes, Cid, Cid | None]]]:
    try:
        node = decode(block)
    except DrislError as exc:
        raise MstError(f"node: {exc}") from exc
    if not isinstance(node, dict) or node.keys() != {"l", "e"} or not isinstance(node["e"], list):
        raise MstError("node fields")
    entries = []
    previous = b""
    for raw in node["e"]:
        if not isinstance(raw, dict) or raw.keys() != {"p", "k", "v", "t"}:
            raise MstError("entry fields")
        shared, suffix, value = raw["p"], raw["k"], raw["v"]
        if type(shared) is not int or type(suffix) is not bytes or not isinstance(value, Cid):
            raise MstError("entry types")
        if not 0 <= shared <= len(previous):
            raise MstError("prefix length")
        key = previous[:shared] + suffix
        if shared != common_prefix(previous, key):
            raise MstError("prefix not maximal")
        if len(key) > KEY_MAX or not _KEY.fullmatch(key):
            raise MstError("a key that is no path")
        entries.append((key, value, _pointer(raw["t"])))
        previous = key
    return _pointer(node["l"]), entries


def _pointer(value: object) -> Cid | None:
    if value is None:
        return None
    if not isinstance(value, Cid) or not value.blessed or value[1] != 0x71:
        raise MstError("a pointer that is no blessed CID")
    return value


def get(tree: Tree, key: bytes) -> Cid | None:
    """The value of a key, None where it is absent."""
    if isinstance(tree, Stub):
        raise MissingBlockError("lookup")
    at = _position(tree, key)
    if at < len(tree.items):
        item = tree.items[at]
        if isinstance(item, Leaf) and item.key == key:
            return item.value
    if at and not isinstance(below := tree.items[at - 1], Leaf):
        return get(below, key)
    return None


def insert(tree: Tree, key: bytes, value: Cid) -> Node:
    """The tree with a new key (D6); MstError when it is there already."""
    height = depth(key)
    if isinstance(tree, Stub):
        raise MissingBlockError("insert")
    if not tree.items:
        return Node(height, (Leaf(key, value),))
    while tree.height < height:
        tree = Node(tree.height + 1, (tree,))
    return _insert(tree, Leaf(key, value), height)


def _insert(tree: Tree, leaf: Leaf, height: int) -> Node:
    if isinstance(tree, Stub):
        raise MissingBlockError("insert")
    at = _position(tree, leaf.key)
    before, after = tree.items[:at], tree.items[at:]
    if after and isinstance(first := after[0], Leaf) and first.key == leaf.key:
        raise MstError("the key is there already")
    covering = before[-1] if before and not isinstance(before[-1], Leaf) else None
    if tree.height == height:
        if covering is None:
            return Node(height, (*before, leaf, *after))
        left, right = _split(covering, leaf.key)
        return Node(height, (*before[:-1], *left, leaf, *right, *after))
    if covering is not None:
        return Node(tree.height, (*before[:-1], _insert(covering, leaf, height), *after))
    chain = Node(height, (leaf,))
    while chain.height < tree.height - 1:
        chain = Node(chain.height + 1, (chain,))
    return Node(tree.height, (*before, chain, *after))


def _split(tree: Tree, key: bytes) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    # each half is a tuple of no node or one
    if isinstance(tree, Stub):
        raise MissingBlockError("split")
    at = _position(tree, key)
    before, after = tree.items[:at], tree.items[at:]
    if after and isinstance(first := after[0], Leaf) and first.key == key:
        raise MstError("the key is there already")
    if before and not isinstance(covering := before[-1], Leaf):
        left, right = _split(covering, key)
        before, after = (*before[:-1], *left), (*right, *after)
    return (
        (Node(tree.height, before),) if before else (),
        (Node(tree.height, after),) if after else (),
    )


def remove(tree: Tree, key: bytes) -> tuple[Node, Cid]:
    """(the tree without a key, the value it had) (D7); the top is not trimmed. MstError when the key is absent."""
    if isinstance(tree, Stub):
        raise MissingBlockError("remove")
    at = _position(tree, key)
    before, after = tree.items[:at], tree.items[at:]
    if after and isinstance(found := after[0], Leaf) and found.key == key:
        after = after[1:]
        if before and after and not isinstance(left := before[-1], Leaf) and not isinstance(right := after[0], Leaf):
            return Node(tree.height, (*before[:-1], _merge(left, right), *after[1:])), found.value
        return Node(tree.height, (*before, *after)), found.value
    if not before or isinstance(below := before[-1], Leaf):
        raise MstError("no such key")
    smaller, value = remove(below, key)
    return Node(tree.height, (*before[:-1], *((smaller,) if smaller.items else ()), *after)), value


def _merge(left: Tree, right: Tree) -> Node:
    if isinstance(left, Stub) or isinstance(right, Stub):
        raise MissingBlockError("merge")
    last, first = left.items[-1], right.items[0]
    if isinstance(last, Leaf) or isinstance(first, Leaf):
        return Node(left.height, (*left.items, *right.items))
    return Node(left.height, (*left.items[:-1], _merge(last, first), *right.items[1:]))


def trim(tree: Tree) -> Tree:
    """Drop top nodes that hold nothing but a pointer (D7, after all operations)."""
    while isinstance(tree, Node) and len(tree.items) == 1 and not isinstance(only := tree.items[0], Leaf):
        tree = only
    return tree if isinstance(tree, Stub) or tree.items else EMPTY


@dataclass(frozen=True, slots=True)
class Op:
    """A repo op as the message has it: `cid` None for a delete, `prev` None for a create."""

    action: str
    key: bytes
    cid: Cid | None
    prev: Cid | None


def invert(root: Cid, blocks: Mapping[Cid, bytes], ops: Sequence[Op]) -> Cid:
    """The root CID before a commit's ops, from its partial tree (D2 to D9). MstError where anything does not fit."""
    if len({op.key for op in ops}) != len(ops):
        raise MstError("a path twice")
    if not ops and root not in blocks:
        return root
    tree: Tree = load(root, blocks)
    for op in ops:
        if get(tree, op.key) != op.cid:
            raise MstError("an op is not in the tree")
    for op in sorted(ops, key=lambda op: (op.action != "delete", op.key)):
        tree = _invert_one(tree, op)
    return encode_tree(trim(tree))


def _invert_one(tree: Tree, op: Op) -> Tree:
    match op.action:
        case "create" if op.cid is not None and op.prev is None:
            return remove(tree, op.key)[0]
        case "update" if op.cid is not None and op.prev is not None:
            return _replace(tree, op.key, op.prev)
        case "delete" if op.cid is None and op.prev is not None:
            return insert(tree, op.key, op.prev)
    raise MstError("op shape")


def _replace(tree: Tree, key: bytes, value: Cid) -> Node:
    if isinstance(tree, Stub):
        raise MissingBlockError("update")
    at = _position(tree, key)
    if at < len(tree.items) and isinstance(found := tree.items[at], Leaf) and found.key == key:
        return Node(tree.height, (*tree.items[:at], Leaf(key, value), *tree.items[at + 1 :]))
    if not at or isinstance(below := tree.items[at - 1], Leaf):
        raise MstError("no such key")
    return Node(tree.height, (*tree.items[: at - 1], _replace(below, key, value), *tree.items[at:]))


def _position(node: Node, key: bytes) -> int:
    # index of the first leaf whose key is not below `key`, or of the subtree's successor where none is
    for index, item in enumerate(node.items):
        if isinstance(item, Leaf) and item.key >= key:
            return index
    return len(node.items)
