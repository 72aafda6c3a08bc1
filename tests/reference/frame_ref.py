"""Reference for event-stream frames: two DRISL items, protocol.md A3 to A6, and where `seq` stands. Pure functions.

Any thread may call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.reference.drisl_ref import DrislError, decode_item, head, read_head, read_key

FRAME_MAX = 5_000_000  # A8
SEQ_MAX = 2**53 - 1  # A11
_SEQ_PLACE = b"\xff"  # no DRISL item begins with it: what stands for `seq` in normalised bytes


class FrameError(ValueError):
    """Invalid framing; a strict consumer drops its connection at it (A5)."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame. `seq` is None where the payload has none; `seq_start`..`seq_end` is its value's place."""

    op: int
    kind: str
    payload: dict[str, Any]
    raw: bytes
    seq: int | None
    seq_start: int
    seq_end: int

    @property
    def did(self) -> str | None:
        """The account that the message is about."""
        return self.payload.get("repo" if self.kind == "#commit" else "did")

    @property
    def normalized(self) -> bytes:
        """The frame's bytes with the value of `seq` taken out: equal for two frames that differ in `seq` alone."""
        if self.seq is None:
            return self.raw
        return self.raw[: self.seq_start] + _SEQ_PLACE + self.raw[self.seq_end :]

    def with_seq(self, seq: int) -> bytes:
        """The frame's bytes with another `seq` in shortest form."""
        return self.raw[: self.seq_start] + head(0, seq) + self.raw[self.seq_end :]


def decode_frame(raw: bytes) -> Frame:
    """Decode a frame strictly: exactly two canonical items, a header with a known `op`, a map as payload."""
    if len(raw) > FRAME_MAX:
        raise FrameError("over 5,000,000 bytes")
    try:
        header, at = decode_item(raw, 0)
        op, kind = _read_header(header)
        major, count, at = read_head(raw, at)
        if major != 5:
            raise FrameError("the payload is not a map")
        payload: dict[str, Any] = {}
        previous = None
        seq_start = seq_end = 0
        for _ in range(count):
            key, previous, at = read_key(raw, at, previous)
            value, end = decode_item(raw, at, 1)
            if key == "seq":
                seq_start, seq_end = at, end
            payload[key] = value
            at = end
    except DrislError as exc:
        raise FrameError(str(exc)) from exc
    if at != len(raw):
        raise FrameError("more than two items")
    seq = payload.get("seq")
    if seq_start and (type(seq) is not int or not 1 <= seq <= SEQ_MAX):
        raise FrameError("seq out of range")
    return Frame(op, kind, payload, raw, seq, seq_start, seq_end)


def _read_header(header: object) -> tuple[int, str]:
    if not isinstance(header, dict):
        raise FrameError("the header is not a map")
    op, kind = header.get("op"), header.get("t", "")
    if op == 1 and isinstance(kind, str) and kind.startswith("#"):
        return 1, kind
    if op == -1 and "t" not in header:
        return -1, "error"
    raise FrameError(f"header {header}")
