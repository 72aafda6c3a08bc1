"""Backup and restore of data at rest: what is copied, what is refused, and that no copy is taken for the original."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from tests.backup.support import SEGMENT, backup, events_of, make
from tests.eventlog.support import DID, fill, message, opened
from tests.reference.log_ref import LogReader
from zlay.backup import restore, take
from zlay.backup.copying import copy_bytes
from zlay.backup.manifest import read_manifest
from zlay.backup.restore import LEFT_OUT_LEAST, restore_backup
from zlay.cli import main
from zlay.errors import BackupError, StartError
from zlay.eventlog.log import EventLog
from zlay.eventlog.view import LogView
from zlay.state import places, recovery
from zlay.state.places import FilePlace
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def into(folder: Path, source: Path, **options: object) -> restore.Restored:
    """Restore a backup into a data directory."""
    return restore_backup(source, folder, FilePlace(folder / "state.sqlite"), **options)  # type: ignore[arg-type]


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file: time of its last change, and bytes."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A relay's data: 34 events, of which the state knows 30."""
    make(tmp_path / "data", 34, applied=30)
    return tmp_path / "data"


@pytest.fixture
def saved(data: Path, tmp_path: Path) -> Path:
    """A backup of it."""
    backup(data, tmp_path / "saved")
    return tmp_path / "saved"


def test_there_and_back(data: Path, tmp_path: Path) -> None:
    """A backup holds every event and the state as of its last seq, changes nothing of the original, and becomes a
    relay's data that goes on, with a store id and numbers of its own."""
    before = state_of(data)
    manifest = backup(data, tmp_path / "saved")
    assert state_of(data) == before
    assert (manifest.first_seq, manifest.last_seq, manifest.applied_seq) == (1, 34, 30)
    assert events_of(tmp_path / "saved") == events_of(data)
    assert (tmp_path / "saved" / "events" / "store.json").stat().st_mode & 0o777 == 0o600
    kept = state_of(tmp_path / "saved")
    new = tmp_path / "new"
    restored = into(new, tmp_path / "saved")
    assert state_of(tmp_path / "saved") == kept
    assert events_of(new) == events_of(data)
    assert restored.store_id != bytes.fromhex(manifest.store_id)
    assert restored.next_seq == 35 + LEFT_OUT_LEAST
    store = SqliteStore(new / "state.sqlite")
    with opened(new) as log:
        assert log.store_id == restored.store_id == store.checkpoint().store_id
        assert not recovery.agree(store.checkpoint(), log.store_id, newest_seq=34, log_end=log.appended_end)
        assert not log.recovered.gaps
        assert fill(log, 1) == [message(restored.next_seq, "event 0 ")]
        entries = {entry.seq: entry.did_hash for entry in log.scan(1)}
    row = store.account(DID)
    assert row is not None
    assert (row.host_id, row.last_seq) == (7, 30)
    store.close()
    reader = LogReader.of(new / "events")
    assert reader.left_out() == [(35, restored.next_seq - 1)]
    assert set(entries.values()) == {reader.did_hash(DID)}  # takedowns find their events: the key is the same


def test_a_backup_can_be_restored_again_and_again(saved: Path, tmp_path: Path) -> None:
    """Each restore makes a store of its own."""
    assert into(tmp_path / "one", saved).store_id != into(tmp_path / "two", saved).store_id


@pytest.mark.parametrize(("events", "first"), [(0, 1), (1, 1), (SEGMENT, 1), (SEGMENT + 1, 1), (7, 5_000_000_000)])
def test_every_size(tmp_path: Path, events: int, first: int) -> None:
    """Empty logs, full segments, and numbers that begin high are copied and restored like any."""
    make(tmp_path / "data", events, initial_seq=first)
    manifest = backup(tmp_path / "data", tmp_path / "saved")
    assert (manifest.first_seq, manifest.last_seq) == ((first, first + events - 1) if events else (0, 0))
    restored = into(tmp_path / "new", tmp_path / "saved")
    assert events_of(tmp_path / "new") == events_of(tmp_path / "data")
    with opened(tmp_path / "new") as log:
        assert log.appended_end + 1 == restored.next_seq > manifest.last_seq


def test_a_torn_end_is_left_behind(data: Path, tmp_path: Path) -> None:
    """Of a relay that was killed, what the next start would cut off is not copied."""
    index = data / "events" / f"{31:020}.index"
    with index.open("ab") as file:
        file.write(os.urandom(64 * 3 + 5))
    with (data / "events" / f"{31:020}.frames").open("ab") as file:
        file.write(b"\x82\x7etorn")
    backup(data, tmp_path / "saved")
    assert (tmp_path / "saved" / "events" / index.name).stat().st_size == 64 * 5
    assert main(["log", "verify", str(tmp_path / "saved")]) == 0
    assert sorted(events_of(tmp_path / "saved")) == list(range(1, 35))


# --- numbers ---


