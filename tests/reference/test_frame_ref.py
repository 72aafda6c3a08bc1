"""The reference for frames and CARs against the recorded frames."""

from __future__ import annotations

import pytest

from tests import fixtures
from tests.reference.car_ref import CarError, read_car, write_car
from tests.reference.drisl_ref import Cid, encode
from tests.reference.frame_ref import FrameError, decode_frame


def test_recorded_frames() -> None:
    """The recorded frames are 148 commits, an identity and an account, with ascending seq."""
    frames = [decode_frame(raw) for raw in fixtures.recorded_frames()]
    kinds = [frame.kind for frame in frames]
    assert (len(kinds), kinds.count("#commit"), kinds.count("#identity"), kinds.count("#account")) == (150, 148, 1, 1)
    seqs = [frame.seq for frame in frames]
    assert seqs == sorted(set(seqs), key=lambda seq: seq or 0)
    assert all(frame.did is not None and frame.did.startswith("did:plc:") for frame in frames)


def test_seq_is_replaced_in_place() -> None:
    """Another seq changes nothing else, whatever its length."""
    for raw in fixtures.recorded_frames():
        frame = decode_frame(raw)
        assert frame.seq is not None
        assert frame.with_seq(frame.seq) == raw
        for seq in (1, 24, 256, 65536, 2**32, 2**53 - 1):
            other = decode_frame(frame.with_seq(seq))
            assert other.seq == seq
            assert other.normalized == frame.normalized
            assert {**other.payload, "seq": frame.seq} == frame.payload


def test_normalized_frames_differ_where_anything_else_differs() -> None:
    """A change outside of seq shows in the normalised bytes."""
    raw = fixtures.recorded_frames()[0]
    changed = decode_frame(raw.replace(b"did:plc:", b"did:plx:", 1))
    assert changed.normalized != decode_frame(raw).normalized


HEADER = encode({"op": 1, "t": "#identity"})
BODY = encode({"seq": 5, "did": "did:plc:x"})


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "truncated"),
        (HEADER, "truncated"),
        (HEADER + BODY + b"\x00", "two items"),
        (HEADER + encode([1]), "not a map"),
        (encode([1]) + BODY, "header"),
        (encode({"op": 2, "t": "#x"}) + BODY, "header"),
        (encode({"op": 1}) + BODY, "header"),
        (encode({"op": -1, "t": "#x"}) + BODY, "header"),
        (HEADER + encode({"seq": 0}), "seq"),
        (HEADER + encode({"seq": 2**53}), "seq"),
        (HEADER + encode({"seq": "5"}), "seq"),
        (HEADER + bytes.fromhex("a1637365711805"), "shortest"),
        (b"\x00" * 5_000_001, "5,000,000"),
    ],
)
def test_invalid_framing_is_rejected(raw: bytes, reason: str) -> None:
    """What is not exactly a header and a payload is invalid framing (A3)."""
    with pytest.raises(FrameError, match=reason):
        decode_frame(raw)


def test_error_frames_decode() -> None:
    """An error frame has op -1, no type and no seq (A6)."""
    frame = decode_frame(encode({"op": -1}) + encode({"error": "FutureCursor", "message": "Cursor in the future."}))
    assert (frame.op, frame.kind, frame.seq, frame.payload["error"]) == (-1, "error", None, "FutureCursor")


def test_recorded_cars_are_read_and_written_back() -> None:
    """Every recorded CAR is read, its blocks held against their CIDs, and written back to the same bytes."""
    for raw in fixtures.recorded_frames():
        payload = decode_frame(raw).payload
        if "blocks" not in payload:
            continue
        roots, blocks = read_car(payload["blocks"])
        assert write_car(roots, blocks.items()) == payload["blocks"]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "truncated"),
        (write_car([], []), "roots"),
        (b"\x01\xa0", "header"),
        (write_car([Cid.of(b"x")], [(Cid.of(b"x"), b"y")]), "what its CID says"),
        (write_car([Cid.of(b"x")], [(Cid.of(b"x"), b"x")])[:-1], "truncated"),
        (b"\x80\x00", "shortest"),
        (b"\xff" * 9, "too long"),
    ],
)
def test_broken_cars_are_rejected(raw: bytes, reason: str) -> None:
    """Each defect of a CAR is rejected for its reason (C10)."""
    with pytest.raises(CarError, match=reason):
        read_car(raw)
