"""What must hold of a dead relay's data directory, and of a whole history, by readers that are not the relay's own.

`Inspector` looks at log index and state between a kill and the next start, and remembers what it saw: numbers and revs
never go back, nothing is logged twice, the state is never ahead of the log, and what hosts will not send again is in
the log. `whole_history` compares what came out with what was said. One thread.
"""

from __future__ import annotations

import struct
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.crash.databases import NotNowError
from tests.crash.witnesses import Seen, digest
from tests.reference.log_ref import ENTRY, SIZE, LogReader, crc32c

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence
    from pathlib import Path

    from tests.crash.databases import StateDatabase
    from tests.crash.takedowns import Takedowns
    from tests.crash.witnesses import Truth

__all__ = ["Inspector", "Keeper", "log_agrees", "read_index", "read_state", "state_agrees", "whole_history"]

_STATUSES = ("active", "deactivated", "suspended", "takendown", "deleted")  # as stored
_DELETED = _STATUSES.index("deleted")
_SHOWN = 5
KEEP_S = 0.05  # retention leaves a new segment for much longer


@dataclass(frozen=True, slots=True)
class Entry:
    """One good entry of the index: whose event stands under which number."""

    seq: int
    kind: int
    flags: int
    host_id: int
    epoch: int
    upstream_seq: int
    did_hash: int


def read_index(events: Path) -> Iterator[Entry]:
    """Good entries of all whole pairs, oldest first, up to the first bad one of the last segment.

    AssertionError where an older segment has a bad one, or does not reach up to the next.
    """
    firsts = LogReader.of(events).first_seqs()
    for first, following in zip(firsts, [*firsts, None][1:], strict=True):
        end = first
        for entry in read_entries(events / f"{first:020}.index", first, following):
            yield entry
            end = entry.seq + 1
        assert following in (None, end), f"no good entries from {end} to the next segment, {following}"


def read_entries(index: Path, first: int, following: int | None) -> Iterator[Entry]:
    """Good entries of one segment, up to the first bad one or to where the next segment begins."""
    data = index.read_bytes()
    seq = first
    for at in range(SIZE, len(data) - SIZE + 1, SIZE):
        entry = data[at : at + SIZE]
        fields = ENTRY.unpack(entry)
        if seq == following or fields[9] != crc32c(struct.pack("<Q", seq) + entry[:28] + entry[32:]):
            return
        yield Entry(seq, fields[3], fields[4], fields[7], fields[8], fields[10], fields[12])
        seq += 1


class Keeper:
    """Keeps what retention takes away: a second name for every index, made by a thread of its own."""

    def __init__(self, events: Path, kept: Path) -> None:
        self._events = events
        self._kept = kept
        self._lock = threading.Lock()  # one at a time
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        kept.mkdir()

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.wait(KEEP_S):
            self.keep()

    def keep(self) -> None:
        """Gives a second name to what is new."""
        with self._lock:
            for path in self._events.glob("*.index"):
                own = self._kept / path.name
                try:
                    if not own.exists() or own.stat().st_ino != path.stat().st_ino:
                        own.unlink(missing_ok=True)
                        own.hardlink_to(path)
                except FileNotFoundError:
                    pass  # gone, or a birth undone, in this moment

    def entries(self, from_seq: int) -> Iterator[Entry]:
        """Entries of all segments that have been, from the one that holds from_seq on."""
        firsts = sorted(int(path.stem) for path in self._kept.iterdir())
        for first, following in zip(firsts, [*firsts, None][1:], strict=True):
            if following is None or following > from_seq:
                yield from read_entries(self._kept / f"{first:020}.index", first, following)


@dataclass(slots=True)
class State:
    """The tables that are looked at."""

    applied_seq: int
    dedup_from: int
    hosts: dict[int, tuple[str, int, int | None, int]]  # name, epoch, cursor, accounts by id
    accounts: dict[str, tuple[int, int, int]]  # host id, upstream status, desynchronized by DID
    repos: dict[str, tuple[str, bytes]]  # rev, head by DID


