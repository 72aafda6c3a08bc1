"""zlay._fast.car: CARs are read as the slow reference reads them, every hash is checked, every CID is found."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fixtures
from tests._fast.frames import Pairs, Raw, pack
from tests.reference.car_ref import CarError, read_car, write_car, write_uvarint
from tests.reference.drisl_ref import Cid
from tests.reference.frame_ref import decode_frame
from zlay._fast import car, message

if TYPE_CHECKING:
    import random

MAX_BLOCKS = 20_000
BLOCKS = [b"\xa1\x61a\x01", b"\xa0", b"\x80", b"some bytes that nothing links to"]
CIDS = [Cid.of(block) for block in BLOCKS]
HEADER = {"roots": [CIDS[0]], "version": 1}


def section(cid: bytes, block: bytes) -> bytes:
    """One block as it stands in a CAR."""
    return write_uvarint(len(cid) + len(block)) + cid + block


def build(header: Any, *sections: bytes) -> bytes:
    """A CAR of a header (a value, or Raw) and sections."""
    raw = pack(header)
    return write_uvarint(len(raw)) + raw + b"".join(sections)


def parsed(data: bytes) -> car.ParsedCar:
    """The parts of a CAR that must be accepted."""
    got = car.parse(data)
    assert not isinstance(got, str), got
    return got


ALL = [section(cid, block) for cid, block in zip(CIDS, BLOCKS, strict=True)]
OTHER_HASH_LINK = Raw(b"\xd8\x2a\x58\x45\x00\x01\x71\x13\x40" + bytes(64))


def test_recorded_cars() -> None:
    """Every CAR of the recorded frames has the root and blocks that the reference reads, and all are found."""
    seen = 0
    for raw in fixtures.recorded_frames():
        frame = decode_frame(raw)
        if frame.kind != "#commit":
            continue
        data = frame.payload["blocks"]
        roots, blocks = read_car(data)
        got = parsed(data)
        assert got["root"] == roots[0] == frame.payload["commit"]
        assert dict(got["blocks"]) == blocks
        assert car.find(data, list(blocks)) == list(blocks.values())
        seen += len(blocks)
    assert seen > 1500


def test_every_truncation() -> None:
    """A CAR cut short is refused, unless the cut falls between two blocks; then the rest is there."""
    whole = build(HEADER, *ALL)
    ends = {len(build(HEADER, *ALL[:n])) for n in range(len(ALL) + 1)}
    for end in range(len(whole)):
        got = car.parse(whole[:end])
        if end in ends:
            assert not isinstance(got, str)
        else:
            assert got == ("car_header" if end < min(ends) else "car_block"), end


ACCEPTED = {
    "one block": build(HEADER, ALL[0]),
    "no blocks": build(HEADER),
    "any order": build(HEADER, *reversed(ALL)),
    "duplicates": build(HEADER, *ALL, *ALL),
    "two roots": build({"roots": CIDS[:2], "version": 1}, *ALL),
    "a second root of another hash": build({"roots": [CIDS[0], OTHER_HASH_LINK], "version": 1}, *ALL),
    "an unknown header field": build(HEADER | {"x": [1]}, *ALL),
    "root not in the CAR": build({"roots": [Cid.of(b"absent")], "version": 1}, *ALL),
    "a block of codec raw": build(HEADER, section(Cid.of(b"raw", 0x55), b"raw")),
    "an empty block": build(HEADER, section(Cid.of(b""), b"")),
    "a block of 300 bytes": build(HEADER, section(Cid.of(bytes(300)), bytes(300))),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_tolerated(name: str) -> None:
    """Order, duplicates, extra roots and unlinked blocks do not matter; the first root is the commit."""
    got = parsed(ACCEPTED[name])
    if name in ("a second root of another hash", "an unknown header field"):
        assert got["root"] == CIDS[0]
        return
    roots, blocks = read_car(ACCEPTED[name])
    assert got["root"] == roots[0]
    assert dict(got["blocks"]) == blocks
    assert car.find(ACCEPTED[name], list(blocks)) == list(blocks.values())


REFUSED = {
    "nothing": (b"", "car_header"),
    "header of no length": (b"\x00", "car_header"),
    "header longer than the bytes": (b"\x7f\xa2", "car_header"),
    "header length of 2**63": (b"\xff" * 8 + b"\x7f", "car_header"),
    "header length in two bytes": (b"\x80\x00" + build(HEADER)[1:], "car_header"),
    "header no map": (build([1]), "car_header"),
    "header cut": (build(Raw(pack(HEADER)[:-1])), "car_header"),
    "header and more": (build(Raw(pack(HEADER) + b"\x00")), "car_header"),
    "header out of order": (build(Pairs((("version", 1), ("roots", [CIDS[0]])))), "car_header"),
    "version 2": (build(HEADER | {"version": 2}), "car_header"),
    "version as text": (build(HEADER | {"version": "1"}), "car_header"),
    "no version": (build({"roots": [CIDS[0]]}), "car_header"),
    "roots not an array": (build(HEADER | {"roots": CIDS[0]}), "car_header"),
    "root not a link": (build(HEADER | {"roots": [bytes(CIDS[0])]}), "car_header"),
    "root of another hash": (build(HEADER | {"roots": [OTHER_HASH_LINK]}), "car_header"),
    "second root not a link": (build(HEADER | {"roots": [CIDS[0], 1]}), "car_header"),
    "float in the header": (build(HEADER | {"x": Raw(b"\xfb\x3f\xf0" + bytes(6))}), "car_header"),
    "no roots": (build(HEADER | {"roots": []}), "car_no_root"),
    "roots missing": (build({"version": 1}), "car_no_root"),
    "empty section": (build(HEADER, ALL[0], b"\x00"), "car_block"),
    "section shorter than a CID": (build(HEADER, b"\x23" + CIDS[0][:35]), "car_block"),
    "section beyond the end": (build(HEADER, b"\x7f" + CIDS[0]), "car_block"),
    "section length of 2**35": (build(HEADER, b"\xff\xff\xff\xff\x7f" + CIDS[0]), "car_block"),
    "section length in two bytes": (build(HEADER, b"\xa8\x80\x00" + ALL[0][1:]), "car_block"),
    "CID version 0": (build(HEADER, section(b"\x12\x20" + bytes(32), b"1234")), "car_block"),
    "CID of another codec": (build(HEADER, section(b"\x01\x70" + CIDS[0][2:], BLOCKS[0])), "car_block"),
    "CID of another hash": (build(HEADER, section(b"\x01\x71\x13\x20" + CIDS[0][4:], BLOCKS[0])), "car_block"),
    "CID of 31 bytes": (build(HEADER, section(b"\x01\x71\x12\x1f" + CIDS[0][4:], BLOCKS[0])), "car_block"),
    "block of other bytes": (build(HEADER, section(CIDS[0], BLOCKS[1])), "block_hash"),
    "unlinked block of other bytes": (build(HEADER, *ALL, section(Cid.of(b"x"), b"y")), "block_hash"),
    "20,001 blocks": (build(HEADER, *ALL[1:2] * (MAX_BLOCKS + 1)), "car_too_many_blocks"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_fault_has_its_reason(name: str) -> None:
    """Every way to break a CAR is refused for the reason that names it."""
    data, reason = REFUSED[name]
    assert car.parse(data) == reason


def test_every_changed_bit_is_seen() -> None:
    """One changed bit anywhere behind the header is refused: in a length, a CID or a block."""
    whole = build(HEADER, *ALL)
    start = len(build(HEADER))
    for bit in range(start * 8, len(whole) * 8):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        assert car.parse(bytes(data)) in ("car_block", "block_hash"), bit


def test_find_by_the_whole_cid() -> None:
    """A block is found by all 36 bytes: the same digest under another codec is another block."""
    block = b"\xa0"
    drisl, raw = Cid.of(block), Cid.of(block, 0x55)
    assert car.find(build(HEADER, section(drisl, block)), [drisl, raw]) == [block, None]
    assert car.find(build(HEADER, section(drisl, block), section(raw, block)), [drisl, raw]) == [block, block]
    assert car.find(build(HEADER), [drisl]) == [None]


@given(st.lists(st.binary(max_size=200), max_size=60), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_any_blocks_are_found(contents: list[bytes], rng: random.Random) -> None:
    """Whatever blocks a CAR holds, each is found, and no other."""
    blocks = [(Cid.of(content, rng.choice((0x71, 0x55))), content) for content in contents]
    data = write_car([CIDS[0]], blocks)
    got = parsed(data)
    assert got["blocks"] == blocks
    absent = [Cid.of(content + b"?") for content in contents]
    wanted = [cid for cid, _ in blocks]
    present = dict(blocks)
    assert car.find(data, wanted + absent) == [present[cid] for cid in wanted] + [present.get(cid) for cid in absent]


@given(st.sampled_from([build(HEADER, *ALL), *ACCEPTED.values()]), st.randoms(use_true_random=False))
@settings(max_examples=1500)
def test_mutated_cars_are_judged_as_the_reference_judges_them(raw: bytes, rng: random.Random) -> None:
    """Whatever is accepted the reference accepts too, with the same first root and the same blocks."""
    data = bytearray(raw)
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(data))
        if rng.random() < 0.5:
            data[at] ^= 1 << rng.randrange(8)
        else:
            data[at : at + rng.randint(0, 40)] = bytes(rng.randrange(256) for _ in range(rng.randint(0, 2)))
    got = car.parse(bytes(data))
    try:
        roots, blocks = read_car(bytes(data))
    except CarError:
        assert isinstance(got, str)
        return
    if not isinstance(got, str):
        assert got["root"] == roots[0]
        assert dict(got["blocks"]) == blocks


def test_most_blocks_and_hostile_shapes_take_bounded_time() -> None:
    """20,000 blocks, all different or all the same, are indexed and found in time linear in their number."""
    contents = [n.to_bytes(4, "big") for n in range(MAX_BLOCKS)]
    different = write_car([CIDS[0]], [(Cid.of(content), content) for content in contents])
    same = build(HEADER, *ALL[1:2] * MAX_BLOCKS)
    for data in (different, same):
        started = time.process_time()
        assert len(parsed(data)["blocks"]) == MAX_BLOCKS
        assert time.process_time() - started < 0.5
    cids = [Cid(b"\x01\x71\x12\x20" + hashlib.sha256(content).digest()) for content in contents]
    assert car.find(different, cids) == contents


def test_measuring_refuses_what_decoding_refuses() -> None:
    """The measurement runs the same code: it names a frame that is refused, and its bound hashes the same blocks."""
    frames = list(fixtures.recorded_frames())[:20]
    assert car.measure(frames, 2) > 0
    assert car.measure(frames, 2, "skipped") > 0
    assert car.measure(frames, 2, "only") > 0
    broken = bytearray(frames[3])
    where = frames[3].index(message.decode(frames[3])["blocks"])  # type: ignore[index]
    broken[where + 200] ^= 1
    with pytest.raises(ValueError, match="frame 3: "):
        car.measure([*frames[:3], bytes(broken)], 1)
