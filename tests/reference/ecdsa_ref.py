"""Reference ECDSA verification on K-256 and P-256, with integers alone: slow and obvious, protocol.md C3 and C4."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

type Point = tuple[int, int] | None  # None: the point at infinity

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Curve:
    """y^2 = x^3 + ax + b over the field of p; n is the order of g."""

    p: int
    a: int
    b: int
    n: int
    g: tuple[int, int]

    def add(self, left: Point, right: Point) -> Point:
        """The sum of two points."""
        if left is None or right is None:
            return left or right
        (x1, y1), (x2, y2) = left, right
        if x1 == x2 and (y1 + y2) % self.p == 0:
            return None
        if left == right:
            slope = (3 * x1 * x1 + self.a) * pow(2 * y1, -1, self.p)
        else:
            slope = (y2 - y1) * pow(x2 - x1, -1, self.p)
        x = (slope * slope - x1 - x2) % self.p
        return x, (slope * (x1 - x) - y1) % self.p

    def times(self, k: int, point: Point) -> Point:
        """k times a point."""
        total: Point = None
        while k:
            if k & 1:
                total = self.add(total, point)
            point = self.add(point, point)
            k >>= 1
        return total

    def decompress(self, data: bytes) -> tuple[int, int]:
        """The point of its 33-byte form. Both fields have p = 3 (mod 4)."""
        x = int.from_bytes(data[1:], "big")
        y = pow(x**3 + self.a * x + self.b, (self.p + 1) // 4, self.p)
        return x, y if y & 1 == data[0] & 1 else self.p - y


K256 = Curve(
    2**256 - 2**32 - 977,
    0,
    7,
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    (
        0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
        0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
    ),
)
P256 = Curve(
    0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF,
    -3,
    0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    (
        0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
        0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    ),
)
_CURVES = {b"\xe7\x01": K256, b"\x80\x24": P256}


def parse_multikey(multikey: str) -> tuple[Curve, tuple[int, int]]:
    """Curve and point of a multikey, with or without `did:key:` before it."""
    text = multikey.removeprefix("did:key:")
    assert text[0] == "z"
    number = 0
    for char in text[1:]:
        number = number * 58 + _BASE58.index(char)
    data = number.to_bytes(35, "big")
    curve = _CURVES[data[:2]]
    return curve, curve.decompress(data[2:])


def verify(multikey: str, message: bytes, signature: bytes) -> str:
    """`ok`, or why the 64-byte signature over SHA-256(message) is refused: `form`, `high_s`, `invalid`."""
    curve, public = parse_multikey(multikey)
    if len(signature) != 64:
        return "form"
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < curve.n and 0 < s < curve.n):
        return "form"
    if s > curve.n // 2:
        return "high_s"
    digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
    inverse = pow(s, -1, curve.n)
    point = curve.add(curve.times(digest * inverse % curve.n, curve.g), curve.times(r * inverse % curve.n, public))
    return "ok" if point is not None and point[0] % curve.n == r else "invalid"
