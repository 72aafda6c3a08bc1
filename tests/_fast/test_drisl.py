"""zlay._fast.drisl: exactly the canonical encodings are accepted, in bounded time, and each fault has its name."""

from __future__ import annotations

import base64
import struct
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import fixtures
from tests._fast.frames import Pairs, Raw, cid, pack
from tests.reference import drisl_ref
from tests.reference.drisl_ref import Cid
from zlay._fast import drisl

if TYPE_CHECKING:
    import random

ONE = b"\x01"
DEEPEST = 64
MAP_LIMIT = 8192
ARRAY_LIMIT = 131_072
RECORD_BYTES = 1_000_000


def item(text: str) -> bytes:
    """The bytes of spaced hexadecimal digits."""
    return bytes.fromhex(text)


def link(raw: bytes) -> bytes:
    """Tag 42 over a byte string as given."""
    return b"\xd8\x2a" + drisl_ref.head(2, len(raw)) + raw


def numbered_map(n: int) -> bytes:
    """A canonical map of n entries."""
    return drisl_ref.head(5, n) + b"".join(b"\x66%06d\x01" % i for i in range(n))


FAULTS = {
    "empty": (b"", "cbor_truncated"),
    "head cut": (item("19 01"), "cbor_truncated"),
    "text cut": (item("63 61 62"), "cbor_truncated"),
    "bytes cut": (item("42 00"), "cbor_truncated"),
    "bytes of 2**63": (item("5b 80 00 00 00 00 00 00 00"), "cbor_truncated"),
    "text of 2**64-1": (item("7b ff ff ff ff ff ff ff ff"), "cbor_truncated"),
    "array of 2**64-1": (item("9b ff ff ff ff ff ff ff ff"), "cbor_truncated"),
    "map of 2**63": (item("bb 80 00 00 00 00 00 00 00"), "cbor_truncated"),
    "map of 2**32": (item("bb 00 00 00 01 00 00 00 00"), "cbor_truncated"),
    "array without its items": (item("82 01"), "cbor_truncated"),
    "map without its value": (item("a1 61 61"), "cbor_truncated"),
    "link cut": (b"\xd8\x2a\x58\x25\x00" + cid()[:-1], "cbor_truncated"),
    "double cut": (item("fb 3f f0 00 00 00 00 00"), "cbor_truncated"),
    "uint8 of 23": (item("18 17"), "cbor_not_shortest"),
    "uint16 of 255": (item("19 00 ff"), "cbor_not_shortest"),
    "uint32 of 65535": (item("1a 00 00 ff ff"), "cbor_not_shortest"),
    "uint64 of 2**32-1": (item("1b 00 00 00 00 ff ff ff ff"), "cbor_not_shortest"),
    "negative in two bytes": (item("38 00"), "cbor_not_shortest"),
    "text length in two bytes": (item("78 01 61"), "cbor_not_shortest"),
    "bytes length in three bytes": (item("59 00 01 61"), "cbor_not_shortest"),
    "array length in two bytes": (item("98 01 01"), "cbor_not_shortest"),
    "map length in two bytes": (item("b8 01 61 61 01"), "cbor_not_shortest"),
    "key length in two bytes": (item("a1 78 01 61 01"), "cbor_not_shortest"),
    "tag 42 in three bytes": (b"\xd9\x00\x2a\x58\x25\x00" + cid(), "cbor_not_shortest"),
    "indefinite bytes": (item("5f 41 00 ff"), "cbor_indefinite"),
    "indefinite text": (item("7f 61 61 ff"), "cbor_indefinite"),
    "indefinite array": (item("9f 01 ff"), "cbor_indefinite"),
    "indefinite map": (item("bf 61 61 01 ff"), "cbor_indefinite"),
    "break alone": (item("ff"), "cbor_indefinite"),
    "indefinite integer": (item("1f"), "cbor_indefinite"),
    "keys by bytes before length": (pack(Pairs((("aa", 1), ("b", 2)))), "cbor_key_order"),
    "keys descending": (pack(Pairs((("b", 1), ("a", 2)))), "cbor_key_order"),
    "key twice": (pack(Pairs((("a", 1), ("a", 2)))), "cbor_key_order"),
    "empty key twice": (pack(Pairs((("", 1), ("", 2)))), "cbor_key_order"),
    "key after a nested map": (pack(Pairs((("b", {"z": 1}), ("a", 2)))), "cbor_key_order"),
    "integer key": (pack(Pairs(((1, 1),))), "cbor_key_type"),
    "bytes key": (pack(Pairs(((b"a", 1),))), "cbor_key_type"),
    "null key": (pack(Pairs(((None, 1),))), "cbor_key_type"),
    "half": (item("f9 3c 00"), "cbor_float"),
    "single": (item("fa 3f 80 00 00"), "cbor_float"),
    "double": (item("fb 3f f0 00 00 00 00 00 00"), "cbor_float"),
    "tag 0": (item("c0 61 61"), "cbor_tag"),
    "tag 41": (item("d8 29 41 00"), "cbor_tag"),
    "tag 43": (item("d8 2b 41 00"), "cbor_tag"),
    "tag 2**32": (item("db 00 00 00 01 00 00 00 00 01"), "cbor_tag"),
    "undefined": (item("f7"), "cbor_simple"),
    "simple 0": (item("e0"), "cbor_simple"),
    "simple 19": (item("f3"), "cbor_simple"),
    "simple 32": (item("f8 20"), "cbor_simple"),
    "false in two bytes": (item("f8 14"), "cbor_simple"),
    "reserved 28": (item("1c"), "cbor_simple"),
    "reserved 29 of a map": (item("bd"), "cbor_simple"),
    "reserved 30 of major 7": (item("fe"), "cbor_simple"),
    "continuation byte first": (item("61 80"), "cbor_utf8"),
    "overlong slash": (item("62 c0 af"), "cbor_utf8"),
    "surrogate": (item("63 ed a0 80"), "cbor_utf8"),
    "above U+10FFFF": (item("64 f4 90 80 80"), "cbor_utf8"),
    "sequence cut by the text's end": (item("62 61 e2"), "cbor_utf8"),
    "invalid key": (item("a1 61 ff 01"), "cbor_utf8"),
    "link to text": (item("d8 2a 61 00"), "cbor_cid"),
    "link to nothing": (link(b""), "cbor_cid"),
    "link without 00": (link(cid()), "cbor_cid"),
    "link with 01": (link(b"\x01" + cid()), "cbor_cid"),
    "link of 00 alone": (link(b"\x00"), "cbor_cid"),
    "CID version 0": (link(b"\x00\x12\x20" + bytes(32)), "cbor_cid"),
    "CID version 2": (link(b"\x00\x02\x71\x12\x20" + bytes(32)), "cbor_cid"),
    "digest too short": (link(b"\x00\x01\x71\x12\x20" + bytes(31)), "cbor_cid"),
    "digest too long": (link(b"\x00\x01\x71\x12\x20" + bytes(33)), "cbor_cid"),
    "codec varint too long": (link(b"\x00\x01\xf1\x00\x12\x20" + bytes(32)), "cbor_cid"),
    "version varint too long": (link(b"\x00\x81\x00\x71\x12\x20" + bytes(32)), "cbor_cid"),
    "hash varint of 10 bytes": (link(b"\x00\x01\x71" + b"\xff" * 9 + b"\x01\x20" + bytes(32)), "cbor_cid"),
    "CID that ends in a varint": (link(b"\x00\x01\x71\x92"), "cbor_cid"),
    "CID over 99 bytes": (link(b"\x00\x01\x55\x13" + bytes([97]) + bytes(97)), "cbor_cid"),
    "digest over 64 bytes": (link(b"\x00\x01\x55\x13" + bytes([65]) + bytes(65)), "cbor_cid"),
    "65 arrays around an item": (b"\x81" * (DEEPEST + 1) + ONE, "cbor_depth"),
    "65 maps around an item": (b"\xa1\x61a" * (DEEPEST + 1) + ONE, "cbor_depth"),
    "2**63": (item("1b 80 00 00 00 00 00 00 00"), "cbor_int_range"),
    "-2**63 - 1": (item("3b 80 00 00 00 00 00 00 00"), "cbor_int_range"),
    "two items": (ONE + ONE, "cbor_trailing"),
    "map of 8,193": (numbered_map(MAP_LIMIT + 1), "cbor_limit"),
    "array of 131,073": (drisl_ref.head(4, ARRAY_LIMIT + 1) + bytes(ARRAY_LIMIT + 1), "cbor_limit"),
    "key of 8,193 bytes": (pack({"k" * 8193: 1}), "cbor_limit"),
}

