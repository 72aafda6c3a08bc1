"""The reference of typed Go consumers reads what they read, and stops where they stop."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tests import fixtures
from tests._fast.frames import Raw, cid, commit, create, frame, identity, pack
from tests.reference import go_ref
from tests.reference.go_ref import GoError

SHA512_LINK = Raw(b"\xd8\x2a\x58\x45\x00\x01\x71\x13\x40" + bytes(64))


def float64(value: float) -> Raw:
    """A float64."""
    return Raw(b"\xfb" + struct.pack(">d", value))


def test_recorded_frames_are_read() -> None:
    """Such consumers live on the production network: they read all 150 recorded frames."""
    for raw in fixtures.recorded_frames():
        go_ref.read_frame(raw)


@pytest.mark.parametrize(
    "raw",
    [
        frame(commit(x=float64(1.5), y=[{"z": SHA512_LINK}, "text", b"bytes", None, -5])),
        frame(commit(ops=[create(x=[1, 2])])),
        frame(commit(**{f"f{n}": n for n in range(64)})),
        frame(identity(x=Raw(b"\x81" * 500 + b"\x01")), "#identity"),
        frame({"whatever": float64(0.0)}, "#novelty"),
        pack({"t": "#novelty", "op": 1, "x": {}}) + b"\xff",
    ],
)
def test_what_is_not_looked_at(raw: bytes) -> None:
    """Unknown fields of nearly any kind are stepped over; unknown messages are not read at all."""
    go_ref.read_frame(raw)


STOPS: dict[str, Any] = {
    "a float with a zero high half": commit(x=float64(0.0)),
    "the same, deep inside": commit(x=[{"y": [float64(5e-324)]}]),
    "the same, in an op": commit(ops=[create(x=float64(0.0))]),
    "65 unknown fields": commit(**{f"f{n}": n for n in range(65)}),
    "a map of 8,193": commit(**{f"f{n}": n for n in range(8193 - 12)}),
    "8,193 blobs": commit(blobs=[cid()] * 8193),
    "a link of 101 bytes": commit(x=Raw(b"\xd8\x2a\x58\x65\x00\x01\x55\x13\x60" + bytes(96))),
    "a link without 00": commit(x=Raw(b"\xd8\x2a\x41\x01")),
    "a long head": commit(x=Raw(b"\x18\x01")),
    "an indefinite head": commit(x=Raw(b"\x9f\xff")),
    "seq as text": commit(seq="1"),
    "rev as bytes": commit(rev=b"x"),
    "blocks as text": commit(blocks="x"),
    "rebase null": commit(rebase=None),
    "commit as text": commit(commit="x"),
    "an op that is no map": commit(ops=[1]),
    "a time of 8,193 bytes": commit(time="x" * 8193),
    "a payload that is no map": [1],
}


@pytest.mark.parametrize("name", STOPS)
def test_where_they_stop(name: str) -> None:
    """Each limit, and each known field of another type, ends the connection."""
    with pytest.raises(GoError):
        go_ref.read_frame(frame(STOPS[name]))
