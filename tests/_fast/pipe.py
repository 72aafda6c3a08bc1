"""The real pipeline in the test's own process: frames in by `Feed.send`, the log out, questions answered by the test.

`Pipe.until` is the only wait: it pumps answers until a condition holds. One test thread.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections import Counter
from typing import TYPE_CHECKING, Self

from zlay._fast import host, pipeline, pool, reader, requests, verdicts
from zlay.eventlog.log import KEEP_NOTHING, EventLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zlay.eventlog.log import LogEntry
    from zlay.pipeline.types import AccountDelta, AccountRow, Identity

WAIT_S = 15.0
MIB = 1 << 20
_ids = itertools.count(700_000)


class Feed:
    """One host with an open connection."""

    def __init__(self, name: str, credit: int = 8 * MIB) -> None:
        self.name = name
        self.id = next(_ids)
        self.index = host.new(self.id, name, credit)
        host.set_epoch(self.index, 1, 0)  # a saved cursor: its first frame waits for nothing
        self.seq = 0
        self._ends = socket.socketpair()
        self._attached = reader.Attached(self.index, self._ends[0].fileno())

    def next_seq(self) -> int:
        """The host's next number."""
        self.seq += 1
        return self.seq

    def send(self, *frames: bytes) -> None:
        """Complete messages, in order."""
        for frame in frames:
            assert self._attached.submit(frame) is None

    def dropped(self) -> dict[str, int]:
        """What this host's frames were dropped for."""
        by_reason = host.stats(self.index)["by_reason"]
        return {verdicts.REASONS[code].label: n for code, n in by_reason.items()}

    def close(self) -> None:
        """The connection ends."""
        self._attached.finish("stopped", 0, "")
        for end in self._ends:
            end.close()


class Pipe:
    """Log, pool and workers. `rows` and `identities` are what loader and directory answer; `mute` = who says nothing.

    `asked` counts questions by kind and DID. Answers to resolutions: an Identity, or a function that makes one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        hold_s: float = 30.0,
        retry_s: float = pipeline.RETRY_S,
        unanswered_s: float = pipeline.UNANSWERED_S,
        entries: int = 1000,
        keys: int = 1000,
        workers: int = 1,
    ) -> None:
        pool.init(64 * MIB)
        self.log = EventLog.open(folder)
        self.log.set_keep_from(KEEP_NOTHING)
        self.rows: dict[str, AccountRow] = {}
        self.identities: dict[str, Identity | Callable[[], Identity]] = {}
        self.statuses: dict[str, int] = {}
        self.mute: set[str] = set()
        self.asked: Counter[tuple[str, str]] = Counter()
        self.feeds: dict[str, Feed] = {}
        self._before = verdicts.counts()
        pipeline.start(workers, entries, keys, hold_s, self.log.appended_end, retry_s, unanswered_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for feed in self.feeds.values():
            feed.close()
        reader.take_ends()
        pipeline.stop()
        self.log.close()
        pipeline.close()
        pipeline.set_outages(False, False, False)
        credit = {name: host.stats(feed.index)["credit_used_bytes"] for name, feed in self.feeds.items()}
        shares = {name: host.stats(feed.index)["queued_bytes"] for name, feed in self.feeds.items()}
        used = pool.stats()["used_bytes"]
        pool.close()
        assert not any(credit.values()), f"credit not given back: {credit}"
        assert not any(shares.values()), f"share of the queues not given back: {shares}"
        assert used == 0, "frames not given back"

    def feed(self, name: str, credit: int = 8 * MIB) -> Feed:
        """A host with a connection."""
        self.feeds[name] = Feed(name, credit)
        return self.feeds[name]

    def host_id(self, name: str | None) -> int:
        """As the registry's: 0 = not registered."""
        return self.feeds[name].id if name in self.feeds else 0

    # --- answers ---

    def pump(self) -> None:
        """Answers what is asked."""
        if "load" not in self.mute:
            for did in self._take("load", requests.LOAD):
                row = self.rows.get(did)
                identity = row.identity if row is not None else None
                pipeline.post_account(did, row, self.host_id(identity.pds) if identity else 0)
        for kind, number in (("resolve", requests.RESOLVE), ("resolve_web", requests.WEB)):
            if kind not in self.mute:
                for did in self._take(kind, number):
                    self.tell(did)
        if "status" not in self.mute:
            for did in self._take("status", requests.STATUS):
                pipeline.post_status(did, self.statuses.get(did, -1))
        for kind, number in (("recheck", requests.RECHECK), ("resync", requests.RESYNC)):
            if kind not in self.mute:
                self._take(kind, number)

    def _take(self, kind: str, number: int) -> list[str]:
        dids = [did for did, _, _ in requests.take(number, 1000, 0)]
        self.asked.update((kind, did) for did in dids)
        return dids

    def tell(self, did: str) -> None:
        """The directory's answer about a DID, now, if it has one."""
        identity = self.identities.get(did)
        if identity is None:
            return
        if callable(identity):
            identity = identity()
        pipeline.post_identity(identity, self.host_id(identity.pds))

    # --- what comes out ---

    def until(self, condition: Callable[[], bool], what: str = "", timeout_s: float = WAIT_S) -> None:
        """Pumps answers until the condition holds; AssertionError at the deadline."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.pump()
            assert time.monotonic() < deadline, what or "the condition never held"
            time.sleep(0.001)

    def settled(self) -> bool:
        """Whether every frame sent has its verdict."""
        return all(host.collect(feed.index, self.log.synced_end)[1] is None for feed in self.feeds.values())

    def settle(self) -> None:
        """Until every frame sent has its verdict, and what passed is on disk."""
        self.until(self.settled, "verdicts")

    def events(self) -> list[LogEntry]:
        """What has been published."""
        assert self.log.wait_synced(self.log.appended_end, WAIT_S)
        return list(self.log.scan(1))

    def published(self) -> list[tuple[int, int]]:
        """(host id, upstream seq) of every event, in the log's order."""
        return [(entry.host_id, entry.upstream_seq) for entry in self.events()]

    def counts(self, verdict: str) -> dict[str, int]:
        """Verdicts of a class since the pipe was made."""
        now = verdicts.counts()
        return {
            label: n - self._before[kind, label]
            for (kind, label), n in now.items()
            if kind == verdict and n != self._before[kind, label]
        }

    def total(self, name: str) -> float:
        """A figure summed over the workers."""
        return sum(worker[name] for worker in pipeline.stats())

    def apply(self) -> list[AccountDelta]:
        """What the applier does, with a database that takes everything."""
        end = self.log.synced_end
        deltas = pipeline.collect_dirty()
        pipeline.set_applied_seq(end)
        return deltas
