"""The mirror of a PLC directory: follows its /export into the stored identities (protocol G6), when PLC_MIRROR asks.

A new relay so learns keys a thousand at a time, in place of one question for each DID. Until the mirror is complete
for the first time nothing of it is used: an operation that a later one replaces would bring a revoked key back. From
then on accounts that are loaded have identities as of the last moment at which the mirror was complete. It goes on
where it was, after a restart too; its place is stored with what it has learned, in one transaction.

It follows one directory, since another may number its operations otherwise. It asks at most once in PAGE_INTERVAL_S,
and leaves the directory alone while that fails or wants so. Threads: `run` on one supervised thread, the rest from any.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from zlay import logs
from zlay.errors import HttpFault, StateError
from zlay.identity.directory import retry_after_s
from zlay.identity.operations import ExportError, read_page
from zlay.net.http_client import HttpClient
from zlay.state.interface import MirrorPlace

if TYPE_CHECKING:
    from zlay.state.interface import Store

__all__ = ["Mirror"]

PAGE = 1000  # operations; the most that a directory gives (G6)
MAX_PAGE_BYTES = 16 << 20  # an operation has at most 7,500 bytes (G7), beside which stand names and numbers
REQUEST_TIMEOUT_S = 30.0
PAGE_INTERVAL_S = 0.6  # 500 requests in five minutes; 40 million operations take seven hours
COMPLETE_INTERVAL_S = 5.0  # between questions for what is new
NUMBERED_AFTER_US = 60_000_000  # a directory gives numbers behind its writers' backs: an export lacks the very newest
FIRST_PAUSE_S = 1.0  # after a failure; doubles to
LONGEST_PAUSE_S = 60.0

log = logs.get("identity")


class Mirror:
    """See the module's head."""

    def __init__(self, store: Store, url: str) -> None:
        """`url` of the directory; its addresses are the operator's choice and not judged."""
        self._store = store
        self._url = url.rstrip("/")
        self._stop = threading.Event()
        self._place: MirrorPlace | None = None  # None = not read yet; replaced as a whole
        self._pause_s = FIRST_PAUSE_S
        self.operations = 0  # stored since the start
        self.fault: str | None = None  # why it does not get on just now

    def stop(self) -> None:
        """Asks `run` to end; it does soon, also where the directory is silent."""
        self._stop.set()

    def place(self) -> MirrorPlace:
        """How far it has come."""
        return self._place or MirrorPlace(0, 0)

    def complete_us(self) -> int:
        """When everything that the directory had was stored the last time (unix microseconds); 0 = never yet."""
        return self.place().complete_us

    def run(self) -> None:
        """Follows until `stop`."""
        client = HttpClient(allow_address=lambda _: True, stop=self._stop)
        try:
            pause_s = 0.0
            while not self._stop.wait(pause_s):
                pause_s = self._step(client)
        finally:
            client.close()

    def _step(self, client: HttpClient) -> float:
        """Stores one page; how long to wait before the next."""
        try:
            place = self._place or self._store.mirror_place(self._url)
            asked_us = time.time_ns() // 1000
            response = client.get(
                f"{self._url}/export?count={PAGE}&after={place.seq}",
                timeout_s=REQUEST_TIMEOUT_S,
                max_body_bytes=MAX_PAGE_BYTES,
                accept="application/jsonlines",
            )
            if response.status != 200:
                return self._fail(f"status {response.status}", retry_after_s(response) or 0.0)
            page = read_page(response.body, place.seq, asked_us)
            complete = page.operations < PAGE
            after = MirrorPlace(page.last_seq, asked_us - NUMBERED_AFTER_US if complete else place.complete_us)
            self._store.save_mirrored(self._url, page.newest, after)
        except (HttpFault, ExportError, StateError) as exc:
            if self._stop.is_set():
                return 0.0
            return self._fail(str(exc), 0.0)
        self.operations += page.operations
        self._pause_s = FIRST_PAUSE_S
        if self.fault is not None:
            log.info("the directory's export is followed again", seq=after.seq)
            self.fault = None
        if complete and not place.complete_us:
            log.info("the mirror of the directory is complete", url=self._url, seq=after.seq)
        self._place = after  # last: who sees that it is complete finds the rest true
        return COMPLETE_INTERVAL_S if complete else PAGE_INTERVAL_S

    def _fail(self, why: str, least_s: float) -> float:
        if self.fault is None:
            log.warning("the directory's export cannot be followed; trying again", url=self._url, error=why)
        self.fault = why
        pause_s = max(self._pause_s, least_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return pause_s
