"""Where the value of `seq` stands in a message made by ourselves. Cold path: pure Python, definite lengths only."""

from __future__ import annotations

__all__ = ["seq_span"]

MAX_DEPTH = 64
UINT, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE = range(8)
WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Major type, argument, and where the item's content begins."""
    major, info = data[at] >> 5, data[at] & 31
    if info < 24:
        return major, info, at + 1
    if info not in WIDTHS:
        raise ValueError(f"CBOR of indefinite length or reserved form at {at}")
    end = at + 1 + WIDTHS[info]
    return major, int.from_bytes(data[at + 1 : end], "big"), end


def _skip(data: bytes, at: int, depth: int = 0) -> int:
    """Where the item at `at` ends."""
    if depth > MAX_DEPTH:
        raise ValueError("CBOR nested too deep")
    major, argument, at = _head(data, at)
    if major in (BYTES, TEXT):
        return at + argument
    for _ in range({ARRAY: argument, MAP: 2 * argument, TAG: 1}.get(major, 0)):
        at = _skip(data, at, depth + 1)
    return at


def seq_span(frame: bytes) -> tuple[int, int]:
    """(offset, length) of the value of `seq` in the payload map. Raises ValueError where there is none."""
    try:
        major, fields, at = _head(frame, _skip(frame, 0))
        if major != MAP:
            raise ValueError("the payload is not a map")
        for _ in range(fields):
            key = at
            at = _skip(frame, key)
            end = _skip(frame, at)
            if frame[key:at] == b"\x63seq" and frame[at] >> 5 == UINT and end <= len(frame):
                return at, end - at
            at = end
    except IndexError:
        raise ValueError("the message ends inside an item") from None
    raise ValueError("the message has no integer seq")
