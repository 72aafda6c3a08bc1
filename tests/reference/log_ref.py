"""An independent reader of the event log, in plain Python, written from docs/eventlog.md alone.

Uses nothing of zlay. Slow, obvious, read-only: for tests that hold the real thing against it, and for curious people.
Every statement of the page that bytes can show is checked by reading, or answered by a method: what is not as the page
says raises LogError, what a disk may have done to a good log is collected.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.reference.frame_ref import FrameError, decode_frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEADER = struct.Struct("<8sII16sQQQII")
NOTE = struct.Struct("<8sII16sQQ12xI")
ENTRY = struct.Struct("<QIIBBBBIIIQQQQ")
SIZE = 64
MAX_FRAME = 5_000_000
OS_JUMP = 1_000_000
KINDS = ("unknown", "#commit", "#sync", "#identity", "#account")
STATUSES = 9


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


def read_header(data: bytes, magic: bytes) -> Header | None:
    """Take a header apart; None where it is damaged. Raises LogError where it is whole and of another form."""
    if len(data) < SIZE or not data.startswith(magic) or HEADER.unpack(data[:SIZE])[-1] != crc32c(data[:60]):
        return None
    _, version, size, store_id, first, previous, created, zero, _ = HEADER.unpack(data[:SIZE])
    if (version, size, zero) != (1, SIZE, 0):
        raise LogError(f"not a header of {magic!r}, version 1")
    return Header(store_id, first, previous, created)


def read_note(data: bytes, store_id: bytes) -> int | None:
    """The published end that `published` holds; None where it is not whole or another log's."""
    if len(data) != SIZE or any(data[48:60]):
        return None
    magic, version, size, found_id, published_end, _noted_us, crc = NOTE.unpack(data)
    if (magic, version, size, found_id, crc) != (b"zlay.pub", 1, SIZE, store_id, crc32c(data[:60])):
        return None
    return int(published_end)


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


def entry_crc(seq: int, entry: bytes) -> int:
    """The checksum of an entry that stands for a seq."""
    return crc32c(struct.pack("<Q", seq) + entry[:28] + entry[32:])


def _is_good(seq: int, entry: bytes, frames_bytes: int) -> bool:
    offset, length = struct.unpack_from("<QI", entry)
    (synced_end,) = struct.unpack_from("<Q", entry, 56)
    return (
        len(entry) == SIZE
        and struct.unpack_from("<I", entry, 28)[0] == entry_crc(seq, entry)
        and synced_end < seq
        and offset >= SIZE
        and 3 <= length <= MAX_FRAME
        and offset + length <= frames_bytes
    )


