"""The ledger: an append-only file of everything the simulated hosts have said, the truth for every test.

Format (little endian). The file starts with MAGIC, a u32 length and that many bytes of JSON: `seed`, and the table of
faults, `[[name, reason], ...]`, by number. Then records, each starting with u32 size (of the whole record) and u8 type:

    HOST        u32 size, u8 1, 3 pad, u32 host, JSON {"name", "url", "first_seq"}
    ACCOUNT     u32 size, u8 2, 3 pad, u32 account, DID
    EVENT       u32 size, u8 3, u8 kind, u8 expect, u8 fault, u32 host, u32 account, u64 seq, u64 rev, u64 time in us,
                u32 seq offset, then the WebSocket frame as sent
    CONNECT     u32 size, u8 4, 3 pad, u32 host, i64 cursor (-1 none), u64 seq after which events were sent,
                u64 time in us
    DISCONNECT  the same with type 5: the last seq that was handed to the socket whole
    END         u32 size, u8 6, 3 pad, u32 0: nothing more will be generated

`expect` is what a strict relay must do with the event: PASS (out exactly once, same bytes but for seq), DROP (never
out, counted under the fault's reason), NOOP (a #sync that says what the relay holds already: not passed on, counted
under `sync_noop`). `seq offset` is where the value of seq begins in the message (after the WebSocket head); what
stands before it is unchanged in the relay's frame. For a DROP event it may mean nothing.

Promises: an event is in the file before its first byte goes to a socket. One writer; any number of readers, in other
processes too: a reader takes whole records only.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zlay.sim.faults import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Event", "Expect", "Kind", "Ledger", "LedgerWriter", "message_of", "same_but_seq"]

MAGIC = b"ZLAYSIM1"
READ_BYTES = 4 << 20  # how much a reader takes from the file at a time

_HOST, _ACCOUNT, _EVENT, _CONNECT, _DISCONNECT, _END = range(1, 7)
_PREFIX = struct.Struct("<IB")
_NAMED = struct.Struct("<IB3xI")
_EVENT_HEAD = struct.Struct("<IBBBBIIQQQI")
_LINK = struct.Struct("<IB3xIqQQ")

NOWHERE = Path("/dev/null")  # as a ledger: nothing is kept, for runs of days
NO_ACCOUNT = 0xFFFFFFFF


class Kind(IntEnum):
    """Message type of an event."""

    OTHER = 0
    COMMIT = 1
    SYNC = 2
    IDENTITY = 3
    ACCOUNT = 4


class Expect(IntEnum):
    """What a strict relay must do with an event."""

    PASS = 0
    DROP = 1
    NOOP = 2


class Event(NamedTuple):
    """One event as a host said it. `frame` is the WebSocket frame, `message` what is in it; times are unix us."""

    kind: int
    expect: int
    fault: str
    reason: str
    host: int
    account: int
    did: str
    seq: int
    rev: int
    time_us: int
    seq_offset: int
    frame: bytes

    @property
    def message(self) -> bytes:
        """The message: header and payload, without the WebSocket head."""
        return message_of(self.frame)


@dataclass(slots=True)
class Link:
    """A subscriber's connection to a host: from which seq (exclusive) to which (inclusive; None = still open)."""

    host: int
    cursor: int | None
    after_seq: int
    until_seq: int | None
    since_us: int


def message_of(frame: bytes) -> bytes:
    """What is in an unmasked, unfragmented WebSocket frame."""
    size = frame[1]
    return frame[10:] if size == 127 else frame[4:] if size == 126 else frame[2:]


def _uint_at(data: bytes, offset: int) -> tuple[int, int]:
    """Value and end of the CBOR unsigned integer at offset; ValueError if none stands there."""
    head = data[offset]
    if head < 24:
        return head, offset + 1
    if not 24 <= head <= 27:
        raise ValueError(f"no unsigned integer at {offset}")
    end = offset + 1 + (1 << (head - 24))
    return int.from_bytes(data[offset + 1 : end], "big"), end


def same_but_seq(sent: bytes, received: bytes, seq_offset: int) -> int | None:
    """The relay's seq if `received` is `sent` in all but the value of seq; None if it is not. Messages, not frames."""
    if received[:seq_offset] != sent[:seq_offset] or len(received) <= seq_offset:
        return None
    try:
        seq, end = _uint_at(received, seq_offset)
    except ValueError:
        return None
    return seq if received[end:] == sent[_uint_at(sent, seq_offset)[1] :] else None


