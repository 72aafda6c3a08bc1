"""`zlay run` with segments so small that they are rotated and retired all the time.

$CRASH_CURSOR_S: seconds between two savings of the hosts' cursors, 4 otherwise.
"""

from __future__ import annotations

import functools
import os
import sys

from zlay import cli, housekeeping, relay
from zlay.eventlog.log import LogSettings
from zlay.state import applier

SEGMENT_ENTRIES = 200
RETAIN_S = 1.0

if __name__ == "__main__":
    relay.LogSettings = functools.partial(LogSettings, segment_entries=SEGMENT_ENTRIES)  # type: ignore[misc,assignment]
    housekeeping.RETAIN_S = RETAIN_S
    applier.CURSOR_INTERVAL_S = float(os.environ.get("CRASH_CURSOR_S", applier.CURSOR_INTERVAL_S))
    sys.exit(cli.main(["run"]))
