"""The wish for a processor soon."""

from __future__ import annotations

import os
import threading

from zlay.latency import answer_soon


def test_a_short_slice_changes_neither_policy_nor_share() -> None:
    """The kernel takes the wish of one thread, and it keeps its policy and its nice value."""
    found: list[object] = []

    def wish() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, 3)  # of this thread alone
        found.extend((answer_soon(), os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)))

    thread = threading.Thread(target=wish)
    thread.start()
    thread.join()
    assert found == [True, os.SCHED_OTHER, 3]