def test_numbers_are_left_out_by_age(saved: Path, tmp_path: Path) -> None:
    """The older the backup, the more numbers the original may have given out since, and the more are left out."""
    fields = json.loads((saved / "backup.json").read_text())
    fields["created_us"] -= 86_400 * 1_000_000
    (saved / "backup.json").write_text(json.dumps(fields))
    assert into(tmp_path / "new", saved).next_seq >= 35 + 86_400 * 10_000


def test_the_operator_may_know_the_number(saved: Path, tmp_path: Path) -> None:
    """--next-seq is obeyed, but never below what the backup itself has."""
    assert into(tmp_path / "one", saved, next_seq=35).next_seq == 35
    for number in (34, 0, -1, 2**53):
        with pytest.raises(BackupError, match="next seq"):
            into(tmp_path / "two", saved, next_seq=number)
    assert not (tmp_path / "two").exists()


def test_numbers_of_earlier_runs_are_not_given_again(data: Path, tmp_path: Path) -> None:
    """What the original had left out before stays left out."""
    run = data / "events" / "run.json"
    run.write_text(json.dumps({**json.loads(run.read_text()), "next_seq": 5_000}))
    assert backup(data, tmp_path / "saved").next_seq == 5_000
    with pytest.raises(BackupError, match="next seq"):
        into(tmp_path / "new", tmp_path / "saved", next_seq=100)


# --- what is no backup, and what is no place for one ---


def test_a_backup_is_nobodys_data(saved: Path) -> None:
    """A relay does not start on a backup, and leaves it as it is."""
    before = state_of(saved)
    with pytest.raises(StartError, match="zlay restore"):
        EventLog.open(saved)
    assert state_of(saved) == before


def test_a_backup_wants_a_place_of_its_own(data: Path, saved: Path, tmp_path: Path) -> None:
    """Neither a backup nor a restore writes among files that are there."""
    with pytest.raises(BackupError, match="not empty"):
        backup(data, saved)
    for name in ("events", "state.sqlite", "state.sqlite-wal"):
        folder = tmp_path / f"has {name}"
        folder.mkdir()
        shutil.copytree(data / "events", folder / name) if name == "events" else (folder / name).write_bytes(b"x")
        before = state_of(folder)
        with pytest.raises(BackupError, match="there already"):
            into(folder, saved)
        assert {path: value for path, value in state_of(folder).items() if not path.endswith("lock")} == before


def test_a_relay_in_the_way_is_not_disturbed(saved: Path, tmp_path: Path) -> None:
    """Nothing is restored into a directory that a relay has open."""
    with opened(tmp_path / "data"), pytest.raises(BackupError, match="in use"):
        into(tmp_path / "data", saved)


@pytest.mark.parametrize("missing", ["events", "state.sqlite", "events/store.json"])
def test_nothing_to_back_up(data: Path, tmp_path: Path, missing: str) -> None:
    """Data without log, state or identity is refused in words, and leaves no backup."""
    path = data / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(BackupError):
        backup(data, tmp_path / "saved")
    with pytest.raises(BackupError, match="no backup"):
        into(tmp_path / "new", tmp_path / "saved")


def test_log_and_state_of_two_stores(data: Path, tmp_path: Path) -> None:
    """They are not backed up together."""
    make(tmp_path / "other", 3)
    with pytest.raises(BackupError, match="two stores"):
        take.take_backup(data, FilePlace(tmp_path / "other" / "state.sqlite"), tmp_path / "saved")


