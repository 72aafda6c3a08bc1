"""Signing keys of the simulation."""

from __future__ import annotations

import pytest

from tests.reference.ecdsa_ref import P256, verify
from zlay.sim.keys import SigningKey

# RFC 6979, A.2.5: P-256, SHA-256.
RFC_SECRET = bytes.fromhex("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721")
RFC_CASES = [
    (
        b"sample",
        0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
        0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
    ),
    (
        b"test",
        0xF1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367,
        0x019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083,
    ),
]


@pytest.mark.parametrize(("message", "r", "s"), RFC_CASES)
def test_p256_nonces_are_those_of_rfc_6979(message: bytes, r: int, s: int) -> None:
    """The RFC's own signatures come out, with s made low."""
    signature = SigningKey("p256", RFC_SECRET, raw=True).sign(message)
    assert int.from_bytes(signature[:32], "big") == r
    assert int.from_bytes(signature[32:], "big") == min(s, P256.n - s)


@pytest.mark.parametrize("curve", ["k256", "p256"])
def test_signatures_verify_and_are_the_same_each_time(curve: str) -> None:
    """Signatures of both curves are deterministic, low-S, and verify with the key's multikey."""
    for number in range(12):
        key = SigningKey(curve, b"key %d" % number)
        message = b"message %d" % number
        signature = key.sign(message)
        assert signature == SigningKey(curve, b"key %d" % number).sign(message)
        assert verify(key.multikey, message, signature) == "ok"
        assert verify(key.multikey, message + b"!", signature) == "invalid"


def test_bad_arguments_are_refused() -> None:
    """An unknown curve or a raw secret of another length is an error."""
    with pytest.raises(ValueError, match="no such curve"):
        SigningKey("ed25519", b"")
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey("k256", b"short", raw=True)
