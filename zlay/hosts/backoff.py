"""When to dial again: exponential back-off with full jitter, then a slow schedule for ever. Nothing is terminal.

Pure but for the random numbers; one Backoff belongs to one host and is used by the dialer's thread alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

__all__ = ["Backoff", "BackoffPolicy"]


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """Times in seconds. The defaults follow the reference relay (protocol E18: more than 15 failures = offline)."""

    first_s: float = 1.0
    most_s: float = 60.0
    least_s: float = 0.1  # jitter may draw nothing at all: no loop may be hot
    offline_after: int = 16  # failures in a row
    offline_first_s: float = 300.0
    offline_most_s: float = 3600.0
    good_stream_s: float = 60.0  # a stream that lived this long and on which we heard something, a pong at least


@dataclass(slots=True)
class Backoff:
    """Failures in a row of one host, and what follows from them."""

    policy: BackoffPolicy
    failures: int = 0

    @property
    def offline(self) -> bool:
        """Whether this has gone on so long that the host counts as offline."""
        return self.failures >= self.policy.offline_after

    def good(self) -> None:
        """The stream was good: the next failure is a first one."""
        self.failures = 0

    def failed(self, rng: random.Random) -> float:
        """One more failure; seconds until the next dial."""
        self.failures += 1
        policy = self.policy
        if self.offline:
            beyond = min(self.failures - policy.offline_after, 16)
            ceiling = min(policy.offline_first_s * 2**beyond, policy.offline_most_s)
            # Never all at once, and never sooner than the slow schedule begins.
            return rng.uniform(min(policy.offline_first_s, ceiling), ceiling)
        ceiling = min(policy.first_s * 2 ** (self.failures - 1), policy.most_s)
        return max(policy.least_s, rng.uniform(0, ceiling))
