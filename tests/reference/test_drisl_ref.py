"""The reference codec against published data, and against itself."""

from __future__ import annotations

import base64
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import fixtures
from tests.reference.drisl_ref import Cid, DrislError, decode, encode

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.binary(max_size=40)
    | st.binary(max_size=20).map(Cid.of),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=12), inner, max_size=6),
    max_leaves=30,
)


def from_json(value: Any) -> Any:
    """The data model's value of its JSON form ($link, $bytes)."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"$link"}:
        return Cid.parse(value["$link"])
    if value.keys() == {"$bytes"}:
        return base64.b64decode(value["$bytes"] + "=" * (-len(value["$bytes"]) % 4))
    return {key: from_json(item) for key, item in value.items()}


def test_published_values_encode_to_their_bytes_and_cids() -> None:
    """Each value of the interop suite has the published bytes and CID, both ways."""
    cases = fixtures.interop("data-model/data-model-fixtures.json")
    assert len(cases) == 3
    for case in cases:
        value = from_json(case["json"])
        raw = base64.b64decode(case["cbor_base64"] + "=" * (-len(case["cbor_base64"]) % 4))
        assert encode(value) == raw
        assert decode(raw) == value
        assert str(Cid.of(raw)) == case["cid"]


def test_published_valid_values_survive_the_codec() -> None:
    """Each valid value of the interop suite is the same after encoding and decoding."""
    cases = fixtures.interop("data-model/data-model-valid.json")
    assert len(cases) == 5
    for case in cases:
        value = from_json(case["json"])
        assert decode(encode(value)) == value


def test_recorded_payloads_are_canonical() -> None:
    """Both items of every recorded frame are canonical, and encode back to the same bytes."""
    from tests.reference.drisl_ref import decode_item

    for frame in fixtures.recorded_frames():
        header, at = decode_item(frame, 0)
        payload, end = decode_item(frame, at)
        assert end == len(frame)
        assert encode(header) + encode(payload) == frame


@given(VALUES)
def test_what_is_encoded_decodes_to_itself(value: Any) -> None:
    """Every value of the data model survives, bit for bit."""
    raw = encode(value)
    again = decode(raw)
    assert again == value
    assert encode(again) == raw


@given(st.binary(max_size=60))
def test_what_decodes_is_canonical(raw: bytes) -> None:
    """No bytes but the canonical encoding are accepted."""
    try:
        value = decode(raw)
    except DrislError:
        return
    assert encode(value) == raw


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "truncated"),
        ("18", "truncated"),
        ("1817", "shortest"),
        ("1900ff", "shortest"),
        ("1a0000ffff", "shortest"),
        ("1b00000000ffffffff", "shortest"),
        ("7801" + "61", "shortest"),
        ("1b8000000000000000", "range"),
        ("3b8000000000000000", "range"),
        ("1c", "reserved"),
        ("5f4161ff", "indefinite"),
        ("9fff", "indefinite"),
        ("bfff", "indefinite"),
        ("61ff", "UTF-8"),
        ("63eda080", "UTF-8"),
        ("a10000", "not text"),
        ("a2616100616100", "duplicate"),
        ("a2616200616100", "sorted"),
        ("a262616100616200", "sorted"),
        ("c100", "tag"),
        ("d82b00", "tag"),
        ("d82a6100", "not bytes"),
        ("d82a40", "00"),
        ("d82a4101", "00"),
        ("d82a45000171120f", "digest length"),
        ("d82a4500027112" + "00", "CID version"),
        ("f7", "simple"),
        ("e0", "simple"),
        ("f800", "simple"),
        ("f93c00", "float"),
        ("fa3f800000", "float"),
        ("fb7ff8000000000000", "finite"),
        ("fb7ff0000000000000", "finite"),
        ("ff", "simple"),
        ("0000", "trailing"),
        ("81" * 70 + "00", "deep"),
    ],
)
def test_each_defect_has_its_reason(raw: str, reason: str) -> None:
    """Each kind of non-canonical encoding is rejected for that reason (C12)."""
    with pytest.raises(DrislError, match=reason):
        decode(bytes.fromhex(raw))


def test_floats_keep_their_sign_of_zero() -> None:
    """-0.0 and 0.0 are different encodings."""
    assert encode(-0.0) != encode(0.0)
    value = decode(encode(-0.0))
    assert isinstance(value, float)
    assert math.copysign(1, value) == -1
