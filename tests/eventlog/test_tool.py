"""`zlay log` on logs that are whole, damaged, torn, being written: what it shows, what it says, its exit status."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.eventlog.support import ACCOUNT, WAIT_S, message, opened, until
from tests.fixtures import ROOT
from tests.reference.log_ref import LogReader
from zlay._fast import published
from zlay.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from zlay.eventlog.log import EventLog

DID = "did:plc:abc"  # that of the messages of tests.eventlog.support
SEGMENT = 5  # events


def fill(log: EventLog, n: int, text: str = "") -> int:
    """Append n events that say the truth about themselves; the last one's seq, on disk."""
    for i in range(n):
        seq = log.append_local(message(0, f"{text}{i}"), did=DID, kind=ACCOUNT)
    assert log.wait_synced(seq, WAIT_S)
    return seq


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed log of 22 events in five segments, the last one of two."""
    with opened(tmp_path / "data", segment_entries=SEGMENT) as log:
        fill(log, 22)
    return tmp_path / "data"


def zlay_log(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, Any]:
    """Exit status and JSON of `zlay log ... --json`."""
    status = main(["log", *map(str, args), "--json"])
    text = capsys.readouterr().out
    return status, [json.loads(line) for line in text.splitlines()] if args[0] == "cat" else json.loads(text)


def files(folder: Path, first: int) -> tuple[Path, Path]:
    """.frames and .index of a segment."""
    return folder / "events" / f"{first:020}.frames", folder / "events" / f"{first:020}.index"


def flip(path: Path, at: int) -> None:
    """One bit of a file is another one."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a data directory: time of its last change, and bytes."""
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


# --- a whole log ---


