"""Backups of a state in either database, restored to either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.backup.support import events_of, make
from tests.eventlog.support import DID, opened
from tests.state.databases import PostgresDatabase, SqliteDatabase
from tests.state.support import delta, rev
from zlay import config
from zlay.backup.restore import restore_backup
from zlay.backup.take import take_backup
from zlay.cli import main
from zlay.errors import BackupError
from zlay.pipeline.types import HostCursor, Identity
from zlay.state import recovery
from zlay.state.interface import NewHost
from zlay.state.places import TABLES, Place, place_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.state.databases import Database
    from zlay.bench.cluster import Cluster

EVENTS = 34
EVERY_BYTE = bytes(range(256))


def place(database: Database) -> Place:
    """As the commands find it."""
    return place_of(config.from_environment({"DATABASE_URL": database.url}, {})[0])


def rows(database: Database) -> dict[str, list[Any]]:
    """Every table, but for who the state belongs to and who writes it."""
    found = {
        table: sorted(database.run(f"SELECT * FROM {table}"), key=repr) for table in TABLES if table != "checkpoint"
    }
    found["checkpoint"] = database.run("SELECT applied_seq, dedup_from FROM checkpoint")
    return found


def fill(folder: Path, database: Database) -> None:
    """A relay's data with something in every table."""
    make(folder, EVENTS, applied=30, state=database.open())
    store = database.open()
    store.add_hosts([NewHost("pds.example.com", "config"), NewHost("localhost:2583", "admin", no_tls=True)])
    store.set_host_banned(2, banned=True)
    store.apply([delta(n, seq=n, rev=rev(n)) for n in range(1, 30)], [HostCursor(1, 1, 2**53 - 1)], 30, 29)
    key = EVERY_BYTE[:64]
    store.save_identities(
        [Identity(DID, "ok", "pds.example.com", 1, key, 5), Identity("did:web:ü", "ok", None, 0, b"", 7)]
    )
    store.set_domain_ban("example.net", banned=True)
    store.close()
    database.run(
        "INSERT INTO backfill_progress VALUES (?, ?, NULL, 5, NULL)", ("app.example.tab\tand\\backslash\nline", "relay")
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Another empty database of either kind."""
    if request.param == "sqlite":
        return SqliteDatabase(tmp_path / "other.sqlite")
    return PostgresDatabase(request.getfixturevalue("cluster"))


def test_from_either_database_to_either(database: Database, other: Database, tmp_path: Path) -> None:
    """Every row of every table comes through, beside a relay that has the database open; what is restored goes on as a
    store of its own."""
    data = tmp_path / "data"
    fill(data, database)
    relay = database.open()
    try:
        manifest = take_backup(data, place(database), tmp_path / "saved")
    finally:
        relay.close()
    assert (manifest.first_seq, manifest.last_seq, manifest.applied_seq) == (1, EVENTS, 30)
    restored = restore_backup(tmp_path / "saved", tmp_path / "new", place(other))
    assert rows(other) == rows(database)
    assert events_of(tmp_path / "new") == events_of(data)
    store = other.open()
    try:
        with opened(tmp_path / "new") as log:
            assert store.checkpoint().store_id == log.store_id == restored.store_id
            assert not recovery.agree(store.checkpoint(), log.store_id, newest_seq=EVENTS, log_end=log.appended_end)
        store.apply([delta(50, seq=31, rev=rev(31))], [], 31, None)  # numbers go on where they were
        assert store.account_count() == 31
    finally:
        store.close()


def test_a_server_that_is_taken(cluster: Cluster, tmp_path: Path) -> None:
    """Nothing is restored into a database that has a state, or that a relay has open; the state in it stays."""
    database, empty = PostgresDatabase(cluster), PostgresDatabase(cluster)
    fill(tmp_path / "data", database)
    before = rows(database)
    take_backup(tmp_path / "data", place(database), tmp_path / "saved")
    with pytest.raises(BackupError, match="already"):
        restore_backup(tmp_path / "saved", tmp_path / "new", place(database))
    assert rows(database) == before
    relay = empty.open()
    try:
        with pytest.raises(BackupError, match="another relay"):
            restore_backup(tmp_path / "saved", tmp_path / "new", place(empty))
    finally:
        relay.close()


def test_a_state_of_another_version(cluster: Cluster, tmp_path: Path) -> None:
    """A database that another version of zlay has written is not copied half understood."""
    database = PostgresDatabase(cluster)
    fill(tmp_path / "data", database)
    database.run("INSERT INTO schema_migration VALUES (99, 'later', 0)")
    with pytest.raises(BackupError, match="schema 99"):
        take_backup(tmp_path / "data", place(database), tmp_path / "saved")


def test_the_commands_with_a_server(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both commands find PostgreSQL by --database-url, and say no password when it is not there."""
    database, empty = PostgresDatabase(cluster), PostgresDatabase(cluster)
    fill(tmp_path / "data", database)
    flags = ("--relay-data-dir", str(tmp_path / "data"), "--database-url", database.url)
    assert main(["backup", str(tmp_path / "saved"), *flags]) == 0
    flags = ("--relay-data-dir", str(tmp_path / "new"), "--database-url", empty.url)
    assert main(["restore", str(tmp_path / "saved"), *flags]) == 0
    assert rows(empty) == rows(database)
    capsys.readouterr()
    nowhere = f"postgresql://zlay:secret@/x?host={tmp_path}"
    for command, folder in (("backup", "more"), ("restore", "saved")):
        assert (
            main([command, str(tmp_path / folder), "--relay-data-dir", str(tmp_path / "x"), "--database-url", nowhere])
            == 1
        )
        said = capsys.readouterr().err
        assert "secret" not in said
        assert said.startswith("zlay: ")
