"""What the HTTP side needs of the relay. Implemented by `zlay.relay`; every method may be called from any thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zlay.firehose.consumers import Consumers
    from zlay.hosts.limits import Given
    from zlay.memory.leaks import LeakTrace
    from zlay.pipeline.takedowns import AccountStatus
    from zlay.state.interface import Store

__all__ = ["HostView", "RelayView"]


@dataclass(frozen=True, slots=True)
class HostView:
    """One host as operators and peers may see it. Times are unix microseconds; None = never or not known."""

    id: int
    hostname: str
    no_tls: bool
    status: str  # E20
    source: str  # who named it: config, upstream, request, admin
    created_us: int
    connected: bool
    attempts: int  # dials since the start
    connects: int  # of these, streams opened
    failed_attempts: int  # in a row
    failure_kind: str | None  # of the last one, also where the host streams again: zlay.hosts.interface.FailureKind
    failure_text: str | None
    failure_us: int | None
    next_dial_us: int | None  # None = it is being dialled, streams, or is not to be dialled
    last_seq: int | None  # last upstream seq received
    cursor: int | None  # up to where all have a verdict and are synced: a restart goes on from there
    pending: int  # frames received and not yet behind the cursor
    lag_s: float | None  # age of the newest commit passed on, when it came; None = none since the start
    last_frame_us: int | None
    old_cursor_us: int | None  # the last dial asked for events since then: more than MAX_REPLAY_HOURS
    outdated_cursors: int  # times the host said that it does not have all of them
    numbering_resets: int  # times its cursor was given up since the start
    account_count: int
    account_limit: int | None  # given by an operator; None = by tier
    accounts_allowed: int | None  # by either; None = any number
    tier: str
    limits: dict[str, int]  # events and bytes it may send now; 0 = no limit
    limits_given: dict[str, int | str]  # of these, and the tier, what an operator gave
    throttled: bool  # its reader waits for a limit now
    throttled_s: float
    waits_for: str  # what its reader waits for: nothing, credit, share, anchor, limit
    waited_s: float
    credit_used_bytes: int
    frames: int
    bytes: int
    published: int
    reasons: dict[str, int]  # verdicts on its frames, by reason


class RelayView(Protocol):
    """The running relay."""

    @property
    def store(self) -> Store:
        """State in SQL."""

    @property
    def consumers(self) -> Consumers:
        """Who is served."""

    @property
    def leaks(self) -> LeakTrace:
        """What is traced for LEAK_TRACE."""

    def hosts(self) -> Sequence[HostView]:
        """All hosts by id, from memory."""

    def host(self, hostname: str) -> HostView | None:
        """One host by its normalised name, from memory."""

    def host_name(self, host_id: int) -> tuple[str, bool] | None:
        """(hostname, no_tls) of a host."""

    def request_crawl(self, hostname: str, address: str | None) -> None:
        """Adds a host after the checks of E15, or calls an idle one again. `address` = who asks; None = an admin.

        Raises HostRefused.
        """

    def change_limits(self, hostname: str, given: Given, account_limit: int | None) -> HostView | None:
        """Gives a host limits of its own; None = it is not known. ValueError, StateError."""

    def reset_cursor(self, hostname: str) -> bool:
        """Has a host read live from now on, without what its cursor asked for; False = it is not known. StateError."""

    def ban_host(self, hostname: str, *, banned: bool) -> HostView | None:
        """Bans a host or lifts that, durably; None = it is not known. StateError."""

    def ban_domain(self, domain: str, *, banned: bool) -> int:
        """Bans a domain and all under it or lifts that, durably; how many known hosts that concerns. StateError."""

    def domain_bans(self) -> list[str]:
        """The banned domains."""

    def set_takedown(self, did: str, *, down: bool) -> AccountStatus | None:
        """Takes an account down or lifts that; None = it is not known. Durable when it returns.

        Raises StateUnavailable.
        """

    def shutdown(self, reason: str) -> None:
        """The graceful stop; returns at once."""

    @property
    def is_open(self) -> bool:
        """Whether there is more to be asked than health; False during a start."""

    def alive(self) -> bool:
        """Whether the parts that move events run: from counters, without waiting for anything."""

    def readiness(self) -> list[str]:
        """Why the relay is not ready; empty = it is. Without waiting for anything."""

    def stats(self) -> dict[str, Any]:
        """Figures for people, from counters."""

    def history(self) -> dict[str, Any]:
        """Some figures of the last hour: see zlay.figures."""

    def metrics(self) -> bytes:
        """Figures for Prometheus, in its text form."""
