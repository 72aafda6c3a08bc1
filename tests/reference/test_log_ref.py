"""The reader of the log's page against the page itself, and against logs of the real thing, whole and harmed."""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
from typing import TYPE_CHECKING

import pytest

from tests.docs.tables import ROOT
from tests.eventlog.support import append, fill, message, opened
from tests.reference import log_ref
from tests.reference.log_ref import ENTRY, HEADER, NOTE, OS_JUMP, SIZE, LogError, LogReader, crc32c, entry_crc
from zlay._fast.verdicts import KINDS, STATUSES
from zlay.eventlog.store import boot_id

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs" / "eventlog.md").read_text(encoding="utf-8")


def places(heading: str) -> list[tuple[int, int]]:
    """(at, size) of each row of the table below a heading of the page."""
    section = PAGE.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]
    return [(int(at), int(size)) for at, size in re.findall(r"^\| (\d+) \| (\d+) \|", section, re.MULTILINE)]


def fields_of(form: struct.Struct) -> list[tuple[int, int]]:
    """(at, size) of each field of a struct, padding left out."""
    found, at = [], 0
    for count, letter in re.findall(r"(\d*)([sIQBx])", form.format):
        width = int(count or 1) if letter in "sx" else {"I": 4, "Q": 8, "B": 1}[letter]
        for _ in range(1 if letter in "sx" else int(count or 1)):
            if letter != "x":
                found.append((at, width))
            at += width
    assert at == form.size == SIZE
    return found


@pytest.mark.parametrize(
    ("heading", "form"), [("Headers", HEADER), ("Index entries", ENTRY), ("The published end", NOTE)]
)
def test_the_tables_of_the_page(heading: str, form: struct.Struct) -> None:
    """The reader takes every field from where the page says it is."""
    assert places(heading) == fields_of(form)


def test_the_numbers_of_the_page() -> None:
    """Kinds, statuses, checksum and limits stand in the page as reader and product have them."""
    assert crc32c(b"123456789") == int(re.search(r"`123456789` gives `(\w+)`", PAGE)[1], 16)  # type: ignore[index]
    kinds = re.search(r"\| kind: 0 unknown type, (.*) \|", PAGE)
    assert kinds is not None
    assert dict(re.findall(r"(\d) (#\w+)", kinds[1])) == {str(n): f"#{KINDS[n]}" for n in range(1, 5)}
    assert (KINDS[0], *(f"#{name}" for name in KINDS[1:5])) == log_ref.KINDS
    statuses = re.search(r"effective status: (.*) \|", PAGE)
    assert statuses is not None
    named = re.findall(r"(\d) ([a-z ]+)", statuses[1])
    assert [int(n) for n, _ in named] == list(range(log_ref.STATUSES)) == list(range(len(STATUSES)))
    spelled = {"taken down": "takendown", "inactive without a reason": "inactive"}
    assert [spelled.get(name.strip(), name.strip()) for _, name in named] == list(STATUSES)
    assert f"at most {log_ref.MAX_FRAME:,} bytes" in " ".join(PAGE.split())
    assert f"{OS_JUMP:,} numbers are left out" in " ".join(PAGE.split())


def build(folder: Path, events: list[bytes], *, synced_ends: list[int] | None = None) -> None:
    """A log written by hand, from the page alone."""
    store_id, key = bytes(range(16)), bytes(range(16, 32))
    (folder / "events").mkdir(parents=True)
    fields = {"format": 1, "store_id": store_id.hex(), "did_key": key.hex()}
    (folder / "events" / "store.json").write_text(json.dumps(fields))
    run = {"boot_id": boot_id(), "durability": "fsync", "next_seq": 1}
    (folder / "events" / "run.json").write_text(json.dumps(run))
    heads = []
    for magic in (b"zlay.frm", b"zlay.idx"):
        head = HEADER.pack(magic, 1, SIZE, store_id, 1, 0, 1_700_000_000_000_000, 0, 0)[:60]
        heads.append(head + struct.pack("<I", crc32c(head)))
    frames, index = heads
    for seq, event in enumerate(events, 1):
        n = len(event)
        head = bytes((0x82, n)) if n < 126 else b"\x82\x7e" + n.to_bytes(2, "big")
        synced = synced_ends[seq - 1] if synced_ends else 0
        values = (4, 0, 1, 1, 7, 2, 0, 1000 + seq, 1_700_000_000_000_000 + seq)
        entry = ENTRY.pack(
            len(frames), n + len(head), crc32c(head + event), *values, log_ref.siphash24(key, b"did:plc:abc"), synced
        )
        entry = entry[:28] + struct.pack("<I", entry_crc(seq, entry)) + entry[32:]
        frames, index = frames + head + event, index + entry
    (folder / "events" / f"{1:020}.frames").write_bytes(frames)
    (folder / "events" / f"{1:020}.index").write_bytes(index)


