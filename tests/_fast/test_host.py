"""The C side of a host: credit and its waiting, progress slots and the cursor, epochs, deduplication."""

from __future__ import annotations

import itertools
import random
import threading
from typing import TYPE_CHECKING

import pytest

from zlay._fast import host, pool, verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
OK, HOST_LIMIT, POOL_LIMIT = 0, 1, 2
_ids = itertools.count(1)


@pytest.fixture
def region() -> Iterator[None]:
    """A pool, for its bytes bound the credit."""
    pool.init(64 * MIB)
    yield
    pool.close()


def _new(credit_limit: int = MIB) -> int:
    number = next(_ids)
    return host.new(number, f"host{number}.example.com", credit_limit)


def test_index_and_names() -> None:
    """A host keeps its id and name, and indexes count up."""
    first = _new()
    second = host.new(4_000_000_000, "localhost:2583")
    assert second == first + 1
    assert host.count() > second
    stats = host.stats(second)
    assert (stats["id"], stats["name"], stats["epoch"]) == (4_000_000_000, "localhost:2583", 1)


@pytest.mark.parametrize(("number", "name"), [(0, "a"), (1 << 32, "a"), (1, ""), (1, "x" * 300), (1, "a\0b")])
def test_bad_id_or_name_is_refused(number: int, name: str) -> None:
    """Ids and names that do not fit are refused."""
    with pytest.raises(ValueError, match="host"):
        host.new(number, name)


def test_unknown_index_is_an_error() -> None:
    """An index nobody was given is an IndexError, not memory."""
    for index in (-1, host.count(), 1 << 20):
        with pytest.raises(IndexError):
            host.stats(index)


def test_credit_is_bounded_and_comes_back(region: None) -> None:
    """A host takes no more than its credit until some is given back."""
    index = _new(100_000)
    assert host.take_credit(index, 60_000) == OK
    assert host.take_credit(index, 60_000) == HOST_LIMIT
    assert host.take_credit(index, 40_000) == OK
    host.give_credit(index, 60_000)
    assert host.take_credit(index, 60_000) == OK
    assert host.stats(index)["credit_used_bytes"] == 100_000


def test_one_frame_always_fits_an_idle_host(region: None) -> None:
    """A frame larger than the credit passes when nothing else of the host is in flight, growing included."""
    index = _new(1000)
    assert host.take_credit(index, 4_000) == OK
    assert host.take_credit(index, 8_000, own=4_000) == OK
    assert host.take_credit(index, 1) == HOST_LIMIT


def test_one_host_waits_for_nobody_else(region: None) -> None:
    """A host at its limit leaves the credit of others untouched."""
    greedy, other = _new(10_000), _new(10_000)
    assert host.take_credit(greedy, 10_000) == OK
    assert host.take_credit(greedy, 1) == HOST_LIMIT
    assert host.take_credit(other, 10_000) == OK


def test_share_shrinks_as_the_pool_fills(region: None) -> None:
    """A host may use at most a quarter of what is free in the pool, so few hosts cannot take it all."""
    index = _new(32 * MIB)
    assert host.take_credit(index, 15 * MIB) == OK
    assert host.take_credit(index, 2 * MIB) == POOL_LIMIT
    frames = [pool.take(5_000_000) for _ in range(7)]
    assert None not in frames
    other = _new(32 * MIB)
    assert host.take_credit(other, MIB) == OK
    assert host.take_credit(other, 2 * MIB) == POOL_LIMIT
    for frame in frames:
        assert frame is not None
        pool.give(frame)
    assert host.take_credit(other, 2 * MIB) == OK


def test_waiting_reader_is_woken(region: None) -> None:
    """A reader that waits for credit goes on as soon as enough is given back, long before its time-out."""
    index = _new(1000)
    assert host.take_credit(index, 1000) == OK
    started = threading.Barrier(2)
    outcome: list[bool] = []

    def wait() -> None:
        started.wait(10)
        outcome.append(host.wait_credit(index, 500, 60_000))

    thread = threading.Thread(target=wait)
    thread.start()
    started.wait(10)
    host.give_credit(index, 1000)
    thread.join(20)
    assert outcome == [True]


