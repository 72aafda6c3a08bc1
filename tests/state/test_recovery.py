"""State and log at a start: whether they belong together, and what a crash left to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fixtures import recorded_frames
from tests.reference.car_ref import write_car
from tests.reference.drisl_ref import Cid, encode
from tests.reference.frame_ref import decode_frame
from tests.state.support import ACTIVE, DEACTIVATED, DELETED, TAKENDOWN, did, rev
from zlay._fast import verdicts
from zlay.errors import StartError
from zlay.eventlog.entries import LOCAL, TAKEN_DOWN, LogEntry
from zlay.pipeline.types import HostCursor, Identity
from zlay.state.interface import Checkpoint, NewHost
from zlay.state.plan import S_DELETED
from zlay.state.recovery import agree, logged_above_cursors, replay

if TYPE_CHECKING:
    from zlay.state.store import SqlStore

TIME = "2026-07-04T00:00:00.000Z"
ID = bytes(16)


def entry(seq: int, kind: str, frame: bytes | None, **fields: int) -> LogEntry:
    """An entry of the log, of host 1 and upstream seq = seq unless said otherwise."""
    numbers = {
        "flags": 0,
        "upstream_status": ACTIVE,
        "effective_status": ACTIVE,
        "host_id": 1,
        "host_epoch": 1,
        "upstream_seq": seq,
        "recv_us": 0,
        "did_hash": 1,
        "length": 0,
        **fields,
    }
    return LogEntry(seq=seq, kind=verdicts.KINDS.index(kind), frame=frame, **numbers)


def frame(kind: str, payload: dict[str, Any]) -> bytes:
    """A message in canonical form."""
    return encode({"op": 1, "t": f"#{kind}"}) + encode({"seq": 1, "time": TIME, **payload})


def data_of(number: int) -> Cid:
    """The MST root of state `number`."""
    return Cid.of(b"data%d" % number)


def commit(seq: int, n: int, at: int, after: int | None, **fields: int) -> LogEntry:
    """A commit of account n that leads from state `after` to state `at`."""
    signed = encode({"did": did(n), "version": 3, "data": data_of(at), "rev": rev(at), "prev": None, "sig": bytes(64)})
    cid = Cid.of(signed)
    payload: dict[str, Any] = {
        "repo": did(n), "rev": rev(at), "since": None if after is None else rev(after), "commit": cid,
        "blocks": write_car([cid], [(cid, signed)]), "ops": [], "blobs": [], "rebase": False, "tooBig": False,
    }  # fmt: skip
    if after is not None:
        payload["prevData"] = data_of(after)
    return entry(seq, "commit", frame("commit", payload), **fields)


def account(seq: int, n: int, upstream: int, effective: int | None = None, **fields: int) -> LogEntry:
    """An #account of account n."""
    effective = upstream if effective is None else effective
    payload: dict[str, Any] = {"did": did(n), "active": effective == ACTIVE}
    if effective != ACTIVE:
        payload["status"] = verdicts.STATUSES[effective]
    return entry(
        seq, "account", frame("account", payload), upstream_status=upstream, effective_status=effective, **fields
    )


def identity(seq: int, n: int) -> LogEntry:
    """An #identity of account n."""
    return entry(seq, "identity", frame("identity", {"did": did(n)}))


def test_stored_numbers_are_the_cores() -> None:
    """Statuses that stand in databases keep the numbers of the compiled table."""
    assert verdicts.STATUSES[:5] == ("active", "deactivated", "suspended", "takendown", "deleted")
    assert verdicts.STATUSES[S_DELETED] == "deleted"


# --- agree ---


def test_new_state_takes_the_id_of_an_empty_log() -> None:
    """A new store's state is given the log's id."""
    assert agree(Checkpoint(None, 0, 0), ID, newest_seq=0, log_end=0)


def test_state_behind_the_log_is_normal() -> None:
    """After a crash, and where numbers were left out, the log is ahead."""
    assert not agree(Checkpoint(ID, 5, 2), ID, newest_seq=9, log_end=9)
    assert not agree(Checkpoint(ID, 999, 0), ID, newest_seq=0, log_end=999)


@pytest.mark.parametrize(
    ("checkpoint", "newest", "message"),
    [
        (Checkpoint(None, 0, 0), 9, "the state is new"),
        (Checkpoint(b"x" * 16, 5, 0), 9, "two stores"),
        (Checkpoint(b"x" * 16, 5, 0), 0, "two stores"),
        (Checkpoint(ID, 10, 0), 9, "ahead of the log"),
    ],
)
def test_what_does_not_belong_together_is_refused(checkpoint: Checkpoint, newest: int, message: str) -> None:
    """Foreign, lost or newer state is a refusal that says what to do."""
    with pytest.raises(StartError, match=message):
        agree(checkpoint, ID, newest_seq=newest, log_end=newest)


# --- replay ---


def test_recorded_frames(store: SqlStore) -> None:
    """Every account of the recorded frames has the rev and CIDs that its commit says."""
    frames = recorded_frames()
    events = [entry(seq, decode_frame(raw).kind[1:], raw) for seq, raw in enumerate(frames, 1)]
    assert replay(store, events, len(frames)) == len(frames)
    assert store.checkpoint().applied_seq == len(frames)
    for raw in frames:
        said = decode_frame(raw)
        assert said.did is not None
        row = store.account(said.did)
        assert row is not None
        if said.kind == "#commit":
            assert (row.rev, row.head) == (said.payload["rev"], bytes(said.payload["commit"]))