VALID = {
    "0": item("00"),
    "23": item("17"),
    "24": item("18 18"),
    "256": item("19 01 00"),
    "2**16": item("1a 00 01 00 00"),
    "2**32": item("1b 00 00 00 01 00 00 00 00"),
    "2**63 - 1": item("1b 7f ff ff ff ff ff ff ff"),
    "-2**63": item("3b 7f ff ff ff ff ff ff ff"),
    "false true null": item("83 f4 f5 f6"),
    "empty things": item("84 40 60 80 a0"),
    "all lengths of UTF-8": pack("a" + "é" + "€" + "𐍈" + "\U0010ffff" + "\ue000" + "\ud7ff"),
    "keys by length, then bytes": pack(Pairs((("", 1), ("b", 2), ("aa", 3), ("ab", 4), ("é", 5)))),
    "blessed link": pack(cid()),
    "link to a raw block": pack(cid(codec=0x55)),
    "link with another hash": link(b"\x00\x01\x71\xb2\x40\x40" + bytes(64)),
    "link of an identity hash": link(b"\x00\x01\x55\x00\x00"),
    "digest of 64 bytes": link(b"\x00\x01\x55\x13" + bytes([64]) + bytes(64)),
    "64 arrays around an item": b"\x81" * DEEPEST + ONE,
    "64 arrays around an empty one": b"\x81" * DEEPEST + b"\x80",
    "64 maps around an item": b"\xa1\x61a" * DEEPEST + ONE,
    "siblings of the deepest": b"\x81" * (DEEPEST - 1) + b"\x83\x01\xa0\x02",
    "map of 8,192": numbered_map(MAP_LIMIT),
    "array of 131,072": drisl_ref.head(4, ARRAY_LIMIT) + bytes(ARRAY_LIMIT),
    "key of 8,192 bytes": pack({"k" * 8192: 1}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_name(name: str) -> None:
    """Every way to break an encoding is refused, with the reason that says which."""
    data, reason = FAULTS[name]
    assert drisl.validate(data) == reason


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("around", [b"\x81", b"\x82\x01", b"\xa1\x61a", b"\xa2\x61a\xa0\x61b"])
def test_faults_are_found_at_any_place(name: str, around: bytes) -> None:
    """A fault inside arrays and maps is found as it is found alone; only bytes after an item then belong to nobody."""
    data, reason = FAULTS[name]
    assert drisl.validate(around + data) == reason
    assert drisl.validate(around + data, "unknown") == (reason if name != "double" else "ok")


@pytest.mark.parametrize("name", VALID)
def test_valid_items_of_every_kind(name: str) -> None:
    """What DRISL allows is accepted, up to each limit, in every mode."""
    for mode in ("data", "unknown", "record"):
        assert drisl.validate(VALID[name], mode) == "ok"


def test_every_truncation_is_seen() -> None:
    """No prefix of a valid item is valid, wherever it is cut."""
    whole = pack({"a": [1, 300, -70_000, 2**40], "b": {"c": cid(), "d": b"12345"}, "text": "aé€𐍈" * 9, "z": None})
    assert drisl.validate(whole) == "ok"
    for end in range(len(whole)):
        assert drisl.validate(whole[:end]) == "cbor_truncated", end


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -1e300, 5e-324, 1.7976931348623157e308, 1e-310])
def test_floats_by_place(value: float) -> None:
    """Finite float64 passes in records; in unknown fields, too, but for those with a zero high half; else nowhere."""
    data = b"\xfb" + struct.pack(">d", value)
    assert drisl.validate(data, "record") == "ok"
    assert drisl.validate(data, "data") == "cbor_float"
    poison = data[1:5] == bytes(4)
    assert drisl.validate(data, "unknown") == ("cbor_float" if poison else "ok")


