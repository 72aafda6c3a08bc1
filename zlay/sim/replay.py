"""A recording served as a network: the same ports and URLs as the live simulation, frames by sendfile.

As fast as sockets take them, or at a pace.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from zlay.sim.addresses import Addresses
from zlay.sim.endpoints import ControlSite, DirectorySite, UpstreamSite
from zlay.sim.http import Request, Response, error_response, json_response
from zlay.sim.pace import Pace
from zlay.sim.recording import RecordedSource, Recording
from zlay.sim.server import IDLE_POLL_S, Server

if TYPE_CHECKING:
    from pathlib import Path

    from zlay.sim.endpoints import Site
    from zlay.sim.settings import Settings
    from zlay.sim.subscriber import Source, Subscriber

__all__ = ["Replay"]


class RecordedSite:
    """A PDS that only has recorded frames: it describes itself and says that every account is active."""

    def __init__(self, name: str, source: RecordedSource) -> None:
        self._name = name
        self.source: Source | None = source

    def answer(self, request: Request) -> Response:
        """describeServer, getRepoStatus, _health."""
        if request.path == "/xrpc/com.atproto.server.describeServer":
            did = "did:web:" + self._name.replace(":", "%3A")
            return json_response({"did": did, "availableUserDomains": [".test"]})
        if request.path == "/xrpc/com.atproto.sync.getRepoStatus":
            return json_response({"did": request.query.get("did", ""), "active": True})
        if request.path == "/xrpc/_health":
            return json_response({"version": "zlay-sim"})
        return error_response(501, "MethodNotImplemented", request.path)


class Replay:
    """Serves a recording. `settings.hosts` is taken from the file; `start` says when frames begin to flow."""

    def __init__(self, settings: Settings, path: Path) -> None:
        self._recording = Recording(path)
        self._settings = settings
        settings.hosts = len(self._recording.segments)
        settings.accounts = max(settings.accounts, settings.hosts)
        self.server = Server()
        self.addresses = Addresses(self.server, settings)
        self._state = "paused" if settings.start == "paused" else "waiting"
        self._subscribers: list[Subscriber] = []
        self.sources = [RecordedSource(self._recording, index, self._running) for index in range(settings.hosts)]
        self._pace = Pace(self.sources, settings.pace, settings.sent) if settings.pace else None
        self._directory = DirectorySite(self._recording.directory([url for _, url in self.addresses.hosts]))
        addresses = self.addresses
        places = zip(self.sources, addresses.host_sockets, addresses.hosts, addresses.tls, strict=True)
        rtt_s = settings.rtt_ms / 1000
        for source, sock, (name, _), context in places:
            if sock is not None:
                self.server.serve(sock, RecordedSite(name, source), context, rtt_s=rtt_s)
        self.server.serve(self.addresses.plc_socket, self._directory, rtt_s=rtt_s)
        self.server.serve(self.addresses.upstream_socket, UpstreamSite(self._host_list), rtt_s=rtt_s)
        self.server.serve(self.addresses.control_socket, ControlSite(self, self._directory))
        self.server.on_tick = self._tick
        self.server.on_subscriber = self._subscriber_changed

    def ready(self) -> dict[str, object]:
        """What a starter wants to know; `ledger` is the one written with the recording."""
        return {**self.addresses.describe(), "ledger": self._recording.ledger, "events": self._recording.events}

    def close(self) -> None:
        """Closes the recording, and the note of what was sent. After `server.run` has returned."""
        self.addresses.close()
        self._recording.close()
        if self._pace is not None:
            self._pace.close()

    def _running(self) -> bool:
        return self._state == "running"

    def _tick(self, now: float) -> float:
        if self._state == "waiting":
            wanted = self._settings.start_hosts or len(self.sources) - self._settings.dead
            if self._settings.start == "now" or sum(source.subscribed for source in self.sources) >= wanted:
                self.resume()
        if self._pace is None or self._state != "running":
            return IDLE_POLL_S
        for source in self._pace.release(now):
            for subscriber in self._subscribers:
                if subscriber.source is source and not subscriber.blocked:
                    self.server.flush(subscriber)
        return self._pace.wait_s(time.monotonic(), IDLE_POLL_S)

    def _subscriber_changed(self, site: Site, subscriber: Subscriber, came: bool) -> None:
        if came:
            self._subscribers.append(subscriber)
        else:
            self._subscribers.remove(subscriber)

    def _host_list(self) -> list[dict[str, object]]:
        hosts = zip(self.addresses.called(), self.sources, self._recording.account_counts, strict=True)
        return [
            {"hostname": name, "seq": source.last_seq, "accountCount": accounts, "status": "active"}
            for name, source, accounts in hosts
        ]

    # --- Steering ---

    def stats(self) -> dict[str, object]:
        """Counters, as JSON can say them."""
        return {
            "state": self._state,
            "generated": self._recording.events,
            "sent_bytes": sum(source.sent for source in self.sources),
            "bytes": sum(source.end for source in self.sources),
            "hosts": len(self.sources),
            "subscribers": len(self._subscribers),
            "subscribed_hosts": sum(source.subscribed for source in self.sources),
            "directory_requests": self._directory.requests,
        }

    def pause(self) -> None:
        """Stops sending."""
        self._state = "paused"

    def resume(self) -> None:
        """Starts sending or goes on."""
        self._state = "running"
        for subscriber in list(self._subscribers):
            self.server.flush(subscriber)

    def finish(self) -> None:
        """A recording is complete from the start: nothing to do."""

    def set_rate(self, rate: float) -> None:
        """A recording's pace is set at the start. Raises ValueError."""
        raise ValueError("a recording has no rate")

    def misbehave(self, host: object, kind: str, count: int, seconds: float) -> int:
        """Recordings do not misbehave. Raises ValueError."""
        raise ValueError("a recording does not misbehave")
