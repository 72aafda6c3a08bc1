"""Logs for tests: opened on a folder, filled with messages whose bytes say who they are."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import cbor2

from zlay.eventlog.log import KEEP_NOTHING, EventLog, LogSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ACCOUNT = 4
WAIT_S = 20.0


DID = "did:plc:abc"
HEADER = cbor2.dumps({"t": "#account", "op": 1}, canonical=True)


def payload(frame: bytes) -> dict[str, object]:
    """The payload of one of these messages."""
    assert frame.startswith(HEADER)
    fields: dict[str, object] = cbor2.loads(frame[len(HEADER) :])
    return fields


def until(what: str, condition: Callable[[], bool]) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def message(seq: int, text: str = "") -> bytes:
    """An #account message in DRISL; `text` stands in a field of its own."""
    return HEADER + cbor2.dumps({"seq": seq, "did": DID, "text": text, "active": True}, canonical=True)


def append(log: EventLog, text: str) -> int:
    """Append one message; its seq."""
    return log.append_local(message(0, text), did=DID, kind=ACCOUNT)


def fill(log: EventLog, n: int, size: int = 0) -> list[bytes]:
    """Append n messages and wait until they are on disk; the messages as they must come out."""
    texts = [f"event {i} ".ljust(size, "x") for i in range(n)]
    seqs = [append(log, text) for text in texts]
    assert log.wait_synced(seqs[-1], WAIT_S)
    return [message(seq, text) for seq, text in zip(seqs, texts, strict=True)]


@contextmanager
def opened(data_dir: Path, **settings: object) -> Iterator[EventLog]:
    """A log, closed at the end; retention is not held back by any view."""
    log = EventLog.open(data_dir, LogSettings(**settings))  # type: ignore[arg-type]
    log.set_keep_from(KEEP_NOTHING)
    try:
        yield log
    finally:
        log.close()
