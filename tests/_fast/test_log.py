"""Sequencer and writer: numbers, splicing, groups, rotation, bounds, failing disks."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import native
from tests.eventlog.support import ACCOUNT, WAIT_S, append, fill, message, opened, payload, until
from tests.preload import preload
from tests.reference.log_ref import LogReader
from zlay._fast import log as fast_log
from zlay._fast import segments
from zlay._fast.batch import Batch
from zlay.eventlog.spans import seq_span

if TYPE_CHECKING:
    from zlay.eventlog.log import EventLog

MAX_FRAME = 5_000_000
PR_SET_THP_DISABLE = 41
CHUNK_BYTES = 8 << 20
BIG_TEXT = "z" * (MAX_FRAME - 1000)  # one message fills more than half of a chunk
BIG = message(0, BIG_TEXT)
BIG_SPAN = seq_span(BIG)


@pytest.mark.parametrize(
    "first", [1, 22, 23, 24, 254, 255, 256, 65_534, 65_535, 65_536, 2**32 - 2, 2**32 - 1, 2**32, 2**53 - 3]
)
def test_seq_is_spliced_in_shortest_form_and_nothing_else_changes(tmp_path: Path, first: int) -> None:
    """The message in the log is the message appended, with our seq in shortest form instead of the host's."""
    with opened(tmp_path, initial_seq=first) as log:
        for upstream, seq in ((0, first), (2**53 - 1, first + 1), (300, first + 2)):
            frame = message(upstream, "t" * 50)
            if seq < 2**53:
                assert fast_log.append(frame, *seq_span(frame)) == seq
                assert log.wait_synced(seq, WAIT_S)
        entries = list(log.scan(first))
    for entry in entries:
        assert entry.frame == message(entry.seq, "t" * 50)
        assert payload(entry.frame)["seq"] == entry.seq


@pytest.mark.parametrize("size", [0, 60, 125 - 60, 126, 300, 65_000, 65_535, 65_536, 70_000, 4_900_000])
def test_every_length_gets_its_websocket_header(tmp_path: Path, size: int) -> None:
    """An independent reader unwraps what was appended, at every form of the WebSocket length."""
    with opened(tmp_path) as log:
        expected = [message(i + 1, "y" * (size + i)) for i in range(4)]
        for i in range(4):
            seq = append(log, "y" * (size + i))
        assert log.wait_synced(seq, WAIT_S)
    assert [event.message for event in LogReader.of(tmp_path / "events")] == expected


def test_nothing_over_the_limit_is_logged(tmp_path: Path) -> None:
    """A frame that would exceed 5,000,000 bytes with its WebSocket header (A8) gets no number; the next one does."""
    with opened(tmp_path) as log:
        room = MAX_FRAME - 10 - len(message(1, "x" * 70_000)) + 70_000
        assert append(log, "x" * room) == 1
        with pytest.raises(ValueError, match="5,000,000"):
            append(log, "x" * (room + 1))
        with pytest.raises(ValueError, match="5,000,000"):
            append(log, "x" * 6_000_000)
        assert append(log, "small") == 2
        assert log.wait_synced(2, WAIT_S)
        assert next(entry.length for entry in log.scan(1)) == MAX_FRAME


def test_a_span_outside_the_frame_is_refused() -> None:
    """A caller's wrong offsets never read outside the frame."""
    assert fast_log.append(b"abc", 4, 0) == fast_log.append(b"abc", 1, 3) == fast_log.append(b"abc", 2**32 - 1, 2) == 0


