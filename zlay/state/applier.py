"""The applier: carries what the log says into the state, never ahead of what is synced (R3, design 7).

Order of one group: E := synced end; collect every account changed at or below E; wait until the synced end has reached
the highest seq among them (an account may have changed again since); then one transaction with applied_seq = E. A kill
between any two steps loses nothing: the log is read again from applied_seq.

Hosts' cursors go with a group every CURSOR_INTERVAL_S; the first one of a host, for which its reader waits, with the
next group.

A database that fails holds the applier, not the relay: the group is kept and tried again with growing pauses, `fault`
says why, and the accounts stay pinned in memory. Threads: `run` on one supervised thread; `finish` after it has ended;
everything else from any thread.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zlay import logs
from zlay._fast import crash
from zlay.errors import StateError
from zlay.state.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from zlay.pipeline.types import AccountDelta, HostCursor
    from zlay.state.interface import Store

__all__ = ["Applier"]

# Bounds how long changed accounts stay pinned, how much is read again after a kill, and how long a new host waits.
GROUP_INTERVAL_S = 0.25
CURSOR_INTERVAL_S = 4.0  # A20
SYNC_POLL_S = 0.002  # a group commit of the log takes about as long
SYNC_WAIT_S = 1.0  # a log that has not synced for this long is in trouble of its own, which it reports

log = logs.get("state")


@dataclass(frozen=True, slots=True)
class _Group:
    """One transaction to be."""

    end: int
    deltas: list[AccountDelta]
    cursors: list[HostCursor]
    dedup_from: int | None


class Applier:
    """See the module's head."""

    def __init__(
        self,
        store: Store,
        *,
        collect_dirty: Callable[[int], list[AccountDelta]],
        set_applied: Callable[[int], None],
        synced_end: Callable[[], int],
        collect_cursors: Callable[[int], tuple[list[HostCursor], int]],
        collect_anchors: Callable[[], list[HostCursor]],
        cursors_saved: Callable[[list[HostCursor]], None],
        interval_s: float = GROUP_INTERVAL_S,
    ) -> None:
        """`collect_dirty(end)` gives the newest state of every account changed since its last call.

        It may leave out those changed after `end` alone.
        `set_applied(seq)` hears that accounts changed at or below `seq` need not stay in memory any longer.
        `collect_cursors(synced_end)` gives the hosts' cursors and dedup_from, `collect_anchors()` the first cursors of
        hosts that wait for them to be saved. `cursors_saved(cursors)` hears what is in the database. All are called
        from one thread only.
        """
        self._store = store
        self._collect_dirty = collect_dirty
        self._set_applied = set_applied
        self._synced_end = synced_end
        self._collect_cursors = collect_cursors
        self._collect_anchors = collect_anchors
        self._cursors_saved = cursors_saved
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._held: _Group | None = None  # collected and not yet committed; run's thread, then finish's
        self._cursors_due = 0.0  # monotonic seconds
        self._backoff = Backoff()
        checkpoint = store.checkpoint()
        self._applied_seq = checkpoint.applied_seq
        self._dedup_from: int | None = checkpoint.dedup_from
        self.fault: str | None = None  # why the database does not take groups; None = it does
        self.groups = 0  # committed; written by run's thread
        self.rows = 0  # account changes in them

    @property
    def applied_seq(self) -> int:
        """Every event up to here is in the state."""
        return self._applied_seq

    @property
    def dedup_from(self) -> int:
        """What retention must keep for a restart: the log above this seq."""
        return self._dedup_from or 0

    def hurry(self) -> None:
        """Asks for a group now, as when many changed accounts crowd the account table."""
        self._wake.set()

    def stop(self) -> None:
        """Asks `run` to end; it does within one transaction."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Commits group after group until `stop`."""
        while not self._stop.is_set():
            self._wake.wait(self._interval_s if self.fault is None else self._backoff.next_s())
            self._wake.clear()
            if not self._stop.is_set():
                self._step(with_cursors=time.monotonic() >= self._cursors_due)

    def finish(self, timeout_s: float) -> bool:
        """The last group, cursors included, once workers have ended and the log is synced; False = the database failed.

        What is not applied by then is read from the log at the next start.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            held_before = self._held is not None
            if self._step(with_cursors=True) and not held_before:
                return True
            if time.monotonic() >= deadline:
                return False
            if self.fault is not None:
                time.sleep(min(0.1, max(0.0, deadline - time.monotonic())))

    def _step(self, *, with_cursors: bool) -> bool:
        """Commits the held group, or a new one. True when nothing is left held."""
        if self._held is None:
            self._held = self._collect(with_cursors=with_cursors)
        return self._held is None or self._commit(self._held)

    def _collect(self, *, with_cursors: bool) -> _Group | None:
        """The next group; None when there is nothing to write."""
        end = self._synced_end()  # before all else: cursors and accounts may be newer, never older
        cursors = self._collect_anchors()
        dedup_from = None
        if with_cursors:
            moved, dedup_from = self._collect_cursors(end)
            cursors += moved
            self._cursors_due = time.monotonic() + CURSOR_INTERVAL_S
        deltas = self._collect_dirty(end)  # last: what is collected must not be lost to a failure
        if not deltas and not cursors and end == self._applied_seq and dedup_from in (None, self._dedup_from):
            return None
        return _Group(end, deltas, cursors, dedup_from)

    def _commit(self, group: _Group) -> bool:
        highest = max((delta.last_seq for delta in group.deltas), default=0)
        crash.point("apply.collected")
        if not self._wait_synced(highest):
            return False
        if group.dedup_from is not None:
            crash.point("cursors.before")
        try:
            self._store.apply(group.deltas, group.cursors, group.end, group.dedup_from)
        except StateError as exc:
            if self.fault is None:
                log.warning("state cannot be written; events go on, retrying", error=str(exc))
            self.fault = str(exc)
            return False
        if self.fault is not None:
            log.info("state is written again", applied_seq=group.end)
        self.fault = None
        self._backoff.reset()
        self._held = None
        self._applied_seq = group.end
        if group.dedup_from is not None:
            self._dedup_from = group.dedup_from
        self.groups += 1
        self.rows += len(group.deltas)
        crash.point("apply.after")
        self._set_applied(group.end)
        self._cursors_saved(group.cursors)
        if group.dedup_from is not None:
            crash.point("cursors.after")
        return True

    def _wait_synced(self, seq: int) -> bool:
        """Waits for the log; False when it does not get there, and the group stays held."""
        deadline = time.monotonic() + SYNC_WAIT_S
        while self._synced_end() < seq:
            if time.monotonic() >= deadline:
                return False
            time.sleep(SYNC_POLL_S)
        return True
