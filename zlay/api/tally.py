"""What the HTTP server counts. The epoll thread writes, without a lock; any thread may read."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["BUCKETS_S", "REASONS", "Tally"]

REASONS = {  # why a connection was closed or a request refused by the server itself
    "port_full": "connections of the port, none of which has rested for 5 s: 503",
    "crowded_out": "at rest between requests for longest when a new connection came to the full port",
    "address_full": "connections of one client (an IPv4 address, an IPv6 /64): 429",
    "no_descriptors": "no file descriptor is left: accepting pauses, nothing is closed",
    "handlers_full": "requests waiting for handlers: 503",
    "client_full": "requests of one client waiting for handlers: 429",
    "malformed": "not HTTP/1.1, or what two parsers may read in two ways: 400",
    "headers": "request line or headers too large, too many headers: 414, 431",
    "body": "body too large, or in too many chunks: 413",
    "unsupported": "a transfer coding or version that is not offered: 501, 505",
    "cut_short": "the client ended or broke the connection in the middle of a request",
    "silent": "connected, and sent nothing until the deadline",
    "slow_request": "a request not whole at its deadline: 408",
    "idle": "no further request until the deadline",
    "slow_reader": "an answer not taken until the deadline",
    "broken": "the connection broke while it was answered",
    "unsent_full": "answers that clients have not taken are too many bytes together: the oldest are let go",
    "halves_full": "requests that are not whole are too many bytes together: the oldest are let go",
    "fault": "a fault of ours; the log says which",
}
BY_STATUS = {400: "malformed", 413: "body", 414: "headers", 431: "headers", 501: "unsupported", 505: "unsupported"}

BUCKETS_S = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0)  # upper bounds


class Tally:
    """See the module's head."""

    def __init__(self) -> None:
        self.requests = 0  # whole ones
        self.refused = dict.fromkeys(REASONS, 0)
        self.answers: dict[tuple[str, int], int] = {}  # by route and status
        self.times: dict[str, list[int]] = {}  # of each route: answers within each of BUCKETS_S, and later ones
        self.seconds: dict[str, float] = {}  # of each route, all its answers together

    def refuse(self, reason: str) -> None:
        """Counts one of REASONS."""
        self.refused[reason] += 1

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Counts an answer to a whole request. `route` is one of the router's: there are only so many."""
        key = (route, status)
        if key not in self.answers:
            self.answers[key] = 0
        self.answers[key] += 1
        if route not in self.times:
            self.seconds[route] = 0.0
            self.times[route] = [0] * (len(BUCKETS_S) + 1)
        self.times[route][bisect_left(BUCKETS_S, seconds)] += 1
        self.seconds[route] += seconds
