"""Account changes as the applier has them, made from a seed; pure. One thread per Changes."""

from __future__ import annotations

import random

from zlay.pipeline.types import AccountDelta
from zlay.state.interface import NewHost

__all__ = ["Changes", "new_hosts", "uid_of"]

HOSTS = 100
_CID = bytes.fromhex("01711220")
_DIGITS = "234567abcdefghijklmnopqrstuvwxyz"
# DIDs come in no order, as hashes do, and know their number.
_SPREAD, _SPACE = 0x9E3779B97F4A7C15, 1 << 64
_SPREAD_BACK = pow(_SPREAD, -1, _SPACE)


def new_hosts() -> list[NewHost]:
    """The hosts of the accounts; the first to be added."""
    return [NewHost(f"h{n}.example.com", "config") for n in range(HOSTS)]


class Changes:
    """Groups of changes."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._rng = random.Random(1)
        self.accounts = 0
        self.seq = 0

    def new(self) -> list[AccountDelta]:
        """Accounts that are not stored yet; they get the next numbers."""
        first = self.accounts + 1
        self.accounts += self._group
        return [self._change(uid) for uid in range(first, self.accounts + 1)]

    def known(self) -> list[AccountDelta]:
        """A commit each of accounts that are."""
        return [self._change(uid) for uid in self._rng.sample(range(1, self.accounts + 1), self._group)]

    def _change(self, uid: int) -> AccountDelta:
        self.seq += 1
        data, head = (_CID + self._rng.randbytes(32) for _ in range(2))
        return AccountDelta(_did(uid), uid % HOSTS + 1, 0, 0, _base32(self.seq, 13), data, head, self.seq, False)


def _did(uid: int) -> str:
    return "did:plc:" + _base32(uid * _SPREAD % _SPACE, 24)


def uid_of(did: str) -> int:
    """The number that a store gives the account, when it is given all of them in order."""
    number = 0
    for digit in did[8:]:
        number = number * 32 + _DIGITS.index(digit)
    return number * _SPREAD_BACK % _SPACE


def _base32(number: int, length: int) -> str:
    out = ""
    for _ in range(length):
        number, digit = divmod(number, 32)
        out = _DIGITS[digit] + out
    return out
