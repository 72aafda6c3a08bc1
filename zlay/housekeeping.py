"""What has to be looked at now and then: retention, trims, the GIL, the garbage collector, gauges, memory reports.

One supervised thread. Each duty is short, and none of them stands between a frame and its consumers.
"""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING

from zlay import figures, gil, logs
from zlay._fast import pool
from zlay.errors import StateError
from zlay.memory import ledger, libc

if TYPE_CHECKING:
    from collections.abc import Callable

    from zlay.relay import Relay

__all__ = ["GC_THRESHOLD", "GC_THRESHOLD_AT_START", "Housekeeping"]

TICK_S = 1.0
GIL_S = 60.0  # R10
COLLECT_S = 300.0  # the automatic trigger can stall on 3.13.5; a pass takes milliseconds
FIRST_COLLECT_S = 30.0  # after the dials of a start
GC_THRESHOLD = 50_000  # objects made before the collector looks at all of them by itself, every thread held; some 10 MB
GC_THRESHOLD_AT_START = 200_000  # until FIRST_COLLECT_S: what the dials of a start make stays
TRIM_POOL_S = 5.0
RETAIN_S = 10.0
COUNTS_S = 30.0

log = logs.get("relay")


class Housekeeping:
    """Duties with their intervals; `run` on one thread, the rest from any."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._stop = threading.Event()
        self._report_reason: str | None = None
        self._disk_fault: str | None = None  # as told last
        duties: list[tuple[float, Callable[[], object]]] = [
            (GIL_S, self._check_gil),
            (COLLECT_S, self._collect),
            (TRIM_POOL_S, pool.trim),
            (RETAIN_S, self._retain),
            (COUNTS_S, self._count_accounts),
            (TICK_S, relay.leaks.check_limit),
            (TICK_S, ledger.sample),
            (TICK_S, self._watch_disk),
            (figures.INTERVAL_S, relay.figures.sample),
        ]
        if relay.config.malloc_trim_interval:
            duties.append((relay.config.malloc_trim_interval, libc.trim))
        self._duties = duties
        # A start has just collected, and is in the middle of its dials.
        first_collect_s = time.monotonic() + FIRST_COLLECT_S
        self._due = [first_collect_s if duty == self._collect else 0.0 for _, duty in duties]

    def run(self) -> None:
        """Until `stop`."""
        while not self._stop.wait(TICK_S):
            now = time.monotonic()
            for n, (interval_s, duty) in enumerate(self._duties):
                if now >= self._due[n]:
                    self._due[n] = now + interval_s
                    duty()
            if self._report_reason is not None:
                reason, self._report_reason = self._report_reason, None
                self._relay.leaks.report(reason)

    def stop(self) -> None:
        """Asks `run` to end."""
        self._stop.set()

    def ask_report(self, reason: str) -> None:
        """A memory report at the next tick; fit for a signal handler."""
        self._report_reason = reason

    def _collect(self) -> None:
        gc.collect()
        gc.set_threshold(GC_THRESHOLD)

    def _check_gil(self) -> None:
        if not gil.is_off():
            log.error("the GIL has been turned on by a late import: frames are slow from here on")

    def _retain(self) -> None:
        """Retention takes what no view needs any more: neither the state nor a restart's search for duplicates."""
        applier = self._relay.applier
        self._relay.log.set_keep_from(min(applier.applied_seq, applier.dedup_from) + 1)
        self._relay.log.retain()

    def _watch_disk(self) -> None:
        fault = self._relay.log.fault_text()
        if fault is not None and self._disk_fault is None:
            log.error("the log cannot be written: events wait, consumers are served", error=fault)
        elif fault is None and self._disk_fault is not None:
            log.info("the log is written again")
        self._disk_fault = fault

    def _count_accounts(self) -> None:
        try:
            self._relay.registry.set_account_counts(self._relay.store.host_account_counts())
        except StateError as exc:
            log.warn_rate("counts", "accounts cannot be counted", error=str(exc))