def test_a_state_ahead_of_the_log(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that knows events which the log has lost is not backed up."""
    monkeypatch.setattr(take, "LOG_WAIT_S", 0.2)
    for kind in ("frames", "index"):
        (data / "events" / f"{31:020}.{kind}").unlink()
    with sqlite3.connect(data / "state.sqlite") as database:
        database.execute("UPDATE account SET last_seq = 33")
    database.close()
    with pytest.raises(BackupError, match="the state knows seq 33"):
        backup(data, tmp_path / "saved")


def test_a_window_that_retention_has_moved(data: Path, tmp_path: Path) -> None:
    """Old events that are gone are no trouble, unless the state has not read them yet."""
    for first in (1, 11):
        for kind in ("frames", "index"):
            (data / "events" / f"{first:020}.{kind}").unlink()
    assert backup(data, tmp_path / "saved").first_seq == 21
    assert into(tmp_path / "new", tmp_path / "saved").manifest.first_seq == 21
    with sqlite3.connect(data / "state.sqlite") as database:
        database.execute("UPDATE checkpoint SET dedup_from = 15")
    database.close()
    with pytest.raises(BackupError, match="from seq 16 on"):
        backup(data, tmp_path / "again")


# --- a backup that has been damaged ---


def flip(path: Path, at: int) -> None:
    """One bit is another one."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def no_segment(saved: Path) -> None:
    """A segment in the middle is gone."""
    (saved / "events" / f"{11:020}.index").unlink()


def shorter_log(saved: Path) -> None:
    """The newest events are gone."""
    for kind in ("frames", "index"):
        (saved / "events" / f"{31:020}.{kind}").unlink()


def other_state(saved: Path) -> None:
    """The state of another store."""
    with sqlite3.connect(saved / "state.sqlite") as database:
        database.execute("UPDATE checkpoint SET store_id = ?", (bytes(16),))
    database.close()


def no_state(saved: Path) -> None:
    """Noise for a state."""
    (saved / "state.sqlite").write_bytes(os.urandom(5000))


@pytest.mark.parametrize("harm", [no_segment, shorter_log, other_state, no_state])
def test_damage_is_refused(saved: Path, tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """A backup that is not what was taken is not restored."""
    harm(saved)
    with pytest.raises(BackupError):
        into(tmp_path / "new", saved)
    assert not (tmp_path / "new" / "events").exists()


def test_damaged_events_only_when_asked_for(saved: Path, tmp_path: Path) -> None:
    """Where an event has lost a bit the backup is refused, and taken as it is with --accept-damage."""
    flip(saved / "events" / f"{11:020}.frames", 100)
    with pytest.raises(BackupError, match=r"damaged.*seq 11 to 11"):
        into(tmp_path / "new", saved)
    into(tmp_path / "new", saved, accept_damage=True)
    reader = LogReader.of(tmp_path / "new" / "events")
    assert len(list(reader)) == 33
    assert reader.bad == [11]


def test_a_damaged_manifest(saved: Path, tmp_path: Path) -> None:
    """A backup.json that is none, or of another form, is refused."""
    fields = json.loads((saved / "backup.json").read_text())
    for text in ("", "[]", json.dumps({**fields, "format": 2}), json.dumps({**fields, "more": 1}), "{}"):
        (saved / "backup.json").write_text(text)
        with pytest.raises(BackupError):
            into(tmp_path / "new", saved)


# --- nobody takes one for the other ---


def test_files_of_the_two_refuse_one_another(data: Path, saved: Path, tmp_path: Path) -> None:
    """State or segments of the original are refused by what was restored, and the other way round."""
    new = tmp_path / "new"
    into(new, saved)
    for log_of, state_of_ in ((data, new), (new, data)):
        store = SqliteStore(state_of_ / "state.sqlite")
        with opened(log_of) as log, pytest.raises(StartError, match="two stores"):
            recovery.agree(store.checkpoint(), log.store_id, newest_seq=34, log_end=log.appended_end)
        store.close()
    name = f"{11:020}.frames"
    shutil.copy(data / "events" / name, new / "events" / name)
    with LogView.of(new) as view:
        assert [segment.first_seq for segment in view.segments if segment.is_foreign] == [11]
    with opened(new) as log:
        assert not [entry.seq for entry in log.scan(11, 20)]


def test_half_a_restore_is_no_relays_data(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore that was cut short leaves what neither a relay starts on nor a restore goes on with."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(places, "give_state", fail)
    with pytest.raises(BackupError, match="No space"):
        into(tmp_path / "new", saved)
    with pytest.raises(StartError, match="segments but no store"):
        EventLog.open(tmp_path / "new")
    monkeypatch.undo()
    with pytest.raises(BackupError, match="there already"):
        into(tmp_path / "new", saved)


def test_half_a_backup_is_no_backup(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup that was cut short is not restored."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(take, "copy_bytes", fail)
    with pytest.raises(BackupError, match="No space"):
        backup(data, tmp_path / "saved")
    with pytest.raises(BackupError, match="not a whole one"):
        read_manifest(tmp_path / "saved")


# --- bytes ---


@pytest.mark.parametrize("by_kernel", [True, False])
def test_copying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_kernel: bool) -> None:
    """Bytes arrive at their place, by the kernel or, where it cannot, by reading; a short source is an error."""
    if not by_kernel:

        def refuse(*_: object) -> int:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "copy_file_range", refuse)
    content = os.urandom(3_000_000)
    (tmp_path / "source").write_bytes(content)
    source = os.open(tmp_path / "source", os.O_RDONLY)
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    try:
        copy_bytes(source, target, 2_000_000, offset=64)
        assert os.pread(target, 3_000_000, 64) == content[64:2_000_064]
        copy_bytes(source, target, 0)
        with pytest.raises(OSError, match="shorter"):
            copy_bytes(source, target, 3_000_001)
    finally:
        os.close(source)
        os.close(target)


def test_the_commands(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`zlay backup` and `zlay restore` say what they have done, and refusals with status 1."""
    flags = ("--relay-data-dir", str(data))
    assert main(["backup", str(tmp_path / "saved"), *flags]) == 0
    assert "seq 1 to 34" in capsys.readouterr().out
    assert main(["backup", str(tmp_path / "saved"), *flags]) == 1
    assert "not empty" in capsys.readouterr().err
    assert main(["restore", str(tmp_path / "saved"), *flags]) == 1
    assert "there already" in capsys.readouterr().err
    assert (
        main(["restore", str(tmp_path / "saved"), "--relay-data-dir", str(tmp_path / "new"), "--next-seq", "99"]) == 0
    )
    assert "goes on with seq 99 " in capsys.readouterr().out
