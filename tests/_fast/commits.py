"""Commits made by the slow references, so that one thing at a time can be made wrong in them and signed again.

A `Draft` is a whole `#commit` or `#sync` before it is encoded: change its parts, then ask for `frame()`. Shares nothing
with `zlay/_fast`; keys are the simulation's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.reference.car_ref import write_car
from tests.reference.drisl_ref import Cid, decode, encode
from tests.reference.mst_ref import Leaf, Node, Stub, build, encode_tree
from zlay._fast import crypto

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from zlay.sim.keys import SigningKey

DID = "did:plc:yk4q3id7id6p5z3bypvshc64"
TIME = "2026-07-04T12:00:00.000Z"
REV = "3mpxu7ppxub2x"
SINCE = "3mpxu7ppxtc2x"
KEY_TYPES = {"k256": crypto.K256, "p256": crypto.P256}

type Records = dict[bytes, Cid]
type RawOp = tuple[str, bytes, Cid | None, Cid | None]


def record(text: str) -> bytes:
    """A small record's block."""
    return encode({"$type": "com.example.record", "text": text})


_bodies: dict[Cid, bytes] = {}


def stored(block: bytes) -> Cid:
    """The CID of a block, which drafts will then know."""
    cid = Cid.of(block)
    _bodies[cid] = block
    return cid


def value(text: str) -> Cid:
    """The CID of `record(text)`, which drafts will then know."""
    return stored(record(text))


def apply(records: Mapping[bytes, Cid], ops: Iterable[RawOp]) -> Records:
    """The records after the ops."""
    after = dict(records)
    for action, path, cid, _ in ops:
        if action == "delete":
            del after[path]
        else:
            assert cid is not None
            after[path] = cid
    return after


def proof(tree: Node, keys: Iterable[bytes]) -> dict[Cid, bytes]:
    """The nodes that a producer must include (D11): on the search paths of the keys, of those before and after them."""
    cids: dict[int, tuple[Cid, bytes]] = {}
    _encode_all(tree, cids)
    leaves = sorted(_leaves(tree))
    wanted: set[bytes] = set()
    for key in keys:
        wanted |= {key, *[leaf for leaf in leaves if leaf < key][-1:], *[leaf for leaf in leaves if leaf > key][:1]}
    found: dict[Cid, bytes] = {}
    for key in wanted or {b""}:
        node: Node | Stub | None = tree
        while isinstance(node, Node):
            cid, block = cids[id(node)]
            found[cid] = block
            node = _towards(node, key)
    return found


def _towards(node: Node, key: bytes) -> Node | Stub | None:
    below: Node | Stub | None = None
    for item in node.items:
        if isinstance(item, Leaf):
            if item.key == key:
                return None
            if item.key > key:
                break
            below = None
        else:
            below = item
    return below


def _leaves(tree: Node | Stub) -> Iterable[bytes]:
    if isinstance(tree, Node):
        for item in tree.items:
            if isinstance(item, Leaf):
                yield item.key
            else:
                yield from _leaves(item)


def _encode_all(tree: Node | Stub, cids: dict[int, tuple[Cid, bytes]]) -> Cid:
    # encode_tree of the reference hashes a whole subtree for every call; here each node is encoded once
    if isinstance(tree, Stub):
        return tree.cid
    flat = Node(
        tree.height, tuple(item if isinstance(item, Leaf) else Stub(_encode_all(item, cids)) for item in tree.items)
    )
    blocks: dict[Cid, bytes] = {}
    cid = encode_tree(flat, blocks)
    cids[id(tree)] = (cid, blocks[cid])
    return cid


@dataclass
class Draft:
    """A commit before it is signed and encoded. `sign` makes another signature than the key's; None = the key's."""

    kind: str
    message: dict[str, Any]
    commit: dict[str, Any]
    nodes: dict[Cid, bytes]
    records: dict[Cid, bytes]
    key: SigningKey
    sign: Callable[[bytes], bytes] | None = None
    roots: list[Cid] | None = None
    extra: list[tuple[Cid, bytes]] = field(default_factory=list)
    commit_block: bytes | None = None
    without_commit: bool = False
    after: tuple[int, Records] | None = None  # rev and records once it is taken; actor.py's

    def copy(self) -> Draft:
        """One to change freely."""
        draft = copy.copy(self)
        for name in ("message", "commit", "nodes", "records", "extra"):
            setattr(draft, name, copy.copy(getattr(self, name)))
        draft.message["ops"] = [dict(op) for op in self.message.get("ops", [])]
        return draft

    def block(self) -> bytes:
        """The signed commit block."""
        if self.commit_block is not None:
            return self.commit_block
        commit = dict(self.commit)
        if "sig" not in commit:
            sign = self.sign or self.key.sign
            commit["sig"] = sign(encode(commit))
        return encode(commit)

    def car(self) -> bytes:
        """The CAR: commit, nodes, records, then what is extra."""
        block = self.block()
        cid = Cid.of(block)
        blocks = [] if self.without_commit else [(cid, block)]
        blocks += [*self.nodes.items(), *self.records.items(), *self.extra]
        return write_car([cid] if self.roots is None else self.roots, blocks)

    def frame(self) -> bytes:
        """The whole frame. The message's `commit` is the commit block's CID unless it has been set."""
        message = dict(self.message)
        if self.kind == "#commit":
            message.setdefault("commit", Cid.of(self.block()))
        else:
            message.pop("ops", None)
        message.setdefault("blocks", self.car())
        return encode({"op": 1, "t": self.kind}) + encode(message)

    def replace_node(self, old: Cid, new_block: bytes) -> None:
        """Puts another block in the place of a node, in every node above it and in the commit."""
        new = Cid.of(new_block)
        nodes = dict(self.nodes)
        del nodes[old]
        nodes[new] = new_block
        self.nodes = nodes
        if self.commit["data"] == old:
            self.commit["data"] = new
        while above := next((cid for cid, block in self.nodes.items() if old in block), None):
            self.replace_node(above, self.nodes[above].replace(old, new))


def link_fields(block: bytes) -> dict[str, Any]:
    """A node's block as values, to be changed and encoded again."""
    node = decode(block)
    assert isinstance(node, dict)
    return node


def draft(
    records: Mapping[bytes, Cid],
    ops: Sequence[RawOp],
    key: SigningKey,
    *,
    first: bool = False,
) -> Draft:
    """A valid #commit that takes an account from `records` through `ops`, with no more nodes than it needs (D11)."""
    after = apply(records, ops)
    tree = build(after)
    before = encode_tree(build(records))
    message: dict[str, Any] = {
        "seq": 1,
        "rebase": False,
        "tooBig": False,
        "repo": DID,
        "rev": REV,
        "since": None if first else SINCE,
        "ops": [
            {"action": action, "path": path.decode(), "cid": cid} | ({} if prev is None else {"prev": prev})
            for action, path, cid, prev in ops
        ],
        "blobs": [],
        "time": TIME,
    }
    if not first:
        message["prevData"] = before
    blocks = {cid: _bodies[cid] for _, _, cid, _ in ops if cid is not None}
    nodes = proof(tree, [path for _, path, _, _ in ops])
    commit = {"did": DID, "version": 3, "data": encode_tree(tree), "rev": REV, "prev": None}
    return Draft("#commit", message, commit, nodes, blocks, key)


def sync(key: SigningKey, data: Cid) -> Draft:
    """A valid #sync at a tree of that root."""
    message = {"seq": 1, "did": DID, "rev": REV, "time": TIME}
    commit = {"did": DID, "version": 3, "data": data, "rev": REV, "prev": None}
    return Draft("#sync", message, commit, {}, {}, key)
