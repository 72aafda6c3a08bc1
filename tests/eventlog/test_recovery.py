"""Opening a log: torn tails, damage, torn births, foreign files, numbers that must not come twice."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.eventlog.support import append, fill, message, opened, payload
from tests.reference.log_ref import HEADER, LogReader, crc32c
from zlay.errors import StartError
from zlay.eventlog import store
from zlay.eventlog.log import OS_JUMP, EventLog, LogSettings

SIZE = 64


def _frames(data_dir: Path, first: int = 1) -> Path:
    return data_dir / "events" / f"{first:020}.frames"


def _index(data_dir: Path, first: int = 1) -> Path:
    return data_dir / "events" / f"{first:020}.index"


def _reopen_and_append(data_dir: Path) -> tuple[EventLog, int]:
    """Open, append one event, close: the log must work. The log, and the seq it gave."""
    with opened(data_dir) as log:
        seq = append(log, "after")
        assert log.wait_synced(seq, 20)
        assert log.status()["segments_damaged"] == 0
        entries = list(log.scan(1))
    assert entries[-1].seq == seq
    assert payload(entries[-1].frame or b"")["text"] == "after"
    return log, seq


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 12 events in one segment, each a group of its own: the floor is 11."""
    data_dir = tmp_path_factory.mktemp("grouped")
    with opened(data_dir) as log:
        for _ in range(12):
            fill(log, 1)
    return data_dir