def test_waiting_is_bounded(region: None) -> None:
    """A wait for credit that does not come ends at its time-out."""
    index = _new(1000)
    assert host.take_credit(index, 1000) == OK
    assert host.wait_credit(index, 500, 20) is False


def test_credit_under_contention(region: None) -> None:
    """One taker and many givers lose no byte and no wake-up."""
    index = _new(64)
    assert host.take_credit(index, 64) == OK
    rounds, givers = 2000, 4
    taken = threading.Semaphore(64)

    def give() -> None:
        for _ in range(rounds):
            taken.acquire()
            host.give_credit(index, 1)

    threads = [threading.Thread(target=give) for _ in range(givers)]
    for thread in threads:
        thread.start()
    for _ in range(rounds * givers - 64):
        assert host.wait_credit(index, 1, 10_000)
        taken.release()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert host.stats(index)["credit_used_bytes"] == 0


def test_cursor_moves_over_verdicts_in_order() -> None:
    """The cursor is the highest seq below which every frame has a verdict and every logged event is synced."""
    index = _new()
    slots = [host.push_slot(index, seq, synced_end=seq) for seq in (10, 12, 15)]
    assert host.collect(index, 0) == (None, 10)
    host.finish_slot(index, slots[1], log_seq=100)
    assert host.collect(index, 1000) == (None, 10)
    host.finish_slot(index, slots[0], reason=3)
    assert host.collect(index, 99) == (10, 12)
    assert host.collect(index, 100) == (12, 15)
    host.finish_slot(index, slots[2], log_seq=101)
    assert host.collect(index, 101) == (15, None)
    stats = host.stats(index)
    assert (stats["pending"], stats["cursor"], stats["by_reason"]) == (0, 15, {3: 1})


def test_frames_without_seq_or_below_move_no_cursor() -> None:
    """A frame without a seq, or with a lower one, never moves the cursor back."""
    index = _new()
    for seq in (50, 0, 20):
        host.finish_slot(index, host.push_slot(index, seq), reason=1)
    assert host.collect(index, 0) == (50, None)


def test_slots_of_an_earlier_epoch_move_no_cursor() -> None:
    """When a host's numbering starts again, frames still in flight from before do not set the new cursor."""
    index = _new()
    old = host.push_slot(index, 900_000)
    host.set_epoch(index, 2)
    host.finish_slot(index, old, log_seq=1)
    assert host.collect(index, 10) == (None, None)
    host.finish_slot(index, host.push_slot(index, 3), log_seq=2)
    assert host.collect(index, 10) == (3, None)
    row = next(row for row in host.collect_all(10) if row[0] == host.stats(index)["id"])
    assert row[1:] == (2, 3, None)


def test_resume_seq() -> None:
    """After a start a dial goes on from the saved cursor, also from 0; with none it is live."""
    index = _new()
    assert host.resume_seq(index) is None
    host.set_epoch(index, 4, 77)
    assert host.resume_seq(index) == 77
    assert host.collect(index, 0) == (77, None)
    host.set_epoch(index, 5, 0)
    assert host.resume_seq(index) == 0


def test_a_connected_host_is_not_dialled_live_again() -> None:
    """From its first connection on a host without events has cursor 0, which is collected to be saved."""
    index = _new()
    host.connected(index)
    assert host.resume_seq(index) == 0
    assert host.collect(index, 0) == (0, None)
    host.set_epoch(index, 2, 50)
    host.connected(index)
    assert host.resume_seq(index) == 50


def test_anchor() -> None:
    """A host's frames go on once a cursor of its epoch that lies just below the first one has been saved."""
    index = _new()
    number = host.stats(index)["id"]
    host.connected(index)
    host.set_saved(index, 1, 0)  # that of a host without events does not count
    assert not host.anchored(index, 100)
    assert not host.anchored(index, 100)
    assert host.anchors() == [(number, 1, 99)]
    assert host.collect(index, 0) == (99, None)
    host.set_saved(index, 1, 98)
    host.set_saved(index, 2, 99)
    assert not host.anchored(index, 100)
    host.set_saved(index, 1, 99)
    assert host.anchored(index, 100)
    assert host.anchors() == []


