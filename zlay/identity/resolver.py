"""Resolver threads: answer workers that wait for a key, and keep old answers fresh (design 5, protocol G5).

Beside what workers ask for there are rechecks: directories' replicas lag, so after an #identity the document is asked
for again, 1 s and 5 s later, unless it has changed by then. did:web has requests and threads of its own: slow hosts of
strangers never keep did:plc waiting.

Every question gets exactly one answer by `post_identity`, a failure too, also one of our own: frames wait for it. One
DID is never asked for by two threads at once: a request that meets another for its DID waits for that one's end and is
then asked anew if forced, else answered with it. Threads: `threads()` lists what is to be run, each supervised; the
rest from any thread.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from zlay import logs
from zlay.errors import StateError
from zlay.identity.directory import Asker, Directories
from zlay.identity.saver import IdentitySaver
from zlay.pipeline.types import Identity, ResolveRequest
from zlay.shared import look_up

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from zlay.state.interface import Store

__all__ = ["Resolver"]

WEB_THREADS = 4  # did:web is a thousandth of the network
MAX_RECHECKS = 20_000  # the oldest are given up: replicas rarely lag, and the key is asked for again when it fails
REQUEST_WAIT_S = 0.25  # how soon `stop` and due rechecks are seen
RECHECK_AFTER_S = (1.0, 5.0)  # design 5

log = logs.get("identity")

_Content = tuple[str | None, int, bytes]
"""What of a document matters to us: PDS, key type, key."""


@dataclass(frozen=True, slots=True, order=True)
class _Recheck:
    """A DID to be asked for again, unless its content is no longer `before`."""

    due_s: float  # monotonic
    step: int  # index into RECHECK_AFTER_S
    did: str
    before: _Content | None = field(compare=False)  # None = not known


@dataclass(frozen=True, slots=True)
class _Lane:
    """did:plc, or did:web: where its requests come from, and what is to be asked for again."""

    next_request: Callable[[float], ResolveRequest | None]
    rechecks: list[_Recheck] = field(default_factory=list)  # heap; guarded by Resolver._lock


class Resolver:
    """See the module's head."""

    def __init__(
        self,
        store: Store,
        *,
        plc_urls: Sequence[str],
        threads: int,
        next_resolve: Callable[[float], ResolveRequest | None],
        next_resolve_web: Callable[[float], ResolveRequest | None],
        post_identity: Callable[[Identity], None],
        on_fault: Callable[[bool], None] | None = None,
        allow_private: bool,
        keep_alive: bool = True,
        recycle_after: int = 0,
        context: ssl.SSLContext | None = None,
        note_date: Callable[[str], None] | None = None,
    ) -> None:
        """`next_resolve(timeout_s)` waits for a worker's request for a did:plc, `next_resolve_web` for a did:web.

        0 `threads` = nothing is ever resolved (diagnosis): each answer is a failure.

        `on_fault(True)` is called when no directory answers any more, `on_fault(False)` when one does again.
        `plc_urls` are tried in turn. `recycle_after` requests a thread makes its connections anew (0 = never).
        `note_date` hears the `Date` of directories' answers.
        """
        self._store = store
        self._directories = Directories(plc_urls)
        self._threads = threads
        self._plc = _Lane(next_resolve)
        self._web = _Lane(next_resolve_web)
        self._on_fault = on_fault
        self._post_identity = post_identity
        self._allow_private = allow_private
        self._keep_alive = keep_alive
        self._recycle_after = recycle_after
        self._context = context
        self._note_date = note_date
        self._saver = IdentitySaver(store)
        self._stop = threading.Event()
        self._lock = threading.Lock()  # guards everything below
        self._in_flight: dict[str, list[bool]] = {}  # DID asked for now -> `force` of each request that came meanwhile
        self._outcomes: Counter[str] = Counter()
        self._latencies: deque[float] = deque(maxlen=1000)
        self.fault: str | None = None  # why no directory answers; None = one does

    def threads(self) -> list[tuple[str, Callable[[], None]]]:
        """(name, target) of every thread this part needs."""
        if not self._threads:
            lanes = (("resolver-off", self._plc), ("resolver-web-off", self._web))
            return [(name, partial(self._run_off, lane)) for name, lane in lanes]
        plc = [(f"resolver-{n}", partial(self._run, self._plc)) for n in range(self._threads)]
        web = [(f"resolver-web-{n}", partial(self._run, self._web)) for n in range(WEB_THREADS)]
        return [*plc, *web, ("identity-saver", self._saver.run)]

    def stop(self) -> None:
        """Asks all threads to end; they do soon, also where a directory is silent."""
        self._stop.set()
        self._directories.close()
        self._saver.stop()

    def recheck(self, did: str) -> None:
        """Asks again in 1 s and in 5 s, until the document has changed: an #identity has come."""
        before = self._stored(did)
        self._saver.expire(did)
        lane = self._web if did.startswith("did:web:") else self._plc
        self._schedule(lane, _Recheck(time.monotonic() + RECHECK_AFTER_S[0], 0, did, before))

    def statistics(self) -> dict[str, float]:
        """Counts by outcome (`ok`, `failed`, ...), `seconds_median` of the last 1,000, and what waits."""
        with self._lock:
            ordered = sorted(self._latencies)
            return {
                **self._outcomes,
                "seconds_median": ordered[len(ordered) // 2] if ordered else 0.0,
                "in_flight": len(self._in_flight),
                "rechecks_waiting": len(self._plc.rechecks) + len(self._web.rechecks),
                "saves_waiting": self._saver.waiting(),
                "saves_forgotten": self._saver.forgotten,
            }

    # --- threads ---

    def _run(self, lane: _Lane) -> None:
        asker = Asker(
            self._directories,
            allow_private=self._allow_private,
            keep_alive=self._keep_alive,
            recycle_after=self._recycle_after,
            context=self._context,
            note_date=self._note_date,
        )
        try:
            while not self._stop.is_set():
                request = lane.next_request(REQUEST_WAIT_S)
                if request is not None:
                    self._answer(request, asker)
                self._recheck_due(lane, asker)
        finally:
            asker.close()

    def _run_off(self, lane: _Lane) -> None:
        while not self._stop.is_set():
            request = lane.next_request(REQUEST_WAIT_S)
            if request is not None:
                self._post_identity(_no_answer(request.did, "resolution is switched off"))

    def _answer(self, request: ResolveRequest, asker: Asker) -> Identity | None:
        """Asks and answers, once more for each time a forced request for the same DID has come meanwhile.

        The last answer; None when another thread is at it, which then answers this request, too.
        """
        with self._lock:
            others = look_up(self._in_flight, request.did)
            if others is not None:
                others.append(request.force)
                return None
            self._in_flight[request.did] = []
        try:
            while True:
                identity = self._ask(request.did, asker)
                self._saver.note(identity)
                with self._lock:
                    later = self._in_flight[request.did]
                    again = any(later) and not self._stop.is_set()
                    later.clear()
                    if not again:
                        del self._in_flight[request.did]
                self._post_identity(identity)
                if not again:
                    return identity
        except BaseException as exc:  # ours, as no failure of others is: frames must not wait for it for ever
            with self._lock:
                self._in_flight.pop(request.did, None)
            self._post_identity(_no_answer(request.did, f"{type(exc).__name__}: {exc}"))
            raise

    def _ask(self, did: str, asker: Asker) -> Identity:
        started_s = time.monotonic()
        identity = asker.resolve(did)
        took_s = time.monotonic() - started_s
        with self._lock:
            self._outcomes[identity.outcome] += 1
            self._latencies.append(took_s)
            before = self.fault
            if identity.systemic:
                self.fault = identity.detail
            elif identity.outcome != "failed" and not did.startswith("did:web:"):
                self.fault = None
            after = self.fault
        if (before is None) != (after is None):
            self._say_fault(after)
        return identity

    def _say_fault(self, fault: str | None) -> None:
        if fault is None:
            log.info("the directory answers again")
        else:
            log.warning("no directory answers; frames of unknown accounts wait", error=fault)
        if self._on_fault is not None:
            self._on_fault(fault is not None)

    # --- in the background ---

    def _schedule(self, lane: _Lane, recheck: _Recheck) -> None:
        with self._lock:
            heapq.heappush(lane.rechecks, recheck)
            if len(lane.rechecks) > MAX_RECHECKS:
                heapq.heappop(lane.rechecks)

    def _recheck_due(self, lane: _Lane, asker: Asker) -> None:
        """Asks for one document again, if one is due."""
        with self._lock:
            if not lane.rechecks or lane.rechecks[0].due_s > time.monotonic():
                return
            recheck = heapq.heappop(lane.rechecks)
        did = recheck.did
        if recheck.before is not None and self._stored(did) not in (None, recheck.before):
            return  # the question that came with the #identity has found the change
        identity = self._answer(ResolveRequest(did, force=True), asker)
        changed = identity is not None and identity.outcome != "failed" and _content(identity) != recheck.before
        if lane is self._web:  # no replicas stand behind it: one more question is enough
            return
        if recheck.step + 1 < len(RECHECK_AFTER_S) and not changed:
            due_s = time.monotonic() + RECHECK_AFTER_S[recheck.step + 1] - RECHECK_AFTER_S[recheck.step]
            self._schedule(lane, _Recheck(due_s, recheck.step + 1, did, recheck.before))

    def _stored(self, did: str) -> _Content | None:
        """What the store says of the DID; None when it has nothing fresh, or does not answer."""
        try:
            row = self._store.account(did)
        except StateError:
            return None
        return None if row is None or row.identity is None else _content(row.identity)


def _content(identity: Identity) -> _Content:
    return identity.pds, identity.key_type, identity.key


def _no_answer(did: str, why: str) -> Identity:
    return Identity(did, "failed", None, 0, b"", time.time_ns() // 1000, why)
