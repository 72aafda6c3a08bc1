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
    uids: list[int] = []
    known: list[AccountDelta] = []
    for did, uid, host_id, upstream, local, desynchronized, last_seq in stored:
        delta = fresh.pop(did)
        uids.append(uid)
        known.append(delta)
        if delta.last_seq >= last_seq and _STATUS_OF(delta) != (host_id, upstream, local, desynchronized):
            plan.accounts += _accounts([uid], [delta])
            plan.counts[host_id] -= _counted(upstream)
            plan.counts[delta.host_id] += _counted(delta.upstream_status)
    plan.repos = _repos(uids, known)
    if fresh:
        added = sorted(fresh.values(), key=_LAST_SEQ)
        numbers = range(next_uid, next_uid + len(added))
        plan.new_accounts = _accounts(numbers, added)
        plan.new_repos = _repos(numbers, added)
        plan.counts.update(delta.host_id for delta in added if delta.upstream_status != S_DELETED)
    plan.counts = Counter({host_id: n for host_id, n in plan.counts.items() if n and host_id})
    plan.stale_identities = [(delta.did,) for delta in deltas.values() if delta.identity_stale]
    return plan


# A group may have half a million accounts: rows are made by C, column by column.
_STATUS_OF = attrgetter("host_id", "upstream_status", "local_status", "desynchronized")
_ACCOUNT_COLUMNS = tuple(map(attrgetter, ("did", "host_id", "upstream_status", "local_status", "desynchronized")))
_REPO_COLUMNS = tuple(map(attrgetter, ("rev", "data", "head")))
_LAST_SEQ = attrgetter("last_seq")


def _accounts(uids: Sequence[int], deltas: Sequence[AccountDelta]) -> list[AccountParams]:
    columns = [map(column, deltas) for column in (*_ACCOUNT_COLUMNS, _LAST_SEQ)]
    return list(zip(uids, *columns, strict=True))


def _repos(uids: Sequence[int], deltas: Sequence[AccountDelta]) -> list[RepoParams]:
    """Of those whose repository is known."""
    if any(delta.rev is None for delta in deltas):
        kept = [(uid, delta) for uid, delta in zip(uids, deltas, strict=True) if delta.rev is not None]
        uids, deltas = [uid for uid, _ in kept], [delta for _, delta in kept]
    columns = [map(column, deltas) for column in (*_REPO_COLUMNS, _LAST_SEQ)]
    return list(zip(uids, *columns, strict=True))


def _counted(upstream_status: int) -> int:
    return 0 if upstream_status == S_DELETED else 1
