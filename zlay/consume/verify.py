"""Checks events as the relay itself does: strict encoding, signature by the key of the DID document, tree.

Promises: per account in order; a key that fails is asked for once more before an event is called bad; nothing is
called good that was not checked: an account whose document cannot be had is counted apart. Events wait within
QUEUE_BYTES; beyond it `put` takes none, so that TCP holds the relay back.

Threads: `put`, `drain` and the figures belong to one thread; CHECKERS threads check, each the accounts of its share,
with directory connections and a cache of its own. `_room` guards the bytes waiting and all counts.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zlay._fast import commit, crypto, message, mst
from zlay.identity.directory import Asker, Directories

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zlay.pipeline.types import Identity

__all__ = ["Bad", "Verifier"]

CHECKERS = 16  # a look-up takes some 100 ms, a check a tenth of one
QUEUE_BYTES = 64 << 20
IDENTITIES = 20_000  # of each checker, some 300 bytes each
FAILED_FOR_S = 30.0  # a DID whose document could not be had is not asked for again sooner
ASK_ANEW = ("sig_invalid", "no_key", "did_not_found")  # what a newer document may mend
FIRST = True  # a consumer holds no state: a commit without since is taken for a first one


@dataclass(frozen=True, slots=True)
class Bad:
    """An event that should not have been sent, and why: a reason's label."""

    seq: int
    kind: str
    did: str
    reason: str


class Verifier:
    """See the module's head. `on_bad` is called in a checker's thread."""

    def __init__(self, plc_urls: Sequence[str], *, allow_private: bool, on_bad: Callable[[Bad], None]) -> None:
        self._directories = Directories(plc_urls)
        self._allow_private = allow_private
        self._on_bad = on_bad
        self._stop = threading.Event()
        self._room = threading.Condition()
        self._waiting_bytes = 0
        self._waiting = 0
        self.good = 0
        self.bad: Counter[str] = Counter()  # by reason
        self.unresolved = 0  # events of accounts whose document could not be had
        self._queues: list[queue.SimpleQueue[bytes | None]] = [queue.SimpleQueue() for _ in range(CHECKERS)]
        self._threads = [
            threading.Thread(target=self._check_all, args=(work,), name=f"check-{n}", daemon=True)
            for n, work in enumerate(self._queues)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Events not checked yet."""
        return self._waiting

    @property
    def bad_total(self) -> int:
        """Events that should not have been sent."""
        with self._room:
            return self.bad.total()

    def put(self, data: bytes, did: str, timeout_s: float) -> bool:
        """An event of an account, to be checked; False when for so long too many waited, and it was not taken."""
        with self._room:
            if not self._room.wait_for(lambda: self._waiting_bytes < QUEUE_BYTES, timeout_s):
                return False
            self._waiting_bytes += len(data)
            self._waiting += 1
        self._queues[hash(did) % CHECKERS].put(data)
        return True

    def drain(self, timeout_s: float) -> bool:
        """Waits until everything is checked; False = not within timeout_s."""
        with self._room:
            return self._room.wait_for(lambda: self._waiting == 0, timeout_s)

    def close(self) -> None:
        """Ends the checkers; what waits is not checked."""
        self._stop.set()
        self._directories.close()
        for work in self._queues:
            work.put(None)

    # --- checkers ---

    def _check_all(self, work: queue.SimpleQueue[bytes | None]) -> None:
        asker = Asker(self._directories, allow_private=self._allow_private)
        known: OrderedDict[str, tuple[Identity, float]] = OrderedDict()
        while (data := work.get()) is not None:
            if self._stop.is_set():
                continue
            outcome = self._judge(data, asker, known)
            if isinstance(outcome, Bad):
                self._on_bad(outcome)
            with self._room:
                self._waiting -= 1
                self._waiting_bytes -= len(data)
                if isinstance(outcome, Bad):
                    self.bad[outcome.reason] += 1
                elif outcome:
                    self.good += 1
                else:
                    self.unresolved += 1
                self._room.notify_all()
        asker.close()

    def _judge(self, data: bytes, asker: Asker, known: OrderedDict[str, tuple[Identity, float]]) -> Bad | bool:
        """True = good; False = no document to check it by."""
        said = message.decode(data)
        if isinstance(said, str):
            seen = message.peek(data)
            seq, kind, did = (0, "?", "") if isinstance(seen, str) else (seen["seq"], seen["kind"], seen["did"])
            return Bad(seq, kind, did, said)
        kind, did = said["kind"], said["did"]
        if kind not in ("commit", "sync"):
            return True
        identity = _identity(did, asker, known, anew=False)
        reason = _signed(data, identity)
        if reason in ASK_ANEW:
            identity = _identity(did, asker, known, anew=True)
            reason = _signed(data, identity)
        if identity.outcome == "failed":
            return False
        if reason == "ok" and kind == "commit":
            reason = mst.check(data, FIRST)
        return True if reason == "ok" else Bad(said["seq"], kind, did, reason)


def _signed(data: bytes, identity: Identity) -> str:
    """Label of why an event is not by the account as this document has it; "ok"."""
    if identity.outcome != "ok":
        return "did_tombstoned" if identity.outcome == "tombstoned" else "did_not_found"
    if not crypto.is_key(identity.key_type, identity.key):
        return "no_key"
    return commit.check(data, identity.key_type, identity.key)


def _identity(did: str, asker: Asker, known: OrderedDict[str, tuple[Identity, float]], *, anew: bool) -> Identity:
    """What the directory says, from memory unless `anew`."""
    now = time.monotonic()
    found = known.get(did)
    if found is not None and (found[0].outcome != "failed" or now - found[1] < FAILED_FOR_S) and not anew:
        known.move_to_end(did)
        return found[0]
    identity = asker.resolve(did)
    known[did] = (identity, now)
    known.move_to_end(did)
    if len(known) > IDENTITIES:
        known.popitem(last=False)
    return identity
