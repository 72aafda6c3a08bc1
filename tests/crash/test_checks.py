"""The checks of the crash tests can fail: each thing that must not be is found."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.crash.check import Inspector, Keeper, log_agrees, read_index, read_state, state_agrees, whole_history
from tests.crash.databases import StateFile
from tests.crash.takedowns import Operator, Takedowns
from tests.crash.witnesses import Seen, Truth, digest
from tests.eventlog.support import DID, message, opened
from tests.reference.log_ref import LogReader
from tests.state.support import CID_B, delta, did, rev
from zlay._fast import log as fast_log
from zlay.eventlog.spans import seq_span
from zlay.pipeline.types import HostCursor
from zlay.state.interface import NewHost
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EVENTS = 10
HOST = "pds.example.com"


class NoLedger:
    """A ledger of one host, with nothing more to say."""

    def __init__(self) -> None:
        self.hosts = {0: HOST}

    def poll(self) -> list[object]:
        """Nothing."""
        return []


def make(data_dir: Path, upstream: Sequence[int] = range(1, EVENTS + 1), segment_entries: int = 4) -> Inspector:
    """A store whose one host has said ten events that are all logged; its cursor stands at 6."""
    with opened(data_dir, segment_entries=segment_entries) as log:
        for seq in upstream:
            frame = message(0, f"event {seq}")
            fast_log.append(
                frame, *seq_span(frame), kind=4, host_id=1, host_epoch=1, upstream_seq=seq, recv_us=seq, did_hash=1
            )
        assert log.wait_synced(log.appended_end, 20)
    store = SqliteStore(data_dir / "state.sqlite")
    store.add_hosts([NewHost(HOST, "config")])
    store.apply([delta(1, seq=8, rev=rev(5))], [HostCursor(1, 1, 6)], 8, 5)
    store.close()
    truth = Truth(NoLedger())  # type: ignore[arg-type]
    truth.passing = {0: [list(range(1, EVENTS + 1))]}
    truth.last = {0: EVENTS}
    events = data_dir / "events"
    state = StateFile(data_dir)
    return Inspector(data_dir, state, truth, Keeper(events, data_dir.parent / "kept"), Takedowns(events, truth.outlaws))


def change(data_dir: Path, sql: str) -> None:
    """Spoil the state."""
    with closing(sqlite3.connect(data_dir / "state.sqlite", autocommit=True)) as state:
        state.execute(sql)


def test_what_is_right_passes(tmp_path: Path) -> None:
    """A log and a state that agree are found right, twice."""
    inspector = make(tmp_path / "data")
    inspector.look()
    inspector.look()


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("UPDATE checkpoint SET applied_seq = 11", "the state has applied 11"),
        ("UPDATE checkpoint SET dedup_from = 7", "will be sent again"),
        ("UPDATE host SET upstream_cursor = 2", "will be sent again"),
    ],
)
def test_a_state_that_does_not_agree_with_the_log(tmp_path: Path, sql: str, found: str) -> None:
    """A state ahead of the log, and one that would let a host's events in twice."""
    inspector = make(tmp_path / "data")
    change(tmp_path / "data", sql)
    with pytest.raises(AssertionError, match=found):
        inspector.look()


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        (f"UPDATE account_repo SET rev = '{rev(4)}'", "revs went back"),
        ("UPDATE host SET upstream_cursor = NULL", "will be sent again"),
        ("UPDATE host SET epoch = 0", "which are not logged|went back"),
        ("UPDATE checkpoint SET applied_seq = 7", "applied_seq went back"),
        ("UPDATE checkpoint SET dedup_from = 4", "dedup_from went back"),
    ],
)
def test_a_state_that_goes_back(tmp_path: Path, sql: str, found: str) -> None:
    """What one look has seen must not be less at the next."""
    inspector = make(tmp_path / "data")
    inspector.look()
    change(tmp_path / "data", sql)
    with pytest.raises(AssertionError, match=found):
        inspector.look()