@pytest.fixture(scope="module")
def one_group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose entries all say synced_end 0, as one group that was never known to be synced."""
    data_dir = tmp_path_factory.mktemp("one-group")
    # With durability `os` nothing is synced for a second: all entries are written before the first sync.
    with opened(data_dir, durability="os") as log:
        fill(log, 12)
    assert {event.synced_end for event in LogReader.of(data_dir / "events")} == {0}
    return data_dir


def _copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def test_an_untouched_log_opens_as_it_was(grouped: Path, tmp_path: Path) -> None:
    """After a clean end nothing is cut and the numbers go on."""
    data_dir = _copy(grouped, tmp_path / "log")
    log, seq = _reopen_and_append(data_dir)
    assert (log.recovered.floor, log.recovered.cut_entries, log.recovered.cut_bytes, seq) == (11, 0, 0, 13)
    assert log.recovered.rewritten == 1  # the event above the floor
    assert len(log.recovered.rows) == 1


def test_truncation_at_every_byte_of_the_last_index_entries(one_group: Path, tmp_path: Path) -> None:
    """Wherever the index ends, the whole entries before it are kept, and the next number follows on."""
    size = _index(one_group).stat().st_size
    for cut in range(size - 2 * SIZE - 1, size):
        data_dir = _copy(one_group, tmp_path / f"{cut}")
        os.truncate(_index(data_dir), cut)
        log, seq = _reopen_and_append(data_dir)
        assert log.recovered.last_seq == (cut - SIZE) // SIZE
        assert seq == log.recovered.last_seq + 1
        assert [event.seq for event in LogReader.of(data_dir / "events")] == list(range(1, seq + 1))
        shutil.rmtree(data_dir)


def test_truncation_at_every_byte_of_the_last_frames(one_group: Path, tmp_path: Path) -> None:
    """Wherever .frames ends, the whole frames before it are kept, and both files end there."""
    ends = [SIZE]
    for event in LogReader.of(one_group / "events"):
        ends.append(ends[-1] + len(event.websocket))
    for cut in range(ends[-3] - 1, ends[-1]):
        data_dir = _copy(one_group, tmp_path / f"{cut}")
        os.truncate(_frames(data_dir), cut)
        with opened(data_dir) as log:
            kept = max(i for i, end in enumerate(ends) if end <= cut)
            assert log.recovered.last_seq == kept
            assert _frames(data_dir).stat().st_size == ends[kept]
            assert _index(data_dir).stat().st_size == SIZE * (kept + 1)
        shutil.rmtree(data_dir)


@pytest.mark.parametrize("tail", ["random", "zeros", "copy", "entry"])
def test_garbage_after_the_end_is_cut(grouped: Path, tmp_path: Path, tail: str) -> None:
    """Whatever stands after the last event in either file (garbage, zeros, an old entry, a valid one at a wrong place)
    is cut."""
    rng = random.Random(7)
    for n in (1, SIZE - 1, SIZE, 5 * SIZE + 3):
        data_dir = _copy(grouped, tmp_path / f"{n}")
        index = _index(data_dir).read_bytes()
        garbage = {
            "random": rng.randbytes(n),
            "zeros": bytes(n),
            "copy": index[SIZE : SIZE + n],
            "entry": index[-SIZE:] * (n // SIZE + 1),
        }[tail]
        for path in (_index(data_dir), _frames(data_dir)):
            path.write_bytes(path.read_bytes() + garbage)
        log, seq = _reopen_and_append(data_dir)
        assert (log.recovered.last_seq, seq, log.recovered.damaged) == (12, 13, 0)
        assert log.recovered.cut_bytes == len(garbage)
        reader = LogReader.of(data_dir / "events")
        assert [event.seq for event in reader] == list(range(1, 14))
        assert reader.bad == []
        shutil.rmtree(data_dir)


def test_any_unsynced_page_may_be_missing(one_group: Path, tmp_path: Path) -> None:
    """Above the floor any entry or frame may be zeros, in any order: the whole beginning is kept, nothing else."""
    rng = random.Random(3)
    expected = list(LogReader.of(one_group / "events"))
    for attempt in range(40):
        data_dir = _copy(one_group, tmp_path / f"{attempt}")
        lost = set()
        for path in (_index(data_dir), _frames(data_dir)):
            data = bytearray(path.read_bytes())
            for at in range(SIZE, len(data), SIZE):
                if rng.random() < 0.05:
                    data[at : at + SIZE] = bytes(len(data[at : at + SIZE]))
                    lost.add((path.suffix, at))
            path.write_bytes(data)
        good = 0
        end = SIZE
        for event in expected:
            blocks = range(end - end % SIZE, end + len(event.websocket), SIZE)
            if (".index", SIZE * event.seq) in lost or any((".frames", at) in lost for at in blocks):
                break
            end += len(event.websocket)
            good += 1
        with opened(data_dir) as log:
            assert log.recovered.last_seq == good
        shutil.rmtree(data_dir)


def test_damage_below_the_floor_is_kept_reported_and_skipped(grouped: Path, tmp_path: Path) -> None:
    """A bad entry that was on disk is damage: no number is given again, the events around it stay."""
    data_dir = _copy(grouped, tmp_path / "log")
    data = bytearray(_index(data_dir).read_bytes())
    for seq in (3, 4, 9):
        data[SIZE * seq + 5] ^= 0xFF
    _index(data_dir).write_bytes(data)
    with opened(data_dir) as log:
        assert log.recovered.damaged == 3
        assert log.recovered.damage == [(3, 4), (9, 9)]
        assert log.recovered.last_seq == 12
        assert append(log, "after") == 13
        assert log.wait_synced(13, 20)
        assert [entry.seq for entry in log.scan(1)] == [1, 2, 5, 6, 7, 8, 10, 11, 12, 13]
    # Writing goes on beside the damage, not on top of it.
    assert LogReader.of(data_dir / "events").first_seqs() == [1, 13]


def test_the_floor_counts_wherever_it_stands(grouped: Path, tmp_path: Path) -> None:
    """One good entry near the end proves that everything before its synced_end was on disk, whatever is left of it."""
    data_dir = _copy(grouped, tmp_path / "log")
    data = bytearray(_index(data_dir).read_bytes())
    data[SIZE * 5 : SIZE * 11] = bytes(SIZE * 6)  # entries 5 to 10
    _index(data_dir).write_bytes(data)
    with opened(data_dir) as log:
        assert (log.recovered.floor, log.recovered.last_seq, log.recovered.damage) == (11, 12, [(5, 10)])


def test_a_torn_birth_is_removed(tmp_path: Path) -> None:
    """A last segment whose headers never reached the disk is taken away; the one before is written on."""
    data_dir = tmp_path / "log"
    with opened(data_dir) as log:
        fill(log, 10)
    for frames, index in ((b"", b""), (bytes(SIZE), b""), (b"\1" * 100, bytes(64))):
        _frames(data_dir, 11).write_bytes(frames)
        _index(data_dir, 11).write_bytes(index)
        with opened(data_dir) as log:
            assert log.recovered.last_seq == 10
            assert log.recovered.continue_last
            assert len(log.recovered.removed) == 2
        assert not _frames(data_dir, 11).exists()
    _frames(data_dir, 11).write_bytes(b"torn")
    with opened(data_dir) as log:
        assert log.recovered.removed == [f"{11:020}.frames"]
        assert append(log, "after") == 11


def test_the_name_of_a_torn_birth_is_a_floor(one_group: Path, tmp_path: Path) -> None:
    """A segment is born after everything before it was synced: a bad entry below its name is damage."""
    data_dir = _copy(one_group, tmp_path / "log")
    data = bytearray(_index(data_dir).read_bytes())
    data[SIZE * 6] ^= 1
    _index(data_dir).write_bytes(data)
    _frames(data_dir, 13).write_bytes(b"")
    with opened(data_dir) as log:
        assert (log.recovered.last_seq, log.recovered.damage) == (12, [(6, 6)])


def test_a_damaged_header_of_a_segment_in_use_is_no_torn_birth(grouped: Path, tmp_path: Path) -> None:
    """When an entry proves that the segment was synced, a damaged header costs nothing but the header."""
    data_dir = _copy(grouped, tmp_path / "log")
    for path in (_frames(data_dir), _index(data_dir)):
        path.write_bytes(bytes(SIZE) + path.read_bytes()[SIZE:])
    with opened(data_dir) as log:
        assert log.recovered.last_seq == 12
        assert append(log, "after") == 13
        assert log.wait_synced(13, 20)
        assert [entry.seq for entry in log.scan(1)] == list(range(1, 14))


def test_half_a_retirement_is_finished(tmp_path: Path) -> None:
    """.frames without .index below all segments is what a kill during retention leaves: removed."""
    data_dir = tmp_path / "log"
    with opened(data_dir, segment_entries=5) as log:
        fill(log, 15)
    _index(data_dir, 1).unlink()
    with opened(data_dir) as log:
        assert log.oldest_seq == 6
        assert not _frames(data_dir, 1).exists()
    _frames(data_dir, 6).unlink()  # what a power loss may make of it: the other half
    with opened(data_dir) as log:
        assert log.oldest_seq == 11
        assert log.recovered.orphans == []
        assert not _index(data_dir, 6).exists()


def test_half_a_birth_is_removed(tmp_path: Path) -> None:
    """An .index without .frames above all segments that holds no event is a birth that a power loss has torn."""
    data_dir = tmp_path / "log"
    with opened(data_dir) as log:
        fill(log, 3)
    for content in (b"", bytes(SIZE)):
        _index(data_dir, 4).write_bytes(content)
        with opened(data_dir) as log:
            assert log.recovered.removed == [f"{4:020}.index"]
            assert log.recovered.orphans == []


def test_numbers_of_an_index_without_frames_are_not_given_again(tmp_path: Path) -> None:
    """When .frames of the last segment is lost, its numbers stay used up."""
    data_dir = tmp_path / "log"
    with opened(data_dir, segment_entries=5) as log:
        fill(log, 13)
    _frames(data_dir, 11).unlink()
    with opened(data_dir) as log:
        assert log.recovered.orphans == [f"{11:020}.index"]
        assert append(log, "after") == 14


def test_a_segment_ends_where_the_next_one_begins(tmp_path: Path) -> None:
    """Entries of an older segment above the first seq of the newer one do not count, though they are whole."""
    data_dir = tmp_path / "log"
    with opened(data_dir) as log:
        fill(log, 10)
    copied = {path.name: path.read_bytes() for path in (data_dir / "events").iterdir()}
    with opened(data_dir, segment_entries=10) as log:
        assert append(log, "newer") == 11
        assert log.wait_synced(11, 20)
    # As after a failed sync: the older segment goes on past 11, with other bytes to tell them apart.
    other = tmp_path / "other"
    (other / "events").mkdir(parents=True)
    for name, data in copied.items():
        (other / "events" / name).write_bytes(data)
    with opened(other) as log:
        for i in range(3):
            append(log, f"older {i}")
        assert log.wait_synced(13, 20)
    for path in (_frames, _index):
        path(data_dir).write_bytes(path(other).read_bytes())
    with opened(data_dir) as log:
        texts = {entry.seq: payload(entry.frame or b"")["text"] for entry in log.scan(1)}
        assert texts[11] == "newer"
        assert sorted(texts) == list(range(1, 12))
        assert append(log, "after") == 12
    assert [payload(event.message)["text"] for event in LogReader.of(data_dir / "events")][-2:] == ["newer", "after"]


def test_gaps_between_segments_are_reported(tmp_path: Path) -> None:
    """A segment that somebody took away from the middle is said, and the rest is read."""
    data_dir = tmp_path / "log"
    with opened(data_dir, segment_entries=5) as log:
        fill(log, 20)
    _frames(data_dir, 6).unlink()
    _index(data_dir, 6).unlink()
    with opened(data_dir) as log:
        assert log.recovered.gaps == [(6, 10)]
        assert [entry.seq for entry in log.scan(1)] == [*range(1, 6), *range(11, 21)]


def test_os_mode_leaves_numbers_out_after_the_machine_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `os` mode, after another boot, no number that consumers may have seen is given again, not even when the first
    start after it gave out none."""
    data_dir = tmp_path / "log"
    with opened(data_dir, durability="os") as log:
        fill(log, 5)
    with opened(data_dir, durability="os") as log:
        assert not log.jumped
        assert append(log, "same boot") == 6
    monkeypatch.setattr(store, "BOOT_ID_FILE", tmp_path / "boot")
    (tmp_path / "boot").write_text("another\n")
    with opened(data_dir, durability="fsync") as log:
        assert log.jumped
        assert log.published_end == 6 + OS_JUMP  # a cursor that was given out before the power cut is not in the future
    with opened(data_dir) as log:
        assert not log.jumped
        assert append(log, "after") == 7 + OS_JUMP
        assert log.wait_synced(7 + OS_JUMP, 20)
        assert [entry.seq for entry in log.scan(1)] == [1, 2, 3, 4, 5, 6, 7 + OS_JUMP]
        assert log.recovered.gaps == []
    with opened(data_dir) as log:
        assert log.recovered.gaps == []  # numbers left out on purpose are no damage
    assert len(list(LogReader.of(data_dir / "events"))) == 7


