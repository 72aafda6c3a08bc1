"""What fuzzing begins with: a simulation recorded on the spot, recorded frames of a real relay, published texts.

Written into a folder of the caller's under `build`, one file per input: nothing of it is part of the project. Shapes of
inputs are those that the targets' heads describe. One thread.
"""

from __future__ import annotations

import hashlib
import os
import struct
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from zlay.bench.inputs import corpus, fixture_frames
from zlay.sim.keys import SigningKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["SEEDS", "write_seeds"]

ROOT = Path(__file__).resolve().parent.parent.parent
EVENTS = 2000
ACCOUNTS = 60
MOST_FRAMES = 300  # of those recorded, evenly over their sizes
MASK = b"\x11\x22\x33\x44"


@cache
def frames() -> tuple[bytes, ...]:
    """Whole frames."""
    recorded = sorted(corpus(events=EVENTS, accounts=ACCOUNTS, p256_share=0.3, only_commits=False).frames, key=len)
    return (*recorded[:: max(1, len(recorded) // MOST_FRAMES)], *fixture_frames())


def cars() -> Iterable[bytes]:
    """The blocks of frames."""
    for frame in frames():
        _, found, rest = frame.partition(b"\x66blocks")
        head = {0x58: 2, 0x59: 3, 0x5A: 5}.get(rest[0], 1) if found and rest else 0
        if head > 1:
            yield rest[head : head + int.from_bytes(rest[1:head], "big")]


def judged() -> Iterable[bytes]:
    """Frames behind control bytes: no state stored, and the state before it."""
    for frame in frames():
        yield b"\x00\x00" + frame
        yield b"\x00\x01" + frame


def items() -> Iterable[bytes]:
    """Payloads, blocks and the smallest items of each kind."""
    for frame in frames():
        yield b"\x00" + frame[frame.find(b"\x61t") :].partition(b"\xa1")[2]
        yield b"\x00" + frame
    for car in cars():
        for start in (b"\xa2\x61e", b"\xa6\x63did", b"\xa3", b"\xa4", b"\xa5"):
            at = car.find(start)
            if at >= 0:
                yield b"\x00" + car[at:]
    for item in (
        "00",
        "20",
        "40",
        "6161",
        "80",
        "a0",
        "a1616100",
        "f4",
        "f6",
        "fb3ff8000000000000",
        "d82a450001711220",
    ):
        yield b"\x00" + bytes.fromhex(item)


def ws_frame(payload: bytes, opcode: int = 2, *, fin: bool = True, mask: bytes = b"") -> bytes:
    """A WebSocket frame (RFC 6455 5.2)."""
    n = len(payload)
    size = bytes([n]) if n < 126 else b"\x7e" + struct.pack(">H", n) if n < 65536 else b"\x7f" + struct.pack(">Q", n)
    if mask:
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes([0x80 * fin | opcode, size[0] | 0x80 * bool(mask)]) + size[1:] + mask + payload


def streams(mask: bytes = b"") -> Iterable[bytes]:
    """What one side sends: messages of all lengths' forms, whole and in fragments, pings, closes."""
    yield ws_frame(b"hello", mask=mask) + ws_frame(b"x" * 125, 9, mask=mask) + ws_frame(b"", 10, mask=mask)
    yield ws_frame(b"a", fin=False, mask=mask) + ws_frame(b"", 9, mask=mask) + ws_frame(b"b", 0, mask=mask)
    yield ws_frame(b"y" * 300, mask=mask) + ws_frame(struct.pack(">H", 1000) + b"bye", 8, mask=mask)
    yield ws_frame(b"z" * 300, fin=False, mask=mask) + ws_frame(b"z" * 6000, 0, mask=mask) + ws_frame(b"", 8, mask=mask)
    yield ws_frame(b"text", 1, mask=mask) + ws_frame(struct.pack(">H", 4000) + "é€😀".encode(), 8, mask=mask)


def sent_by_hosts() -> Iterable[bytes]:
    """Streams of hosts with real frames among them; two bytes before choose how they come."""
    some = frames()
    for way in (0, 1, 3, 17, 33):
        for stream in streams():
            yield bytes([way, 0]) + stream
        for start in range(0, len(some), 7):
            messages = b"".join(ws_frame(frame) for frame in some[start : start + 3])
            yield bytes([way, 0]) + messages + ws_frame(b"", 9) + ws_frame(b"\x03\xe8", 8)
    yield b"\x01\x00" + ws_frame(bytes.fromhex("a1626f7020a1656572726f726c467574757265437572736f72"))


def texts() -> Iterable[bytes]:
    """Published examples of each syntax, and one of each where there are none."""
    yield from (b"did:plc:ewvi7nxzyoun6zhxrhs64oiz", b"did:web:example.com", b"did:web:localhost%3A2583", b"alice.test")
    yield from (b"app.bsky.feed.post/3jqfcqzm3fo2j", b"3jzfcijpj2z2a", b"1985-04-12T23:20:50.123Z")
    yield from (b"1985-04-12T23:20:50+01:30", b"com.example.a-b.c/self", b"did:method:a%3Ab")
    folder = Path(os.environ.get("ZLAY_FIXTURES") or ROOT.parent / "shared" / "fixtures")
    for path in sorted((folder / "interop").glob("syntax/*.txt")):
        yield from (line for line in path.read_bytes().split(b"\n") if line and not line.startswith(b"#"))


def segments() -> Iterable[bytes]:
    """Ends of a log: an index of some entries and their frames; checksums are made to hold by the target."""
    entry = struct.Struct("<QIIBBBBIIIQQQQ")
    for count in (0, 1, 3, 20, 64):
        for flags in (0, 1, 3, 7, 15, 47, 31):
            index = b"".join(
                entry.pack(64 + 40 * i, 40, 0, 1, 0, 0, 0, 1, 1, 0, i + 1, 1_700_000_000_000_000 + i, i, 999 + i // 2)
                for i in range(count)
            )
            yield bytes([flags, count, 0]) + index + bytes(range(40)) * count


def signatures() -> Iterable[bytes]:
    """A good signature of each curve, and its key alone."""
    for number, curve in enumerate(("k256", "p256")):
        key = SigningKey(curve, b"fuzz")
        form = number | (2 if len(key.point) == 65 else 0)
        message = b"what is signed"
        yield bytes([form]) + key.point + hashlib.sha256(message).digest() + key.sign(message)
        yield bytes([form]) + key.point


SEEDS: dict[str, Callable[[], Iterable[bytes]]] = {
    "frame": judged,
    "drisl": items,
    "message": frames,
    "car": cars,
    "tree": frames,
    "ws": lambda: (bytes([limit, 7]) + stream for limit in range(4) for stream in streams()),
    "connection": sent_by_hosts,
    "client": lambda: (bytes([step]) + stream for step in (0, 3) for stream in streams(MASK)),
    "syntax": texts,
    "recovery": segments,
    "signature": signatures,
}


def write_seeds(target: str, folder: Path, max_bytes: int) -> int:
    """Writes a target's inputs of at most max_bytes; how many."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for data in SEEDS[target]():
        if len(data) <= max_bytes:
            (folder / hashlib.sha256(data).hexdigest()[:24]).write_bytes(data)
            count += 1
    return count