def test_a_whole_log(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command agrees on what is in a log, and none of them changes a byte, or a time, of any file."""
    before = state_of(folder)
    status, found = zlay_log(capsys, "verify", folder)
    assert (status, found["whole"], found["events"], found["damaged"], found["missing"]) == (0, True, 22, 0, 0)
    assert (found["first_seq"], found["last_seq"], found["segments"]) == (1, 22, 5)
    status, listed = zlay_log(capsys, "ls", folder / "events")
    assert (status, listed["published_end"]) == (0, None)
    assert [(row["first_seq"], row["last_seq"], row["events"]) for row in listed["segments"]] == [
        (1, 5, 5),
        (6, 10, 5),
        (11, 15, 5),
        (16, 20, 5),
        (21, 22, 2),
    ]
    status, counted = zlay_log(capsys, "stats", folder)
    assert status == 0
    total = counted["total"]
    assert (total["events"], total["kinds"]["account"], total["local"], total["unreadable"]) == (22, 22, 22, 0)
    assert total["bytes"] == found["bytes"] == sum(len(event.websocket) for event in LogReader.of(folder / "events"))
    times = [event.recv_us for event in LogReader.of(folder / "events")]
    assert (total["first_us"], total["last_us"]) == (min(times), max(times))
    for row, first in zip(listed["segments"], (0, 5, 10, 15, 20), strict=True):
        assert (row["first_us"], row["last_us"]) == (times[first], times[first + row["events"] - 1])
    assert sum(row["frames_bytes"] for row in listed["segments"]) == total["bytes"] + 5 * 64
    assert state_of(folder) == before


def test_events_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """cat --json gives each event above the cursor with its message decoded and what the index knows of it."""
    status, events = zlay_log(capsys, "cat", folder, "--cursor", 19)
    assert status == 0
    assert [event["seq"] for event in events] == [20, 21, 22]
    assert events[0]["payload"] == {"seq": 20, "did": DID, "text": "19", "active": True}
    assert (events[0]["t"], events[0]["op"], events[0]["local"], events[0]["host_id"]) == ("#account", 1, True, 0)
    assert [event["seq"] for event in zlay_log(capsys, "cat", folder, "--limit", 2)[1]] == [1, 2]
    assert zlay_log(capsys, "cat", folder, "--cursor", 22)[1] == []
    assert len(zlay_log(capsys, "cat", folder, "--did", DID)[1]) == 22
    assert zlay_log(capsys, "cat", folder, "--did", "did:plc:abd")[1] == []


def test_events_as_bytes_and_lines(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """cat --raw gives the very bytes that consumers get; without a flag a line for each event."""
    assert main(["log", "cat", str(folder), "--raw", "--cursor", "3"]) == 0
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == b"".join(
        event.websocket for event in LogReader.of(folder / "events") if event.seq > 3
    )
    assert main(["log", "cat", str(folder), "--limit", "1"]) == 0
    sys.stdout.flush()
    line = capfdbinary.readouterr().out.decode()
    assert line.split()[0] == "1"
    assert line.endswith(f" account {DID} active\n")


def test_what_people_are_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json the same stands in tables."""
    for what, words in (("ls", "5 segments, seq 1 to 22"), ("verify", "22 good events"), ("stats", "total")):
        assert main(["log", what, str(folder)]) == 0
        assert words in capsys.readouterr().out


# --- a log that is not whole ---


def entry_bit(folder: Path) -> None:
    """An entry with another receive time."""
    flip(files(folder, 6)[1], 64 * 2 + 40)


def frame_bit(folder: Path) -> None:
    """A frame with another last byte."""
    flip(files(folder, 6)[0], struct.unpack_from("<Q", files(folder, 6)[1].read_bytes(), 64 * 3)[0] - 1)


def short_index(folder: Path) -> None:
    """The last two entries of a segment in the middle are not there."""
    os.truncate(files(folder, 11)[1], 64 * 4)


def short_frames(folder: Path) -> None:
    """The last frame of a segment in the middle lacks a byte."""
    frames = files(folder, 11)[0]
    os.truncate(frames, frames.stat().st_size - 1)


def no_segment(folder: Path) -> None:
    """A segment in the middle is not there."""
    for path in files(folder, 11):
        path.unlink()


def half_a_segment(folder: Path) -> None:
    """.index without .frames."""
    files(folder, 11)[0].unlink()


def header_bit(folder: Path) -> None:
    """A header's checksum is wrong."""
    flip(files(folder, 11)[1], 60)


def renamed(folder: Path) -> None:
    """A segment stands where another one was."""
    for first, kind in ((0, "frames"), (1, "index")):
        files(folder, 11)[first].write_bytes(files(folder, 16)[first].read_bytes())
        assert kind in files(folder, 11)[first].name


def zeroed_entries(folder: Path) -> None:
    """Entries below what is known to have been synced are zeros."""
    index = files(folder, 21)[1]
    index.write_bytes(index.read_bytes()[:64] + bytes(128))
    with (folder / "events" / "published").open("wb") as file:  # as a process that died has left it
        published.open_file(file.fileno(), LogReader.of(folder / "events").store()[0], 22)
        published.close_file()


@pytest.mark.parametrize(
    ("harm", "damaged", "missing", "words"),
    [
        (entry_bit, [(7, 7)], 0, "checksum"),
        (frame_bit, [(7, 7)], 0, "frame's checksum"),
        (short_index, [], 2, "was given out and is in no segment"),
        (short_frames, [(15, 15)], 0, "outside the file"),
        (no_segment, [], 5, "was given out and is in no segment"),
        (half_a_segment, [], 5, "has no .frames"),
        (header_bit, [], 0, "the header is damaged"),
        (renamed, [], 0, "was renamed"),
        (zeroed_entries, [(21, 22)], 0, "checksum"),
    ],
)
def test_damage_is_found(
    folder: Path, capsys: pytest.CaptureFixture[str], harm: Any, damaged: list[Any], missing: int, words: str
) -> None:
    """Whatever a disk or a hand has done to the middle of a log: verify names the events, and its exit status is 1."""
    harm(folder)
    status, found = zlay_log(capsys, "verify", folder)
    assert (status, found["whole"], found["missing"]) == (1, False, missing), found
    by_kind = [(fault["from_seq"], fault["to_seq"]) for fault in found["faults"] if fault["kind"] == "damaged"]
    assert by_kind == damaged
    assert found["damaged"] == sum(last + 1 - first for first, last in damaged)
    assert any(words in fault["what"] for fault in found["faults"]), found["faults"]
    assert main(["log", "verify", str(folder)]) == 1
    assert "NOT whole" in capsys.readouterr().out
    readable = sorted({*range(1, 23)} - {seq for first, last in damaged for seq in range(first, last + 1)})
    status = main(["log", "cat", str(folder), "--json"])
    said = capsys.readouterr()
    seqs = [json.loads(line)["seq"] for line in said.out.splitlines()]
    assert set(seqs) <= set(readable)
    assert len(seqs) >= 22 - 5
    if damaged:
        assert (status, len(seqs)) == (1, len(readable))
        assert "cannot be read" in said.err


def lying(log: EventLog, what: str) -> None:
    """Append an event whose entry says something else than its message."""
    told = {"did": "did:plc:other"} if what == "did" else {"did": DID}
    log.append_local(message(0, "lie"), kind=1 if what == "kind" else ACCOUNT, **told)


@pytest.mark.parametrize(("what", "words"), [("did", "of another account"), ("kind", "of another kind")])
def test_entries_that_do_not_fit_their_messages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, words: str
) -> None:
    """An entry with a right checksum that says something else than its message is damage."""
    with opened(tmp_path) as log:
        fill(log, 3)
        lying(log, what)
        fill(log, 3)
    status, found = zlay_log(capsys, "verify", tmp_path)
    assert (status, [(f["from_seq"], f["to_seq"], f["what"]) for f in found["faults"]]) == (
        1,
        [(4, 4, f"the message is {words}")],
    )


