"""Hosts that other relays know: the listHosts of each, read at the start and every few hours (design 9, protocol F3).

What it says is taken for names only: each is normalised, judged by the same rules as a stranger's and refused where it
or its domain is banned; whether it is alive shows when it is dialled. Threads: one `Seeder` to a relay,
its `run` on one supervised thread.
"""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote

from zlay import logs
from zlay.errors import HostRefused, HttpFault, StateError
from zlay.hosts.addresses import is_public
from zlay.hosts.names import normalise_hostname
from zlay.hosts.requests import origin_url
from zlay.net.http_client import HttpClient
from zlay.state.interface import NewHost

if TYPE_CHECKING:
    import ssl

    from zlay.hosts.registry import Registry

__all__ = ["Seeder"]

PAGE_HOSTS = 1000  # F3
MAX_PAGE_BYTES = 1024 * 1024
MAX_HOSTS = 50_000  # of one reading; the network has 2,800
PAGE_TIMEOUT_S = 30.0
INTERVAL_S = 4 * 3600.0
FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 600.0

log = logs.get("hosts")


class Seeder:
    """See the module's head."""

    def __init__(
        self, registry: Registry, upstream: str, *, allow_private: bool, context: ssl.SSLContext | None = None
    ) -> None:
        """`upstream` is the relay's host name. HostRefused when it cannot be one."""
        self._registry = registry
        self._allow_private = allow_private
        self._upstream, no_tls = normalise_hostname(upstream, allow_private=allow_private)
        self._origin = origin_url(self._upstream, no_tls=no_tls)
        self._stop = threading.Event()
        self._client = HttpClient(
            allow_address=(lambda _: True) if allow_private else is_public,
            keep_alive=False,
            context=context,
            stop=self._stop,
        )
        self.fault: str | None = None  # why the last reading failed
        self.readings = 0  # complete ones

    def stop(self) -> None:
        """Asks `run` to end; it does soon, also where the other relay is silent."""
        self._stop.set()

    def run(self) -> None:
        """Reads until `stop`."""
        retry_s = FIRST_RETRY_S
        while not self._stop.is_set():
            try:
                found = self.read()
            except (HttpFault, StateError) as exc:
                if self._stop.is_set():
                    return
                self.fault = str(exc)
                log.warning("hosts cannot be read from upstream", upstream=self._upstream, error=self.fault)
                pause_s, retry_s = retry_s, min(2 * retry_s, LONGEST_RETRY_S)
            else:
                self.fault = None
                log.info("hosts read from upstream", upstream=self._upstream, hosts=found)
                pause_s, retry_s = INTERVAL_S, FIRST_RETRY_S
            self._stop.wait(pause_s * random.uniform(0.8, 1.2))

    def read(self) -> int:
        """Pages through listHosts once; how many hosts were named. HttpFault, StateError. The thread of `run`."""
        cursor: str | None = None
        named = 0
        while not self._stop.is_set():
            hostnames, following = self._page(cursor)
            named += len(hostnames)
            self._registry.add(self._acceptable(hostnames))
            if following is None or following == cursor or not hostnames or named >= MAX_HOSTS:
                break
            cursor = following
        self.readings += 1
        return named

    def _page(self, cursor: str | None) -> tuple[list[str], str | None]:
        query = f"limit={PAGE_HOSTS}" + (f"&cursor={quote(cursor, safe='')}" if cursor else "")
        response = self._client.get(
            f"{self._origin}/xrpc/com.atproto.sync.listHosts?{query}",
            timeout_s=PAGE_TIMEOUT_S,
            max_body_bytes=MAX_PAGE_BYTES,
        )
        page = response.json() if response.status == 200 else None
        if not isinstance(page, dict) or not isinstance(page.get("hosts"), list):
            raise HttpFault("protocol", f"{self._upstream} gives no listHosts: status {response.status}")
        listed = [host for host in page["hosts"] if isinstance(host, dict) and host.get("status") != "banned"]
        following = page.get("cursor")
        return (
            [host["hostname"] for host in listed if isinstance(host.get("hostname"), str)],
            following if isinstance(following, str) and following else None,
        )

    def _acceptable(self, hostnames: list[str]) -> list[NewHost]:
        accepted: dict[str, NewHost] = {}
        for hostname in hostnames:
            try:
                name, no_tls = normalise_hostname(hostname, allow_private=self._allow_private)
                self._registry.refuse_banned(name)
            except HostRefused as refused:
                log.warn_rate("seed", "host named by upstream left out", host=hostname, error=str(refused))
                continue
            accepted[name] = NewHost(name, "upstream", no_tls)
        return list(accepted.values())