def test_many_appenders_give_one_order_without_gaps(tmp_path: Path) -> None:
    """Appenders at once: every event is logged once, numbers go up by one, and each appender's own order is kept."""
    threads, each = 6, 1_500
    with opened(tmp_path, segment_bytes=100_000) as log:
        start = threading.Barrier(threads)

        def work(who: int) -> None:
            start.wait(WAIT_S)
            for i in range(each):
                append(log, f"{who}:{i}")

        workers = [threading.Thread(target=work, args=(who,)) for who in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert log.appended_end == threads * each
        assert log.wait_synced(threads * each, WAIT_S)
        assert log.status()["groups"] < threads * each  # events were grouped
        until("the buffer is not empty", lambda: log.status()["buffered_bytes"] == 0)
    events = list(LogReader.of(tmp_path / "events"))
    assert [event.seq for event in events] == list(range(1, threads * each + 1))
    seen: dict[str, int] = {}
    for event in events:
        who, _, i = str(payload(event.message)["text"]).partition(":")
        assert seen.get(who, -1) == int(i) - 1
        seen[who] = int(i)
    assert seen == {str(who): each - 1 for who in range(threads)}


def test_entries_say_what_the_appender_said(tmp_path: Path) -> None:
    """Every field of the index comes back, from our reader and from the independent one."""
    frame = message(7, "fields")
    values = {
        "kind": 4,
        "flags": 1,
        "upstream_status": 3,
        "effective_status": 4,
        "host_id": 4_000_000_000,
        "host_epoch": 77,
        "upstream_seq": 2**53 - 1,
        "recv_us": 2**50,
        "did_hash": 2**64 - 1,
    }
    with opened(tmp_path) as log:
        assert fast_log.append(frame, *seq_span(frame), **values) == 1
        assert log.wait_synced(1, WAIT_S)
        (entry,) = log.scan(1)
    (event,) = LogReader.of(tmp_path / "events")
    for name, value in values.items():
        assert getattr(entry, name) == getattr(event, name) == value
    assert entry.frame == event.message == message(1, "fields")
    assert entry.length == len(event.websocket)


def test_rotation_by_size_and_by_entries(tmp_path: Path) -> None:
    """A segment ends with the event that fills it; the next one begins with the number after."""
    with opened(tmp_path / "entries", segment_entries=7) as log:
        fill(log, 30)
        assert [row[0] for row in segments.table()] == [1, 8, 15, 22, 29]
    with opened(tmp_path / "bytes", segment_bytes=1_000) as log:
        fill(log, 30, size=200)
        rows = segments.table()
        assert len(rows) >= 6
        for row in rows[:-1]:
            assert 1_000 <= row[2] < 1_000 + 64 + 300
    assert len(list(LogReader.of(tmp_path / "bytes" / "events"))) == 30


def test_floor_in_entries_never_reaches_the_entry_itself(tmp_path: Path) -> None:
    """synced_end in an entry is what was on disk before it was written: below the entry's seq, never falling."""
    with opened(tmp_path, segment_entries=10) as log:
        for _ in range(40):
            fill(log, 1)
    floors = [event.synced_end for event in LogReader.of(tmp_path / "events")]
    assert floors == list(range(40))


def test_close_writes_everything_and_lets_nobody_in(tmp_path: Path) -> None:
    """What was appended before close() is on disk after it; whoever comes later is told that the log is closed."""
    log_thread_done = threading.Event()
    with opened(tmp_path) as log:
        for i in range(500):
            append(log, f"{i}")
        assert log.close()
        assert fast_log.append(message(0), *seq_span(message(0))) == 0
        log_thread_done.set()
    assert len(list(LogReader.of(tmp_path / "events"))) == 500


def test_os_durability_publishes_before_it_syncs(tmp_path: Path) -> None:
    """With durability `os` events are published once written; the sync follows within seconds, by itself."""
    with opened(tmp_path, durability="os") as log:
        seq = append(log, "soon")
        assert fast_log.wait_published(seq, WAIT_S)
        assert log.wait_synced(seq, WAIT_S)
        assert log.status()["syncs"] >= 1
    assert len(list(LogReader.of(tmp_path / "events"))) == 1


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt


def _resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


def _fill_chunks(log: EventLog) -> None:
    """Three of the buffer's are used, and free again. Of a log with durability `os`, which lets them wait."""
    for _ in range(3):
        seq = fast_log.append(BIG, *BIG_SPAN, kind=ACCOUNT, did_hash=1)
    assert log.wait_synced(seq, WAIT_S)
    until("the buffer is given back", lambda: log.status()["buffered_bytes"] == 0)


@pytest.mark.ordinary_build
def test_spare_chunks_are_warm_under_load_and_gone_when_idle(tmp_path: Path) -> None:
    """Chunks wanted again at once cost no page faults; when a backlog is gone, all but one give their pages back within
    seconds, and can be used again."""
    libc = ctypes.CDLL(None)
    pages = MAX_FRAME // resource.getpagesize()
    libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # or a single fault may give all of a chunk
    try:
        with opened(tmp_path, durability="os") as log:
            _fill_chunks(log)
            before = _faults()
            _fill_chunks(log)
            assert _faults() - before < pages // 4
            held = _resident_pages()
            until("pages are given back", lambda: held - _resident_pages() > pages)
            _fill_chunks(log)
            assert sum(entry.frame == message(entry.seq, BIG_TEXT) for entry in log.scan(1)) == 9
    finally:
        libc.prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)