def test_fsync_mode_goes_on_after_a_reboot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What consumers saw was on disk, so numbers go on without a gap."""
    data_dir = tmp_path / "log"
    with opened(data_dir) as log:
        fill(log, 5)
    monkeypatch.setattr(store, "BOOT_ID_FILE", tmp_path / "boot")
    (tmp_path / "boot").write_text("another\n")
    with opened(data_dir) as log:
        assert append(log, "after") == 6


def test_a_lost_run_file_is_taken_for_the_worst(tmp_path: Path) -> None:
    """Without run.json nobody knows whether consumers saw more than is here: numbers are left out."""
    data_dir = tmp_path / "log"
    with opened(data_dir) as log:
        fill(log, 5)
    (data_dir / "events" / "run.json").unlink()
    with opened(data_dir) as log:
        assert append(log, "after") == 6 + OS_JUMP


def test_initial_seq_is_for_a_new_log_only(tmp_path: Path) -> None:
    """RELAY_INITIAL_SEQ starts a new log above another relay's numbers, also when its first run logged nothing."""
    data_dir = tmp_path / "log"
    with opened(data_dir, initial_seq=5_000) as log:
        assert (log.oldest_seq, log.published_end) == (5_000, 4_999)
    with opened(data_dir) as log:
        assert append(log, "first") == 5_000
    with opened(data_dir, initial_seq=9_000) as log:
        assert append(log, "second") == 5_001


