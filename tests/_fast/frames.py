"""Frames for the tests of the compiled core: valid ones with one thing changed. Pure functions, any thread.

Built with an encoder of its own that does as it is told: it keeps the order of keys, repeats them, and takes raw bytes.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

from tests.reference.drisl_ref import Cid, head

DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
REV = "3jzfcijpj2z2a"
SINCE = "3jzfcijpj2z22"
TIME = "2026-07-04T14:38:07.517Z"


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes that stand for an encoded item as they are."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pairs:
    """A map whose keys come in this order, whatever it is."""

    pairs: tuple[tuple[Any, Any], ...]


class Absent:
    """Stands for a field that is left out."""


ABSENT = Absent()


def pack(value: Any) -> bytes:
    """The encoding of a value; dict keys in DRISL order, those of Pairs as given."""
    match value:
        case Raw():
            return value.data
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case float():
            return b"\xfb" + struct.pack(">d", value)
        case str():
            raw = value.encode("utf-8", "surrogatepass")
            return head(3, len(raw)) + raw
        case Cid():
            return b"\xd8\x2a" + head(2, len(value) + 1) + b"\x00" + value
        case bytes():
            return head(2, len(value)) + value
        case list():
            return head(4, len(value)) + b"".join(map(pack, value))
        case Pairs():
            return head(5, len(value.pairs)) + b"".join(pack(key) + pack(item) for key, item in value.pairs)
        case dict():
            kept = [(key, item) for key, item in value.items() if item is not ABSENT]
            return pack(Pairs(tuple(sorted(kept, key=lambda pair: (len(pair[0].encode()), pair[0].encode())))))
        case _:
            raise TypeError(type(value))


def cid(text: str = "x", codec: int = 0x71) -> Cid:
    """A blessed CID, another for each text."""
    return Cid(bytes((1, codec, 0x12, 0x20)) + hashlib.sha256(text.encode()).digest())


def frame(payload: Any, t: Any = "#commit", op: Any = 1) -> bytes:
    """Header and payload."""
    return pack({"t": t, "op": op}) + pack(payload)


def create(path: str = "app.bsky.feed.post/3jqfcqzm3fo2j", **changes: Any) -> dict[str, Any]:
    """An op that creates a record."""
    return {"action": "create", "path": path, "cid": cid(path)} | changes


def commit(**changes: Any) -> dict[str, Any]:
    """The payload of a #commit, valid but for its blocks; ABSENT leaves a field out."""
    return {
        "seq": 1234,
        "rebase": False,
        "tooBig": False,
        "repo": DID,
        "commit": cid("commit"),
        "rev": REV,
        "since": SINCE,
        "blocks": b"",
        "ops": [create()],
        "blobs": [],
        "prevData": cid("prevData"),
        "time": TIME,
    } | changes


def sync(**changes: Any) -> dict[str, Any]:
    """The payload of a #sync, valid but for its blocks."""
    return {"seq": 1234, "did": DID, "blocks": b"", "rev": REV, "time": TIME} | changes


def identity(**changes: Any) -> dict[str, Any]:
    """The payload of an #identity."""
    return {"seq": 1234, "did": DID, "time": TIME, "handle": "alice.test"} | changes


def account(**changes: Any) -> dict[str, Any]:
    """The payload of an #account."""
    return {"seq": 1234, "did": DID, "time": TIME, "active": True} | changes
