"""The one interface to state in SQL (design 7): what is kept, and what may be asked.

Everything here but hosts and bans is a view of the event log: it may lag behind and is brought up from the log after a
crash, it never runs ahead. Hosts and bans are truths of their own and durable when a call returns.

A `Store` may be used by any number of threads. Its calls block on the disk or the database; none belongs on a reader's
or worker's path. Every call may raise StateUnavailable (try again later) or StateError (it will not get better).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zlay.hosts.interface import HostStatus
    from zlay.pipeline.types import AccountDelta, AccountRow, HostCursor, Identity

__all__ = [
    "MAX_LIST_REPOS",
    "Checkpoint",
    "HostRow",
    "HostSource",
    "MirrorPlace",
    "Mirrored",
    "NewHost",
    "RepoRow",
    "Store",
]

HostSource = Literal["config", "upstream", "request", "admin"]

MAX_LIST_REPOS = 1000  # F5


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far the state follows the log."""

    store_id: bytes | None  # 16 bytes; None = a new store
    applied_seq: int
    dedup_from: int


@dataclass(frozen=True, slots=True)
class NewHost:
    """A host to be added."""

    hostname: str  # normalised: name or name:port, lower case
    source: HostSource
    no_tls: bool = False


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host as stored."""

    id: int
    hostname: str
    status: HostStatus
    no_tls: bool
    cursor: int | None  # None = live
    epoch: int
    account_count: int
    account_limit: int | None  # None = by tier
    source: HostSource
    created_us: int
    limits: str | None  # of its own, as zlay.hosts.limits.Given reads them; None = by tier
    cursor_us: int | None  # when the cursor was moved last


@dataclass(frozen=True, slots=True)
class RepoRow:
    """One line of listRepos."""

    uid: int  # the cursor that goes on after this line
    did: str
    host_id: int
    upstream_status: int
    local_status: int
    desynchronized: bool
    rev: str
    head: bytes


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What an operation in a directory's export makes of a DID."""

    did: str
    made_us: int  # when, by the directory's clock
    identity: Identity | None  # None = it has to be asked for, or is no more


@dataclass(frozen=True, slots=True)
class MirrorPlace:
    """How far the mirror of a directory has come."""

    seq: int  # of the last operation stored; 0 = none
    complete_us: int  # everything the directory had then is stored; 0 = there has been no such moment


class Store(Protocol):
    """State in SQL. See the module's head for threads and errors."""

    def checkpoint(self) -> Checkpoint:
        """How far the state follows the log."""

    def set_store_id(self, store_id: bytes) -> None:
        """Gives a new store its 16-byte id, durably. StateError when it has another one already."""

    def load_accounts(self, dids: Sequence[str], mirrored_us: int = 0) -> list[AccountRow | None]:
        """The rows of `dids`, in their order; None where neither account nor identity is stored.

        `mirrored_us`: a mirror is running and complete up to then, so that no did:plc here is older; 0 = none is, and
        what a mirror alone has said is of no use.
        """

    def account(self, did: str) -> AccountRow | None:
        """The row of one DID."""

    def taken_down(self) -> list[str]:
        """DIDs of the accounts to which this relay has given a status of its own."""

    def apply(
        self,
        deltas: Sequence[AccountDelta],
        cursors: Sequence[HostCursor],
        applied_seq: int,
        dedup_from: int | None,
    ) -> None:
        """One group of the applier, in one transaction: all of it or nothing.

        No rev, status, cursor or checkpoint goes back, whatever is handed in. `cursors` and `dedup_from` (None = leave
        as it is) belong together: an older cursor with a newer dedup_from would let a host's events in twice.
        """

    def list_repos(self, after_uid: int, limit: int) -> list[RepoRow]:
        """Accounts with a repository, in the order first seen, after `after_uid`. Constant time at any cursor (F5)."""

    def save_identities(self, identities: Sequence[Identity]) -> None:
        """Stores conclusive answers ("ok") and leaves the others out; an older answer never replaces a newer one."""

    def expire_identities(self, dids: Sequence[str]) -> None:
        """Marks stored identities as not to be used, nor loaded, before they have been asked for again."""

    def forget_identities(self, dids: Sequence[str]) -> None:
        """Removes the stored identities of DIDs that are no more."""

    def mirror_place(self, url: str) -> MirrorPlace:
        """How far the mirror of a directory has come."""

    def save_mirrored(self, url: str, newest: Sequence[Mirrored], place: MirrorPlace) -> None:
        """Stores what a part of a directory's export says, the newest operation of each DID, and how far that goes.

        What a resolver has asked for since the operation stays; what is in doubt stays in doubt.
        """

    def hosts(self) -> list[HostRow]:
        """All hosts by id, in one query."""

    def host(self, hostname: str) -> HostRow | None:
        """One host by its normalised name."""

    def add_hosts(self, new: Sequence[NewHost]) -> list[HostRow]:
        """Adds the hosts that are not there yet, durably; the rows of all, in their order."""

    def set_host_statuses(self, statuses: Sequence[tuple[int, HostStatus]]) -> None:
        """Writes (host id, status) pairs. A banned host stays banned."""

    def set_host_banned(self, host_id: int, *, banned: bool) -> None:
        """Bans a host, or lifts its ban (it is then idle), durably."""

    def begin_epoch(self, host_id: int) -> int:
        """The host's numbering starts again: cursor to live, epoch + 1, durably. The new epoch."""

    def set_host_limits(self, host_id: int, limits: str | None, account_limit: int | None) -> None:
        """What an operator gives a host instead of its tier's (None = nothing), durably."""

    def host_account_counts(self) -> dict[int, int]:
        """Accounts that are not deleted, by host id."""

    def account_count(self) -> int:
        """About how many accounts are stored; cheap."""

    def domain_bans(self) -> list[str]:
        """Banned domains, sorted."""

    def set_domain_ban(self, domain: str, *, banned: bool) -> None:
        """Bans a domain and every name under it, or lifts that, durably."""

    def hurry(self) -> None:
        """A stop has begun: whoever waits for a lock that another process holds gets StateUnavailable soon."""

    def close(self) -> None:
        """Ends the store. Calls in other threads must be over."""