def _event(seq: int, entry: bytes, frames: bytes) -> Event | None:
    """The event of an entry; None when it is not good, or its frame does not have its checksum. Raises LogError."""
    if not _is_good(seq, entry, len(frames)):
        return None
    offset, length, frame_crc, *values = ENTRY.unpack(entry)
    kind, flags, upstream, effective, host, epoch, _crc, upstream_seq, recv_us, did_hash, synced_end = values
    frame = frames[offset : offset + length]
    if crc32c(frame) != frame_crc:
        return None
    if flags > 3 or kind >= len(KINDS) or upstream >= STATUSES or effective >= STATUSES or did_hash == 0:
        raise LogError(f"values of seq {seq}")
    event = Event(
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
    try:
        said = decode_frame(event.message)  # two canonical items: its seq is in shortest form
    except FrameError as exc:
        raise LogError(f"the message of seq {seq}: {exc}") from exc
    if said.seq != seq or said.op != 1 or (kind and KINDS[kind] != said.kind):
        raise LogError(f"the message of seq {seq} is {said.kind} {said.seq}")
    return event


@dataclass(slots=True)
class LogReader:
    """All events of a log's directory (`events/`), oldest first; `bad` collects the seqs that cannot be read, `damaged`
    the names of files whose header is."""

    events: Path
    bad: list[int]
    damaged: list[str]

    @classmethod
    def of(cls, events: Path) -> LogReader:
        """A reader of that directory."""
        return cls(events, [], [])

    def store(self) -> tuple[bytes, bytes]:
        """Store id and DID key."""
        fields = json.loads((self.events / "store.json").read_text())
        if fields["format"] != 1 or len(fields["store_id"]) != 32 or len(fields["did_key"]) != 32:
            raise LogError("store format")
        return bytes.fromhex(fields["store_id"]), bytes.fromhex(fields["did_key"])

    def run(self) -> tuple[str, str, int]:
        """(boot id, durability, next seq) of the process that last opened it for writing."""
        fields = json.loads((self.events / "run.json").read_text())
        if fields["durability"] not in ("fsync", "os"):
            raise LogError("durability")
        return fields["boot_id"], fields["durability"], int(fields["next_seq"])

    def published(self) -> int | None:
        """The published end of a process that has the log open or has died; None = all of the log counts."""
        path = self.events / "published"
        return read_note(path.read_bytes(), self.store()[0]) if path.exists() else None

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

    def headers(self, first: int) -> list[Header | None]:
        """Of .frames and .index. Raises LogError when one is of another log."""
        found = []
        for kind, magic in (("frames", b"zlay.frm"), ("index", b"zlay.idx")):
            header = read_header(self._read(first, kind), magic)
            if header is None:
                self.damaged.append(f"{first:020}.{kind}")
            elif (header.store_id, header.first_seq) != (self.store()[0], first):
                raise LogError("segment of another log, or renamed")
            found.append(header)
        return found

    def _read(self, first: int, kind: str) -> bytes:
        return (self.events / f"{first:020}.{kind}").read_bytes()

    def left_out(self) -> list[tuple[int, int]]:
        """Numbers between two segments that were never given: after the highest one given before the newer one."""
        gaps = []
        for first in self.first_seqs()[1:]:
            header = self.headers(first)[1]
            if header is not None and header.previous_last + 1 < first:
                gaps.append((header.previous_last + 1, first - 1))
        return gaps

    def __iter__(self) -> Iterator[Event]:
        """Every readable event."""
        for first, following in pairwise([*self.first_seqs(), 1 << 64]):
            self.headers(first)
            frames, index = self._read(first, "frames"), self._read(first, "index")
            end: int | None = SIZE
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

    # --- how it is opened ---

    def floor(self) -> int:
        """Everything up to it was on disk, by the last segment's entries; their frames do not matter."""
        first = self.first_seqs()[-1]
        index = self._read(first, "index")
        floor = first - 1
        for seq in range(first, first + (len(index) - SIZE) // SIZE):
            entry = index[SIZE * (seq - first + 1) :][:SIZE]
            if struct.unpack_from("<I", entry, 28)[0] == entry_crc(seq, entry):
                floor = max(floor, struct.unpack_from("<Q", entry, 56)[0])
        return floor

    def kept_end(self) -> int:
        """The last seq that an opening keeps: before the first one above the floor that is not good, does not follow
        on, or whose frame is not what it was."""
        first, floor = self.first_seqs()[-1], self.floor()
        frames, index = self._read(first, "frames"), self._read(first, "index")
        end: int | None = SIZE
        seq = first
        while seq < first + (len(index) - SIZE) // SIZE:
            entry = index[SIZE * (seq - first + 1) :][:SIZE]
            offset, length, frame_crc = struct.unpack_from("<QII", entry)
            good = _is_good(seq, entry, len(frames))
            if seq > floor and not (
                good and end in (None, offset) and crc32c(frames[offset : offset + length]) == frame_crc
            ):
                break
            end = offset + length if good else None
            seq += 1
        return max(seq - 1, floor)

    def next_seq(self, boot_id: str) -> int:
        """The first number that an opening on a machine with this boot id gives out."""
        last = self.kept_end()
        if not (self.events / "run.json").exists():
            return last + 1 + OS_JUMP
        boot_before, durability, not_below = self.run()
        following = max(last + 1, not_below)
        return following + OS_JUMP if durability == "os" and boot_before != boot_id else following
