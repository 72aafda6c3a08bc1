"""What the log says of itself while it is being written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.eventlog.support import append, until
from zlay._fast import log as core
from zlay.eventlog.log import EventLog

if TYPE_CHECKING:
    from pathlib import Path


def test_the_oldest_event_is_the_first_one_before_it_is_on_disk(tmp_path: Path) -> None:
    """A consumer that asks for everything of a new log must not miss what is appended and not yet written."""
    log = EventLog.open(tmp_path)
    shutil.rmtree(tmp_path / "events")  # no segment can be created: what is appended stays in memory
    try:
        assert append(log, "first") == 1  # one only: as soon as the fault is seen, appending waits
        until("the fault is seen", lambda: core.status()["fault"] != "none")
        assert log.appended_end == 1
        assert log.published_end == 0
        assert log.oldest_seq == 1
    finally:
        log.close(deadline_s=0.2)
