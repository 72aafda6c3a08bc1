"""Migrations: forward, from every state that an older zlay can have left, on both databases."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.state.support import CID_A, CID_B, TAKENDOWN, delta, did, rev
from zlay.errors import StartError
from zlay.pipeline.types import Identity
from zlay.state import schema
from zlay.state.interface import Checkpoint

if TYPE_CHECKING:
    from tests.state.databases import Database

NEWEST = len(schema.migrations())
KEY = b"\x02" + bytes(32)
# SHA-256 of the statements of each step, without comments. A step that has been released is never changed.
FROZEN = {
    1: "0eaffb068630580a",
    2: "63bf886042ea0f67",
    3: "763aab52cf703625",
    4: "ac2e533732818411",
    5: "bf6a4d0f6539dcdc",
}
ROWS: dict[str, list[dict[str, object]]] = {  # in columns of step 1, which no later one takes away
    "host": [
        {"id": 1, "hostname": "pds.example.com", "status": "banned", "no_tls": 0, "upstream_cursor": 99, "epoch": 2}
        | {"account_count": 1, "account_limit": None, "source": "admin", "created_us": 5}
    ],
    "account": [
        {"uid": 1, "did": did(1), "host_id": 1, "upstream_status": 0, "local_status": TAKENDOWN}
        | {"desynchronized": 1, "last_seq": 69}
    ],
    "account_repo": [{"uid": 1, "rev": rev(7), "data": CID_A, "head": CID_B, "last_seq": 70}],
    "identity": [{"did": did(1), "pds": "pds.example.com", "key_type": 1, "key_point": KEY, "resolved_us": 8}],
    "domain_ban": [{"domain": "bad.example", "created_us": 9}],
}


def make_older(database: Database, version: int) -> None:
    """What a zlay that knew `version` steps left behind."""
    database.run("CREATE TABLE schema_migration (version INTEGER PRIMARY KEY, name TEXT, applied_us BIGINT)")
    for step in schema.migrations()[:version]:
        for statement in step.statements:
            database.run(statement)
        database.run("INSERT INTO schema_migration VALUES (?, ?, ?)", (step.version, step.name, 1))
    database.run("UPDATE checkpoint SET store_id = ?, applied_seq = ?, dedup_from = ?", (b"i" * 16, 70, 60))
    for table, rows in ROWS.items():
        for row in rows:
            marks = ", ".join("?" * len(row))
            database.run(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))


def test_steps_are_frozen() -> None:
    """A migration that somebody's database has been through is not changed any more."""
    found = {
        step.version: hashlib.sha256(";\n".join(step.statements).encode()).hexdigest()[:16]
        for step in schema.migrations()
    }
    assert found == FROZEN


@pytest.mark.parametrize("version", range(1, NEWEST))
def test_older_database(database: Database, version: int) -> None:
    """What an older zlay stored is all there after the upgrade, and goes on from there."""
    make_older(database, version)
    store = database.open()
    assert store.checkpoint() == Checkpoint(b"i" * 16, 70, 60)
    row = store.account(did(1))
    assert row is not None
    assert (row.host_id, row.local_status, row.desynchronized) == (1, TAKENDOWN, True)
    assert (row.rev, row.data, row.head, row.last_seq) == (rev(7), CID_A, CID_B, 70)
    assert row.identity == Identity(did(1), "ok", "pds.example.com", 1, KEY, 8)
    (host,) = store.hosts()
    assert (host.hostname, host.status, host.cursor, host.epoch) == ("pds.example.com", "banned", 99, 2)
    assert store.domain_bans() == ["bad.example"]
    assert store.taken_down() == [did(1)]
    store.apply([delta(1, seq=71, rev=rev(8)), delta(2, seq=72, rev=rev(1))], [], 72, 61)
    store.close()
    again = database.open()
    assert again.checkpoint() == Checkpoint(b"i" * 16, 72, 61)
    assert [repo.rev for repo in again.list_repos(0, 10)] == [rev(8), rev(1)]
    again.close()
    steps = database.run("SELECT version, name FROM schema_migration ORDER BY version")
    assert steps == [(step.version, step.name) for step in schema.migrations()]


def test_step_that_fails_leaves_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that cannot be done to its end is not done at all, and the start is refused."""
    known = schema.migrations()
    broken = schema.Migration(NEWEST + 1, "broken", ("CREATE TABLE half (n INTEGER)", "CREATE TABLE half (n INTEGER)"))
    monkeypatch.setattr(schema, "migrations", lambda: [*known, broken])
    with pytest.raises(StartError, match="half"):
        database.open()
    monkeypatch.setattr(schema, "migrations", lambda: known)
    store = database.open()
    store.close()
    database.run("CREATE TABLE half (n INTEGER)")  # is not there
