"""Writes resolved identities to the store, in batches, behind the resolvers' backs.

A memory of MAX_WAITING changes: when the store does not take them for long, the oldest are forgotten, which costs one
more question to the directory after a restart and nothing else. Threads: `run` on one supervised thread, the rest from
any.
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from zlay import logs
from zlay.errors import StateError
from zlay.state.retry import Backoff

if TYPE_CHECKING:
    from zlay.pipeline.types import Identity
    from zlay.state.interface import Store

__all__ = ["IdentitySaver"]

MAX_WAITING = 100_000  # about 30 MB
BATCH = 1000  # one transaction
INTERVAL_S = 0.5

log = logs.get("identity")

_Change = tuple[Literal["save", "forget", "expire"], str, "Identity | None"]


class IdentitySaver:
    """See the module's head."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()  # guards _waiting, _in_flight and forgotten
        self._waiting: deque[_Change] = deque()
        self._in_flight = 0  # changes that the store has been given and has not taken yet
        self._stop = threading.Event()
        self.forgotten = 0  # changes given up because the store did not take them

    def note(self, identity: Identity) -> None:
        """Takes what a resolver has found out; a failure changes nothing."""
        if identity.outcome == "ok":
            self._put(("save", identity.did, identity))
        elif identity.outcome != "failed":
            self._put(("forget", identity.did, None))

    def expire(self, did: str) -> None:
        """The stored identity is not to be used before it has been asked for again."""
        self._put(("expire", did, None))

    def waiting(self) -> int:
        """Changes not written yet."""
        with self._lock:
            return len(self._waiting) + self._in_flight

    def stop(self) -> None:
        """Asks `run` to write what waits, once, and end."""
        self._stop.set()

    def run(self) -> None:
        """Writes until `stop`, then what is left."""
        backoff = Backoff()
        pause_s = INTERVAL_S
        failing = False
        while not self._stop.wait(pause_s):
            try:
                self._write_all()
                pause_s = INTERVAL_S
                backoff.reset()
                failing = False
            except StateError as exc:
                pause_s = backoff.next_s()
                if not failing:
                    log.warning("identities cannot be written; trying again", error=str(exc))
                failing = True
        try:
            self._write_all()
        except StateError as exc:
            log.warning("identities were not written", waiting=self.waiting(), error=str(exc))

    def _put(self, change: _Change) -> None:
        with self._lock:
            self._waiting.append(change)
            if len(self._waiting) > MAX_WAITING:
                self._waiting.popleft()
                self.forgotten += 1

    def _write_all(self) -> None:
        while batch := self._take():
            done = 0
            try:
                for kind, changes in groupby(batch, key=lambda change: change[0]):
                    group = list(changes)
                    self._write(kind, group)
                    done += len(group)
            finally:
                self._put_back(batch[done:])

    def _take(self) -> list[_Change]:
        with self._lock:
            self._in_flight = min(BATCH, len(self._waiting))
            return [self._waiting.popleft() for _ in range(self._in_flight)]

    def _put_back(self, batch: list[_Change]) -> None:
        with self._lock:
            self._in_flight = 0
            self._waiting.extendleft(reversed(batch))

    def _write(self, kind: str, changes: list[_Change]) -> None:
        """Order is kept: an expiry asked for before an answer is written before it."""
        if kind == "save":
            self._store.save_identities([identity for _, _, identity in changes if identity is not None])
        elif kind == "forget":
            self._store.forget_identities([did for _, did, _ in changes])
        else:
            self._store.expire_identities([did for _, did, _ in changes])
