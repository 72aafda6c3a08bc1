"""What the HTTP side needs of the relay. Implemented by `zlay.relay`; every method may be called from any thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zlay.firehose.consumers import Consumers
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
    connected: bool
    last_seq: int | None  # last upstream seq processed
    account_count: int
    account_limit: int | None  # None = by tier
    failed_attempts: int
    failure_kind: str | None
    failure_text: str | None
    failure_us: int | None
    next_retry_s: float | None
    created_us: int
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

    def metrics(self) -> bytes:
        """Figures for Prometheus, in its text form."""
