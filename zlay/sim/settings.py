"""Everything that can be set about a simulation. Plain data; checked when made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zlay.sim.faults import choices

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DEFAULT_MIX", "MIX_SCALE", "SettingError", "Settings"]

MIX_SCALE = 10_000

# Of 10,000 events. What is left over goes to single creates.
DEFAULT_MIX: dict[str, int] = {
    "update": 500,
    "delete": 1300,
    "multi": 700,
    "empty": 50,
    "sync": 40,
    "import": 10,
    "identity": 40,
    "handle": 20,
    "account": 20,
    "deactivate": 15,
    "rotate": 15,
    "migrate": 2,
    "remove": 20,
    "birth": 20,
    "unknown": 0,
}

START_MODES = ("subscribed", "now", "paused")


class SettingError(ValueError):
    """A setting that makes no sense; the text says which and why."""


@dataclass(slots=True)
class Settings:
    """One simulation.

    rate: events per second in all, 0 = as fast as sockets take them. virtual_clock: time starts at VIRTUAL_START and
    goes on by 1/rate (100 us when rate is 0) with each event, so that bytes depend on the seed alone. skew: Zipf
    exponent of the hosts' shares of events, 0 = even. clock_skew_ms: hosts' clocks are off by up to this much, either
    way. mix and faults: events in MIX_SCALE. start: generate when every host has had a subscriber ("subscribed"), at
    once ("now"), or when told ("paused"). events: stop after so many, None = never. settle_s: how long an account
    rests before its key or host changes, and how far apart deactivation and reactivation are at least. What a relay
    judges later than that after it was said (it was killed, or paused) meets a newer document or status: tests that do
    so set rotate and migrate to 0 and leave inactive_commit out. pace, sent: of a recording that is served, events per
    second (0 = as fast as sockets take them) and where to note when each was sent (zlay.sim.pace). rtt_ms: what every
    round trip to hosts, directory and upstream takes longer (zlay.sim.server). dead: so many of the hosts, evenly among
    the others, cannot be reached (zlay.sim.dead).
    """

    seed: int = 1
    hosts: int = 4
    accounts: int = 200
    repo_size: int = 30
    max_repo_size: int = 400
    rate: float = 1000.0
    events: int | None = None
    virtual_clock: bool = False
    skew: float = 1.0
    clock_skew_ms: int = 0
    p256_share: float = 0.2
    multi_max: int = 20
    text_bytes: int = 0
    settle_s: float = 5.0
    start: str = "subscribed"
    start_hosts: int = 0
    mix: dict[str, int] = field(default_factory=lambda: dict(DEFAULT_MIX))
    faults: dict[str, float] = field(default_factory=dict)
    window: int = 200_000
    address: str = "127.0.0.1"
    host_name: str = "localhost"
    port: int = 0
    spread: bool = False
    rtt_ms: float = 0.0
    dead: int = 0
    tls: bool = False
    ledger: Path | None = None
    pace: float = 0.0
    sent: Path | None = None
    tick_ms: float = 5.0

    def __post_init__(self) -> None:
        """Checks ranges and names. Raises SettingError."""
        if self.hosts < 1 or self.accounts < self.hosts:
            raise SettingError("at least one host, and at least one account for each host")
        if not 0 <= self.dead < self.hosts or self.rtt_ms < 0:
            raise SettingError("dead: fewer than there are hosts; rtt_ms is not negative")
        if self.repo_size < 1:
            raise SettingError("repo_size is at least 1: an average of records at the start")
        if self.start not in START_MODES:
            raise SettingError(f"start: one of {', '.join(START_MODES)}")
        if self.rate < 0 or self.pace < 0 or self.skew < 0 or self.window < 1:
            raise SettingError("rate, pace and skew are not negative, window is at least 1")
        for name in self.mix:
            if name not in DEFAULT_MIX:
                raise SettingError(f"mix: {name} is not one of {', '.join(DEFAULT_MIX)}")
        self.mix = {**DEFAULT_MIX, **self.mix}
        if sum(self.mix.values()) > MIX_SCALE:
            raise SettingError(f"mix: shares add up to more than {MIX_SCALE}")
        for name in self.faults:
            try:
                choices(name)
            except KeyError:
                raise SettingError(f"faults: there is no fault called {name}") from None
