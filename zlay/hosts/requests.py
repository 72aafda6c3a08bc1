"""Hosts that somebody asks us to crawl: judged before they are added (protocol E15 to E17, F2).

A stranger's host must have a public name, no ban, answer describeServer within CHECK_TIMEOUT_S, and be no relay; and
there is room for a few new ones a day. Nothing of a refused host is kept. The operator's own hosts (settings, admin)
are only judged by name.

Threads: any; the handlers of HTTP call it. At most MAX_CHECKS questions to strangers' hosts are open at a time.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from zlay import logs
from zlay.errors import HostRefused, HttpFault
from zlay.hosts.addresses import is_public
from zlay.hosts.names import normalise_hostname
from zlay.net.http_client import HttpClient
from zlay.state.interface import NewHost

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    from zlay.hosts.registry import HostEntry, Registry
    from zlay.state.interface import HostSource

__all__ = ["CrawlRequests", "origin_url"]

CHECK_TIMEOUT_S = 5.0  # E15
MAX_DESCRIPTION_BYTES = 64 * 1024
MAX_CHECKS = 8  # open at a time: strangers make us ask strangers
RELAY_MARK = "atproto-relay"  # E16: in the Server header of every relay

log = logs.get("hosts")


def origin_url(hostname: str, *, no_tls: bool) -> str:
    """Where a host's HTTP is."""
    return f"{'http' if no_tls else 'https'}://{hostname}"


class CrawlRequests:
    """See the module's head."""

    def __init__(self, registry: Registry, *, allow_private: bool, context: ssl.SSLContext | None = None) -> None:
        """`context` None = the system's roots."""
        self._registry = registry
        self._allow_private = allow_private
        self._context = context
        self._checks = threading.BoundedSemaphore(MAX_CHECKS)
        self._adding = (
            threading.Lock()
        )  # one stranger's host is counted and added at a time; before the registry's locks

    def request(self, hostname: str) -> HostEntry:
        """What requestCrawl does: the host, added or known before. HostRefused with the lexicon's error; StateError.

        A known host without connection is dialled anew.
        """
        name, no_tls = normalise_hostname(hostname, allow_private=self._allow_private)
        self._registry.refuse_banned(name)
        known = self._registry.find(name)
        if known is not None:
            self._registry.wake(known.id)
            return known
        self._registry.admit_stranger()
        if not self._checks.acquire(blocking=False):
            raise HostRefused("RateLimitExceeded", "too many hosts are being checked; try again soon", status=429)
        try:
            self._check(name, no_tls=no_tls)
        finally:
            self._checks.release()
        with self._adding:  # others may have used the day's ration up while we asked
            if self._registry.find(name) is None:
                self._registry.admit_stranger()
            added = self._registry.add([NewHost(name, "request", no_tls)])
        if not added:  # its domain has been banned while we asked
            raise HostRefused("HostBanned", "this host is banned")
        return added[0]

    def add(self, hostnames: Iterable[str], source: HostSource) -> list[HostEntry]:
        """Adds the operator's hosts without asking them. HostRefused at the first bad name, and none is added then.

        A banned one is refused, too; of the settings it is left out: a ban must not keep the relay from starting.
        """
        new = []
        for hostname in hostnames:
            name, no_tls = normalise_hostname(hostname, allow_private=self._allow_private)
            try:
                self._registry.refuse_banned(name)
            except HostRefused:
                if source != "config":
                    raise
                log.warning("a host of RELAY_HOSTS is banned, and left out", host=name)
                continue
            new.append(NewHost(name, source, no_tls))
        known = {self._registry.id_of(host.hostname) for host in new}
        entries = self._registry.add(new)
        for entry in entries:
            if entry.id in known:  # the others are dialled anyway
                self._registry.wake(entry.id)
        return entries

    def _check(self, name: str, *, no_tls: bool) -> None:
        client = HttpClient(
            allow_address=(lambda _: True) if self._allow_private else is_public,
            keep_alive=False,
            context=self._context,
        )
        try:
            response = client.get(
                f"{origin_url(name, no_tls=no_tls)}/xrpc/com.atproto.server.describeServer",
                timeout_s=CHECK_TIMEOUT_S,
                max_body_bytes=MAX_DESCRIPTION_BYTES,
            )
            described = response.json() if response.status == 200 else None
        except HttpFault as exc:
            raise HostRefused("HostNotFound", f"{name} does not answer: {exc}") from exc
        finally:
            client.close()
        if RELAY_MARK in response.headers.get("server", "").lower():
            raise HostRefused("BadRequest", f"{name} is a relay")
        if not isinstance(described, dict) or not isinstance(described.get("did"), str):
            raise HostRefused("HostNotFound", f"{name} is no PDS: describeServer gives status {response.status}")