def test_chain_and_status(store: SqlStore) -> None:
    """Commits and statuses add up to the newest of each, on top of what was stored."""
    replay(store, [commit(1, 1, 1, None), commit(2, 2, 1, None)], 2)
    replay(store, [commit(3, 1, 2, 1), account(4, 2, DEACTIVATED), commit(5, 1, 3, 2, host_id=7)], 6)
    first, second = store.load_accounts([did(1), did(2)])
    assert first is not None
    assert second is not None
    assert (first.rev, first.data, first.host_id, first.desynchronized) == (rev(3), data_of(3), 7, False)
    assert (second.rev, second.upstream_status, second.last_seq) == (rev(1), DEACTIVATED, 4)
    assert store.checkpoint().applied_seq == 6


def test_replay_twice_is_replay_once(store: SqlStore) -> None:
    """Events that are applied already change nothing when they are read again."""
    events = [commit(1, 1, 1, None), account(2, 1, DELETED), commit(3, 2, 1, None)]
    replay(store, events, 3)
    before = store.load_accounts([did(1), did(2)])
    counts = store.host_account_counts()
    replay(store, events, 3)
    replay(store, events[:2], 2)
    assert store.load_accounts([did(1), did(2)]) == before
    assert store.host_account_counts() == counts
    assert store.checkpoint().applied_seq == 3


def test_chain_break_is_found_again(store: SqlStore) -> None:
    """A commit that does not build on the state before it marks the account."""
    replay(store, [commit(1, 1, 1, None), commit(2, 1, 3, 2), commit(3, 1, 4, 3)], 3)
    row = store.account(did(1))
    assert row is not None
    assert (row.rev, row.desynchronized) == (rev(4), True)


def test_local_status_is_told_from_upstream(store: SqlStore) -> None:
    """A takedown of our own survives events of the host, and ends with our own event, whatever the host says: also that
    the account is taken down there."""
    ours = {"host_id": 0, "flags": LOCAL}
    replay(store, [commit(1, 1, 1, None), account(2, 1, ACTIVE, TAKENDOWN, host_id=0, flags=LOCAL | TAKEN_DOWN)], 2)
    for seq, upstream in ((3, DEACTIVATED), (5, TAKENDOWN)):
        replay(store, [account(seq, 1, upstream, TAKENDOWN, flags=TAKEN_DOWN)], seq)
        row = store.account(did(1))
        assert row is not None
        assert (row.host_id, row.upstream_status, row.local_status) == (1, upstream, TAKENDOWN)
        assert store.taken_down() == [did(1)]
        replay(store, [account(seq + 1, 1, upstream, upstream, **ours)], seq + 1)
        row = store.account(did(1))
        assert row is not None
        assert (row.upstream_status, row.local_status) == (upstream, ACTIVE)
        assert store.taken_down() == []
    replay(store, [account(7, 1, TAKENDOWN, TAKENDOWN, host_id=0, flags=LOCAL | TAKEN_DOWN)], 7)
    row = store.account(did(1))
    assert row is not None
    assert (row.upstream_status, row.local_status) == (TAKENDOWN, TAKENDOWN)


def test_identity_event_expires_the_key(store: SqlStore) -> None:
    """A key that an #identity has put in doubt is not used again after a crash."""
    store.save_identities([Identity(did(1), "ok", "a.example.com", 1, b"\2" * 33, 5)])
    replay(store, [commit(1, 1, 1, None), identity(2, 1)], 2)
    row = store.account(did(1))
    assert row is not None
    assert (row.rev, row.identity) == (rev(1), None)


def test_other_entries_are_passed_over(store: SqlStore) -> None:
    """Unknown messages, and frames that are damaged beyond reading, change no account."""
    events = [
        entry(1, "unknown", frame("future", {"did": did(1)})),
        entry(2, "commit", b"\xa0broken"),
        commit(3, 2, 1, None),
    ]
    assert replay(store, events, 3) == 1
    assert store.account(did(1)) is None
    assert store.account(did(2)) is not None


def test_groups(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long tail is applied group by group with the same outcome."""
    monkeypatch.setattr("zlay.state.recovery.EVENTS_PER_GROUP", 3)
    events = [commit(seq, seq % 4, seq, seq - 4 if seq > 4 else None) for seq in range(1, 21)]
    assert replay(store, iter(events), 20) == 20
    rows = store.load_accounts([did(n) for n in range(4)])
    assert [(row.rev, row.desynchronized) for row in rows if row] == [(rev(at), False) for at in (20, 17, 18, 19)]


# --- what hosts will send again ---


def test_events_above_the_cursor(store: SqlStore) -> None:
    """Exactly the events above a host's cursor, of its present epoch, are those it will send again."""
    one, two, three = store.add_hosts([NewHost(f"{name}.example.com", "config") for name in "abc"])
    store.begin_epoch(two.id)
    store.apply([], [HostCursor(one.id, 1, 10), HostCursor(two.id, 2, 5)], 0, 0)
    events = [
        entry(1, "commit", None, host_id=one.id, upstream_seq=12),
        entry(2, "commit", None, host_id=one.id, upstream_seq=10),
        entry(3, "commit", None, host_id=one.id, upstream_seq=11),
        entry(4, "commit", None, host_id=two.id, upstream_seq=900, host_epoch=1),
        entry(5, "commit", None, host_id=two.id, upstream_seq=6, host_epoch=2),
        entry(6, "commit", None, host_id=three.id, upstream_seq=1),
        entry(7, "account", None, host_id=0, upstream_seq=0, host_epoch=0),
    ]
    found = logged_above_cursors(events, store.hosts())
    assert {host: list(seqs) for host, seqs in found.items()} == {one.id: [11, 12], two.id: [6], three.id: [1]}