@pytest.mark.parametrize("bits", ["7ff8000000000000", "7ff0000000000000", "fff0000000000000", "7ff0000000000001"])
def test_not_finite_floats_pass_nowhere(bits: str) -> None:
    """NaN of any form and the infinities are refused everywhere."""
    for mode in ("data", "unknown", "record"):
        assert drisl.validate(b"\xfb" + bytes.fromhex(bits), mode) == "cbor_float"


def test_records() -> None:
    """A record is one DRISL map of at most 1,000,000 bytes, with links of any hash and length, and finite floats."""
    record = {"$type": "a.b.c", "text": "hi", "ref": Raw(VALID["link with another hash"])}
    assert drisl.check_record(pack(record)) == "ok"
    assert drisl.check_record(pack(record | {"x": Raw(b"\xfb" + struct.pack(">d", 0.0))})) == "ok"
    assert drisl.check_record(numbered_map(MAP_LIMIT + 1)) == "ok"
    assert drisl.check_record(pack({"x": Raw(link(b"\x00\x01\x55\x13" + bytes([95]) + bytes(95)))})) == "ok"
    assert drisl.check_record(b"\xa0") == "ok"
    for broken in (b"", b"\x80", b"\x01", b"\xa0\x00", pack(record)[:-1], pack(Pairs(((1, 1),))), b"\xbf\xff"):
        assert drisl.check_record(broken) == "record_not_map"
    for data, _ in FAULTS.values():
        if data[:1] != b"\xfb" and data not in (FAULTS["map of 8,193"][0], FAULTS["digest over 64 bytes"][0]):
            assert drisl.check_record(pack({"a": Raw(data)})) == "record_not_map"
    room = RECORD_BYTES - len(pack({"a": bytes(900_000)})) + 900_000
    assert drisl.check_record(pack({"a": bytes(room)})) == "ok"
    assert drisl.check_record(pack({"a": bytes(room + 1)})) == "block_size"


