"""Data directories of relays that are not running, backups of them, and what is in either."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.eventlog.support import DID, fill, opened
from tests.reference.log_ref import LogReader
from zlay.backup.take import take_backup
from zlay.pipeline.types import AccountDelta
from zlay.state.places import FilePlace
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

    from zlay.backup.manifest import Manifest
    from zlay.state.store import SqlStore

SEGMENT = 10


def make(
    folder: Path, events: int, *, applied: int | None = None, initial_seq: int = 1, state: SqlStore | None = None
) -> None:
    """A relay's data: events in segments of ten, and a state that has followed them to `applied` (None = all)."""
    with opened(folder, segment_entries=SEGMENT, initial_seq=initial_seq) as log:
        if events:
            fill(log, events)
        end = log.synced_end
        store_id = log.store_id
    store: SqlStore = state or SqliteStore(folder / "state.sqlite")
    store.set_store_id(store_id)
    applied = end if applied is None else applied
    row = AccountDelta(DID, 7, 0, 0, None, None, None, applied, False)
    store.apply([row] if events else [], [], applied, applied)
    store.close()


def backup(folder: Path, target: Path) -> Manifest:
    """A backup of such data."""
    return take_backup(folder, FilePlace(folder / "state.sqlite"), target)


def events_of(folder: Path) -> dict[int, bytes]:
    """Every event by its seq, by the independent reader."""
    reader = LogReader.of(folder / "events")
    found = {event.seq: event.websocket for event in reader}
    assert not reader.bad
    return found
