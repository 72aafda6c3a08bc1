"""What the tests of state share: accounts by number."""

from __future__ import annotations

from zlay.pipeline.types import AccountDelta

ACTIVE, DEACTIVATED, TAKENDOWN, DELETED = 0, 1, 3, 4  # zlay._fast.verdicts.Status
CID_A = bytes.fromhex("01711220") + b"a" * 32
CID_B = bytes.fromhex("01711220") + b"b" * 32

_DIGITS = "234567abcdefghijklmnopqrstuvwxyz"


def did(n: int) -> str:
    """The DID of account n."""
    return "did:plc:" + _base32(n, 24)


def rev(n: int) -> str:
    """The n-th TID."""
    return _base32(n, 13)


def delta(
    n: int,
    *,
    seq: int,
    rev: str | None,
    host_id: int = 1,
    status: int = ACTIVE,
    local: int = ACTIVE,
    desynchronized: bool = False,
    identity_stale: bool = False,
) -> AccountDelta:
    """A change of account n."""
    data, head = (None, None) if rev is None else (CID_A, CID_B)
    return AccountDelta(did(n), host_id, status, local, rev, data, head, seq, desynchronized, identity_stale)


def _base32(n: int, length: int) -> str:
    out = ""
    for _ in range(length):
        n, digit = divmod(n, 32)
        out = _DIGITS[digit] + out
    return out
