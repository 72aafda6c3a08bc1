"""Frames with all that a peer may think of in fields nobody knows: near every limit, on both sides of it.

Deterministic for a `random.Random`; nothing is kept. One thread per generator.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from tests._fast.frames import Raw, account, cid, commit, create, identity, pack, sync
from tests.reference.drisl_ref import head

if TYPE_CHECKING:
    import random

NAMES = ("x", "$link", "$bytes", "__proto__", "constructor", "toString", "é", "a" * 300, "k" * 8192, "", "prev", "cid")
KINDS = {"#commit": commit, "#sync": sync, "#identity": identity, "#account": account}


def _link(codec: bytes, code: bytes, digest: bytes) -> Raw:
    raw = b"\x00\x01" + codec + code + bytes((len(digest),)) + digest
    return Raw(b"\xd8\x2a" + head(2, len(raw)) + raw)


def _number(rng: random.Random) -> int:
    size = rng.choice((3, 5, 8, 16, 32, 53, 54, 63))
    return rng.choice((1, -1)) * rng.choice((rng.getrandbits(size), 1 << size, (1 << size) - 1))


def _float(rng: random.Random) -> Raw:
    bits = rng.choice((rng.getrandbits(64), rng.getrandbits(32), rng.getrandbits(32) << 32, 0, 0x7FF << 52))
    return Raw(b"\xfb" + struct.pack(">Q", bits))


def _any_link(rng: random.Random) -> Raw:
    size = rng.choice((0, 1, 20, 32, 64, 94, 95))
    codec = rng.choice((b"\x71", b"\x55", b"\x70", b"\x81\x01"))
    return _link(codec, rng.choice((b"\x12", b"\x13", b"\x00", b"\xb2\x40")), rng.randbytes(size))


def _text(rng: random.Random) -> str:
    return "".join(rng.choice("aé€𐍈\0\ufeff\uffff") for _ in range(rng.choice((0, 1, 20, 300, 9000))))


def value(rng: random.Random, depth: int = 0) -> Any:
    """Anything that may stand in a field, or nearly."""
    match rng.randrange(11 if depth < 3 else 7):
        case 0:
            return rng.choice((None, True, False))
        case 1:
            return _number(rng)
        case 2:
            return _float(rng)
        case 3:
            return _text(rng)
        case 4:
            return rng.randbytes(rng.choice((0, 1, 23, 24, 255, 256, 70_000)))
        case 5:
            return _any_link(rng)
        case 6:
            return rng.choice((cid(), cid(codec=0x55), {"$type": "com.atproto.sync.subscribeRepos#commit"}))
        case 7:
            return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case 8:
            return {rng.choice(NAMES): value(rng, depth + 1) for _ in range(rng.randrange(4))}
        case 9:
            return Raw(rng.choice((b"\x81", b"\xa1\x61a")) * rng.choice((1, 31, 32, 59, 62, 63, 64)) + b"\x01")
        case _:
            size = rng.choice((24, 256)) if rng.random() < 0.8 else rng.choice((8192, 8193, 20_000))
            return [0] * size if rng.random() < 0.5 else {f"{n:x}": n for n in range(size)}


def unknown(rng: random.Random) -> dict[str, Any]:
    """Fields that no message knows."""
    if rng.random() < 0.1:
        return {f"f{n}": n for n in range(rng.choice((60, 63, 64, 65, 100, 8_200)))}
    return {f"u{rng.choice(NAMES)}": value(rng) for _ in range(rng.randrange(4))}


def frame(rng: random.Random) -> bytes:
    """A frame of any type, its known fields valid."""
    t = rng.choice((*KINDS, "#novelty"))
    if t == "#novelty":
        payload: dict[str, Any] = {"seq": 1, "did": identity()["did"]}
    else:
        payload = KINDS[t]()
    if t == "#commit":
        ops = [create(f"app.bsky.feed.post/{n}", **unknown(rng)) for n in range(rng.randrange(3))]
        payload |= {"ops": ops, "blobs": [_any_link(rng) for _ in range(rng.randrange(2))]}
    extra = unknown(rng) if rng.random() < 0.3 else {}
    return pack({"t": t, "op": 1} | extra) + pack(payload | unknown(rng))
