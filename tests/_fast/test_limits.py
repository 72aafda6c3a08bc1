"""Limits of hosts in the core: what the buckets allow, and readers that wait for them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from wsproto import events

from tests._fast.test_reader import DEADLINE_S, Server, _collect, intake, kind, message  # noqa: F401
from zlay._fast import host, limits, reader

if TYPE_CHECKING:
    from collections.abc import Callable

S = 1_000_000
NONE = (0, 0, 0, 0, 0, 0)
NOW = 1000 * S


def until(what: Callable[[], bool]) -> None:
    """Waits for something that must come."""
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_no_limits_no_waits() -> None:
    """Without limits nothing is waited for."""
    assert limits.replay(NONE, [(NOW, 5_000_000)] * 1000) == [0] * 1000


def test_allowance_at_once_then_as_it_fills() -> None:
    """A window's whole allowance may come at once; what is over waits until its part of the window has passed."""
    waits = limits.replay((4, 0, 0, 0, 0, 0), [(NOW, 10)] * 6)
    assert waits[:4] == [0] * 4
    assert waits[4] == pytest.approx(S / 4, abs=2)
    assert waits[5] == pytest.approx(S / 2, abs=2)
    assert limits.replay((4, 0, 0, 0, 0, 0), [(NOW + i * S // 4, 10) for i in range(50)]) == [0] * 50


@pytest.mark.parametrize(("place", "period_s"), [(0, 1), (1, 3600), (2, 86400)])
def test_each_window_in_events_and_bytes(place: int, period_s: int) -> None:
    """Second, hour and day, each in events and in bytes, hold back by themselves."""
    in_events = [0] * 6
    in_events[place] = 10
    assert limits.replay(in_events, [(NOW, 1)] * 11)[-2:] == [0, pytest.approx(period_s * S / 10, abs=2)]
    in_bytes = [0] * 6
    in_bytes[3 + place] = 1000
    assert limits.replay(in_bytes, [(NOW, 1000), (NOW, 500)]) == [0, pytest.approx(period_s * S / 2, abs=2)]


def test_over_limit_is_not_read_and_nothing_is_lost(kind: str) -> None:  # noqa: F811
    """A host over its limits is not read, whatever it sends; a limit that is lifted lets all come, in order."""
    server = Server(kind)
    limits.set_limits(server.index, (0, 2, 0, 0, 0, 0))
    for seq in range(1, 6):
        server.send(message(seq, 20_000))  # more than is received at once: looked at one by one
    rows = _collect(3)
    until(lambda: limits.throttled(server.index))
    assert reader.collected() == []
    limits.set_limits(server.index, NONE)
    rows += _collect(2)
    assert [row[1] for row in rows] == [1, 2, 3, 4, 5]
    stats = host.stats(server.index)
    assert stats["throttled_s"] > 0
    assert stats["by_reason"] == {0: 5}  # the sink's own: none was dropped on the way
    assert not limits.throttled(server.index)


def test_throttled_reader_lives() -> None:
    """A reader that waits for a limit tells the host that it lives, and stops at once when asked to."""
    reader.set_times(ping_s=0.02)
    server = Server()
    limits.set_limits(server.index, (0, 1, 0, 0, 0, 0))
    server.send(message(1) + message(2))
    _collect(2)
    while not isinstance(server.receive(), events.Pong):
        pass
    until(lambda: limits.throttled(server.index))
    assert reader.stop(server.index)
    assert server.end().cause == "stopped"


def test_reconnecting_is_no_way_out() -> None:
    """What a host has sent counts on its next connection, too."""
    server = Server()
    limits.set_limits(server.index, (0, 1, 0, 0, 0, 0))
    server.send(message(1) + message(2))
    _collect(2)
    server.sock.close()
    until(lambda: limits.throttled(server.index))
    assert reader.stop(server.index)
    server.end()
    server.connect("native")
    server.send(message(3))
    until(lambda: limits.throttled(server.index))
    assert reader.collected() == []


def test_bad_arguments() -> None:
    """Too few limits, and a host that is none, are refused."""
    index = host.new(1, "pds.example.com")
    with pytest.raises(ValueError, match="5 limits"):
        limits.set_limits(index, NONE[1:])
    with pytest.raises(IndexError):
        limits.set_limits(60_000, NONE)
    assert limits.limits(index) == NONE
