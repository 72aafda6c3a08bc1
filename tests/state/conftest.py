"""Every test that asks for `store` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.state.databases import Database
    from zlay.state.store import SqlStore


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores that are opened now give up on other people's locks, and on other relays, soon."""
    monkeypatch.setattr("zlay.state.store.BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr("zlay.state.postgresql.SEAT_WAIT_S", 0.2)


@pytest.fixture
def store(database: Database) -> Iterator[SqlStore]:
    """An empty store."""
    opened = database.open()
    yield opened
    opened.close()