def test_anchor_of_each_epoch() -> None:
    """A new epoch has an anchor of its own; a host with a saved cursor needs none."""
    index = _new()
    assert not host.anchored(index, 900)
    host.set_epoch(index, 2)
    assert host.anchors() == []
    host.set_saved(index, 1, 899)  # on its way when the epoch began
    assert not host.anchored(index, 5)
    assert host.anchors() == [(host.stats(index)["id"], 2, 4)]
    host.set_epoch(index, 3, 70)
    assert host.anchors() == []
    assert host.anchored(index, 71)


def test_share_of_the_queues() -> None:
    """A host has at most 256 KiB before the workers, but always one frame; what is given back may be taken again."""
    index, other = _new(), _new()
    assert host.take_share(index, 200_000)
    assert not host.take_share(index, 100_000)
    assert host.take_share(index, 62_144)
    assert not host.take_share(index, 1)
    assert host.take_share(other, 5_000_000)
    assert not host.take_share(other, 1)
    host.give_share(index, 200_000)
    assert host.take_share(index, 100_000)
    assert host.stats(index)["queued_bytes"] == 162_144


def test_many_slots_with_a_live_collector() -> None:
    """A producer, a worker that finishes out of order and a collector at work together end at the last seq."""
    index = _new()
    total = 20_000
    lock = threading.Lock()
    open_slots: list[tuple[int, int]] = []
    produced = threading.Event()
    cursors: list[int] = []

    def finish() -> None:
        rng = random.Random(5)
        while True:
            done = produced.is_set()
            with lock:
                batch = [
                    open_slots.pop(rng.randrange(len(open_slots)))
                    for _ in range(len(open_slots) // 2 + 1)
                    if open_slots
                ]
            for slot, seq in batch:
                host.finish_slot(index, slot, log_seq=None if seq % 3 else seq)
            if done and not batch:
                return

    def collect() -> None:
        while not cursors or cursors[-1] != total:
            cursor, _ = host.collect(index, total)
            cursors.append(cursor or 0)

    threads = [threading.Thread(target=finish), threading.Thread(target=collect)]
    for thread in threads:
        thread.start()
    for seq in range(1, total + 1):
        slot = host.push_slot(index, seq)
        with lock:
            open_slots.append((slot, seq))
    produced.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert cursors == sorted(cursors)
    assert host.stats(index)["pending"] == 0


def test_duplicates_of_one_epoch() -> None:
    """Only seqs of the set and of its epoch are duplicates; the set is given once."""
    index = _new()
    seqs = random.Random(3).sample(range(1, 100_000), 500)
    host.set_dedup(index, 7, seqs)
    known = set(seqs)
    for seq in range(1, 100_050):
        assert host.is_duplicate(index, 7, seq) is (seq in known)
    assert not host.is_duplicate(index, 8, seqs[0])
    with pytest.raises(RuntimeError):
        host.set_dedup(index, 8, [1])


def test_ban_and_totals() -> None:
    """A ban is a flag that can be taken back; totals cover all hosts."""
    index = _new()
    host.ban(index)
    assert host.stats(index)["banned"]
    host.ban(index, False)
    assert not host.stats(index)["banned"]
    before = host.totals()["pending"]
    slot = host.push_slot(index, 5)
    assert host.totals()["pending"] == before + 1
    host.finish_slot(index, slot, log_seq=1)
    assert host.totals()["hosts"] == host.count()


def test_bad_run_counts_encoding_in_a_row() -> None:
    """Drops for encoding count in a row; any other drop ends the run (design 14)."""
    index = _new()
    code = {label: info.code for label, info in verdicts.REASON_BY_LABEL.items()}
    for label in ("cbor_truncated", "cbor_key_order", "frame_payload"):
        host.finish_slot(index, host.push_slot(index, 0), reason=code[label])
    assert host.stats(index)["bad_run"] == 3
    host.finish_slot(index, host.push_slot(index, 1), reason=code["sig_invalid"])
    assert host.stats(index)["bad_run"] == 0