def test_a_cursor_past_what_was_not_logged(tmp_path: Path) -> None:
    """An event that its host will not send again, and that is nowhere."""
    inspector = make(tmp_path / "data", [1, 2, 3, 5, 6, 7, 8, 9, 10])
    with pytest.raises(AssertionError, match=r"past \[4\], which are not logged"):
        inspector.look()


def test_an_event_logged_twice(tmp_path: Path) -> None:
    """The same upstream event under two numbers."""
    inspector = make(tmp_path / "data", [1, 2, 3, 4, 5, 6, 7, 8, 7, 9])
    with pytest.raises(AssertionError, match="was logged before as 7"):
        inspector.look()


def down_and_up(data_dir: Path, *events: tuple[int, int], said: bool | None) -> Takedowns:
    """A log with an outlaw's events as (flags, kind), read from its index; what the operator was answered."""
    with opened(data_dir) as log:
        for flags, kind in events:
            frame = message(0, "")
            host_id = 0 if flags else 1
            own = fast_log.hash_did(DID.encode())
            fast_log.append(frame, *seq_span(frame), kind=kind, flags=flags, host_id=host_id, recv_us=1, did_hash=own)
        assert log.wait_synced(log.appended_end, 20)
    takedowns = Takedowns(data_dir / "events", [DID])
    for entry in read_index(data_dir / "events"):
        takedowns.take(entry)
    operator = Operator(0, [DID], random.Random(1))
    operator.said[DID] = said
    takedowns.agrees(operator)
    return takedowns


DOWN, UP, COMMIT, IDENTITY = (3, 4), (1, 4), (0, 1), (0, 3)


def test_takedowns_that_were_kept(tmp_path: Path) -> None:
    """What an account said outside its takedowns may be missing where they are; #identity may not."""
    takedowns = down_and_up(tmp_path, COMMIT, DOWN, IDENTITY, UP, COMMIT, DOWN, said=True)
    assert takedowns.may_be_missing() == {1, 5}
    assert takedowns.visible(read_index(tmp_path / "events")) == [2, 3, 4, 6]
    assert takedowns.periods == 2


@pytest.mark.parametrize(
    ("events", "said", "found"),
    [
        ((DOWN, COMMIT), None, "though"),
        ((COMMIT, DOWN, UP), True, "True was answered"),
        ((COMMIT,), True, "True was answered"),
        ((COMMIT, DOWN), False, "False was answered"),
    ],
)
def test_takedowns_that_were_not(
    tmp_path: Path, events: tuple[tuple[int, int], ...], said: bool | None, found: str
) -> None:
    """An event that slipped past a takedown, and an answer of which the log knows nothing."""
    with pytest.raises(AssertionError, match=found):
        down_and_up(tmp_path, *events, said=said)


def test_a_takedown_in_the_state(tmp_path: Path) -> None:
    """A state in which an account is up that is down, or the other way round."""
    inspector = make(tmp_path / "data")
    inspector.takedowns.state_agrees(inspector.database)
    change(tmp_path / "data", f"UPDATE account SET local_status = 3 WHERE did = '{did(1)}'")
    with pytest.raises(AssertionError):
        inspector.takedowns.state_agrees(inspector.database)
    inspector.takedowns.down[did(1)] = True
    inspector.takedowns.state_agrees(inspector.database)
    inspector.takedowns.down[did(2)] = True
    with pytest.raises(AssertionError):
        inspector.takedowns.state_agrees(inspector.database)


def test_a_hole_in_the_log(tmp_path: Path) -> None:
    """A segment that does not reach up to the next one; a log that ends before where it was."""
    inspector = make(tmp_path / "data")
    inspector.look()
    names = sorted((tmp_path / "data" / "events").glob("*.index"))
    whole = names[1].read_bytes()
    names[1].write_bytes(whole[:-64])
    with pytest.raises(AssertionError, match="no good entries from 8"):
        inspector.look()
    names[1].write_bytes(whole)
    names[-1].write_bytes(names[-1].read_bytes()[:-64])
    with pytest.raises(AssertionError, match="the log ends with"):
        inspector.look()


