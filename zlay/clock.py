"""Whether this machine's clock is right: nothing is judged by one that has been set back (design 5).

A clock that is behind calls valid revisions "from the future". It is noticed in three ways: by the monotonic clock,
when the wall clock is set back while zlay runs; by the newest event of the log, when it has been set back before the
start; by the `Date` of a directory's answers, the first of them asked for at the start, when it has been wrong all
along. Then ingest pauses, `fault` says so, and the directories are asked for their time every few seconds: a clock that
was ahead and has been put right is believed once one of them agrees with it. Workers never take a time behind the one
expected, so that nothing is judged by a wrong one before the pause either. A clock that is ahead refuses nothing, and
is none of this module's business.

Threads: `run` on one supervised thread, the rest from any.
"""

from __future__ import annotations

import threading
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from zlay import logs
from zlay.errors import HttpFault
from zlay.net.http_client import HttpClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ClockWatch"]

MOST_BEHIND_S = 60.0  # a rev may be 300 s ahead (A8): the rest is left to the hosts' own clocks
TICK_S = 1.0
ASK_EVERY_S = 5.0  # the directories, while the clock is wrong
ASK_TIMEOUT_S = 2.0
MAX_HEALTH_BYTES = 64 * 1024

log = logs.get("clock")


def _clocks() -> tuple[float, float]:
    """(wall, monotonic), in seconds."""
    return time.time(), time.monotonic()


class ClockWatch:
    """See the module's head."""

    def __init__(
        self,
        *,
        newest_us: int,
        directories: Sequence[str],
        on_fault: Callable[[bool], None],
        set_offset: Callable[[int], None],
    ) -> None:
        """`newest_us`: when the log's newest event was received (unix microseconds, 0 = there is none).

        `on_fault(True)` is called when the clock is found wrong, `on_fault(False)` when it is right again. `set_offset`
        takes what the wall clock should be ahead of the monotonic one, in microseconds.
        """
        self._directories = directories
        self._on_fault = on_fault
        self._set_offset = set_offset
        self._stop = threading.Event()
        self._asked = threading.Event()  # the directories, for the first time
        self._lock = threading.Lock()  # guards all below, and that who is told is told in order
        self._next_date_s = 0.0  # monotonic
        wall_s, monotonic_s = _clocks()
        self._offset_s = wall_s - monotonic_s  # as it should be
        if newest_us / 1e6 > wall_s + MOST_BEHIND_S:
            self._offset_s = newest_us / 1e6 - monotonic_s
        self.behind_s = 0.0  # while it is wrong
        self.fault: str | None = None  # None = the clock is right, as far as can be told

    def stop(self) -> None:
        """Asks `run` to end; it does within the time of one request."""
        self._stop.set()

    def wait_asked(self, timeout_s: float) -> None:
        """Waits until `run` has asked the directories for the first time, or the time is over."""
        self._asked.wait(timeout_s)

    def run(self) -> None:
        """Watches until `stop`."""
        client = HttpClient(allow_address=lambda _: True)
        ask_s = 0.0
        try:
            while True:
                self.check()
                if not self._asked.is_set() or (self.fault is not None and time.monotonic() >= ask_s):
                    self._ask(client)
                    ask_s = time.monotonic() + ASK_EVERY_S
                    self._asked.set()
                if self._stop.wait(TICK_S):
                    return
        finally:
            client.close()

    def check(self) -> None:
        """Compares the clocks, and tells who has to know."""
        with self._lock:
            wall_s, monotonic_s = _clocks()
            self._judge(wall_s, monotonic_s)

    def note_date(self, text: str) -> None:
        """Takes the `Date` of an answer that a directory has just given; looks at one a second."""
        with self._lock:
            now_s = time.monotonic()
            if now_s < self._next_date_s:
                return
            self._next_date_s = now_s + TICK_S
        self._take_date(text)

    def _take_date(self, text: str) -> bool:
        """Whether it is a date."""
        try:
            said_s = parsedate_to_datetime(text).timestamp()
        except (ValueError, TypeError, OverflowError):
            return False
        with self._lock:
            wall_s, monotonic_s = _clocks()
            if said_s >= wall_s - MOST_BEHIND_S:  # else ours is ahead, or the answer old
                agrees = said_s <= wall_s + MOST_BEHIND_S
                self._offset_s = (wall_s if agrees else said_s) - monotonic_s
            self._judge(wall_s, monotonic_s)
        return True

    def _judge(self, wall_s: float, monotonic_s: float) -> None:
        """Requires the lock."""
        behind_s = monotonic_s + self._offset_s - wall_s
        if abs(behind_s) <= MOST_BEHIND_S:
            self._offset_s = wall_s - monotonic_s  # small steps are corrections
        self._set_offset(int(self._offset_s * 1e6))
        before = self.fault
        self.behind_s = behind_s if behind_s > MOST_BEHIND_S else 0.0
        if self.behind_s:
            self.fault = f"this machine's clock is {behind_s:.0f} s behind: nothing is judged until it is right"
        else:
            self.fault = None
        if (before is None) == (self.fault is None):
            return
        if self.fault is None:
            log.info("this machine's clock is right again")
        else:
            log.error(self.fault)
        self._on_fault(self.fault is not None)

    def _ask(self, client: HttpClient) -> None:
        for url in self._directories:
            try:
                answer = client.get(f"{url}/_health", timeout_s=ASK_TIMEOUT_S, max_body_bytes=MAX_HEALTH_BYTES)
            except HttpFault:
                continue
            if self._take_date(answer.headers.get("date", "")):
                return