def read_state(database: StateDatabase) -> State | None:
    """The state as a start would find it; None while there is none."""
    try:
        with database.as_left() as query:
            ((applied_seq, dedup_from),) = query("SELECT applied_seq, dedup_from FROM checkpoint")
            rows = query("SELECT id, hostname, epoch, upstream_cursor, account_count FROM host")
            hosts = {row[0]: row[1:] for row in rows}
            rows = query("SELECT did, host_id, upstream_status, desynchronized FROM account")
            accounts = {row[0]: row[1:] for row in rows}
            rows = query("SELECT did, rev, head FROM account_repo r JOIN account a ON a.uid = r.uid")
            return State(applied_seq, dedup_from, hosts, accounts, {row[0]: row[1:] for row in rows})
    except NotNowError:
        return None


@dataclass(slots=True)
class Inspector:
    """Looks at a data directory and its state between a kill and the next start."""

    data_dir: Path
    database: StateDatabase
    truth: Truth
    keeper: Keeper
    takedowns: Takedowns
    logged: dict[tuple[int, int], dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    read_to: int = 0  # seqs up to here are in `logged`
    before: State | None = None

    def look(self) -> None:
        """Raises AssertionError with what is wrong."""
        entries = self.follow()
        now = read_state(self.database)
        if now is not None:
            self._state(now, entries, self.read_to)
        self.before = now or self.before

    def follow(self) -> list[Entry]:
        """The log alone; its entries. Raises AssertionError."""
        events = self.data_dir / "events"
        entries = list(read_index(events)) if events.is_dir() else []
        self.keeper.keep()
        for entry in self.keeper.entries(self.read_to + 1):
            if entry.host_id:  # 0 = by the relay itself
                was = self.logged[entry.host_id, entry.epoch].setdefault(entry.upstream_seq, entry.seq)
                assert was == entry.seq, f"{entry} was logged before as {was}"
            assert entry.seq <= self.read_to + 1, f"{entry} follows on {self.read_to}"
            if entry.seq > self.read_to:
                self.takedowns.take(entry)
                self.read_to = entry.seq
        assert not entries or entries[-1].seq == self.read_to, f"the log ends with {entries[-1]}, was at {self.read_to}"
        return entries

    def _state(self, now: State, entries: Sequence[Entry], last: int) -> None:
        assert now.applied_seq <= last, f"the state has applied {now.applied_seq}, the log ends with {last}"
        assert now.dedup_from <= last
        current = {host_id: (epoch, cursor) for host_id, (_, epoch, cursor, _) in now.hosts.items()}
        for entry in entries:
            epoch, cursor = current.get(entry.host_id, (0, 0))
            if entry.epoch == epoch and entry.upstream_seq > (cursor or 0):
                assert entry.seq > now.dedup_from, f"{entry} will be sent again and is not looked for: {now.dedup_from}"
        for host_id, (name, epoch, cursor, _) in now.hosts.items():
            self._cursor(host_id, name, epoch, cursor or 0)
        if self.before is not None:
            self._goes_on(self.before, now)

    def _cursor(self, host_id: int, name: str, epoch: int, cursor: int) -> None:
        """Every event that the host will not be asked for again is in the log."""
        said = self.truth.passing.get(self.truth.host_names()[name])
        if said is None or epoch > len(said):
            return
        missing = [seq for seq in said[epoch - 1] if seq <= cursor and seq not in self.logged[host_id, epoch]]
        assert not missing, f"{name} epoch {epoch}: cursor {cursor} is past {missing[:_SHOWN]}, which are not logged"

    @staticmethod
    def _goes_on(before: State, now: State) -> None:
        assert now.applied_seq >= before.applied_seq, "applied_seq went back"
        assert now.dedup_from >= before.dedup_from, "dedup_from went back"
        for host_id, (name, epoch, cursor, _) in before.hosts.items():
            _, new_epoch, new_cursor, _ = now.hosts[host_id]
            assert new_epoch > epoch or (new_epoch == epoch and (new_cursor or 0) >= (cursor or 0)), f"{name} went back"
        back = [did for did, (rev, _) in before.repos.items() if now.repos[did][0] < rev]
        assert not back, f"revs went back: {back[:_SHOWN]}"


def whole_history(truth: Truth, frames: Sequence[Seen], may_be_missing: Container[int] = ()) -> None:
    """Each event that must come out came out once, in its account's order; seq + 1 from 1 on, but for some that may be
    missing; revs go up."""
    seqs = [frame.seq for frame in frames]
    assert seqs == sorted(set(seqs)), "seq does not go up by one"
    missing = [seq for seq in sorted({*range(1, seqs[-1])} - {*seqs}) if seq not in may_be_missing]
    assert not missing, f"seq does not go up by one: {missing[:_SHOWN]} are missing"
    got: dict[str, list[bytes]] = defaultdict(list)
    revs: dict[str, str] = {}
    for frame in frames:
        got[frame.did].append(frame.normalized)
        if frame.kind == "#commit":
            assert frame.rev > revs.get(frame.did, ""), f"{frame.did}: rev {frame.rev} after {revs[frame.did]}"
            revs[frame.did] = frame.rev
    wrong = [
        f"{did}: {_difference(truth.by_did[did], got[did])}"
        for did in (truth.by_did.keys() | got.keys()) - set(truth.outlaws)
        if truth.by_did[did] != got[did]
    ]
    assert not wrong, f"{len(wrong)} accounts: {'; '.join(wrong[:_SHOWN])}"


def _difference(wanted: list[bytes], got: list[bytes]) -> str:
    lost, extra = Counter(wanted) - Counter(got), Counter(got) - Counter(wanted)
    again = sum(count for item, count in extra.items() if item in wanted)
    if not lost and not extra:
        return f"out of order, of {len(wanted)}"
    return f"{lost.total()} lost, {again} twice, {extra.total() - again} that should not be, of {len(wanted)}"


def log_agrees(events: Path, frames: Sequence[Seen], may_be_missing: Container[int] = ()) -> None:
    """What is still in the log is byte for byte what consumers got, without a hole up to the newest; some events may be
    missing there."""
    reader = LogReader.of(events)
    by_seq = {frame.seq: frame.raw for frame in frames}
    seqs = []
    for event in reader:
        assert by_seq.get(event.seq, b"") == digest(event.message) or (
            event.seq not in by_seq and event.seq in may_be_missing
        ), f"seq {event.seq} is another event in the log"
        seqs.append(event.seq)
    assert reader.bad == []
    assert seqs == list(range(seqs[0], seqs[-1] + 1))
    assert seqs[-1] >= frames[-1].seq, "the newest events are not in the log"


def state_agrees(state: State, truth: Truth, frames: Sequence[Seen], log_end: int) -> None:
    """After an orderly stop the state is what the log says, account by account, and cursors are at their end."""
    assert state.applied_seq == log_end
    outlaws = set(truth.outlaws)
    newest = {frame.did: frame for frame in frames if frame.kind in ("#commit", "#sync") and frame.did not in outlaws}
    for did, frame in newest.items():
        rev, head = state.repos[did]
        assert rev == frame.rev, did
        assert frame.kind == "#sync" or head == frame.head, did
    statuses = {frame.did: frame.status for frame in frames if frame.kind == "#account"}
    for did, (_, upstream, desynchronized) in state.accounts.items():
        if did in outlaws:
            continue
        assert _STATUSES[upstream] == statuses.get(did, "active"), did
        assert not desynchronized, f"{did} is marked, though no chain was broken"
    living = Counter(host_id for host_id, upstream, _ in state.accounts.values() if upstream != _DELETED)
    numbers = truth.host_names()
    for host_id, (name, epoch, cursor, accounts) in state.hosts.items():
        number = numbers[name]
        assert accounts == living[host_id], name
        assert (epoch, cursor) == (len(truth.passing[number]), truth.last[number]), name
