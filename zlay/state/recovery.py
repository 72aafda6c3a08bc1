"""What happens between state and log at a start (R3, R11, design 4 and 7).

`agree` decides whether the two belong together. `replay` brings the state up to the log's end after a crash: events
above applied_seq are read again and give the same accounts as they gave when they were new. `logged_above_cursors`
finds what hosts will send again although it is in the log.

Everything here runs on the starting thread, before anything is dialled or served.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from zlay._fast import commit, crash, message
from zlay._fast.verdicts import KINDS, STATUSES
from zlay.errors import StartError
from zlay.eventlog.entries import TAKEN_DOWN
from zlay.pipeline.types import AccountDelta

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from zlay.eventlog.entries import LogEntry
    from zlay.pipeline.types import AccountRow
    from zlay.state.interface import Checkpoint, HostRow, Store

__all__ = ["agree", "logged_above_cursors", "replay"]

EVENTS_PER_GROUP = 4000  # read again and applied in one transaction: some 20 MB of frames pass by, a few are kept

_ACTIVE = STATUSES.index("active")
_COMMIT, _SYNC, _ACCOUNT, _IDENTITY = (KINDS.index(name) for name in ("commit", "sync", "account", "identity"))
_CHANGING = frozenset({_COMMIT, _SYNC, _ACCOUNT, _IDENTITY})


def agree(checkpoint: Checkpoint, log_id: bytes, *, newest_seq: int, log_end: int) -> bool:
    """Whether the state is new and is to be given the log's id; StartError where the two do not belong together.

    `newest_seq` is that of the newest event in the log, 0 = it is empty; `log_end` is the highest seq that it can have
    given out before this start, which is more where numbers were left out.
    """
    if checkpoint.store_id is None:
        if newest_seq > 0:
            raise StartError(
                f"there is a log with events up to seq {newest_seq}, but the state is new: restore the state that "
                f"belongs to it, or move events/ away too and set RELAY_INITIAL_SEQ above {newest_seq}"
            )
        return True
    if checkpoint.store_id != log_id:
        raise StartError(
            f"log and state are of two stores ({log_id.hex()} and {checkpoint.store_id.hex()}): check RELAY_DATA_DIR "
            f"and DATABASE_URL; or move both away and set RELAY_INITIAL_SEQ above {checkpoint.applied_seq}"
        )
    if checkpoint.applied_seq > log_end:
        raise StartError(
            f"the state is ahead of the log (seq {checkpoint.applied_seq} and {log_end}): the end of the log is lost; "
            f"restore both from one backup, or move both away and set RELAY_INITIAL_SEQ above {checkpoint.applied_seq}"
        )
    return False


def replay(store: Store, events: Iterable[LogEntry], log_end: int) -> int:
    """Applies `events`, those above the store's applied_seq in order, with frames. How many changed an account."""
    changing = (event for event in events if event.kind in _CHANGING and event.frame is not None)
    changed = 0
    while group := list(islice(_read_changes(changing), EVENTS_PER_GROUP)):
        changed += len(group)
        store.apply(_fold(store, group), [], group[-1].seq, None)
        crash.point("replay.group")
    store.apply([], [], log_end, None)
    return changed


def logged_above_cursors(events: Iterable[LogEntry], hosts: Sequence[HostRow]) -> dict[int, array[int]]:
    """Upstream seqs of events that are in the log above their host's saved cursor, by host id, ascending.

    `events`: those above dedup_from; frames are not looked at. Events of earlier epochs cannot come again.
    """
    known = {host.id: (host.epoch, host.cursor or 0) for host in hosts}
    found: dict[int, array[int]] = {}
    for event in events:
        epoch, cursor = known.get(event.host_id, (0, 0))
        if event.host_epoch == epoch and event.upstream_seq > cursor:
            found.setdefault(event.host_id, array("Q")).append(event.upstream_seq)
    return {host_id: array("Q", sorted(seqs)) for host_id, seqs in found.items()}


@dataclass(frozen=True, slots=True)
class _Change:
    """What one event says of its account."""

    seq: int
    kind: int
    host_id: int
    upstream_status: int
    local_status: int
    did: str
    rev: str | None = None
    head: bytes | None = None
    data: bytes | None = None
    prev_data: bytes | None = None


def _read_changes(events: Iterable[LogEntry]) -> Iterator[_Change]:
    """Frames were verified before they were logged; one that cannot be read any more is damage that the log reports."""
    for event in events:
        assert event.frame is not None
        said = message.decode(event.frame)
        if isinstance(said, str):
            continue
        change = _Change(event.seq, event.kind, event.host_id, event.upstream_status, _local_status(event), said["did"])
        if event.kind in (_COMMIT, _SYNC):
            try:
                _, rev, head, data = commit.facts(event.frame)
            except ValueError:
                continue
            prev_data = said["prev_data"] if event.kind == _COMMIT else None
            change = replace(change, rev=rev, head=head, data=data, prev_data=prev_data)
        yield change


def _fold(store: Store, group: Sequence[_Change]) -> list[AccountDelta]:
    """The newest state of every account in the group."""
    dids = list({change.did for change in group})
    stored: Mapping[str, AccountRow | None] = dict(zip(dids, store.load_accounts(dids), strict=True))
    folded: dict[str, AccountDelta] = {}
    for change in group:
        before = folded.get(change.did) or _as_delta(change.did, stored[change.did])
        if change.seq > before.last_seq:
            folded[change.did] = _step(before, change)
    return list(folded.values())


def _as_delta(did: str, row: AccountRow | None) -> AccountDelta:
    if row is None:
        return AccountDelta(did, 0, _ACTIVE, _ACTIVE, None, None, None, 0, False)
    return AccountDelta(
        did,
        row.host_id,
        row.upstream_status,
        row.local_status,
        row.rev,
        row.data,
        row.head,
        row.last_seq,
        row.desynchronized,
    )


def _step(before: AccountDelta, change: _Change) -> AccountDelta:
    """The account after the event."""
    after = replace(
        before,
        host_id=change.host_id or before.host_id,  # 0 = an event of our own
        upstream_status=change.upstream_status,
        local_status=change.local_status,
        last_seq=change.seq,
        identity_stale=before.identity_stale or change.kind == _IDENTITY,
    )
    if change.rev is None:
        return after
    broken = change.prev_data is not None and before.data is not None and change.prev_data != before.data
    return replace(
        after,
        rev=change.rev,
        data=change.data,
        head=change.head,
        desynchronized=before.desynchronized or broken,
    )


def _local_status(event: LogEntry) -> int:
    """What this relay says of the account: its effective status, where that is not its host's word (E8)."""
    return event.effective_status if event.flags & TAKEN_DOWN else _ACTIVE
