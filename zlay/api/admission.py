"""How many connections and waiting requests there may be, in all and of one client. The epoll thread's alone.

A client is an IPv4 address or an IPv6 /64. Connections are counted by who connects, which may be a proxy; requests by
who asks, proxies looked through. On the internal port a client may have all there is: a proxy on this machine, with
the public port full through it, must not keep health checks of the same address out.
"""

from __future__ import annotations

from collections import Counter

from zlay.net.clients import client_of

__all__ = ["Admission"]

MAX_CONNECTIONS = 12_000  # HTTP ones on the public port. Consumers are counted elsewhere
MAX_CONNECTIONS_PER_CLIENT = 4_000  # above any load balancer's, far below the whole
MAX_INTERNAL_CONNECTIONS = 500
MAX_WAITING_PER_CLIENT = 64  # requests with handlers or waiting for them: a quarter of all


class Admission:
    """See the module's head."""

    def __init__(self) -> None:
        self.open = {False: 0, True: 0}  # connections by is_internal
        self._per_peer: Counter[str] = Counter()
        self._asking: Counter[str] = Counter()

    def refusal(self, peer: str, *, is_internal: bool) -> str | None:
        """Why one more connection would be too many, as one of the tally's REASONS; None = it is admitted, and counted
        until `leave`."""
        if self.open[is_internal] >= (MAX_INTERNAL_CONNECTIONS if is_internal else MAX_CONNECTIONS):
            return "port_full"
        if not is_internal:
            key = client_of(peer)
            if self._per_peer[key] >= MAX_CONNECTIONS_PER_CLIENT:
                return "address_full"
            self._per_peer[key] += 1
        self.open[is_internal] += 1
        return None

    def leave(self, peer: str, *, is_internal: bool) -> None:
        """A connection is no more, or is a consumer's."""
        self.open[is_internal] -= 1
        if not is_internal:
            _take_off(self._per_peer, client_of(peer))

    def ask(self, address: str, *, is_internal: bool) -> bool:
        """Whether one more request may wait for a handler; counted until `answered`."""
        if not is_internal:
            key = client_of(address)
            if self._asking[key] >= MAX_WAITING_PER_CLIENT:
                return False
            self._asking[key] += 1
        return True

    def answered(self, address: str, *, is_internal: bool) -> None:
        """A request that was let in has its answer."""
        if not is_internal:
            _take_off(self._asking, client_of(address))

    @property
    def clients(self) -> int:
        """Entries kept: clients with connections, and those with requests. Bounded by both."""
        return len(self._per_peer) + len(self._asking)


def _take_off(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
