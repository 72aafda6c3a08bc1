"""zlay._fast.crypto: digests and signatures are judged as the protocol says, for both curves."""

from __future__ import annotations

import base64
import hashlib
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import fixtures
from tests._fast.commits import KEY_TYPES
from zlay._fast import crypto
from zlay.identity.multibase import decode_base58, decode_multikey
from zlay.sim.keys import SigningKey

CURVES = ("k256", "p256")
ORDER = {
    "k256": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    "p256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
}
MESSAGE = b"a message"
DIGEST = hashlib.sha256(MESSAGE).digest()


def verdict(key: SigningKey, sig: bytes, digest: bytes = DIGEST) -> str:
    """What the core says of a signature."""
    return crypto.verify(KEY_TYPES[key.curve], key.point, digest, sig)


def signed(curve: str) -> tuple[SigningKey, int, int]:
    """A key, and r and s of its signature over MESSAGE."""
    key = SigningKey(curve, b"test")
    sig = key.sign(MESSAGE)
    return key, int.from_bytes(sig[:32], "big"), int.from_bytes(sig[32:], "big")


def raw(r: int, s: int) -> bytes:
    """64 bytes of two numbers."""
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@given(st.binary(max_size=300))
def test_digest_is_sha256(data: bytes) -> None:
    """digest is SHA-256, whatever the length."""
    assert crypto.digest(data) == hashlib.sha256(data).digest()


def interop_signatures() -> list[dict[str, object]]:
    """The cases of the interop suite; empty where the fixtures are absent."""
    cases = fixtures.interop("crypto/signature-fixtures.json")
    assert len(cases) == 6
    return list(cases)


@pytest.mark.parametrize("index", range(6))
def test_interop_signatures(index: int) -> None:
    """Every signature of the interop suite is judged as the suite says: valid, high S, or DER."""
    case = interop_signatures()[index]
    found = decode_multikey(str(case["publicKeyDid"]).removeprefix("did:key:"))
    assert found is not None
    key_type, point = found
    message, sig = (base64.b64decode(str(case[name]) + "==") for name in ("messageBase64", "signatureBase64"))
    expected = {"": "ok", "high-s": "sig_high_s", "der-encoded": "sig_form"}[" ".join(case["tags"])]  # type: ignore[call-overload]
    assert (expected == "ok") == case["validSignature"]
    assert crypto.verify(key_type, point, hashlib.sha256(message).digest(), sig) == expected


def test_interop_keys_are_keys() -> None:
    """The did:key examples of W3C are points of their curves, and what their secrets make is what they say."""
    k256 = fixtures.interop("crypto/w3c_didkey_K256.json")
    p256 = fixtures.interop("crypto/w3c_didkey_P256.json")
    assert (len(k256), len(p256)) == (5, 1)
    for key_type, case in [*((crypto.K256, c) for c in k256), *((crypto.P256, c) for c in p256)]:
        found = decode_multikey(case["publicDidKey"].removeprefix("did:key:"))
        assert found is not None
        assert found[0] == key_type
        assert crypto.is_key(*found)
        assert not crypto.is_key(crypto.K256 + crypto.P256 - key_type, b"\x04" + found[1])
    assert decode_base58(p256[0]["privateKeyBytesBase58"]) is not None


@pytest.mark.parametrize("curve", CURVES)
def test_what_a_key_signs_is_valid_and_nothing_else(curve: str) -> None:
    """A signature is valid for its digest and key only."""
    key, r, s = signed(curve)
    other = SigningKey(curve, b"another")
    assert verdict(key, raw(r, s)) == "ok"
    assert verdict(other, raw(r, s)) == "sig_invalid"
    assert verdict(key, raw(r, s), hashlib.sha256(b"another").digest()) == "sig_invalid"
    assert verdict(key, raw(r - 1, s)) == "sig_invalid"
    assert verdict(key, raw(r, s - 1)) == "sig_invalid"


