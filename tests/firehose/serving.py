"""A log of small segments and its consumers, for tests."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import cbor2

from tests.eventlog.support import opened, until
from tests.firehose.client import hang_up_all
from zlay.firehose.consumers import Consumers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zlay.eventlog.log import EventLog


@contextmanager
def serving(
    data_dir: Path,
    *,
    limit: int = 2_000,
    per_address: int = 2_000,
    tick_ms: float | None = None,
    segment_entries: int = 5,
    **times: float,
) -> Iterator[tuple[EventLog, Consumers]]:
    """A log of small segments, and its consumers."""
    with opened(data_dir, segment_entries=segment_entries) as log:
        consumers = Consumers(limit=limit, limit_per_address=per_address, tick_ms=tick_ms)
        consumers.start(**times)
        try:
            yield log, consumers
        finally:
            hang_up_all()  # or they would be waited for
            consumers.stop(1001, 2.0)


def ended(consumers: Consumers, reason: str, n: int = 1) -> None:
    """Wait until so many consumers have ended with a reason, since the process began."""
    until(f"no consumer ended with {reason}", lambda: consumers.disconnects()[reason] >= n)


def error_of(data: bytes) -> str:
    """The name in an error frame."""
    header = cbor2.dumps({"op": -1})
    assert data.startswith(header)
    name = cbor2.loads(data[len(header) :])["error"]
    assert isinstance(name, str)
    return name


def info_of(data: bytes) -> str:
    """The name in an #info message."""
    header = cbor2.dumps({"t": "#info", "op": 1}, canonical=True)
    assert data.startswith(header)
    name = cbor2.loads(data[len(header) :])["name"]
    assert isinstance(name, str)
    return name
