"""What a group of account changes means for the tables: decided here once, for every database.

Pure; any thread. The caller holds the transaction in which `stored` was read and the plan is carried out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from zlay.pipeline.types import AccountDelta

__all__ = ["S_DELETED", "Plan", "StoredAccount", "make_plan", "newest"]

S_DELETED = 4  # zlay._fast.verdicts.Status; stored, hence frozen. Checked against the table in tests/state.

AccountParams = tuple[int, str, int, int, int, int, int]
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


def newest(deltas: Iterable[AccountDelta]) -> dict[str, AccountDelta]:
    """One change per DID: the one with the highest seq."""
    by_did: dict[str, AccountDelta] = {}
    for delta in deltas:
        known = by_did.get(delta.did)
        if known is None or known.last_seq <= delta.last_seq:
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
    for did, uid, host_id, upstream, local, desynchronized, last_seq in stored:
        delta = fresh.pop(did)
        if delta.last_seq >= last_seq and (
            delta.host_id != host_id
            or delta.upstream_status != upstream
            or delta.local_status != local
            or delta.desynchronized != desynchronized
        ):
            plan.accounts.append(_account(uid, delta))
            plan.counts[host_id] -= _counted(upstream)
            plan.counts[delta.host_id] += _counted(delta.upstream_status)
        _repo(plan.repos, uid, delta)
    for uid, delta in enumerate(sorted(fresh.values(), key=_last_seq), next_uid):
        plan.new_accounts.append(_account(uid, delta))
        plan.counts[delta.host_id] += _counted(delta.upstream_status)
        _repo(plan.new_repos, uid, delta)
    plan.counts = Counter({host_id: n for host_id, n in plan.counts.items() if n and host_id})
    plan.stale_identities.extend((delta.did,) for delta in deltas.values() if delta.identity_stale)
    return plan


_last_seq = attrgetter("last_seq")


def _counted(upstream_status: int) -> int:
    return 0 if upstream_status == S_DELETED else 1


def _account(uid: int, delta: AccountDelta) -> AccountParams:
    return (
        uid,
        delta.did,
        delta.host_id,
        delta.upstream_status,
        delta.local_status,
        int(delta.desynchronized),
        delta.last_seq,
    )


def _repo(rows: list[RepoParams], uid: int, delta: AccountDelta) -> None:
    if delta.rev is not None and delta.data is not None and delta.head is not None:
        rows.append((uid, delta.rev, delta.data, delta.head, delta.last_seq))
