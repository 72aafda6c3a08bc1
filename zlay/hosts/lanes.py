"""Work that asks hosts questions, one at a time and not too often for each (protocol E19).

Any number of threads take work; a host that is slow holds up one of them and its own lane only. Bound: MAX_WAITING
items in all and MAX_PER_HOST for one host; beyond it `put` says no. Any thread.
"""

from __future__ import annotations

import heapq
import threading
import time

from zlay.shared import look_up

__all__ = ["HostLanes"]

MAX_WAITING = 100_000
MAX_PER_HOST = 10_000
MAX_PAUSES = 10_000  # remembered before those that are over are forgotten


class HostLanes[T]:
    """Items in lanes by host id, each lane with one open question and a pause between two."""

    def __init__(self, pause_s: float) -> None:
        """`pause_s`: from the end of a host's question to its next one."""
        self._pause_s = pause_s
        self._changed = threading.Condition()  # its lock guards everything below
        self._lanes: dict[int, list[tuple[float, int, T]]] = {}  # heaps of (not before, number, item)
        self._due: list[tuple[float, int]] = []  # heap of (due, host id): one or more for each lane not open
        self._ready: dict[int, float] = {}  # end of the pause after a host's last question
        self._open: set[int] = set()
        self._number = 0
        self._waiting = 0
        self._closed = False

    def put(self, host_id: int, item: T, delay_s: float = 0.0) -> bool:
        """Adds work to be done after `delay_s` at the soonest; False when there is no room for it."""
        with self._changed:
            lane = look_up(self._lanes, host_id) or []
            if self._closed or self._waiting >= MAX_WAITING or len(lane) >= MAX_PER_HOST:
                return False
            self._lanes[host_id] = lane
            self._number += 1
            heapq.heappush(lane, (time.monotonic() + delay_s, self._number, item))
            self._waiting += 1
            self._schedule(host_id)
            return True

    def take(self, timeout_s: float) -> tuple[int, T] | None:
        """The next (host id, item) that may be worked on; None after `timeout_s`. `done` must follow."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                while self._due and self._due[0][0] <= now:
                    _, host_id = heapq.heappop(self._due)
                    if self._may_start(host_id, now):
                        return host_id, self._start(host_id)
                if now >= deadline:
                    return None
                until = min(deadline, self._due[0][0]) if self._due else deadline
                self._changed.wait(until - now)
            return None

    def done(self, host_id: int) -> None:
        """The question to the host is over."""
        with self._changed:
            self._open.discard(host_id)
            now = time.monotonic()
            if len(self._ready) >= MAX_PAUSES:
                self._ready = {host: ready for host, ready in self._ready.items() if ready > now}
            self._ready[host_id] = now + self._pause_s
            if host_id in self._lanes:
                self._schedule(host_id)

    def waiting(self) -> int:
        """Items not taken yet."""
        with self._changed:
            return self._waiting

    def close(self) -> None:
        """Wakes every taker for good; what waits is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _due_s(self, host_id: int) -> float:
        """When the lane's next question may be asked. Requires the lock."""
        return max(self._lanes[host_id][0][0], look_up(self._ready, host_id) or 0.0)

    def _schedule(self, host_id: int) -> None:
        """Requires the lock."""
        if host_id not in self._open:
            heapq.heappush(self._due, (self._due_s(host_id), host_id))
            self._changed.notify()

    def _may_start(self, host_id: int, now: float) -> bool:
        """Whether an entry of _due holds: another one may have been taken first. Requires the lock."""
        return host_id not in self._open and host_id in self._lanes and self._due_s(host_id) <= now

    def _start(self, host_id: int) -> T:
        """Takes the item of the lane that is due first. Requires the lock."""
        lane = self._lanes[host_id]
        _, _, item = heapq.heappop(lane)
        self._open.add(host_id)
        self._waiting -= 1
        if not lane:
            del self._lanes[host_id]
        return item
