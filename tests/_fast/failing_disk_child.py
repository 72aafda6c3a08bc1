"""The child of the failing-disk tests: DATA_DIR PLAN CALL ERRNO DURABILITY SEGMENT_ENTRIES, under failing_disk.so.

Prints synced_end before the failure and how many events were appended in all.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.eventlog.support import WAIT_S, append, opened, until


def main() -> None:
    """One failure, from healthy to healthy."""
    data_dir, plan, call, error, durability, entries = sys.argv[1:]
    with opened(Path(data_dir), durability=durability, segment_entries=int(entries)) as log:
        for i in range(5):
            seq = append(log, f"event {i}")
        assert log.wait_synced(seq, WAIT_S)
        appended = [5]

        def more() -> None:
            for _ in range(25):
                append(log, f"event {appended[0]}")
                appended[0] += 1

        before, published = log.synced_end, log.published_end
        Path(plan).write_text(f"{call} {error}")
        appender = threading.Thread(target=more)
        appender.start()
        until("no fault seen", lambda: log.status()["fault"] != "none")
        status = log.status()
        assert status["fault_errno"] == int(error), status
        stuck = appended[0]
        until("failures are tried again", lambda: log.status()["fault_s"] > 0.35)
        assert appended[0] <= stuck + 1, "appending goes on while the disk fails"
        assert log.synced_end == before or durability == "os"
        assert log.published_end >= published
        assert [entry.seq for entry in log.scan(1, before)] == list(range(1, before + 1))
        Path(plan).write_bytes(b"")
        appender.join(WAIT_S)
        assert not appender.is_alive()
        assert log.wait_synced(appended[0], WAIT_S)
        assert log.status()["fault"] == "none"
        assert log.close()
        print(before, appended[0], flush=True)  # the process ends at once
    os._exit(0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
