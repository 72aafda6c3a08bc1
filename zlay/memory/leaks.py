"""LEAK_TRACE: who allocates what stays, said at the end of the process and on demand.

tracemalloc follows Python's allocations only and slows them down five times and more (measured); the path of a frame
makes none, so that it stays usable in production. Its own memory is bounded: past the limit what has been traced is
forgotten, tracing begins anew, and the report says since when. It never stops while threads run: CPython 3.13 puts its
allocators back pointer by pointer, and a thread that frees at that moment may call what is half of each. What the
compiled core holds is in the report by tag. Any thread; one report at a time.
"""

from __future__ import annotations

import linecache
import os
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

from zlay import logs
from zlay._fast import mem
from zlay.memory import ledger

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LeakTrace", "NotTracing"]

TOP = 40  # sites in the file
TOP_LOGGED = 5  # of them in the log
MIB = 1 << 20

log = logs.get("memory")


class NotTracing(Exception):
    """There is no trace to be asked: LEAK_TRACE is 0."""


class LeakTrace:
    """Traces from `start` on; `report` writes what is still held, `growth` tells what has grown since it was asked."""

    def __init__(self, frames: int, limit_bytes: int, folder: Path) -> None:
        """`frames` of each stack are kept; 0 = no tracing, reports hold the ledger only."""
        self._frames = frames
        self._limit_bytes = limit_bytes
        self._folder = folder
        self._lock = threading.Lock()  # one report at a time, and nothing is forgotten meanwhile
        self._since = ""  # when tracing began anew; "" = it goes back to the start
        self._before: tracemalloc.Snapshot | None = None
        self._base: tracemalloc.Snapshot | None = None  # of the first `growth` since then
        self._base_us = 0

    def start(self) -> None:
        """Begins to trace."""
        if self._frames:
            tracemalloc.start(self._frames)
            self._before = self._snapshot()

    def check_limit(self) -> None:
        """Forgets what has been traced when that takes more memory than the limit. Housekeeping calls this.

        Not while a report is made, which reads the traces piece by piece.
        """
        if not self._frames or not self._lock.acquire(blocking=False):
            return
        try:
            used = tracemalloc.get_tracemalloc_memory() if tracemalloc.is_tracing() else 0
            if used > self._limit_bytes:
                tracemalloc.clear_traces()
                self._before, self._base = self._snapshot(), None
                self._since = _now()
                log.warning("leak tracing begins anew: it has used up its limit", used=used, limit=self._limit_bytes)
        finally:
            self._lock.release()

    def _snapshot(self) -> tracemalloc.Snapshot:
        own = (tracemalloc.__file__, linecache.__file__, __file__)  # a report must not report itself
        return tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, name) for name in own])

    def _grown(self, now: tracemalloc.Snapshot, before: tracemalloc.Snapshot) -> list[tracemalloc.StatisticDiff]:
        """By site, those that have grown most first."""
        return now.compare_to(before, "traceback" if self._frames > 1 else "lineno")

    def growth(self, most: int) -> dict[str, Any]:
        """What has grown since this was asked first, or since all was forgotten: up to `most` sites.

        The first call gives none. Raises NotTracing. Takes seconds where there are millions of traces.
        """
        with self._lock:
            if not self._frames or not tracemalloc.is_tracing():
                raise NotTracing("nothing is traced: start the relay with LEAK_TRACE=5 (Python is 5 times slower then)")
            now = self._snapshot()
            if self._base is None:
                self._base, self._base_us = now, time.time_ns() // 1000
            grown = [entry for entry in self._grown(now, self._base) if entry.size_diff or entry.count_diff]
            traced, peak = tracemalloc.get_traced_memory()
            return {
                "since_us": self._base_us,
                "frames": self._frames,
                "traced_bytes": traced,
                "peak_bytes": peak,
                "tracing_bytes": tracemalloc.get_tracemalloc_memory(),
                "grown_bytes": sum(entry.size_diff for entry in grown),
                "sites": [
                    {
                        "bytes": entry.size_diff,
                        "count": entry.count_diff,
                        "live_bytes": entry.size,
                        "live_count": entry.count,
                        "stack": [f"{frame.filename}:{frame.lineno}" for frame in entry.traceback],
                    }
                    for entry in grown[:most]
                ],
            }

    def report(self, reason: str) -> Path | None:
        """Writes a report beside the data and a summary to the log. None when it could not be written."""
        with self._lock:
            lines = [f"zlay memory report, {_now()}, {reason}", ""]
            lines += self._python_part()
            lines += ["", "C allocations by tag (live bytes, live count, ever):"]
            for tag, (live, count, ever) in sorted(mem.usage().items(), key=lambda item: -item[1][0]):
                lines.append(f"  {tag:<12} {live:>14,} {count:>10,} {ever:>12,}")
            lines += ["", "Process:"]
            lines += [f"  {name:<28} {value:>16,}" for name, value in ledger.measure().items()]
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            path = self._folder / f"leaks-{stamp}-{os.getpid()}.txt"
            try:
                path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            except OSError as exc:
                log.error("the memory report cannot be written", path=str(path), error=str(exc))
                return None
            log.info("memory report", path=str(path), reason=reason)
            return path

    def _python_part(self) -> list[str]:
        """Requires `_lock`."""
        if not self._frames:
            return ["Python allocations: not traced (LEAK_TRACE=0)"]
        now, peak = tracemalloc.get_traced_memory()
        out = [
            (
                f"Python allocations traced: {now / MIB:.1f} MiB now, {peak / MIB:.1f} MiB at most, "
                f"{tracemalloc.get_tracemalloc_memory() / MIB:.1f} MiB for tracing"
            ),
            "",
            f"Grown most since {self._since or 'the start'} ({TOP} sites):",
        ]
        assert self._before is not None  # there is a trace, so `start` has run
        for n, entry in enumerate(self._grown(self._snapshot(), self._before)[:TOP]):
            frame = entry.traceback[-1]
            where = f"{frame.filename}:{frame.lineno}"
            out.append(f"  {entry.size_diff:>+12,} B {entry.count_diff:>+9,} x  {where}")
            out += [f"      {line}" for line in entry.traceback.format()] if self._frames > 1 else []
            if n < TOP_LOGGED:
                log.info("grown", bytes=entry.size_diff, count=entry.count_diff, where=where)
        return out


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