def test_published_data_model_examples() -> None:
    """The published examples of the data model are valid DRISL."""
    examples = fixtures.interop("data-model/data-model-fixtures.json")
    assert len(examples) == 3
    for entry in examples:
        raw = entry["cbor_base64"]
        block = base64.b64decode(raw + "=" * (-len(raw) % 4))
        assert drisl.validate(block) == "ok"
        assert drisl.check_record(block) == "ok"
        assert str(Cid.of(block)) == entry["cid"]


def as_data(value: object) -> drisl_ref.Value:
    """The data model's value of its JSON form ($link, $bytes)."""
    if isinstance(value, dict):
        if set(value) == {"$link"}:
            return Cid.parse(value["$link"])
        if set(value) == {"$bytes"}:
            raw = value["$bytes"]
            return base64.b64decode(raw + "=" * (-len(raw) % 4))
        return {key: as_data(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_data(item) for item in value]
    assert value is None or isinstance(value, str | int | float)
    return value


def test_published_valid_and_invalid_data() -> None:
    """Data that the published examples call valid encodes to valid DRISL; a float is refused outside of records.

    The other invalid examples break rules of JSON or of lexicons, which CBOR does not have or a relay does not check.
    """
    for entry in fixtures.interop("data-model/data-model-valid.json"):
        assert drisl.check_record(drisl_ref.encode(as_data(entry["json"]))) == "ok", entry["note"]
    invalid = {entry["note"]: entry["json"] for entry in fixtures.interop("data-model/data-model-invalid.json")}
    assert len(invalid) == 12
    assert drisl.validate(drisl_ref.encode(invalid["float"])) == "cbor_float"
    assert drisl.check_record(drisl_ref.encode(invalid["top-level not an object"])) == "record_not_map"
    bogus = link(b"\x00" + invalid["link with bogus CID"]["lnk"]["$link"].encode())
    assert drisl.validate(bogus) == "cbor_cid"


CIDS = st.builds(
    lambda codec, code, digest: Cid(bytes((1, codec, code, len(digest))) + digest),
    st.integers(0, 127),
    st.integers(0, 127),
    st.binary(max_size=64),
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-300, 300)
    | st.text(max_size=30)
    | st.binary(max_size=30)
    | CIDS
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=5)
)


@given(VALUES)
@settings(max_examples=500)
def test_all_canonical_encodings_are_accepted(value: drisl_ref.Value) -> None:
    """Whatever the slow reference encodes is accepted."""
    data = drisl_ref.encode(value)
    assert drisl.validate(data) == "ok"
    assert drisl.validate(data + b"\x00") == "cbor_trailing"


def reference_accepts(data: bytes) -> bool:
    """What the slow reference says, less what zlay refuses besides: CIDs of version 0, and floats."""
    try:
        value = drisl_ref.decode(data)
    except drisl_ref.DrislError:
        return False
    return plain(value)


