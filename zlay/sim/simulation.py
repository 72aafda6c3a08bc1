"""A running simulation: network, ledger, server and sites put together, and paced.

Strategy: `_tick`, called by the server in every round, generates the events that are due, writes the ledger, and lets
the subscribers of the hosts that have spoken send. Without a rate it generates as fast as subscribers take.

Promises: an event stands in the ledger's file before its first byte is sent. One thread.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from zlay.sim.addresses import Addresses
from zlay.sim.endpoints import ControlSite, DirectorySite, PdsSite, Site, UpstreamSite
from zlay.sim.faults import STREAM_FAULTS
from zlay.sim.ledger import LedgerWriter
from zlay.sim.network import Network
from zlay.sim.server import IDLE_POLL_S, Server
from zlay.sim.sources import LiveSource

if TYPE_CHECKING:
    from zlay.sim.settings import Settings
    from zlay.sim.subscriber import Subscriber

__all__ = ["Simulation"]

CHUNK_EVENTS = 256  # generated between two looks at the sockets
FREE_RUN_BEHIND = 2048  # without a rate: events that the slowest subscriber may be behind
CATCH_UP_S = 1.0  # further behind its rate than this, the simulation gives up the difference


class Simulation:
    """The live simulation. `ready()` says where everything listens; `server.run()` runs it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.server = Server()
        self.addresses = Addresses(self.server, settings)
        path = settings.ledger or Path(tempfile.mkstemp(prefix="zlay-sim-", suffix=".ledger")[1])
        self.ledger = LedgerWriter(path, settings.seed)
        self.network = Network(settings, self.addresses.hosts, self.ledger)
        self.sources = [LiveSource(self.network, host) for host in self.network.hosts]
        self.directory = DirectorySite(self.network.directory)
        self._upstream = UpstreamSite(self._host_list)
        self._sites: list[PdsSite] = []
        self._state = "paused" if settings.start == "paused" else "waiting"
        self._rate = settings.rate
        self._paced_since = 0.0
        self._paced_from = 0
        self._resumed_at = 0.0
        self._behind_events = 0
        self._subscribed_hosts = 0
        addresses = self.addresses
        rtt_s = settings.rtt_ms / 1000
        for source, sock, context in zip(self.sources, addresses.host_sockets, addresses.tls, strict=True):
            site = PdsSite(source.host, self.network, source)
            self._sites.append(site)
            if sock is not None:
                self.server.serve(sock, site, context, rtt_s=rtt_s)
        self.server.serve(self.addresses.plc_socket, self.directory, rtt_s=rtt_s)
        self.server.serve(self.addresses.upstream_socket, self._upstream, rtt_s=rtt_s)
        self.server.serve(self.addresses.control_socket, ControlSite(self, self.directory))
        self.server.on_tick = self._tick
        self.server.on_subscriber = self._subscriber_changed
        self.ledger.flush()

    def ready(self) -> dict[str, object]:
        """What a starter wants to know: URLs, host names, the ledger's path."""
        return {**self.addresses.describe(), "ledger": str(self.ledger.path), "seed": self.settings.seed}

    def close(self) -> None:
        """Completes the ledger. After `server.run` has returned."""
        self.addresses.close()
        self.finish()
        self.ledger.close()

    # --- pace ---

    def _tick(self, now: float) -> float:
        if self._state == "waiting" and self._may_start():
            self.resume()
        wait = IDLE_POLL_S
        if self._state == "running":
            wait = self._generate(now)
        self.ledger.flush()
        changed = self.network.changed
        if changed:
            for host in changed:
                for subscriber in list(self.sources[host.index].subscribers):
                    if not subscriber.blocked:
                        self.server.flush(subscriber)
            changed.clear()
        return wait

    def _may_start(self) -> bool:
        if self.settings.start == "now":
            return True
        wanted = self.settings.start_hosts or len(self.sources) - self.settings.dead
        return self._subscribed_hosts >= wanted

    def _generate(self, now: float) -> float:
        """Generates what is due; seconds until there is more to do."""
        network = self.network
        if self._rate:
            target = self._paced_from + int((now - self._paced_since) * self._rate)
            if target - network.generated > self._rate * CATCH_UP_S:
                self._behind_events += target - network.generated
                self._pace()
                target = network.generated + CHUNK_EVENTS
        elif self._slowest_behind() > FREE_RUN_BEHIND:
            return self.settings.tick_ms / 1000
        else:
            target = network.generated + CHUNK_EVENTS
        target = min(target, network.generated + CHUNK_EVENTS)
        if self.settings.events is not None:
            target = min(target, self.settings.events)
        while network.generated < target:
            network.step()
        if self.settings.events is not None and network.generated >= self.settings.events:
            self.finish()
        if not self._rate:
            return 0.0
        due = self._paced_since + (network.generated + 1 - self._paced_from) / self._rate
        return max(0.0, min(max(due - time.monotonic(), self.settings.tick_ms / 1000), IDLE_POLL_S))

    def _slowest_behind(self) -> int:
        return max(
            (
                source.host.window.end - subscriber.position
                for source in self.sources
                for subscriber in source.subscribers
            ),
            default=0,
        )

    def _pace(self) -> None:
        self._paced_since = time.monotonic()
        self._paced_from = self.network.generated

    # --- Steering: what the control port may order ---

    def stats(self) -> dict[str, object]:
        """Counters, as JSON can say them."""
        network = self.network
        return {
            "state": self._state,
            "generated": network.generated,
            "bad": network.voice.bad,
            "by_fault": network.voice.by_fault,
            "rate": self._rate,
            "behind_events": self._behind_events,
            "hosts": len(network.hosts),
            "accounts": len(network.accounts),
            "subscribers": sum(len(source.subscribers) for source in self.sources),
            "subscribed_hosts": self._subscribed_hosts,
            "unsent_events": sum(
                source.host.window.end - subscriber.position
                for source in self.sources
                for subscriber in source.subscribers
            ),
            "ledger_bytes": self.ledger.written,
            "dead_hosts": self.settings.dead,
            "directory_requests": self.directory.requests,
            "upstream_requests": self._upstream.requests,
            "host_requests": sum(site.requests for site in self._sites),
        }

    def pause(self) -> None:
        """Stops generating; a simulation that has not started waits for `resume`."""
        if self._state in ("running", "waiting"):
            self._state = "paused"

    def resume(self) -> None:
        """Starts generating or goes on. Not after `finish`."""
        if self._state != "finished":
            self._state = "running"
            self._pace()

    def finish(self) -> None:
        """Stops generating for good; sockets stay open and unsent events are still sent."""
        if self._state != "finished":
            self._state = "finished"
            self.ledger.append_end()
            self.ledger.flush()

    def set_rate(self, rate: float) -> None:
        """Events per second from now on; 0 = as fast as sockets take them. ValueError below 0."""
        if rate < 0:
            raise ValueError("rate is negative")
        self._rate = rate
        self._pace()

    def misbehave(self, host: object, kind: str, count: int, seconds: float) -> int:
        """Orders misbehaviour of one host (by name or number) or of all (None). KeyError for an unknown host."""
        touched = 0
        for source in self._sources_of(host):
            if kind in STREAM_FAULTS:
                touched += source.misbehave(kind, count, seconds)
            else:
                touched += self.network.mischief.order(kind, source.host, count)
        self._pace_after_burst()
        return touched

    def _pace_after_burst(self) -> None:
        """Events said on order do not count against the rate."""
        if self._state == "running":
            self._pace()

    def _sources_of(self, host: object) -> list[LiveSource]:
        if host is None:
            return self.sources
        found = [source for source in self.sources if host in (source.host.name, source.host.index)]
        if not found:
            raise KeyError(str(host))
        return found

    # --- what sites ask ---

    def _host_list(self) -> list[dict[str, object]]:
        return [
            {"hostname": called, "seq": host.seq, "accountCount": len(host.accounts), "status": "active"}
            for host, called in zip(self.network.hosts, self.addresses.called(), strict=True)
        ]

    def _subscriber_changed(self, site: Site, subscriber: Subscriber, came: bool) -> None:
        source = site.source
        if not isinstance(source, LiveSource):
            return
        if came:
            self._subscribed_hosts += not source.subscribed
            source.subscribed = True
            source.subscribers.append(subscriber)
        else:
            source.subscribers.remove(subscriber)
            source.left(subscriber.position, subscriber.cursor)
