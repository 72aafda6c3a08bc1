"""The oracle: answers questions on stdin with independent libraries. Run by the oracle venv's ordinary interpreter.

One JSON object per line: {"id", "ask", ...} is answered by {"id", "answer"}. Bytes travel as hex. One thread; ends with
its stdin. Imports nothing of zlay.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from typing import Any

import dag_cbor
import libipld
from atproto import parse_subscribe_repos_message
from atproto_subscription.frames import Frame
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from multiformats import CID

CURVES = {"k256": ec.SECP256K1(), "p256": ec.SECP256R1()}
ORDERS = {
    "k256": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    "p256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
}
SHA256 = ec.ECDSA(Prehashed(hashes.SHA256()))


def point_of(key: ec.EllipticCurvePrivateKey, form: serialization.PublicFormat) -> str:
    """The public point as hex."""
    return key.public_key().public_bytes(serialization.Encoding.X962, form).hex()


def sign(curve: str, count: int, seed: int) -> list[dict[str, str]]:
    """`count` random messages, each signed by a new key: low-S, high-S and DER forms of the signature."""
    rng = random.Random(seed)
    order = ORDERS[curve]
    result = []
    for _ in range(count):
        key = ec.derive_private_key(rng.randrange(1, order), CURVES[curve])
        digest = hashlib.sha256(rng.randbytes(rng.randrange(200))).digest()
        der = key.sign(digest, SHA256)
        r, s = decode_dss_signature(der)
        low, high = min(s, order - s), max(s, order - s)
        result.append(
            {
                "digest": digest.hex(),
                "compressed": point_of(key, serialization.PublicFormat.CompressedPoint),
                "uncompressed": point_of(key, serialization.PublicFormat.UncompressedPoint),
                "low": (r.to_bytes(32, "big") + low.to_bytes(32, "big")).hex(),
                "high": (r.to_bytes(32, "big") + high.to_bytes(32, "big")).hex(),
                "der": encode_dss_signature(r, low).hex(),
            }
        )
    return result


def verify(cases: list[list[str]]) -> list[bool]:
    """For each (curve, point, digest, 64 bytes r||s): whether the signature is by that key, low-S or not."""
    result = []
    for curve, point, digest, signature in cases:
        raw = bytes.fromhex(signature)
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        try:
            key = ec.EllipticCurvePublicKey.from_encoded_point(CURVES[curve], bytes.fromhex(point))
            key.verify(encode_dss_signature(r, s), bytes.fromhex(digest), SHA256)
        except (InvalidSignature, ValueError):
            result.append(False)
        else:
            result.append(True)
    return result


def random_value(rng: random.Random, depth: int = 0) -> Any:
    """A random value of the atproto data model: no floats, blessed CIDs."""
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([1, -1]) * rng.getrandbits(rng.choice([3, 5, 8, 16, 17, 32, 33, 53, 63]))
    if kind == 2:
        points = (rng.choice([rng.randrange(32, 127), 0xE9, 0x4E2D, 0x1F600]) for _ in range(rng.randrange(30)))
        return "".join(map(chr, points))
    if kind == 3:
        return rng.randbytes(rng.choice([0, 1, 23, 24, 200, 300]))
    if kind == 4:
        digest = hashlib.sha256(rng.randbytes(8)).digest()
        return CID("base32", 1, rng.choice(["dag-cbor", "raw"]), ("sha2-256", digest))
    if kind == 5:
        return []
    size = rng.choice([0, 1, 2, 5, 24, 25])
    if kind == 6:
        return [random_value(rng, depth + 1) for _ in range(size)]
    return {
        "".join(rng.choice("abcdefgh$-é") for _ in range(rng.randrange(1, 9))): random_value(rng, depth + 1)
        for _ in range(size)
    }


def encode(count: int, seed: int) -> list[str]:
    """The DAG-CBOR of `count` random maps, by dag_cbor."""
    rng = random.Random(seed)
    values = ({"v": random_value(rng), "w": [random_value(rng) for _ in range(3)]} for _ in range(count))
    return [dag_cbor.encode(value).hex() for value in values]


def decode(cases: list[str]) -> list[dict[str, Any]]:
    """For each input what both libraries say: None where they refuse it, else what they encode it to again."""
    return [{"dag_cbor": by_dag_cbor(bytes.fromhex(raw)), "libipld": by_libipld(bytes.fromhex(raw))} for raw in cases]


def by_dag_cbor(raw: bytes) -> str | None:
    """dag_cbor's reading, encoded again."""
    try:
        return dag_cbor.encode(dag_cbor.decode(raw)).hex()
    except Exception:  # noqa: BLE001 - any refusal is the answer
        return None


def by_libipld(raw: bytes) -> str | None:
    """libipld's reading, encoded again; '' where it reads what it cannot write (it gives CIDs as bytes)."""
    try:
        value = libipld.decode_dag_cbor(raw)
    except Exception:  # noqa: BLE001 - any refusal is the answer
        return None
    try:
        return str(libipld.encode_dag_cbor(value).hex())
    except Exception:  # noqa: BLE001
        return ""


def decode_cars(cases: list[str]) -> list[dict[str, list[str]] | None]:
    """For each CAR its roots and the CIDs of its blocks by libipld, all as hex; None where it refuses it."""
    return [decode_car(bytes.fromhex(raw)) for raw in cases]


def decode_car(raw: bytes) -> dict[str, list[str]] | None:
    """One CAR by libipld, which does not look at hashes, nor at what roots are."""
    try:
        header, blocks = libipld.decode_car(raw)
        return {"roots": [root.hex() for root in header["roots"]], "cids": sorted(cid.hex() for cid in blocks)}
    except Exception:  # noqa: BLE001 - any refusal is the answer
        return None


def read_frames(cases: list[str]) -> list[str]:
    """For each frame what the SDK makes of it: its model in lower case, "unknown" for a type it does not know."""
    return [read_frame(bytes.fromhex(raw)) for raw in cases]


def read_frame(raw: bytes) -> str:
    """As the SDK's client reads one message, and a handler then parses it; the error's text where either fails."""
    try:
        frame = Frame.from_bytes(raw)
    except Exception as exc:  # noqa: BLE001 - any refusal is the answer
        return f"frame: {exc!r}"
    try:
        return type(parse_subscribe_repos_message(frame)).__name__.lower()
    except KeyError:
        return "unknown"
    except Exception as exc:  # noqa: BLE001
        return f"model: {exc!r}"


ASKS = {
    "sign": sign,
    "verify": verify,
    "encode": encode,
    "decode": decode,
    "decode_cars": decode_cars,
    "read_frames": read_frames,
}


def main() -> None:
    """Answer until stdin ends."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        number, ask = question.pop("id"), question.pop("ask")
        print(json.dumps({"id": number, "answer": ASKS[ask](**question)}), flush=True)


if __name__ == "__main__":
    main()