def plain(value: drisl_ref.Value) -> bool:
    """True = holds no float, and no CID of version 0, over 99 bytes, or with a digest of over 64."""
    if isinstance(value, Cid):
        at = 0
        for _ in range(3):
            _, at = drisl_ref.read_uvarint(value, at)
        return value[0] == 1 and len(value) <= 99 and drisl_ref.read_uvarint(value, at)[0] <= 64
    if isinstance(value, list):
        return all(map(plain, value))
    if isinstance(value, dict):
        return all(map(plain, value.values()))
    return not isinstance(value, float)


@given(VALUES, st.randoms(use_true_random=False))
@settings(max_examples=1000)
def test_mutated_encodings_are_judged_as_the_reference_judges_them(value: drisl_ref.Value, rng: random.Random) -> None:
    """Whatever bytes are changed in a valid encoding, the slow reference and the compiled check agree."""
    data = bytearray(drisl_ref.encode(value))
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0 if at < len(data):
                data[at] = rng.randrange(256)
            case 1 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                data[at:at] = bytes((rng.choice((0x18, 0x5F, 0x7F, 0xD8, 0xF7, 0xFB, 0x81, 0xA1, rng.randrange(256))),))
            case _:
                del data[at : at + rng.randint(1, 2)]
    assert (drisl.validate(bytes(data)) == "ok") == reference_accepts(bytes(data))


@given(st.binary(max_size=40))
@settings(max_examples=1500)
@example(b"\xa2\x61b\x01\x61a\x01")
def test_any_bytes_are_judged_as_the_reference_judges_them(data: bytes) -> None:
    """For any bytes at all, the slow reference and the compiled check agree."""
    assert (drisl.validate(data) == "ok") == reference_accepts(data)


@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
@settings(max_examples=1500)
@example(b"aaaaaaaa\x80")
@example(b"aaaaaaaaaaaaaaa\xf4\x8f\xbf\xbf")
def test_utf8_as_python_judges_it(data: bytes) -> None:
    """Text is valid exactly when Python's strict decoder reads it."""
    try:
        data.decode("utf-8")
        valid = True
    except UnicodeDecodeError:
        valid = False
    assert drisl.is_utf8(data) is valid


def test_every_two_and_three_byte_sequence() -> None:
    """UTF-8 is judged right for every sequence of two bytes, and every three-byte one with a lead from E0 to F4."""
    for first in range(256):
        for second in range(256):
            data = bytes((first, second))
            assert drisl.is_utf8(data) is (data.decode("utf-8", "replace").encode() == data)
    for lead in range(0xE0, 0xF5):
        for second in range(0x70, 0xD0):
            for tail in (b"\x7f", b"\x80", b"\xbf", b"\xc0", b"\x80\x80", b"\xbf\xbf", b"\x80\xc0"):
                data = bytes((lead, second)) + tail
                assert drisl.is_utf8(data) is (data.decode("utf-8", "replace").encode() == data)


@given(st.integers(0, 2**64 - 1) | st.integers(0, 70_000), st.integers(0, 6))
@example(23, 0)
@example(24, 0)
@example(255, 0)
@example(256, 0)
@example(65_535, 0)
@example(65_536, 0)
@example(2**32 - 1, 0)
@example(2**32, 0)
def test_written_heads_are_the_shortest(value: int, major: int) -> None:
    """The head that is written for splicing and re-encoding is the shortest there is."""
    assert drisl.put_head(major, value) == drisl_ref.head(major, value)
    assert drisl.put_uint(value) == drisl_ref.head(0, value)


def test_hostile_shapes_take_linear_time() -> None:
    """5 MB made of the smallest items, the deepest nesting or the longest text is checked within a bounded time."""
    n = 5_000_000
    shapes = {
        "empty arrays": drisl_ref.head(4, 38) + (drisl_ref.head(4, ARRAY_LIMIT) + b"\x80" * ARRAY_LIMIT) * 38,
        "nested": drisl_ref.head(4, n // 130) + (b"\x81" * 63 + b"\x80") * (n // 130),
        "maps": drisl_ref.head(4, 75_000) + (b"\xa2\x60\x01\x61a\x01" * 75_000),
        "text": pack("é" * (n // 2)),
        "links": drisl_ref.head(4, 120_000) + pack(cid()) * 120_000,
    }
    for name, data in shapes.items():
        started = time.process_time()
        assert drisl.validate(data) == "ok", name
        assert time.process_time() - started < 0.5, name
