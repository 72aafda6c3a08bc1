"""What the dialer needs of the registry, and what it tells it: the seam between connections and bookkeeping.

The registry knows every host (name, status, cursor, epoch) and keeps it in the store; the dialer knows every
connection (attempts, back-off, sockets). Neither imports the other: both import this module.

Calls of `HostRegistry` come from the dialer's thread alone. They must not wait for the network, and should not wait
long for the store: while one runs, no other dial moves on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

HostStatus = Literal["active", "idle", "offline", "throttled", "banned"]
"""`protocol.md` E20. The dialer reports `active` (streaming) and `offline` (long failure, still retried); `idle` is
what the registry calls a host that has no connection and no long failure; `banned` is never dialled."""

FailureKind = Literal[
    "dns",  # the name does not resolve, or only to addresses that may not be dialled
    "tcp_refused",
    "tcp_timeout",  # no connection within the deadline, or unreachable
    "tls",
    "http_upgrade",  # the answer to the upgrade is not 101, is malformed, too large or too late
    "websocket",  # the stream broke: protocol error, silence, reset, or closed by the host
    "decode",  # too many frames in a row that cannot be decoded
    "error_frame",  # the host sent an error frame (FutureCursor and others)
    "config",  # this build or its settings cannot dial the host (no TLS, relay loop, private address)
]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a dial or a connection ended, for people: a short kind, one line of text, and what happens next."""

    kind: FailureKind
    text: str
    at_us: int  # unix microseconds
    attempts: int  # failed attempts in a row, this one included
    next_retry_s: float  # seconds from `at_us` until the next dial; negative = not before something changes


@dataclass(frozen=True, slots=True)
class DialTarget:
    """What a dial needs to know of a host. `hostname` is `name` or `name:port`, lower case, as in the store."""

    id: int  # row id in the store
    index: int  # position of the C Host (`zlay._fast.host`)
    hostname: str
    no_tls: bool  # ws:// instead of wss://; only with RELAY_ALLOW_PRIVATE_HOSTS
    banned: bool = False


class HostRegistry(Protocol):
    """The registry as the dialer sees it."""

    def host(self, host_id: int) -> DialTarget | None:
        """The host's current data; None when it is no longer known. Asked before each dial."""

    def cursor_for_dial(self, host_id: int) -> int | None:
        """Last upstream seq to go on after; None = live (a host never seen, or reset).

        Inside a running process this is the last frame received (`host.stats(index)["last_seq"]`), after a start
        the persisted cursor (design 4).
        """

    def new_epoch(self, host_id: int) -> int:
        """The host's numbering starts again: forget its cursor, begin a new epoch, durably; returns the epoch.

        Must call `zlay._fast.host.set_epoch(index, epoch)` before it returns.
        """

    def set_status(self, host_id: int, status: HostStatus, failure: Failure | None) -> None:
        """Reports what became of the host. Must leave a ban in place whatever the dialer reports."""
