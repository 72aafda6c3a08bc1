"""Back-off: growing, jittered, bounded, never final."""

from __future__ import annotations

import random

from zlay.hosts.backoff import Backoff, BackoffPolicy


def test_ceilings_double_up_to_a_minute_with_full_jitter() -> None:
    """The n-th failure waits anything up to 2^(n-1) s, at most 60 s, and never nothing at all."""
    policy = BackoffPolicy()
    delays: dict[int, list[float]] = {}
    for seed in range(400):
        backoff, rng = Backoff(policy), random.Random(seed)
        for n in range(1, 16):
            delays.setdefault(n, []).append(backoff.failed(rng))
    for n, seen in delays.items():
        ceiling = min(2 ** (n - 1), 60)
        assert policy.least_s <= min(seen)
        assert max(seen) <= ceiling
        assert max(seen) > 0.9 * ceiling
        assert min(seen) < max(0.1 * ceiling, 2 * policy.least_s)


def test_offline_is_slow_and_for_ever() -> None:
    """From the 16th failure on the host is offline and dialled every 5 to 60 minutes, without end."""
    backoff, rng = Backoff(BackoffPolicy()), random.Random(2)
    for _ in range(15):
        backoff.failed(rng)
    assert not backoff.offline
    delays = [backoff.failed(rng) for _ in range(2000)]
    assert backoff.offline
    assert delays[0] == 300
    assert min(delays) >= 300
    assert max(delays) <= 3600
    assert max(delays) > 3500


def test_a_good_stream_begins_anew() -> None:
    """After a good stream the next failure waits at most as long as the first one did."""
    backoff, rng = Backoff(BackoffPolicy()), random.Random(3)
    for _ in range(40):
        backoff.failed(rng)
    backoff.good()
    assert not backoff.offline
    assert backoff.failed(rng) <= 1.0