class LedgerWriter:
    """Appends to a ledger file, in batches. One thread.

    `append_event` gives the offset at which the frame will stand, so that hosts can read old frames back by `fd`;
    where `keeps` is false (NOWHERE) they cannot.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.keeps = path != NOWHERE
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self.written = 0
        self._pending: list[bytes] = []
        self._end = 0
        head = json.dumps({"seed": seed, "faults": [[fault.name, fault.reason] for fault in FAULTS]}).encode()
        self._add(MAGIC + struct.pack("<I", len(head)) + head)

    def _add(self, data: bytes) -> None:
        self._pending.append(data)
        self._end += len(data)

    @property
    def pending_bytes(self) -> int:
        """What `flush` would write."""
        return self._end - self.written

    def append_host(self, index: int, name: str, url: str, first_seq: int) -> None:
        """Notes a host before its first event; again when its numbering starts anew."""
        body = json.dumps({"name": name, "url": url, "first_seq": first_seq}).encode()
        self._add(_NAMED.pack(_NAMED.size + len(body), _HOST, index) + body)

    def append_account(self, index: int, did: str) -> None:
        """Notes an account before its first event."""
        body = did.encode()
        self._add(_NAMED.pack(_NAMED.size + len(body), _ACCOUNT, index) + body)

    def append_event(
        self,
        kind: int,
        expect: int,
        fault: int,
        host: int,
        account: int,
        seq: int,
        rev: int,
        time_us: int,
        seq_offset: int,
        frame: bytes,
    ) -> int:
        """Appends an event; the offset of its frame in the file."""
        size = _EVENT_HEAD.size + len(frame)
        head = _EVENT_HEAD.pack(size, _EVENT, kind, expect, fault, host, account, seq, rev, time_us, seq_offset)
        self._pending.append(head)
        self._pending.append(frame)
        self._end += size
        return self._end - len(frame)

    def append_link(self, host: int, opened: bool, cursor: int | None, seq: int, time_us: int) -> None:
        """Notes that a subscriber came (opened) or went."""
        kind = _CONNECT if opened else _DISCONNECT
        self._add(_LINK.pack(_LINK.size, kind, host, -1 if cursor is None else cursor, seq, time_us))

    def append_end(self) -> None:
        """Notes that no more events will come."""
        self._add(_NAMED.pack(_NAMED.size, _END, 0))

    def flush(self) -> None:
        """Hands everything appended so far to the kernel, where readers see it."""
        if not self._pending:
            return
        data = memoryview(b"".join(self._pending))
        self._pending.clear()
        while data:
            data = data[os.write(self.fd, data) :]
        self.written = self._end

    def close(self) -> None:
        """Flushes and closes. The writer is not used afterwards."""
        self.flush()
        os.close(self.fd)


class Ledger:
    """Reads a ledger, also while it is being written. One thread.

    `poll()` gives the events appended since the last call. `hosts` (names), `dids`, `links` and `ended` grow with
    what has been read.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - held until close()
        self._rest = b""
        self._started = False
        self.seed = 0
        self.faults: list[tuple[str, str]] = []
        self.hosts: dict[int, str] = {}
        self.dids: dict[int, str] = {}
        self.links: list[Link] = []
        self.ended = False

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _start(self, data: bytes) -> int:
        """Reads the head of the file; 0 if it is not there yet. ValueError if this is no ledger."""
        start = len(MAGIC) + 4
        if len(data) < start:
            return 0
        if not data.startswith(MAGIC):
            raise ValueError(f"{self._file.name}: not a ledger of zlay sim")
        end = start + int.from_bytes(data[len(MAGIC) : start], "little")
        if len(data) < end:
            return 0
        head = json.loads(data[start:end])
        self.seed = head["seed"]
        self.faults = [(name, reason) for name, reason in head["faults"]]
        self._started = True
        return end

    def poll(self) -> Iterator[Event]:
        """The events that have been appended since the last call, in the order in which they were generated."""
        while chunk := self._file.read(READ_BYTES):
            data = self._rest + chunk
            at = 0 if self._started else self._start(data)
            while self._started and len(data) - at >= _PREFIX.size:
                size, kind = _PREFIX.unpack_from(data, at)
                if len(data) - at < size:
                    break
                if kind == _EVENT:
                    yield self._event(data, at, size)
                else:
                    self._note(kind, data, at, size)
                at += size
            self._rest = data[at:]

    def _event(self, data: bytes, at: int, size: int) -> Event:
        _, _, kind, expect, fault, host, account, seq, rev, time_us, seq_offset = _EVENT_HEAD.unpack_from(data, at)
        name, reason = self.faults[fault]
        if expect == Expect.NOOP:
            reason = "sync_noop"
        frame = data[at + _EVENT_HEAD.size : at + size]
        did = self.dids.get(account, "")
        return Event(kind, expect, name, reason, host, account, did, seq, rev, time_us, seq_offset, frame)

    def _note(self, kind: int, data: bytes, at: int, size: int) -> None:
        if kind == _HOST:
            index = _NAMED.unpack_from(data, at)[2]
            self.hosts[index] = json.loads(data[at + _NAMED.size : at + size])["name"]
        elif kind == _ACCOUNT:
            index = _NAMED.unpack_from(data, at)[2]
            self.dids[index] = data[at + _NAMED.size : at + size].decode()
        elif kind == _CONNECT:
            _, _, host, cursor, seq, time_us = _LINK.unpack_from(data, at)
            self.links.append(Link(host, None if cursor < 0 else cursor, seq, None, time_us))
        elif kind == _DISCONNECT:
            _, _, host, cursor, seq, time_us = _LINK.unpack_from(data, at)
            for link in reversed(self.links):
                if link.host == host and link.until_seq is None:
                    link.until_seq = seq
                    break
        elif kind == _END:
            self.ended = True

    def offered(self, event: Event) -> bool:
        """Whether some subscriber was to be sent the event: false for what was said before anybody was there."""
        return any(link.host == event.host and link.after_seq < event.seq for link in self.links)

    def expected(self) -> Iterator[Event]:
        """Of the events appended since the last call, those that must come out of a strict relay."""
        return (event for event in self.poll() if event.expect == Expect.PASS)