def test_one_process_per_directory(tmp_path: Path) -> None:
    """A second opening is refused with the holder's process id, also from another process (R11)."""
    code = (
        "import sys, pathlib\nfrom zlay.errors import StartError\nfrom zlay.eventlog.log import EventLog\n"
        "try: EventLog.open(pathlib.Path(sys.argv[1]))\nexcept StartError as exc: print(exc)"
    )
    with opened(tmp_path):
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60)
        assert f"process {os.getpid()}" in done.stdout
        assert "in use" in done.stdout


def test_a_killed_process_leaves_a_log_that_opens(tmp_path: Path) -> None:
    """SIGKILL while appending: everything that was said to be synced is there, and numbers go on."""
    code = (
        "import sys, pathlib\nfrom tests.eventlog.support import append, opened\n"
        "with opened(pathlib.Path(sys.argv[1]), segment_entries=50) as log:\n"
        "    while True:\n"
        "        append(log, 'x' * 200)\n"
        "        print(log.synced_end, flush=True)\n"
    )
    promised = 0
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        deadline = time.monotonic() + 30
        for line in child.stdout:
            promised = max(promised, int(line))
            if promised and random.random() < 0.01:
                break
            assert time.monotonic() < deadline
        child.kill()
        rest = child.stdout.read().splitlines()
        promised = max([promised, *(int(line) for line in rest[:-1])])
        child.wait()
        child.stdout.close()
        with opened(tmp_path) as log:
            assert log.recovered.last_seq >= promised
            assert log.recovered.damaged == 0
        reader = LogReader.of(tmp_path / "events")
        assert [event.seq for event in reader] == list(range(1, log.recovered.last_seq + 1))