def heard() -> tuple[Truth, list[Seen]]:
    """Ten commits of two accounts as they were said, and as they came out."""
    truth = Truth(NoLedger())  # type: ignore[arg-type]
    frames = []
    for i in range(1, EVENTS + 1):
        who, what = did(1 + i % 2), digest(b"%d" % i)
        truth.by_did[who].append(what)
        frames.append(Seen(i, who, "#commit", rev(i), CID_B, "", what, digest(b"raw %d" % i)))
    return truth, frames


def test_a_history_that_is_whole() -> None:
    """Everything once, in order."""
    whole_history(*heard())


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda frames: frames[:-1], "1 lost"),
        (lambda frames: [*frames[:3], *frames[4:]], "\\[4\\] are missing"),
        (lambda frames: [*frames, replace(frames[-1], seq=11, rev=rev(11))], "1 twice"),
        (lambda frames: [*frames, replace(frames[-1], seq=11, rev=rev(11), normalized=b"x")], "1 that should not be"),
        (lambda frames: [replace(frames[0], seq=2), replace(frames[1], seq=1), *frames[2:]], "by one"),
        (lambda frames: [*frames[:4], replace(frames[4], seq=6), *frames[5:]], "by one"),
        (lambda frames: [*frames[:-1], replace(frames[-1], rev=rev(3))], "rev"),
        (
            lambda frames: [
                replace(frames[0], normalized=frames[2].normalized),
                frames[1],
                replace(frames[2], normalized=frames[0].normalized),
                *frames[3:],
            ],
            "out of order",
        ),
    ],
)
def test_a_history_that_is_not(spoil: object, found: str) -> None:
    """Lost, doubled, invented, renumbered and turned-round events are found."""
    truth, frames = heard()
    assert callable(spoil)
    with pytest.raises(AssertionError, match=found):
        whole_history(truth, spoil(frames))


def test_the_log_against_what_was_seen(tmp_path: Path) -> None:
    """A log with another event under a number, or one less, than consumers got."""
    make(tmp_path / "data")
    events = tmp_path / "data" / "events"
    frames = [
        Seen(event.seq, "", "#account", "", b"", "", b"", digest(event.message)) for event in LogReader.of(events)
    ]
    log_agrees(events, frames)
    with pytest.raises(AssertionError, match="another event"):
        log_agrees(events, [*frames[:5], replace(frames[5], raw=b""), *frames[6:]])
    with pytest.raises(AssertionError):
        log_agrees(events, [*frames, replace(frames[-1], seq=11)])


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE checkpoint SET applied_seq = 9",
        f"UPDATE account_repo SET rev = '{rev(9)}'",
        "UPDATE account_repo SET head = x'00'",
        "UPDATE account SET upstream_status = 1",
        "UPDATE account SET desynchronized = 1",
        "UPDATE host SET account_count = 2",
        "UPDATE host SET upstream_cursor = 9",
        "UPDATE host SET epoch = 2",
    ],
)
def test_the_state_against_what_was_seen(tmp_path: Path, sql: str) -> None:
    """After an orderly stop every column that is compared counts."""
    inspector = make(tmp_path / "data")
    store = SqliteStore(tmp_path / "data" / "state.sqlite")
    store.apply([delta(1, seq=10, rev=rev(10))], [HostCursor(1, 1, EVENTS)], EVENTS, EVENTS)
    store.close()
    frames = [Seen(EVENTS, did(1), "#commit", rev(10), CID_B, "", b"", b"")]
    for wrong in (False, True):
        if wrong:
            change(tmp_path / "data", sql)
        state = read_state(inspector.database)
        assert state is not None
        if not wrong:
            state_agrees(state, inspector.truth, frames, EVENTS)
            continue
        with pytest.raises(AssertionError):
            state_agrees(state, inspector.truth, frames, EVENTS)
