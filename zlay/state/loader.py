"""The loader: answers workers that ask for accounts which are not in memory (design 6).

Requests come in batches, one query each; an answer is posted for every DID asked for, in their order. While the
database does not answer, the same batch is tried again with growing pauses and `fault` says so: frames wait, their hold
does not expire for our own database's sake (design 5). Threads: `run` on one supervised thread or several; the rest
from any.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from zlay import logs
from zlay.errors import StateError
from zlay.state.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zlay.pipeline.types import AccountRow
    from zlay.state.interface import Store

__all__ = ["Loader"]

LOADS_PER_QUERY = 500  # a few milliseconds of either database: those who ask next do not wait long
REQUEST_WAIT_S = 0.5  # how soon `stop` is seen

log = logs.get("state")


class Loader:
    """See the module's head."""

    def __init__(
        self,
        store: Store,
        *,
        next_loads: Callable[[int, float], Sequence[str]],
        post_accounts: Callable[[Sequence[str], list[AccountRow | None]], None],
        on_fault: Callable[[bool], None] | None = None,
        mirrored_us: Callable[[], int] = lambda: 0,
    ) -> None:
        """`next_loads(max_n, timeout_s)` waits for DIDs asked for; `post_accounts(dids, rows)` takes their rows,
        None = not stored. `on_fault(True)` is called when the database stops answering, `on_fault(False)` when it does
        again. `mirrored_us()` tells up to when a mirror of the directory is complete (unix microseconds; 0 = none is).
        """
        self._store = store
        self._mirrored_us = mirrored_us
        self._next_loads = next_loads
        self._post_accounts = post_accounts
        self._on_fault = on_fault
        self._stop = threading.Event()
        self.fault: str | None = None  # None = the database answers

    def stop(self) -> None:
        """Asks `run` to end; requests not answered by then stay unanswered."""
        self._stop.set()

    def run(self) -> None:
        """Answers requests until `stop`."""
        while not self._stop.is_set():
            dids = self._next_loads(LOADS_PER_QUERY, REQUEST_WAIT_S)
            if dids:
                self._answer(dids)

    def _answer(self, dids: Sequence[str]) -> None:
        backoff = Backoff()
        while True:
            try:
                mirrored_us = self._mirrored_us()  # before the rows are read: they may only be newer than that
                rows = self._store.load_accounts(dids, mirrored_us)
                break
            except StateError as exc:
                self._note_fault(str(exc))
                if self._stop.wait(backoff.next_s()):
                    return
        self._note_fault(None)
        self._post_accounts(dids, rows)

    def _note_fault(self, fault: str | None) -> None:
        changed = (fault is None) != (self.fault is None)
        self.fault = fault
        if not changed:
            return
        if fault is None:
            log.info("accounts are loaded again")
        else:
            log.warning("accounts cannot be loaded; their frames wait", error=fault)
        if self._on_fault is not None:
            self._on_fault(fault is not None)