def test_a_group_takes_half_of_the_buffer(tmp_path: Path) -> None:
    """While one group is synced the next gathers as much: none takes more than half of the buffer and a chunk."""
    frame = message(0, "g" * 500_000)
    with opened(tmp_path) as log:
        assert Batch([(frame, *seq_span(frame))], ACCOUNT).append(0, 300) == 300
        assert log.wait_synced(300, WAIT_S)
        most = (log.status()["buffer_limit"] // 2 + CHUNK_BYTES) // len(frame)
    (index,) = (tmp_path / "events").glob("*.index")
    groups = Counter(entry[-8:] for (entry,) in struct.iter_unpack("64s", index.read_bytes()[64:]))
    assert sum(groups.values()) == 300
    assert max(groups.values()) <= most  # entries of a group say the same synced_end


def test_wait_times_out(tmp_path: Path) -> None:
    """Waiting for a number that is not given out ends at the time-out, and says so."""
    with opened(tmp_path) as log:
        assert not log.wait_synced(1, 0.05)


# ---- failing disks: a shim before the C library, in a process of its own -------------------------------------------

SHIM = Path(__file__).with_name("failing_disk.c")
CHILD = Path(__file__).with_name("failing_disk_child.py")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled shim."""
    library = tmp_path_factory.mktemp("shim") / "failing_disk.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], check=True)
    return library


def test_a_wake_up_is_over_when_it_is_taken_away(tmp_path: Path) -> None:
    """What wakes consumers is neither called nor still running once it has been taken away: its file may close."""
    race_log = native.load("race_log")
    with opened(tmp_path) as log:
        race_log.wake_slowly()
        append(log, "wakes")
        until("nobody was woken", race_log.waking)
        assert not race_log.wake_no_more()
        seq = append(log, "wakes nobody")
        assert log.wait_synced(seq, WAIT_S)
        assert not race_log.waking()


def _with_failing_disk(shim: Path, data_dir: Path, call: str, error: int, durability: str) -> str:
    # Five events are logged before it: what makes a segment has to fail with the next one, the rest inside one.
    entries = 5 if call in ("openat", "openat-half", "half-born", "fsync") else 7
    plan = data_dir.with_suffix(".plan")
    plan.write_bytes(b"")
    environment = {**os.environ, "LD_PRELOAD": preload(shim), "FAIL_PLAN": str(plan)}
    done = subprocess.run(
        [sys.executable, CHILD, data_dir, plan, call, str(error), durability, str(entries)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("durability", ["fsync", "os"])
@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("pwrite", errno.ENOSPC),
        ("pwrite", errno.EIO),
        ("pwrite-half", errno.ENOSPC),
        ("fdatasync", errno.EIO),
        ("fdatasync", errno.ENOSPC),
        ("openat", errno.ENOSPC),
        ("openat-half", errno.ENOSPC),
        ("half-born", errno.EIO),
        ("fsync", errno.EIO),
        ("change", errno.EROFS),
    ],
)
def test_a_failing_disk_pauses_ingest_and_loses_nothing(
    shim: Path, tmp_path: Path, call: str, error: int, durability: str
) -> None:
    """While a call fails, appending waits, status says why, consumers keep what they had; then all goes on, every
    event once, under its number."""
    data_dir = tmp_path / "data"
    output = _with_failing_disk(shim, data_dir, call, error, durability)
    appended = int(output.split()[-1])
    reader = LogReader.of(data_dir / "events")
    events = list(reader)
    assert [event.seq for event in events] == list(range(1, appended + 1))
    assert [payload(event.message)["text"] for event in events] == [f"event {i}" for i in range(appended)]
    assert reader.bad == []


@pytest.mark.parametrize("call", ["fdatasync", "sync_file_range"])
def test_a_failed_sync_moves_the_group_into_a_new_segment(shim: Path, tmp_path: Path, call: str) -> None:
    """After a failed sync the group stands in a new segment that begins after what was synced before."""
    data_dir = tmp_path / "data"
    output = _with_failing_disk(shim, data_dir, call, errno.EIO, "fsync")
    synced_before, appended = map(int, output.split())
    reader = LogReader.of(data_dir / "events")
    assert synced_before + 1 in reader.first_seqs()
    assert [event.seq for event in reader] == list(range(1, appended + 1))


def _in_child(shim: Path, plan: Path, words: str) -> list[str]:
    """What a process prints that runs these words on a log of its own, under the shim with a plan."""
    script = (
        "import sys; from pathlib import Path; from tests.eventlog.support import *\n"
        "data, plan = Path(sys.argv[1]), Path(sys.argv[2])\n" + words
    )
    done = subprocess.run(
        [sys.executable, "-c", script, plan.with_name("data"), plan],
        env={**os.environ, "LD_PRELOAD": preload(shim), "FAIL_PLAN": str(plan)},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_disk_that_cannot_begin_early_is_synced_all_the_same(shim: Path, tmp_path: Path) -> None:
    """Where sync_file_range is not to be had, events are durable by fdatasync alone, and no fault is seen."""
    plan = tmp_path / "plan"
    plan.write_text(f"sync_file_range {errno.ENOSYS}")
    words = "with opened(data) as log: fill(log, 3); print(log.synced_end, log.status()['faults'])"
    assert _in_child(shim, plan, words) == ["3", "0"]


def test_os_durability_does_not_wait_for_a_sync_under_way(shim: Path, tmp_path: Path) -> None:
    """While the disk takes its time for a sync, events go on being written and published."""
    plan = tmp_path / "plan"
    words = """
with opened(data, durability="os") as log:
    fill(log, 1)
    plan.write_text("stall 1")
    append(log, "is being synced")
    until("no sync begins", Path(f"{plan}.stalled").exists)
    seq = append(log, "comes meanwhile")
    until("it is not published", lambda: log.published_end == seq)
    print(log.synced_end)
    plan.write_text("")
    assert log.wait_synced(seq, WAIT_S)
"""
    plan.write_text("")
    assert _in_child(shim, plan, words) == ["1"]
