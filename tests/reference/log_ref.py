"""An independent reader of the event log, in plain Python, written from docs/eventlog.md alone.

Uses nothing of zlay. Slow, obvious, read-only: for tests that hold the real thing against it, and for curious people.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEADER = struct.Struct("<8sII16sQQQII")
ENTRY = struct.Struct("<QIIBBBBIIIQQQQ")
SIZE = 64
MAX_FRAME = 5_000_000


class LogError(Exception):
    """The directory is not a log of the documented form."""


def _make_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ 0x82F63B78 if value & 1 else value >> 1
        table.append(value)
    return table


_TABLE = _make_table()


def crc32c(data: bytes) -> int:
    """CRC-32C, bit by bit as far as a table of 256 goes."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def siphash24(key: bytes, data: bytes) -> int:
    """SipHash-2-4 of data, as the paper has it."""
    mask = (1 << 64) - 1
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(x: int, n: int) -> int:
        return (x << n | x >> (64 - n)) & mask

    def rounds(n: int) -> None:
        for _ in range(n):
            v[0] = (v[0] + v[1]) & mask
            v[1] = rotate(v[1], 13) ^ v[0]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = rotate(v[1], 17) ^ v[2]
            v[2] = rotate(v[2], 32)

    padded = data + bytes(7 - len(data) % 8) + bytes((len(data) & 0xFF,))
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    result: int = v[0] ^ v[1] ^ v[2] ^ v[3]
    return result


@dataclass(frozen=True, slots=True)
class Header:
    """The first 64 bytes of either file."""

    store_id: bytes
    first_seq: int
    previous_last: int
    created_us: int


@dataclass(frozen=True, slots=True)
class Event:
    """One event, checked."""

    seq: int
    kind: int
    flags: int
    upstream_status: int
    effective_status: int
    host_id: int
    host_epoch: int
    upstream_seq: int
    recv_us: int
    did_hash: int
    synced_end: int
    websocket: bytes  # as consumers get it
    message: bytes  # without WebSocket header


def read_header(data: bytes, magic: bytes) -> Header:
    """Take a header apart. Raises LogError when anything about it is not as documented."""
    if len(data) < SIZE:
        raise LogError("file shorter than its header")
    found, version, size, store_id, first, previous, created, zero, crc = HEADER.unpack(data[:SIZE])
    if (found, version, size, zero) != (magic, 1, SIZE, 0):
        raise LogError(f"not a header of {magic!r}, version 1")
    if crc != crc32c(data[:60]):
        raise LogError("header checksum")
    return Header(store_id, first, previous, created)


def unwrap(frame: bytes) -> bytes:
    """The message of one unmasked, unfragmented binary WebSocket frame with its length in shortest form."""
    if frame[0] != 0x82:
        raise LogError("not an unfragmented binary frame")
    length, begin = frame[1], 2
    if length == 126:
        length, begin = int.from_bytes(frame[2:4], "big"), 4
    elif length == 127:
        length, begin = int.from_bytes(frame[2:10], "big"), 10
    if begin != (2 if length < 126 else 4 if length < 65536 else 10) or begin + length != len(frame):
        raise LogError("WebSocket length")
    return frame[begin:]


def _event(seq: int, entry: bytes, frames: bytes) -> Event | None:
    """The event of an entry; None when it is not good, or its frame does not have its checksum."""
    (offset, length, frame_crc, kind, flags, upstream, effective, host, epoch, entry_crc, upstream_seq, recv_us) = (
        ENTRY.unpack(entry)[:12]
    )
    did_hash, synced_end = ENTRY.unpack(entry)[12:]
    if entry_crc != crc32c(struct.pack("<Q", seq) + entry[:28] + entry[32:]):
        return None
    if synced_end >= seq or offset < SIZE or not 3 <= length <= MAX_FRAME or offset + length > len(frames):
        return None
    frame = frames[offset : offset + length]
    if crc32c(frame) != frame_crc:
        return None
    return Event(
        seq,
        kind,
        flags,
        upstream,
        effective,
        host,
        epoch,
        upstream_seq,
        recv_us,
        did_hash,
        synced_end,
        frame,
        unwrap(frame),
    )


@dataclass(slots=True)
class LogReader:
    """All events of a log's directory (`events/`), oldest first; `bad` collects the seqs that cannot be read."""

    events: Path
    bad: list[int]

    @classmethod
    def of(cls, events: Path) -> LogReader:
        """A reader of that directory."""
        return cls(events, [])

    def store(self) -> tuple[bytes, bytes]:
        """Store id and DID key."""
        fields = json.loads((self.events / "store.json").read_text())
        if fields["format"] != 1:
            raise LogError("store format")
        return bytes.fromhex(fields["store_id"]), bytes.fromhex(fields["did_key"])

    def did_hash(self, did: str) -> int:
        """What the index says for a DID."""
        return siphash24(self.store()[1], did.encode()) or 1

    def first_seqs(self) -> list[int]:
        """First seqs of the whole pairs."""
        names = {path.name for path in self.events.iterdir()}
        return sorted(
            int(name[:20])
            for name in names
            if re.fullmatch(r"\d{20}\.index", name) and name.replace("index", "frames") in names
        )

    def __iter__(self) -> Iterator[Event]:
        """Every readable event."""
        store_id = self.store()[0]
        firsts = self.first_seqs()
        for first, following in zip(firsts, [*firsts[1:], 1 << 64], strict=True):
            frames = (self.events / f"{first:020}.frames").read_bytes()
            index = (self.events / f"{first:020}.index").read_bytes()
            for data, magic in ((frames, b"zlay.frm"), (index, b"zlay.idx")):
                header = read_header(data, magic)
                if (header.store_id, header.first_seq) != (store_id, first):
                    raise LogError("segment of another log, or renamed")
            end = None
            for seq in range(first, min(following, first + (len(index) - SIZE) // SIZE)):
                at = SIZE * (seq - first + 1)
                event = _event(seq, index[at : at + SIZE], frames)
                if event is None:
                    self.bad.append(seq)
                    end = None
                    continue
                offset = struct.unpack_from("<Q", index, at)[0]
                if end is not None and offset != end:
                    raise LogError(f"hole before seq {seq}")
                end = offset + len(event.websocket)
                yield event