def test_a_message_with_another_seq(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A message that does not carry its own seq is damage, though every checksum is right."""
    from zlay._fast import log as core

    with opened(tmp_path) as log:
        fill(log, 2)
        assert core.append(message(7, "not spliced"), 0, 0, kind=ACCOUNT, did_hash=core.hash_did(DID.encode())) == 3
        assert log.wait_synced(3, WAIT_S)
    status, found = zlay_log(capsys, "verify", tmp_path)
    assert (status, found["damaged"], found["faults"][0]["from_seq"]) == (1, 1, 3)


def test_a_torn_end_and_numbers_left_out_are_no_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the next start cuts off, and numbers that were left out on purpose, are said; the log is whole."""
    data = tmp_path / "data"
    with opened(data, durability="os") as log:
        fill(log, 4)
    (data / "events" / "run.json").unlink()
    with opened(data) as log:
        fill(log, 3)
    with files(data, 1_000_005)[1].open("ab") as index:
        index.write(bytes(64 * 2 + 7))
    status, found = zlay_log(capsys, "verify", data)
    assert (status, found["faults"]) == (0, [])
    assert found["left_out"] == [[5, 1_000_004]]
    assert any("torn end of 2 entries" in note for note in found["notes"])
    assert (found["events"], found["last_seq"]) == (7, 1_000_007)


def test_a_birth_cut_short_is_no_damage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of a segment that was just being made are said, and the log ends before them."""
    files(folder, 23)[0].write_bytes(b"zl")
    assert zlay_log(capsys, "verify", folder)[0] == 0
    files(folder, 23)[1].write_bytes(b"")
    status, found = zlay_log(capsys, "verify", folder)
    assert (status, found["last_seq"], found["events"]) == (0, 22, 22)
    assert any("torn birth" in note for note in found["notes"])


def test_what_is_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory that is none, holds nothing, or another store's key is refused in words, with status 1."""
    for folder in (tmp_path / "nowhere", tmp_path):
        for what in ("ls", "verify", "stats", "cat"):
            assert main(["log", what, str(folder)]) == 1
            said = capsys.readouterr()
            assert said.err.startswith("zlay: ")
            assert said.out == ""
    assert not list(tmp_path.iterdir())


def test_an_empty_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log without an event is whole."""
    with opened(tmp_path):
        pass
    for what, words in (("ls", "empty"), ("verify", "whole"), ("stats", "total"), ("cat", "")):
        assert main(["log", what, str(tmp_path)]) == 0
        assert words in capsys.readouterr().out
        assert zlay_log(capsys, what, tmp_path)[0] == 0


# --- a log that is being written ---


def child(*args: object) -> Any:
    """`zlay log ... --json` in a process of its own, as beside a running relay."""
    done = subprocess.run(
        [sys.executable, "-m", "zlay", "log", *map(str, args), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_beside_a_running_relay_the_published_end_is_the_end(tmp_path: Path) -> None:
    """Of a log that is open, everything published is shown, the last event of an idle one too, and nothing that is not;
    the log goes on undisturbed, and when it has been closed in order all of it counts."""
    with opened(tmp_path, segment_entries=SEGMENT) as log:
        fill(log, 12)
        [listed] = child("ls", tmp_path)
        assert (listed["published_end"], listed["last_seq"]) == (12, 12)
        assert [event["seq"] for event in child("cat", tmp_path, "--cursor", 10)] == [11, 12]
        assert child("verify", tmp_path)[0]["whole"]
        assert fill(log, 1) == 13
        assert child("ls", tmp_path)[0]["last_seq"] == 13
        # One more, written and not published: as while the disk syncs.
        note = tmp_path / "events" / "published"
        before = note.read_bytes()
        assert fill(log, 1) == 14
        until("the note moves on", lambda: published.parse(note.read_bytes()) == (log.store_id, 14))
        kept = note.read_bytes()
        note.write_bytes(before)
        assert [event["seq"] for event in child("cat", tmp_path, "--cursor", 12)] == [13]
        [found] = child("verify", tmp_path)
        assert (found["whole"], found["events"], found["last_seq"]) == (True, 13, 13)
        assert any("1 newer events" in text for text in found["notes"])
        note.write_bytes(kept)
        fill(log, 1)
        assert child("ls", tmp_path)[0]["last_seq"] == 15
    assert not note.exists()
    assert child("ls", tmp_path)[0]["last_seq"] == 15


def test_the_published_end_is_never_ahead_and_never_of_another_log(tmp_path: Path) -> None:
    """The file says what is published as soon as it is; torn bytes and another store's say nothing."""
    with opened(tmp_path) as log:
        note = tmp_path / "events" / "published"
        for _ in range(20):
            says = (log.store_id, fill(log, 1))
            until("the note follows", lambda says=says: published.parse(note.read_bytes()) == says)
        data = note.read_bytes()
        assert len(data) == published.NOTE_BYTES == 64
        for at in range(64):
            torn = bytearray(data)
            torn[at] ^= 0x40
            assert published.parse(bytes(torn)) is None
        assert published.parse(data[:63]) is None
    with opened(tmp_path / "other") as log:
        (tmp_path / "other" / "events" / "published").write_bytes(data)
        [listed] = child("ls", tmp_path / "other")
        assert listed["published_end"] is None


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.eventlog.test_tool import fill
from zlay.eventlog.log import EventLog
log = EventLog.open(Path(sys.argv[1]))
fill(log, 9)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_kill_the_log_is_read_as_it_will_be_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A relay that was killed leaves its published end behind: the log is whole up to there, and the next start goes on
    after it."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "events" / "published").exists()
    status, found = zlay_log(capsys, "verify", tmp_path)
    assert (status, found["events"], found["last_seq"]) == (0, 9, 9)
    with opened(tmp_path) as log:
        assert fill(log, 1) == 10
    assert zlay_log(capsys, "verify", tmp_path)[1]["events"] == 10


def test_a_reader_that_leaves_ends_the_command(folder: Path) -> None:
    """`zlay log cat | head -1` ends without a word on standard error."""
    with opened(folder) as log:
        fill(log, 3000, "more than a pipe takes " * 10)
    done = subprocess.run(
        f"{sys.executable} -m zlay log cat --raw {folder} | head -c 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\x82", b"")
