"""Figures for people: what there is to say now, and some of the last hour, for the status page.

From counters: nothing is waited for. Any thread may ask; housekeeping's thread alone samples, and the samples are
replaced as a whole, so that nobody locks.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from zlay import __version__
from zlay._fast import host, pipeline, pool, reader
from zlay.memory import ledger

if TYPE_CHECKING:
    from zlay.relay import Relay

__all__ = ["INTERVAL_S", "MOST_SAMPLES", "Figures"]

INTERVAL_S = 10.0
MOST_SAMPLES = 360  # an hour; some 40 KiB
_SAMPLED = ("unix_s", "rss_bytes", "seq", "frames", "hosts_connected", "consumers", "sent_bytes", "held")


class Figures:
    """Of one relay."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._started_s = time.monotonic()
        self._samples: tuple[tuple[int, ...], ...] = ()

    def stats(self) -> dict[str, Any]:
        """`/_stats`."""
        relay = self._relay
        workers = pipeline.stats()
        return {
            "version": __version__,
            "unix_s": round(time.time(), 1),
            "uptime_s": round(time.monotonic() - self._started_s, 1),
            "rss_bytes": ledger.rss_bytes(),
            "seq": relay.log.published_end,
            "oldest_seq": relay.log.oldest_seq,
            "log": relay.log.status(),
            "hosts": {"connected": reader.stats()["alive"], **relay.registry.counts(), **host.totals()},
            "dialer": relay.dialer.stats(),
            "workers": workers,
            "held": sum(worker["held"] for worker in workers),
            "consumers": {"connected": relay.consumers.count(), **relay.consumers.totals()},
            "applied_seq": relay.applier.applied_seq,
            "pool": pool.stats(),
            "verdicts": relay.metrics_source.verdicts(),
        }

    def history(self) -> dict[str, Any]:
        """`/_history`: `{"interval_s", "names", "samples": [[...], ...]}`, oldest first."""
        return {"interval_s": INTERVAL_S, "names": _SAMPLED, "samples": self._samples}

    def sample(self) -> None:
        """Takes one sample."""
        relay = self._relay
        sampled = (
            int(time.time()),
            ledger.rss_bytes(),
            relay.log.published_end,
            host.totals()["frames"],
            reader.stats()["alive"],
            relay.consumers.count(),
            relay.consumers.totals()["bytes"],
            sum(int(worker["held"]) for worker in pipeline.stats()),
        )
        self._samples = (*self._samples[-(MOST_SAMPLES - 1) :], sampled)
