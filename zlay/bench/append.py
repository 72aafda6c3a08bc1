"""`append`: events a second into the log, by one appender and by two, until all are on disk.

Recorded commits are appended to a new log as fast as it takes them, from C, and the time runs until the last one is
synced: sequencing, splicing, checksums, index, both files, group commit.
Bound: the same bytes, frames and index entries, written to one file in groups of the size that the log made, each group
synced by one fdatasync.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zlay.bench.filled import recorded_batch
from zlay.bench.inputs import add_corpus_arguments
from zlay.bench.report import Report, in_turn, rate
from zlay.errors import LocalFault
from zlay.eventlog.log import EventLog, LogSettings

if TYPE_CHECKING:
    import argparse

    from zlay._fast.batch import Batch

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = "events a second into the log, one appender and two, all synced"

TARGET = 0.8
SYNC_S = 300.0
ENTRY_BYTES = 64


class _Group(NamedTuple):
    """What the log wrote between two syncs, on average."""

    bytes: int
    events: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--appended, and those of the recording."""
    parser.add_argument("--appended", type=int, default=100_000, help="events of each run (default: 100,000)")
    add_corpus_arguments(parser, 4000, 400)


def measure(arguments: argparse.Namespace) -> Report:
    """Events a second."""
    if arguments.appended < 1:
        raise ValueError("--appended is at least 1")
    batch, frame_bytes = recorded_batch(arguments.events, arguments.accounts)
    figures = []
    groups = {}
    with tempfile.TemporaryDirectory(prefix="zlay-bench-") as name:
        for threads in (1, 2):
            bench = _Bench(Path(name), batch, arguments.appended, threads)
            taken = in_turn(arguments.runs, {"own": bench.log, "bound": bench.bound})
            figure = "append" if threads == 1 else f"append.{threads}"
            figures.append(rate(figure, taken["own"], "events/s", taken["bound"], TARGET))
            groups[threads] = round(bench.group.events)
    params = {"events": arguments.appended, "frame_bytes": frame_bytes, "events_of_a_group": groups}
    return Report("append", params, figures, arguments.runs)


class _Bench:
    """One number of appenders. `group` is that of the last run. One thread."""

    def __init__(self, folder: Path, batch: Batch, events: int, threads: int) -> None:
        self._folder = folder
        self._batch = batch
        self._events = events
        self._threads = threads
        self.group = _Group(0, 0.0)

    def log(self) -> float:
        """One run of the log. LocalFault when the disk does not take it."""
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            log = EventLog.open(Path(name), LogSettings())
            try:
                share = self._events // self._threads
                firsts = [share * i for i in range(self._threads)]
                ends = [*firsts[1:], self._events]
                appenders = [
                    threading.Thread(target=self._batch.append, args=(first, end - first))
                    for first, end in zip(firsts, ends, strict=True)
                ]
                began = time.monotonic()
                for appender in appenders:
                    appender.start()
                for appender in appenders:
                    appender.join()
                if not log.wait_synced(self._events, SYNC_S):
                    raise LocalFault(f"{self._events} events were not synced in {SYNC_S:.0f} s")
                took = time.monotonic() - began
                status = log.status()
            finally:
                log.close()
        groups = int(str(status["groups"]))
        self.group = _Group(int(str(status["bytes"])) // groups, self._events / groups)
        return self._events / took

    def bound(self) -> float:
        """One run of the bound, in groups as the log last made them; made once for itself if it is the first."""
        if not self.group.bytes:
            self.log()
        group_bytes = self.group.bytes + round(self.group.events) * ENTRY_BYTES
        left = round(group_bytes * self._events / self.group.events)
        block = memoryview(os.urandom(min(group_bytes, left)))
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            fd = os.open(Path(name) / "file", os.O_RDWR | os.O_CREAT)
            try:
                began, at = time.monotonic(), 0
                while at < left:
                    n = min(group_bytes, left - at)
                    _write(fd, block[:n], at)
                    os.fdatasync(fd)
                    at += n
                return self._events / (time.monotonic() - began)
            finally:
                os.close(fd)


def _write(fd: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(fd, data, at)
        data = data[written:]
        at += written
