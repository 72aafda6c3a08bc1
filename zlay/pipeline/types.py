"""What the compiled pipeline and the Python threads around it tell each other.

Plain immutable values: any thread may make, keep and read them. Times are unix microseconds. CIDs are the 36 bytes of
protocol C11. A status is a number of `zlay._fast.verdicts.Status`, which is also what the log and the database store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["AccountDelta", "AccountRow", "HostCursor", "Identity", "Outcome", "ResolveRequest"]

Outcome = Literal["ok", "not_found", "tombstoned", "failed"]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a DID document says now (protocol G4), or why there is no answer."""

    did: str
    outcome: Outcome  # failed = no conclusive answer: time-out, 5xx, garbage, ...
    pds: str | None  # normalised host of #atproto_pds: "host" or "host:port", lower case; None = none usable
    key_type: int  # crypto.KeyType: 0 none, 1 K-256, 2 P-256
    key: bytes  # the point as found, 33 (compressed) or 65 (uncompressed) bytes; b"" = none
    resolved_us: int  # when the answer was asked for: what changed later is not in it
    detail: str = ""  # of a failure
    systemic: bool = False  # failed because the directory as a whole does not answer: the clock of a hold stands still
    postponed: bool = False  # failed because no directory may be asked just now: nothing is said of the DID

    @property
    def is_own(self) -> bool:
        """Of a failure: whether it is the DID's own, so that its frames may not wait for ever."""
        return not (self.systemic or self.postponed)


@dataclass(frozen=True, slots=True)
class ResolveRequest:
    """A DID whose identity a worker waits for."""

    did: str
    force: bool  # True = ask the directory even when a stored answer is fresh


@dataclass(frozen=True, slots=True)
class AccountRow:
    """Account, repository state and identity of one DID, as stored."""

    did: str
    host_id: int  # 0 = no account is stored, there is only an identity
    upstream_status: int
    local_status: int
    rev: str | None  # TID
    data: bytes | None
    head: bytes | None
    last_seq: int
    identity: Identity | None  # None = not stored, or not to be used before it has been asked for again
    desynchronized: bool = False


@dataclass(frozen=True, slots=True)
class AccountDelta:
    """The newest state of an account that the log has changed."""

    did: str
    host_id: int
    upstream_status: int
    local_status: int
    rev: str | None
    data: bytes | None
    head: bytes | None
    last_seq: int
    desynchronized: bool
    identity_stale: bool = False  # an #identity has come and the document has not been asked for since


@dataclass(frozen=True, slots=True)
class HostCursor:
    """How far a host's stream has been processed: every frame up to `cursor` has a verdict and is synced (A20)."""

    host_id: int
    epoch: int
    cursor: int
