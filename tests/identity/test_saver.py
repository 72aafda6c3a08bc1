"""The writer behind the resolvers, over a real store that others hold now and then."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.state.support import did
from zlay.identity.saver import IdentitySaver
from zlay.pipeline.types import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.state.databases import Database
    from zlay.pipeline.types import Outcome
    from zlay.state.store import SqlStore

PATIENCE_S = 20.0


@pytest.fixture
def store(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlStore]:
    """An empty store that gives up on other people's locks soon."""
    monkeypatch.setattr("zlay.state.store.BUSY_TIMEOUT_S", 0.05)
    opened = database.open()
    yield opened
    opened.close()


def said(n: int, outcome: Outcome = "ok", at_us: int = 5) -> Identity:
    """What a directory said of account n."""
    return Identity(did(n), outcome, "a.example.com", 1, b"\2" * 33, at_us)


def test_order_is_kept(store: SqlStore) -> None:
    """Answers, expiries and removals of one DID end as the last of them says; failures change nothing."""
    saver = IdentitySaver(store)
    saver.note(said(1))
    saver.expire(did(1))
    saver.note(said(1, at_us=6))
    saver.note(said(2))
    saver.expire(did(2))
    saver.note(said(2, "failed"))
    saver.note(said(3))
    saver.note(said(3, "tombstoned"))
    saver.stop()
    saver.run()
    rows = store.load_accounts([did(1), did(2), did(3)])
    assert [row is not None for row in rows] == [True, False, False]
    assert saver.waiting() == 0


def test_store_that_is_away(store: SqlStore, database: Database) -> None:
    """While the store takes nothing answers wait, in order, and are written when it is back."""
    saver = IdentitySaver(store)
    with database.hold():
        thread = threading.Thread(target=saver.run, daemon=True)
        thread.start()
        for n in range(2500):
            saver.note(said(n))
        saver.expire(did(0))
        deadline = time.monotonic() + PATIENCE_S
        time.sleep(0.7)  # one interval, so that it has tried at least once
        assert saver.waiting() == 2501
    while saver.waiting() and time.monotonic() < deadline:
        time.sleep(0.01)
    saver.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    rows = store.load_accounts([did(n) for n in range(2500)])
    assert [row is None for row in rows] == [True] + [False] * 2499


def test_memory_is_bounded(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its bound the oldest changes are given up and counted."""
    monkeypatch.setattr("zlay.identity.saver.MAX_WAITING", 10)
    saver = IdentitySaver(store)
    for n in range(25):
        saver.note(said(n))
    assert (saver.waiting(), saver.forgotten) == (10, 15)
    saver.stop()
    saver.run()
    assert [row is not None for row in store.load_accounts([did(14), did(15), did(24)])] == [False, True, True]
