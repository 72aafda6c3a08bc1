"""What a group of account changes means for the tables: decided here once, for every database.

Pure; any thread. The caller holds the transaction in which `stored` was read and the plan is carried out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from zlay.pipeline.types import AccountDelta

__all__ = ["S_DELETED", "Plan", "StoredAccount", "make_plan", "newest"]

S_DELETED = 4  # zlay._fast.verdicts.Status; stored, hence frozen. Checked against the table in tests/state.

AccountParams = tuple[int, str, int, int, int, bool, int]
RepoParams = tuple[int, str, bytes, bytes, int]
StoredAccount = tuple[str, int, int, int, int, int, int]
"""(did, uid, host_id, upstream_status, local_status, desynchronized, last_seq), as stored."""


@dataclass(slots=True)
class Plan:
    """Rows to write. Accounts: (uid, did, host_id, upstream, local, desynchronized, last_seq), of those that are there
    only where one of these but last_seq changes; repos: (uid, rev, data, head, last_seq); `counts`: change of
    account_count by host id.
    """

    new_accounts: list[AccountParams] = field(default_factory=list)
    new_repos: list[RepoParams] = field(default_factory=list)
    accounts: list[AccountParams] = field(default_factory=list)
    repos: list[RepoParams] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)
    stale_identities: list[tuple[str]] = field(default_factory=list)


def newest(deltas: Sequence[AccountDelta]) -> dict[str, AccountDelta]:
    """One change per DID: the one with the highest seq, of equals the last."""
    by_did = {delta.did: delta for delta in deltas}
    if len(by_did) < len(deltas):
        for delta in deltas:
            if delta.last_seq >= by_did[delta.did].last_seq:
                by_did[delta.did] = delta
    return by_did


def make_plan(deltas: Mapping[str, AccountDelta], stored: Iterable[StoredAccount], next_uid: int) -> Plan:
    """Compares changes with what is stored of their DIDs. New accounts get `next_uid` and up, in the order of their
    first event.

    A change older than the stored row (an event replayed after a crash) leaves the account's columns alone; whether
    its rev is newer is left to the statement that writes account_repo, which compares in place.
    """
    plan = Plan()
    fresh = dict(deltas)
    known: list[tuple[int, AccountDelta]] = []
    for did, uid, host_id, upstream, local, desynchronized, last_seq in stored:
        delta = fresh.pop(did)
        known.append((uid, delta))
        if delta.last_seq >= last_seq and _STATUS_OF(delta) != (host_id, upstream, local, desynchronized):
            plan.accounts.append((uid, *_ACCOUNT_OF(delta)))
            plan.counts[host_id] -= _counted(upstream)
            plan.counts[delta.host_id] += _counted(delta.upstream_status)
    plan.repos = [(uid, *_REPO_OF(delta)) for uid, delta in known if delta.rev is not None]
    if fresh:
        added = list(enumerate(sorted(fresh.values(), key=_LAST_SEQ), next_uid))
        plan.new_accounts = [(uid, *_ACCOUNT_OF(delta)) for uid, delta in added]
        plan.new_repos = [(uid, *_REPO_OF(delta)) for uid, delta in added if delta.rev is not None]
        plan.counts.update(delta.host_id for _, delta in added if delta.upstream_status != S_DELETED)
    plan.counts = Counter({host_id: n for host_id, n in plan.counts.items() if n and host_id})
    plan.stale_identities = [(delta.did,) for delta in deltas.values() if delta.identity_stale]
    return plan


# Many attributes by one call of C's: a group may have half a million accounts.
_STATUS_OF = attrgetter("host_id", "upstream_status", "local_status", "desynchronized")
_ACCOUNT_OF = attrgetter("did", "host_id", "upstream_status", "local_status", "desynchronized", "last_seq")
_REPO_OF = attrgetter("rev", "data", "head", "last_seq")
_LAST_SEQ = attrgetter("last_seq")


def _counted(upstream_status: int) -> int:
    return 0 if upstream_status == S_DELETED else 1
