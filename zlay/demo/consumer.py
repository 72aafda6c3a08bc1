"""A strict consumer: bytes from a socket to messages, checked against the protocol, without anything of zlay._fast.

Only what a subscriber may rely on: whole, unmasked, unfragmented binary WebSocket messages in their shortest form
(A3, A8); two CBOR items; header {op, t}; payload a map with `seq` and the account. Everything else about an event is
held against the ledger byte for byte (zlay.demo.check). One thread per `Stream`.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, RejectConnection, Request

from zlay.errors import RemoteFault

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Message", "ProtocolBroken", "Stream", "read_message"]

MAX_MESSAGE = 5_000_000  # A8
RECEIVE_BYTES = 1 << 20
UPGRADE_S = 10.0
MAX_HEAD = 10  # bytes of an unmasked WebSocket head
BINARY, CLOSE, PING, PONG = 0x82, 0x88, 0x89, 0x8A


class ProtocolBroken(RemoteFault):
    """The relay sent what a strict consumer must not accept."""


class Message(NamedTuple):
    """One event as received. `data` = header and payload; the value of seq stands at data[seq_at:seq_end]."""

    data: bytes
    kind: str
    did: str
    seq: int
    received_us: int


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """(major type, value, offset after) of the CBOR head at an offset. Raises ProtocolBroken."""
    try:
        first = data[at]
        small = first & 31
        if small < 24:
            return first >> 5, small, at + 1
        size = 1 << (small - 24)
        if small > 27 or at + 1 + size > len(data):
            raise ProtocolBroken(f"CBOR head {first:#x}")
        return first >> 5, int.from_bytes(data[at + 1 : at + 1 + size], "big"), at + 1 + size
    except IndexError:
        raise ProtocolBroken("the message ends inside an item") from None


def _skip(data: bytes, at: int) -> int:
    """The offset after the item at an offset; iterative, so that nesting costs nothing."""
    left = 1
    while left:
        major, value, at = _head(data, at)
        left -= 1
        if major in (2, 3):
            at += value
        elif major == 4:
            left += value
        elif major == 5:
            left += 2 * value
        elif major == 6:
            left += 1
    if at > len(data):
        raise ProtocolBroken("the message ends inside an item")
    return at


def _entries(data: bytes, at: int) -> Iterator[tuple[bytes, int]]:
    """(key, offset of its value) of the map at an offset; then (b"", offset after the map)."""
    major, count, at = _head(data, at)
    if major != 5:
        raise ProtocolBroken("not a map")
    for _ in range(count):
        kind, size, start = _head(data, at)
        if kind != 3:
            raise ProtocolBroken("a key that is not text")
        key = data[start : start + size]
        yield key, start + size
        at = _skip(data, start + size)
    yield b"", at


def _text(data: bytes, at: int) -> str:
    major, size, start = _head(data, at)
    if major != 3:
        raise ProtocolBroken("not a text")
    return data[start : start + size].decode("utf-8")


def read_message(data: bytes, received_us: int) -> Message:
    """Reads header and the fields every event has. Raises ProtocolBroken."""
    kind, op, end = "", 0, 0
    for key, at in _entries(data, 0):
        if key == b"t":
            kind = _text(data, at)
        elif key == b"op":
            major, value, _ = _head(data, at)
            op = value if major == 0 else -1 - value
        elif not key:
            end = at
    if op == -1:
        fields = {key: _text(data, at) for key, at in _entries(data, end) if key in (b"error", b"message")}
        raise ProtocolBroken(f"an error frame: {fields}")
    if op != 1 or not kind.startswith("#"):
        raise ProtocolBroken(f"header op {op}, t {kind!r}")
    did, seq, after = "", -1, 0
    for key, at in _entries(data, end):
        if key in (b"did", b"repo") and not did:
            did = _text(data, at)
        elif key == b"seq":
            major, seq, _ = _head(data, at)
            if major != 0:
                raise ProtocolBroken("seq is not a positive integer")
        elif not key:
            after = at
    if after != len(data):
        raise ProtocolBroken("bytes after the payload")
    if kind != "#info" and (seq < 1 or not did):
        raise ProtocolBroken(f"{kind} without seq or account")
    return Message(data, kind, did, seq, received_us)


class Stream:
    """One subscription. Iterate `batches`; `close` from any thread ends it."""

    def __init__(self, url: str, cursor: int | None) -> None:
        """Connects and upgrades. Raises OSError, ProtocolBroken."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._sock = socket.create_connection((parts.hostname, parts.port or 80), UPGRADE_S)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._buffer = bytearray()
        self._closed = False  # a close frame has come
        target = parts.path + (f"?cursor={cursor}" if cursor is not None else "")
        try:
            self._upgrade(f"{parts.hostname}:{parts.port}", target)
        except BaseException:
            self._sock.close()
            raise

    def _upgrade(self, host: str, target: str) -> None:
        wire = WSConnection(ConnectionType.CLIENT)
        self._sock.sendall(wire.send(Request(host=host, target=target)))
        head = b""
        while b"\r\n\r\n" not in head:
            got = self._sock.recv(4096)
            if not got:
                raise ProtocolBroken("closed during the upgrade")
            head += got
        answer, _, rest = head.partition(b"\r\n\r\n")
        wire.receive_data(answer + b"\r\n\r\n")
        event = next(iter(wire.events()), None)
        if isinstance(event, RejectConnection) or not isinstance(event, AcceptConnection):
            raise ProtocolBroken(f"upgrade refused: {answer.splitlines()[:1]!r}")
        self._buffer += rest
        self._sock.settimeout(None)

    def close(self) -> None:
        """Ends `batches` in whatever thread it runs."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def batches(self) -> Iterator[list[Message]]:
        """What has arrived, as lists of whole messages; ends when the relay closes, and with it the socket.

        Raises ProtocolBroken, OSError.
        """
        with self._sock:
            while True:
                found = list(self._cut())
                if found:
                    yield found
                if self._closed:
                    return
                data = self._sock.recv(RECEIVE_BYTES)
                if not data:
                    return
                self._buffer += data

    def _cut(self) -> Iterator[Message]:
        buffer, at = self._buffer, 0
        now = time.time_ns() // 1000
        while True:
            head = _frame_head(buffer, at)
            if head is None:
                break
            opcode, start, size = head
            if start + size > len(buffer):
                break
            data = bytes(buffer[start : start + size])
            at = start + size
            if opcode == BINARY:
                yield read_message(data, now)
            elif opcode == PING:
                self._sock.sendall(_masked(PONG, data))
            elif opcode == CLOSE:
                self._closed = True
                break
            elif opcode != PONG:
                raise ProtocolBroken(f"WebSocket opcode {opcode:#x}")
        del buffer[:at]


def _frame_head(buffer: bytearray, at: int) -> tuple[int, int, int] | None:
    """(first byte, offset of the payload, its size) of the frame at an offset; None = not here yet."""
    here = len(buffer) - at
    if here < 2:
        return None
    first, size = buffer[at], buffer[at + 1]
    if size & 0x80:
        raise ProtocolBroken("a masked frame from a server")
    if size < 126:
        return first, at + 2, size
    width = 2 if size == 126 else 8
    if here < 2 + width:
        return None
    size = int.from_bytes(buffer[at + 2 : at + 2 + width], "big")
    if size < 126 or (width == 8 and size < 65536) or size > MAX_MESSAGE:
        raise ProtocolBroken(f"a frame of {size} bytes with a length of {width}")
    return first, at + 2 + width, size


def _masked(first: int, payload: bytes) -> bytes:
    """A client's control frame; the mask of zeros is as good as any."""
    return bytes((first, 0x80 | len(payload))) + bytes(4) + payload
