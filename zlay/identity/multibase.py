"""Public keys in text: base58btc, multikey and the older bare form (protocol C4). Pure; any thread."""

from __future__ import annotations

__all__ = ["KEY_K256", "KEY_NONE", "KEY_P256", "decode_base58", "decode_legacy_key", "decode_multikey"]

KEY_NONE, KEY_K256, KEY_P256 = 0, 1, 2  # zlay._fast.crypto.KeyType; stored, hence frozen

MAX_KEY_CHARS = 128  # the longest form (65 bytes) takes 89
COMPRESSED_BYTES = 33
UNCOMPRESSED_BYTES = 65

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES = {char: value for value, char in enumerate(_ALPHABET)}
_CODECS = {b"\xe7\x01": KEY_K256, b"\x80\x24": KEY_P256}  # varints of 0xE7 and 0x1200
_LEGACY_TYPES = {
    "EcdsaSecp256k1VerificationKey2019": KEY_K256,
    "EcdsaSecp256r1VerificationKey2019": KEY_P256,
}


def decode_base58(text: str) -> bytes | None:
    """The bytes of base58btc `text` without its "z"; None when it is none or longer than any key."""
    if len(text) > MAX_KEY_CHARS:
        return None
    number = 0
    for char in text:
        value = _VALUES.get(char)
        if value is None:
            return None
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def decode_multikey(text: str) -> tuple[int, bytes] | None:
    """(key type, point) of a publicKeyMultibase of type Multikey; None when it is none of the two curves."""
    raw = decode_base58(text[1:]) if text.startswith("z") else None
    if raw is None or raw[:2] not in _CODECS:
        return None
    return _point(_CODECS[raw[:2]], raw[2:])


def decode_legacy_key(type_name: str, text: str) -> tuple[int, bytes] | None:
    """(key type, point) of the older form, where the type names the curve and no codec stands before the point."""
    key_type = _LEGACY_TYPES.get(type_name)
    raw = decode_base58(text[1:]) if text.startswith("z") else None
    if key_type is None or raw is None:
        return None
    return _point(key_type, raw)


def _point(key_type: int, point: bytes) -> tuple[int, bytes] | None:
    """Whether it lies on the curve is for whoever uses the key to find out."""
    compressed = len(point) == COMPRESSED_BYTES and point[0] in (2, 3)
    uncompressed = len(point) == UNCOMPRESSED_BYTES and point[0] == 4
    return (key_type, point) if compressed or uncompressed else None
