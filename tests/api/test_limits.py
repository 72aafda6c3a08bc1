"""How often one address may ask, on a clock of the test's own."""

from __future__ import annotations

import threading

import pytest

from zlay.api import limits
from zlay.api.limits import AddressLimit


class Clock:
    """Time as the test says."""

    now = 1000.0

    def __call__(self) -> float:
        """Now."""
        return self.now


def test_a_burst_and_then_one_per_interval() -> None:
    """So many at once, then one for each interval; who has rested has the whole burst again, and no more."""
    clock = Clock()
    limit = AddressLimit(3, 10.0, clock=clock)
    assert [limit.take("1.1.1.1") for _ in range(4)] == [0.0, 0.0, 0.0, 10.0]
    clock.now += 4
    assert limit.take("1.1.1.1") == pytest.approx(6.0)
    clock.now += 6
    assert limit.take("1.1.1.1") == 0.0
    assert limit.take("1.1.1.1") == pytest.approx(10.0)
    clock.now += 1000
    assert [limit.take("1.1.1.1") for _ in range(4)] == [0.0, 0.0, 0.0, 10.0]


def test_addresses_do_not_take_from_each_other_but_for_one_ipv6_network() -> None:
    """Every IPv4 address and every IPv6 /64 is an asker of its own."""
    limit = AddressLimit(1, 10.0, clock=Clock())
    assert limit.take("1.1.1.1") == 0.0
    assert limit.take("1.1.1.2") == 0.0
    assert limit.take("2001:db8::1") == 0.0
    assert limit.take("2001:db8::ffff:1") > 0
    assert limit.take("2001:db8:0:1::1") == 0.0
    assert limit.take("fe80::1%eth0") == 0.0


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More addresses than may be remembered push out those that asked longest ago."""
    monkeypatch.setattr(limits, "MAX_ADDRESSES", 10)
    limit = AddressLimit(1, 10.0, clock=Clock())
    for n in range(11):
        assert limit.take(f"1.1.1.{n}") == 0.0
    assert len(limit._full_at) == 10
    assert limit.take("1.1.1.10") > 0
    assert limit.take("1.1.1.0") == 0.0


def test_threads_share_one_bucket() -> None:
    """However many threads ask at once, no more is given than there is."""
    limit = AddressLimit(100, 1e6, clock=Clock())
    barrier = threading.Barrier(8)
    taken: list[int] = []

    def take() -> None:
        barrier.wait()
        taken.append(sum(limit.take("1.1.1.1") == 0.0 for _ in range(100)))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 100