def test_a_log_made_by_hand_is_a_log(tmp_path: Path) -> None:
    """What is written as the page says is opened, read and written on."""
    events = [message(seq, "x" * (20 * seq)) for seq in range(1, 12)]
    build(tmp_path, events, synced_ends=[0] * 5 + [5] * 6)
    by_hand = list(LogReader.of(tmp_path / "events"))
    assert [event.message for event in by_hand] == events
    with opened(tmp_path) as log:
        entries = list(log.scan(1))
        assert [entry.frame for entry in entries] == events
        first = entries[0]
        assert (first.kind, first.upstream_status, first.host_id, first.host_epoch) == (4, 1, 7, 2)
        assert (first.upstream_seq, first.recv_us) == (1001, 1_700_000_000_000_001)
        assert first.did_hash == by_hand[0].did_hash == LogReader.of(tmp_path / "events").did_hash("did:plc:abc")
        assert log.recovered.floor == 5
        assert append(log, "goes on") == 12
        assert log.wait_synced(12, 20)
    assert [event.seq for event in LogReader.of(tmp_path / "events")] == list(range(1, 13))


def harm(folder: Path, rng: random.Random) -> None:
    """Zeros, noise, cuts and repetitions in the last segment's files, behind its headers."""
    for path in sorted((folder / "events").glob("*.[fi][rn]*"))[-2:]:
        data = bytearray(path.read_bytes())
        for _ in range(rng.randrange(3)):
            at = rng.randrange(SIZE, len(data))
            n = min(rng.choice((1, 7, SIZE, 3 * SIZE)), len(data) - at)
            data[at : at + n] = rng.choice((bytes(n), rng.randbytes(n), bytes(data[SIZE : SIZE + n])))
        if rng.random() < 0.3:
            del data[rng.randrange(SIZE, len(data)) :]
        if rng.random() < 0.3:
            data += rng.choice((bytes(100), rng.randbytes(90), bytes(data[-SIZE:])))
        path.write_bytes(data)


def test_floor_end_and_next_number_of_harmed_logs(tmp_path: Path) -> None:
    """Whatever has been done to the last segment: an opening finds the floor, keeps the events and goes on with the
    number that the page says."""
    rng = random.Random(20261121)
    with opened(tmp_path / "whole", segment_entries=20) as log:
        for n in (14, 3, 1, 6, 2, 1, 4):
            fill(log, n, 30)
    kept: set[int] = set()
    for attempt in range(60):
        folder = tmp_path / str(attempt)
        shutil.copytree(tmp_path / "whole", folder)
        harm(folder, rng)
        reader = LogReader.of(folder / "events")
        said = (reader.floor(), reader.kept_end(), reader.next_seq(boot_id()))
        with opened(folder) as log:
            assert (log.recovered.floor, log.recovered.last_seq, log.appended_end + 1) == said, attempt
            good = [entry.seq for entry in log.scan(1)]
        again = LogReader.of(folder / "events")
        assert [event.seq for event in again if event.seq <= said[1]] == good
        kept.add(said[1])
        shutil.rmtree(folder)
    assert len(kept) > 4


def test_numbers_left_out(tmp_path: Path) -> None:
    """After another boot in `os` mode, and without run.json, numbers are left out; the newer segment's header says
    which were never given."""
    with opened(tmp_path, durability="os") as log:
        fill(log, 3)
    reader = LogReader.of(tmp_path / "events")
    assert reader.run()[1:] == ("os", 1)
    assert (reader.next_seq(boot_id()), reader.next_seq("another")) == (4, 4 + OS_JUMP)
    assert reader.left_out() == []
    (tmp_path / "events" / "run.json").unlink()
    assert reader.next_seq(boot_id()) == 4 + OS_JUMP
    with opened(tmp_path) as log:
        assert fill(log, 1)
    assert reader.left_out() == [(4, 3 + OS_JUMP)]
    assert [event.seq for event in reader] == [1, 2, 3, 4 + OS_JUMP]


def test_the_published_end(tmp_path: Path) -> None:
    """While a log is open `published` says what is published; closed in order it is gone."""
    reader = LogReader.of(tmp_path / "events")
    with opened(tmp_path) as log:
        fill(log, 5)
        assert reader.published() in range(6)  # the number is written just after consumers have been woken
        fill(log, 1)
        assert (reader.published() or 0) >= 5
    assert reader.published() is None


def test_headers_of_other_logs(tmp_path: Path) -> None:
    """A damaged header is no reason to lose a segment; a whole one of another log, place or version is."""
    build(tmp_path, [message(1)])
    index = tmp_path / "events" / f"{1:020}.index"
    whole = index.read_bytes()
    index.write_bytes(whole[:20] + b"\0" + whole[21:])
    reader = LogReader.of(tmp_path / "events")
    assert [event.seq for event in reader] == [1]
    assert reader.damaged == [index.name]
    for at, value in ((8, 2), (16, 9), (32, 2)):
        head = bytearray(whole[:60])
        head[at] = value
        index.write_bytes(bytes(head) + struct.pack("<I", crc32c(bytes(head))) + whole[64:])
        with pytest.raises(LogError):
            list(LogReader.of(tmp_path / "events"))
