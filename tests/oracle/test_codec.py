"""DRISL: `dag_cbor` and `libipld` encode and judge; ours must accept, and where they are strict, refuse alike."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from tests import fixtures
from tests.reference.car_ref import read_car, write_car
from tests.reference.drisl_ref import Cid, DrislError, decode, encode
from tests.reference.frame_ref import decode_frame
from zlay._fast import car, drisl

if TYPE_CHECKING:
    from tests.oracle.conftest import Oracle

VALUES = 100
MUTANTS_OF_EACH = 20
CARS = 60
# Reasons that are ours alone: the libraries take any integer of 64 bits, and CIDs that no repository may hold.
OURS_ALONE = {"cbor_int_range", "cbor_cid", "cbor_depth", "cbor_limit"}


def mutants(rng: random.Random, raw: bytes) -> list[bytes]:
    """Inputs near a valid one: a byte changed, left out, doubled, or everything after it gone."""
    result = []
    for _ in range(MUTANTS_OF_EACH):
        at = rng.randrange(len(raw))
        result.append(
            rng.choice(
                [
                    raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :],
                    raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :],
                    raw[:at] + raw[at + 1 :],
                    raw[: at + 1] + raw[at:],
                    raw[:at],
                ]
            )
        )
    return result


def only_blessed_cids(value: Any) -> bool:
    """Whether every CID in a value is of the form that the libraries know."""
    if isinstance(value, Cid):
        return value.blessed
    if isinstance(value, list):
        return all(map(only_blessed_cids, value))
    if isinstance(value, dict):
        return all(map(only_blessed_cids, value.values()))
    return True


def by_reference(raw: bytes) -> Any:
    """The reference's value, or DrislError as a value."""
    try:
        return decode(raw)
    except DrislError as exc:
        return exc


def test_valid_data_of_other_encoders_is_accepted(oracle: Oracle) -> None:
    """Whatever dag_cbor encodes of the data model, we accept, as a message's data and as a record."""
    for text in oracle.ask("encode", count=VALUES, seed=1):
        raw = bytes.fromhex(text)
        assert drisl.validate(raw) == "ok"
        assert drisl.check_record(raw) == "ok"


@pytest.mark.parametrize("seed", [1, 2])
def test_mutants_are_judged_alike(oracle: Oracle, seed: int) -> None:
    """On inputs near valid ones we agree with the reference wholly, and with both libraries where strict."""
    rng = random.Random(seed)
    cases = [
        mutant for text in oracle.ask("encode", count=VALUES, seed=seed) for mutant in mutants(rng, bytes.fromhex(text))
    ]
    says = oracle.ask("decode", cases=[raw.hex() for raw in cases])
    accepted = 0
    for raw, said in zip(cases, says, strict=True):
        ours = drisl.validate(raw, "record")
        value = by_reference(raw)
        assert (ours == "ok") == (not isinstance(value, DrislError)), (raw.hex(), ours, value)
        same = said["dag_cbor"] == raw.hex()
        if ours == "ok":
            accepted += 1
            assert said["libipld"] is not None, raw.hex()
            assert same or not only_blessed_cids(value), raw.hex()
        elif ours not in OURS_ALONE:
            assert not same, (raw.hex(), ours)
    assert 0.02 < accepted / len(cases) < 0.9, "the mutants must hit both sides"


def test_recorded_blocks_are_accepted_by_all(oracle: Oracle) -> None:
    """Every record and node of the recorded commits is canonical to us and to both libraries."""
    payloads = [decode_frame(raw).payload for raw in fixtures.recorded_frames()]
    blocks = [block for payload in payloads if "blocks" in payload for block in read_car(payload["blocks"])[1].values()]
    assert len(blocks) > 1000
    for block, said in zip(blocks, oracle.ask("decode", cases=[block.hex() for block in blocks]), strict=True):
        assert drisl.validate(block, "record") == "ok"
        assert said["dag_cbor"] == block.hex()
        assert said["libipld"] == block.hex()


def cars(rng: random.Random) -> list[bytes]:
    """CARs of a few blocks, and what becomes of them when bytes are changed."""
    found = []
    for _ in range(CARS):
        blocks = [
            encode({"n": rng.randrange(9), "text": "x" * rng.choice((1, 90, 300))}) for _ in range(rng.randrange(5))
        ]
        pairs = [(Cid.of(block), block) for block in blocks]
        found.append(write_car([cid for cid, _ in pairs[: rng.choice((1, 1, 2))]] or [Cid.of(b"none")], pairs))
        found += mutants(rng, found[-1])
    return found


def test_cars_are_read_alike(oracle: Oracle) -> None:
    """A CAR that we accept libipld reads with the same roots and blocks; it does not look at hashes and short forms."""
    cases = cars(random.Random(4))
    accepted = 0
    for raw, said in zip(cases, oracle.ask("decode_cars", cases=[raw.hex() for raw in cases]), strict=True):
        ours = car.parse(raw)
        if isinstance(ours, str):
            continue
        accepted += 1
        assert said is not None, raw.hex()
        assert said["roots"][0] == ours["root"].hex()
        assert said["cids"] == sorted({cid.hex() for cid, _ in ours["blocks"]})
    assert 0.05 < accepted / len(cases) < 0.5
