"""What a typed Go consumer reads of a frame, and where it drops its connection: the limits that design 14 names.

Such consumers decode by generated code over one reader of heads: every head must be in its shortest form, the eight
bytes of a float64 counting as an integer's; a message's maps have limits; known fields have types, `null` only where
the lexicon has it; unknown fields are stepped over, their links read; order and uniqueness of keys, UTF-8 and nesting
are not looked at. A message of a type that they do not know ends at its header. Pure functions, any thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.reference.drisl_ref import DrislError, check_cid

if TYPE_CHECKING:
    from collections.abc import Callable

MAP_MAX = 8192  # entries of a map that is read into a type
LIST_MAX = 8192  # ops, blobs
UNKNOWN_MAX = 64  # fields of such a map that the type does not have
TEXT_MAX = 8192  # texts and keys of messages
BYTES_MAX = 2 * 1024 * 1024
LINK_MAX = 100  # bytes under tag 42
INT64_END = 1 << 63

_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _OTHER = range(8)
_NULL = 0xF6


class GoError(ValueError):
    """The connection ends here; the text is the reason."""


@dataclass(slots=True)
class _Reader:
    data: bytes
    at: int = 0

    def take(self, n: int) -> bytes:
        """The next n bytes."""
        if self.at + n > len(self.data):
            raise GoError("unexpected end")
        self.at += n
        return self.data[self.at - n : self.at]

    def head(self) -> tuple[int, int]:
        """(major type, argument), in the shortest form whatever the major type."""
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if info < 24:
            return major, info
        if info > 27:
            raise GoError("invalid head")
        size = 1 << (info - 24)
        value = int.from_bytes(self.take(size), "big")
        if value < (24 if size == 1 else 1 << (4 * size)):
            raise GoError("not canonical")
        return major, value

    def want(self, major: int, most: int) -> int:
        """The argument of a head of that major type, at most so large."""
        got, value = self.head()
        if got != major or value > most:
            raise GoError(f"major type {got}, argument {value}, where {major} of at most {most} was wanted")
        return value

    def null(self) -> bool:
        """Steps over a null."""
        if self.at < len(self.data) and self.data[self.at] == _NULL:
            self.at += 1
            return True
        return False


def _text(reader: _Reader) -> bytes:
    return reader.take(reader.want(_TEXT, TEXT_MAX))


def _bytes(reader: _Reader) -> None:
    reader.take(reader.want(_BYTES, BYTES_MAX))


def _int64(reader: _Reader) -> None:
    major, value = reader.head()
    if major not in (_UINT, _NEGATIVE) or value >= INT64_END:
        raise GoError("no int64")


def _bool(reader: _Reader) -> None:
    if reader.head() not in ((_OTHER, 20), (_OTHER, 21)):
        raise GoError("no bool")


def _link_bytes(reader: _Reader) -> None:
    raw = reader.take(reader.want(_BYTES, LINK_MAX))
    if raw[:1] != b"\x00":
        raise GoError("a link without its 00")
    try:
        check_cid(raw[1:])
    except DrislError as exc:
        raise GoError(f"link: {exc}") from exc


def _link(reader: _Reader) -> None:
    reader.want(_TAG, 42)
    _link_bytes(reader)


def _nullable(read: Callable[[_Reader], object]) -> Callable[[_Reader], object]:
    return lambda reader: None if reader.null() else read(reader)


def _list(read: Callable[[_Reader], object]) -> Callable[[_Reader], None]:
    def reading(reader: _Reader) -> None:
        for _ in range(reader.want(_ARRAY, LIST_MAX)):
            read(reader)

    return reading


def _skip(reader: _Reader) -> None:
    """An unknown field: every head is read, and every link."""
    left = 1
    while left:
        left -= 1
        major, value = reader.head()
        if major in (_BYTES, _TEXT):
            reader.take(value)
        elif major == _TAG:
            if value == 42:
                _link_bytes(reader)
            else:
                left += 1
        elif major in (_ARRAY, _MAP):
            left += value * (2 if major == _MAP else 1)


type Fields = dict[bytes, Callable[[_Reader], object]]


def _struct(reader: _Reader, fields: Fields) -> None:
    unknown = 0
    for _ in range(reader.want(_MAP, MAP_MAX)):
        key = _text(reader)
        if key in fields:
            fields[key](reader)
            continue
        unknown += 1
        if unknown > UNKNOWN_MAX:
            raise GoError("too many unknown fields")
        _skip(reader)


_OP: Fields = {b"action": _text, b"path": _text, b"cid": _nullable(_link), b"prev": _nullable(_link)}
_ACCOUNT: Fields = {b"seq": _int64, b"did": _text, b"time": _text}
_MESSAGES: dict[bytes, Fields] = {
    b"#commit": {
        b"seq": _int64,
        b"rebase": _bool,
        b"tooBig": _bool,
        b"repo": _text,
        b"commit": _link,
        b"rev": _text,
        b"since": _nullable(_text),
        b"blocks": _bytes,
        b"ops": _list(lambda reader: _struct(reader, _OP)),
        b"blobs": _list(_link),
        b"prevData": _nullable(_link),
        b"time": _text,
    },
    b"#sync": {**_ACCOUNT, b"blocks": _bytes, b"rev": _text},
    b"#identity": {**_ACCOUNT, b"handle": _nullable(_text)},
    b"#account": {**_ACCOUNT, b"active": _bool, b"status": _nullable(_text)},
}


def read_frame(raw: bytes) -> None:
    """Reads one frame as such a consumer does; GoError where it would drop its connection."""
    reader = _Reader(raw)
    names: list[bytes] = []
    _struct(reader, {b"op": _int64, b"t": lambda reader: names.append(_text(reader))})
    if names and (fields := _MESSAGES.get(names[-1])):
        _struct(reader, fields)
