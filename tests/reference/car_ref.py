"""Reference CAR v1 reader and writer, protocol.md C10. Pure functions, any thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.reference.drisl_ref import Cid, DrislError, check_cid, decode, encode, read_uvarint

if TYPE_CHECKING:
    from collections.abc import Iterable


class CarError(ValueError):
    """Not a CAR v1 as the protocol wants it; the text is the reason."""


def read_car(data: bytes) -> tuple[list[Cid], dict[Cid, bytes]]:
    """(roots, blocks by CID). Every blessed block is held against its CID; of a CID twice, the first block counts."""
    try:
        length, at = read_uvarint(data, 0)
        header = decode(_slice(data, at, length))
        at += length
        roots = _roots(header)
        blocks: dict[Cid, bytes] = {}
        while at < len(data):
            length, at = read_uvarint(data, at)
            section = _slice(data, at, length)
            at += length
            cid, block = _split_section(section)
            if cid.blessed and Cid.of(block, cid[1]) != cid:
                raise CarError("a block is not what its CID says")
            blocks.setdefault(cid, block)
    except DrislError as exc:
        raise CarError(str(exc)) from exc
    return roots, blocks


def write_car(roots: list[Cid], blocks: Iterable[tuple[Cid, bytes]]) -> bytes:
    """A CAR v1 with these roots and blocks, in this order."""
    header = encode({"roots": list(roots), "version": 1})
    parts = [write_uvarint(len(header)), header]
    for cid, block in blocks:
        parts += [write_uvarint(len(cid) + len(block)), cid, block]
    return b"".join(parts)


def write_uvarint(number: int) -> bytes:
    """The unsigned LEB128 form of a number."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _slice(data: bytes, at: int, length: int) -> bytes:
    if at + length > len(data):
        raise CarError("truncated")
    return data[at : at + length]


def _roots(header: object) -> list[Cid]:
    if not isinstance(header, dict) or header.get("version") != 1:
        raise CarError("not a CAR v1 header")
    roots = header.get("roots")
    if not isinstance(roots, list) or not roots or not all(isinstance(root, Cid) for root in roots):
        raise CarError("roots")
    return roots


def _split_section(section: bytes) -> tuple[Cid, bytes]:
    at = 0
    for _ in range(3):  # version, codec, hash
        _, at = read_uvarint(section, at)
    length, at = read_uvarint(section, at)
    end = at + length
    if end > len(section):
        raise CarError("truncated")
    check_cid(section[:end])
    return Cid(section[:end]), section[end:]
