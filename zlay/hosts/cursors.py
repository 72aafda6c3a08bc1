"""Which cursors are saved, and from where a restart must look for events that hosts will send again (design 4).

An event of a host that is in the log above the host's saved cursor will be sent again after a restart; the log's index
is read from dedup_from on to know it. dedup_from may only move on when no such event lies before it: for frames of this
process that is the synced end at which the oldest pending frame had arrived, and for what an earlier process had logged
it is that process's dedup_from, until each host concerned has come past its part again. A host that does not come back
for HOST_GONE_S is taken to be past it: its cursor moves to the last event of its that is in the log.

A host's first cursor, its anchor, is saved before its first frame is handed on: without it a restart would dial live,
and what was held, or sent meanwhile, would be lost.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from zlay.pipeline.types import HostCursor
from zlay.shared import look_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["CursorCollector", "LoggedBefore"]

HOST_GONE_S = 24 * 3600.0  # segments back to dedup_from are kept, whatever their age: bounds for how long

LoggedBefore = tuple[int, int]
"""(epoch, highest upstream seq) of what an earlier process had logged above a host's saved cursor."""

Progress = tuple[int, int, int | None, int | None]
"""(host id, epoch, cursor, oldest pending), as `zlay._fast.host.collect_all` gives it."""

Anchor = tuple[int, int, int]
"""(host id, epoch, cursor), as `zlay._fast.host.anchors` gives it."""


class CursorCollector:
    """What the applier calls for each group with cursors. One thread."""

    def __init__(
        self,
        collect_all: Callable[[int], Sequence[Progress]],
        *,
        anchors: Callable[[], Sequence[Anchor]],
        dedup_from: int,
        logged_before: Mapping[int, LoggedBefore],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`dedup_from` and `logged_before` (by host id) as the state and the log had them at the start."""
        self._collect_all = collect_all
        self._anchors = anchors
        self._floor = dedup_from
        self._behind = dict(logged_before)
        self._clock_s = clock_s
        self._started_s = clock_s()
        self._given: dict[int, tuple[int, int]] = {}

    def anchors(self) -> list[HostCursor]:
        """Cursors that hosts wait for, to be saved now. They need no dedup_from: nothing above them is in the log."""
        return [HostCursor(host_id, epoch, cursor) for host_id, epoch, cursor in self._anchors()]

    def __call__(self, synced_end: int) -> tuple[list[HostCursor], int]:
        """Cursors that have moved, and dedup_from. `synced_end` must have been read before the call."""
        dedup_from = synced_end
        moved = []
        for host_id, epoch, cursor, oldest in self._collect_all(synced_end):
            if oldest is not None:
                dedup_from = min(dedup_from, oldest)
            before = look_up(self._behind, host_id)
            if before is not None and (epoch != before[0] or (cursor is not None and cursor >= before[1])):
                del self._behind[host_id]
            if cursor is not None and look_up(self._given, host_id) != (epoch, cursor):
                self._given[host_id] = (epoch, cursor)
                moved.append(HostCursor(host_id, epoch, cursor))
        if self._behind and self._clock_s() - self._started_s >= HOST_GONE_S:
            moved += [HostCursor(host_id, epoch, last) for host_id, (epoch, last) in self._behind.items()]
            self._behind.clear()
        if self._behind:
            dedup_from = min(dedup_from, self._floor)
        return moved, dedup_from