def test_segments_of_another_store_are_refused(tmp_path: Path) -> None:
    """A segment that says another store id stops the start with a clear message (R11), and nothing is changed."""
    for name in ("mine", "theirs"):
        with opened(tmp_path / name) as log:
            fill(log, 3)
    for path in (_frames, _index):
        shutil.copy(path(tmp_path / "theirs"), path(tmp_path / "mine", 4))  # the name says 4, the store id decides
    before = _index(tmp_path / "mine", 4).read_bytes()
    with pytest.raises(StartError, match="belongs to another store"):
        EventLog.open(tmp_path / "mine")
    assert _index(tmp_path / "mine", 4).read_bytes() == before


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    """A log of a later zlay is not touched."""
    with opened(tmp_path) as log:
        fill(log, 3)
    data = bytearray(_index(tmp_path).read_bytes())
    data[8:12] = struct.pack("<I", 2)
    data[60:64] = struct.pack("<I", crc32c(bytes(data[:60])))
    _index(tmp_path).write_bytes(data)
    with pytest.raises(StartError, match="version 2"):
        EventLog.open(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": 9, "store_id": "00", "did_key": "00"}', "\0"])
def test_a_damaged_store_file_is_refused(tmp_path: Path, content: str) -> None:
    """store.json damaged or missing beside segments: a clear refusal, never a new identity."""
    with opened(tmp_path) as log:
        fill(log, 3)
    path = tmp_path / "events" / "store.json"
    path.write_text(content)
    with pytest.raises(StartError, match=r"store\.json"):
        EventLog.open(tmp_path)
    path.unlink()
    with pytest.raises(StartError, match=r"store\.json"):
        EventLog.open(tmp_path)


def test_store_identity_stays(tmp_path: Path) -> None:
    """Store id and DID key are made once, readable by the owner only, and the DID hash in the index is theirs."""
    with opened(tmp_path) as log:
        store_id = log.store_id
        log.wait_synced(log.append_local(message(1), did="did:plc:someone", kind=4), 20)
    path = tmp_path / "events" / "store.json"
    assert path.stat().st_mode & 0o777 == 0o600
    with opened(tmp_path) as log:
        assert log.store_id == store_id == bytes.fromhex(json.loads(path.read_text())["store_id"])
    reader = LogReader.of(tmp_path / "events")
    assert next(iter(reader)).did_hash == reader.did_hash("did:plc:someone")


@pytest.mark.slow
def test_two_thousand_segments_open_quickly(tmp_path: Path) -> None:
    """72 hours of segments, 200 million entries in sparse files: open within 2 s, and any seq is found at once."""
    per_segment, segments = 100_000, 2_000
    data_dir = tmp_path / "log"
    with opened(data_dir, segment_entries=1) as log:
        fill(log, 1)
    template = _index(data_dir).read_bytes()[:SIZE]
    fields = list(HEADER.unpack(template))
    for i in range(1, segments):
        first = 1 + i * per_segment
        for path, magic in ((_frames, b"zlay.frm"), (_index, b"zlay.idx")):
            head = HEADER.pack(magic, 1, SIZE, fields[3], first, first - 1, fields[6], 0, 0)[:60]
            path(data_dir, first).write_bytes(head + struct.pack("<I", crc32c(head)))
            if i < segments - 1:
                os.truncate(path(data_dir, first), SIZE * (per_segment + 1))
    os.truncate(_index(data_dir), SIZE * (per_segment + 1))
    begin = time.monotonic()
    log = EventLog.open(data_dir, LogSettings())
    took = time.monotonic() - begin
    try:
        assert log.recovered.last_seq == (segments - 1) * per_segment
        assert took < 2.0
        begin = time.monotonic()
        for seq in random.Random(1).sample(range(1, log.recovered.last_seq), 1_000):
            assert [entry.seq for entry in log.scan(seq, seq)] == ([] if seq > 1 else [1])
        assert time.monotonic() - begin < 1.0
    finally:
        log.close()
