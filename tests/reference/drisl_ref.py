"""Reference DRISL (strict DAG-CBOR) codec: slow and obvious, protocol.md C11 and C12.

Promises: `decode` accepts exactly the canonical encoding of a value and names the reason otherwise, so that
`encode(decode(b)) == b`. Pure functions, any thread. Shares nothing with `zlay/_fast` or `zlay/sim`.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct

INT_MIN, INT_MAX = -(2**63), 2**63 - 1  # C12: ints within signed 64 bit
MAX_DEPTH = 64  # far above any honest record; keeps the recursion of this reference bounded
_MAJOR_INT, _MAJOR_NEGATIVE, _MAJOR_BYTES, _MAJOR_TEXT, _MAJOR_ARRAY, _MAJOR_MAP, _MAJOR_TAG, _MAJOR_SIMPLE = range(8)
_TAG_CID = 42

type Value = bool | int | float | str | bytes | Cid | list[Value] | dict[str, Value] | None


class DrislError(ValueError):
    """Not canonical DRISL; the text is the reason."""


class Cid(bytes):
    """A CID's bytes (without the 00 of its CBOR form). `str()` gives the base32 form."""

    __slots__ = ()

    def __str__(self) -> str:
        return "b" + base64.b32encode(self).decode().lower().rstrip("=")

    def __repr__(self) -> str:
        return f"Cid({self})"

    @classmethod
    def parse(cls, text: str) -> Cid:
        """The CID of its base32 string form ('b' + base32 lower case, no padding)."""
        if not text.startswith("b") or text != text.lower():
            raise DrislError(f"not a base32 CID: {text}")
        body = text[1:].upper()
        return cls(base64.b32decode(body + "=" * (-len(body) % 8)))

    @classmethod
    def of(cls, block: bytes, codec: int = 0x71) -> Cid:
        """The blessed CID (CIDv1, sha-256) of a block; codec 0x71 = DRISL, 0x55 = raw."""
        return cls(bytes((1, codec, 0x12, 0x20)) + hashlib.sha256(block).digest())

    @property
    def blessed(self) -> bool:
        """C11: 01, 71 or 55, 12, 20, then 32 bytes."""
        return len(self) == 36 and self[0] == 1 and self[1] in (0x71, 0x55) and self[2:4] == b"\x12\x20"


def decode(data: bytes) -> Value:
    """The value of exactly one item that fills `data`; DrislError otherwise."""
    value, end = decode_item(data, 0)
    if end != len(data):
        raise DrislError("trailing bytes")
    return value


def decode_item(data: bytes, at: int, depth: int = 0) -> tuple[Value, int]:
    """The value of the item that begins at `at`, and where it ends."""
    if depth > MAX_DEPTH:
        raise DrislError("nested too deep")
    major, number, at = read_head(data, at)
    if major == _MAJOR_INT:
        if number > INT_MAX:
            raise DrislError("integer out of range")
        return number, at
    if major == _MAJOR_TEXT:
        return read_text(data, at, number)
    if major == _MAJOR_BYTES:
        return _take(data, at, number)
    if major == _MAJOR_MAP:
        return _decode_map(data, at, number, depth)
    if major == _MAJOR_ARRAY:
        items: list[Value] = []
        for _ in range(number):
            item, at = decode_item(data, at, depth + 1)
            items.append(item)
        return items, at
    if major == _MAJOR_NEGATIVE:
        if -1 - number < INT_MIN:
            raise DrislError("integer out of range")
        return -1 - number, at
    if major == _MAJOR_TAG:
        return _decode_link(data, at, number)
    return _decode_simple(data, at, number)


def read_head(data: bytes, at: int) -> tuple[int, int, int]:
    """(major type, argument, position after the head) of the item at `at`; shortest form only.

    For major 7 the argument is the additional information itself (0..31), since floats share its forms.
    """
    if at >= len(data):
        raise DrislError("truncated")
    initial = data[at]
    major, info = initial >> 5, initial & 31
    at += 1
    if major == _MAJOR_SIMPLE or info < 24:
        return major, info, at
    if info > 27:
        raise DrislError("indefinite length" if info == 31 else "reserved additional information")
    size = 1 << (info - 24)
    if at + size > len(data):
        raise DrislError("truncated")
    number = int.from_bytes(data[at : at + size], "big")
    least = 24 if size == 1 else 1 << (4 * size)  # what the next shorter form could not have held
    if number < least:
        raise DrislError("not the shortest form")
    return major, number, at + size