@pytest.mark.parametrize("curve", CURVES)
def test_form_of_a_signature(curve: str) -> None:
    """Neither r nor s may be zero or reach the order of the curve, and 64 bytes it must be; DER is refused (C3)."""
    key, r, s = signed(curve)
    n = ORDER[curve]
    for wrong in (0, n, n + 1, 2**256 - 1):
        assert verdict(key, raw(wrong, s)) == "sig_form"
        assert verdict(key, raw(r, wrong)) == "sig_form"
    assert verdict(key, raw(n - 1, s)) == "sig_invalid"
    for sig in (
        b"",
        raw(r, s)[:-1],
        raw(r, s) + b"\0",
        b"\x30\x44\x02\x20" + raw(r, s)[:32] + b"\x02\x20" + raw(r, s)[32:],
    ):
        assert verdict(key, sig) == "sig_form"


@pytest.mark.parametrize("curve", CURVES)
def test_high_s_is_refused(curve: str) -> None:
    """s above half the order is refused on both curves, at the very boundary, although the curve would take it (C3)."""
    key, r, s = signed(curve)
    n = ORDER[curve]
    assert verdict(key, raw(r, n - s)) == "sig_high_s"
    assert verdict(key, raw(r, n // 2 + 1)) == "sig_high_s"
    assert verdict(key, raw(r, n // 2)) == "sig_invalid"


@pytest.mark.parametrize("curve", CURVES)
def test_forms_of_a_key(curve: str) -> None:
    """33 bytes 02 or 03, or 65 bytes 04, of a point on the curve; hybrid forms and other lengths are no keys."""
    key, r, s = signed(curve)
    key_type = KEY_TYPES[curve]
    compressed = key.point
    assert len(compressed) == 33
    p, a, b = {
        "k256": (2**256 - 2**32 - 977, 0, 7),
        "p256": (
            2**256 - 2**224 + 2**192 + 2**96 - 1,
            -3,
            0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
        ),
    }[curve]
    x = int.from_bytes(compressed[1:], "big")
    y = pow(x**3 + a * x + b, (p + 1) // 4, p)
    if y & 1 != compressed[0] & 1:
        y = p - y
    whole = b"\x04" + raw(x, y)
    assert crypto.verify(key_type, whole, DIGEST, raw(r, s)) == "ok"
    for wrong in (
        b"",
        compressed[:-1],
        compressed + b"\0",
        bytes((6 + (y & 1),)) + whole[1:],
        b"\x05" + compressed[1:],
        b"\x02" + b"\xff" * 32,
        whole[:-1] + bytes((whole[-1] ^ 1,)),
        b"\x04" + bytes(64),
        whole[1:],
    ):
        assert not crypto.is_key(key_type, wrong)
        with pytest.raises(ValueError, match="not a public key"):
            crypto.verify(key_type, wrong, DIGEST, raw(r, s))
    assert not crypto.is_key(0, compressed)
    assert not crypto.is_key(3, compressed)


def test_a_digest_has_32_bytes() -> None:
    """Anything else than a digest is the caller's mistake, not a bad signature."""
    key, r, s = signed("k256")
    with pytest.raises(ValueError, match="32 bytes"):
        verdict(key, raw(r, s), b"short")


def test_threads_verify_at_once() -> None:
    """Many threads may verify with both curves at the same time and all get the right verdicts."""
    cases = [(key, key.sign(MESSAGE)) for key in (SigningKey(curve, b"%d" % i) for curve in CURVES for i in range(4))]
    barrier = threading.Barrier(4)
    wrong: list[str] = []

    def work() -> None:
        barrier.wait(30)
        for _ in range(50):
            for (key, sig), (_, other) in zip(cases, cases[1:] + cases[:1], strict=True):
                wrong.extend(v for v in (verdict(key, sig),) if v != "ok")
                wrong.extend(v for v in (verdict(key, other),) if v == "ok")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)
