"""Signatures: PyCA's `cryptography` signs and verifies, our verdicts must agree."""

from __future__ import annotations

import hashlib
import itertools
import random
from typing import TYPE_CHECKING

import pytest

from zlay._fast import crypto
from zlay.sim.keys import SigningKey

if TYPE_CHECKING:
    from tests.oracle.conftest import Oracle

KEY_TYPE = {"k256": crypto.K256, "p256": crypto.P256}
CURVES = ("k256", "p256")
SIGNATURES = 150


def verdict(curve: str, point: str, digest: str, signature: str) -> str:
    """Our verdict on hex-encoded parts; "no_key" for a point that is not on the curve."""
    if not crypto.is_key(KEY_TYPE[curve], bytes.fromhex(point)):
        return "no_key"
    return crypto.verify(KEY_TYPE[curve], bytes.fromhex(point), bytes.fromhex(digest), bytes.fromhex(signature))


@pytest.mark.parametrize("curve", CURVES)
def test_signatures_of_another_implementation(oracle: Oracle, curve: str) -> None:
    """Low-S signatures verify by both forms of the key; high-S and DER forms of the same signatures do not (C3)."""
    for case in oracle.ask("sign", curve=curve, count=SIGNATURES, seed=1):
        for form in ("compressed", "uncompressed"):
            assert crypto.is_key(KEY_TYPE[curve], bytes.fromhex(case[form]))
            assert verdict(curve, case[form], case["digest"], case["low"]) == "ok"
            assert verdict(curve, case[form], case["digest"], case["high"]) == "sig_high_s"
            assert verdict(curve, case[form], case["digest"], case["der"]) == "sig_form"


@pytest.mark.parametrize("curve", CURVES)
def test_altered_signatures_agree_with_the_oracle(oracle: Oracle, curve: str) -> None:
    """On keys, digests and signatures with one bit turned we say what the oracle says, whatever that is."""
    rng = random.Random(2)
    cases = []
    for case in oracle.ask("sign", curve=curve, count=SIGNATURES, seed=3):
        parts = {"point": case["compressed"], "digest": case["digest"], "signature": case["low"]}
        changed = rng.choice(sorted(parts))
        raw = bytearray.fromhex(parts[changed])
        at = rng.randrange(len(raw) * 8)
        raw[at // 8] ^= 1 << at % 8
        parts[changed] = raw.hex()
        cases.append([curve, parts["point"], parts["digest"], parts["signature"]])
    says = oracle.ask("verify", cases=cases)
    ours = [verdict(*case) for case in cases]
    assert not any(says), "one turned bit and still valid would be a discovery"
    assert "ok" not in ours
    assert {"sig_invalid", "no_key"} <= set(ours)


@pytest.mark.parametrize("curve", CURVES)
def test_numbers_out_of_range(oracle: Oracle, curve: str) -> None:
    """r or s of zero, or not below the order of the curve, are never valid."""
    order = {
        "k256": "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
        "p256": "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
    }[curve]
    case = oracle.ask("sign", curve=curve, count=1, seed=4)[0]
    r, s = case["low"][:64], case["low"][64:]
    for wrong in ("00" * 32, order, "ff" * 32):
        assert verdict(curve, case["compressed"], case["digest"], wrong + s) != "ok"
        assert verdict(curve, case["compressed"], case["digest"], r + wrong) != "ok"
    for size in (0, 63, 65):
        assert verdict(curve, case["compressed"], case["digest"], ("00" + case["low"])[: size * 2]) == "sig_form"


def test_a_signature_of_one_curve_is_none_of_the_other(oracle: Oracle) -> None:
    """A valid signature under a key of the other curve, or under another key, is invalid."""
    by_curve = {curve: oracle.ask("sign", curve=curve, count=8, seed=5) for curve in CURVES}
    for mine, other in zip(by_curve["k256"], by_curve["p256"], strict=True):
        assert verdict("p256", other["compressed"], mine["digest"], mine["low"]) != "ok"
        assert verdict("k256", mine["compressed"], other["digest"], other["low"]) != "ok"
    for curve, cases in by_curve.items():
        for mine, other in itertools.pairwise(cases):
            assert verdict(curve, other["compressed"], mine["digest"], mine["low"]) == "sig_invalid"


@pytest.mark.parametrize("curve", CURVES)
def test_the_simulation_signs_what_others_verify(oracle: Oracle, curve: str) -> None:
    """What the simulated network signs is valid for the oracle and for us, and low-S."""
    cases = []
    for number in range(SIGNATURES):
        key = SigningKey(curve, b"oracle test %d" % number)
        message = b"message %d" % number
        cases.append([curve, key.point.hex(), hashlib.sha256(message).hexdigest(), key.sign(message).hex()])
    assert all(oracle.ask("verify", cases=cases))
    assert {verdict(*case) for case in cases} == {"ok"}