def read_text(data: bytes, at: int, length: int) -> tuple[str, int]:
    """The text of `length` bytes at `at`, and its end."""
    raw, end = _take(data, at, length)
    try:
        return raw.decode("utf-8"), end
    except UnicodeDecodeError:
        raise DrislError("invalid UTF-8") from None


def _take(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    end = at + length
    if end > len(data):
        raise DrislError("truncated")
    return data[at:end], end


def _decode_map(data: bytes, at: int, count: int, depth: int) -> tuple[dict[str, Value], int]:
    result: dict[str, Value] = {}
    previous: tuple[int, bytes] | None = None
    for _ in range(count):
        key, raw_order, at = read_key(data, at, previous)
        previous = raw_order
        result[key], at = decode_item(data, at, depth + 1)
    return result, at


def read_key(data: bytes, at: int, previous: tuple[int, bytes] | None) -> tuple[str, tuple[int, bytes], int]:
    """A map key that must come after `previous` in DRISL order: (key, its place in the order, position after it)."""
    major, length, start = read_head(data, at)
    if major != _MAJOR_TEXT:
        raise DrislError("a map key that is not text")
    key, end = read_text(data, start, length)
    order = (length, data[start:end])
    if previous is not None and order <= previous:
        raise DrislError("duplicate map key" if order == previous else "map keys not sorted")
    return key, order, end


def _decode_link(data: bytes, at: int, tag: int) -> tuple[Cid, int]:
    if tag != _TAG_CID:
        raise DrislError("tag other than 42")
    major, length, at = read_head(data, at)
    if major != _MAJOR_BYTES:
        raise DrislError("a CID that is not bytes")
    raw, end = _take(data, at, length)
    if raw[:1] != b"\x00":
        raise DrislError("a CID without its 00")
    check_cid(raw[1:])
    return Cid(raw[1:]), end


def check_cid(raw: bytes) -> None:
    """DrislError unless `raw` has the shape of a CIDv1 with any codec and hash, its digest as long as declared."""
    version, at = read_uvarint(raw, 0)
    if version != 1:
        raise DrislError("CID version")
    _codec, at = read_uvarint(raw, at)
    _hash, at = read_uvarint(raw, at)
    length, at = read_uvarint(raw, at)
    if len(raw) - at != length:
        raise DrislError("CID digest length")


def read_uvarint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number of at most 9 bytes in its shortest form, and where it ends."""
    value = shift = 0
    for step in range(9):
        if at + step >= len(data):
            raise DrislError("truncated varint")
        byte = data[at + step]
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if byte == 0 and step:
                raise DrislError("varint not in its shortest form")
            return value, at + step + 1
    raise DrislError("varint too long")


def _decode_simple(data: bytes, at: int, info: int) -> tuple[Value, int]:
    if info in (20, 21):
        return info == 21, at
    if info == 22:
        return None, at
    if info == 27:
        raw, end = _take(data, at, 8)
        number: float = struct.unpack(">d", raw)[0]
        if math.isnan(number) or math.isinf(number):
            raise DrislError("float is not finite")
        return number, end
    raise DrislError("float not 64 bit" if info in (25, 26) else "simple value")


def encode(value: Value) -> bytes:
    """The one canonical encoding of `value`."""
    if value is None:
        return b"\xf6"
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        if not INT_MIN <= value <= INT_MAX:
            raise DrislError("integer out of range")
        return head(_MAJOR_INT, value) if value >= 0 else head(_MAJOR_NEGATIVE, -1 - value)
    if isinstance(value, float):
        if math.isnan(value) or math.isinf(value):
            raise DrislError("float is not finite")
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, str):
        raw = value.encode("utf-8")
        return head(_MAJOR_TEXT, len(raw)) + raw
    if isinstance(value, Cid):
        return head(_MAJOR_TAG, _TAG_CID) + head(_MAJOR_BYTES, len(value) + 1) + b"\x00" + bytes(value)
    if isinstance(value, bytes):
        return head(_MAJOR_BYTES, len(value)) + value
    if isinstance(value, list):
        return head(_MAJOR_ARRAY, len(value)) + b"".join(encode(item) for item in value)
    by_bytes = {key.encode(): item for key, item in value.items()}
    order = sorted(by_bytes, key=lambda raw: (len(raw), raw))
    return head(_MAJOR_MAP, len(order)) + b"".join(
        head(_MAJOR_TEXT, len(raw)) + raw + encode(by_bytes[raw]) for raw in order
    )


def head(major: int, number: int) -> bytes:
    """The shortest head of a major type with its argument."""
    if number < 24:
        return bytes((major << 5 | number,))
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << (8 * size):
            return bytes((major << 5 | info,)) + number.to_bytes(size, "big")
    raise DrislError("number over 64 bit")
