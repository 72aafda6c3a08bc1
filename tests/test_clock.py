"""A local clock that is wrong: noticed, told, waited for. The machine's own clock is never touched."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

from tests.api.support import wait_until
from tests.live import LiveRelay
from tests.net.fake_http import FakeHttp, reply
from tests.pipeline.test_link import Network, account
from tests.state.support import did
from zlay._fast import verdicts
from zlay.clock import MOST_BEHIND_S, ClockWatch
from zlay.state.interface import NewHost

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR_S = 3600.0
START_S = 1_700_000_000.0


class Clocks:
    """A wall clock and a monotonic one that move when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s = START_S
        self.monotonic_s = 1000.0
        self.told: list[bool] = []
        self.offset_us = 0
        monkeypatch.setattr("zlay.clock._clocks", lambda: (self.wall_s, self.monotonic_s))

    def pass_s(self, seconds: float) -> None:
        """Time goes by."""
        self.wall_s += seconds
        self.monotonic_s += seconds

    def watch(self, *directories: str, newest_us: int = 0) -> ClockWatch:
        """A watch over these clocks."""
        return ClockWatch(
            newest_us=newest_us, directories=directories, on_fault=self.told.append, set_offset=self._set_offset
        )

    def _set_offset(self, offset_us: int) -> None:
        self.offset_us = offset_us


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """Right clocks."""
    return Clocks(monkeypatch)


def date(unix_s: float) -> str:
    """As in a `Date` header."""
    return formatdate(unix_s, usegmt=True)


def test_set_back_and_put_right(clocks: Clocks) -> None:
    """A clock set an hour back is told once, and so is its being right again; meanwhile time goes on as expected."""
    watch = clocks.watch()
    for _ in range(3):
        clocks.pass_s(10)
        watch.check()
    assert (watch.fault, clocks.told) == (None, [])
    clocks.wall_s -= HOUR_S
    watch.check()
    clocks.pass_s(10)
    watch.check()
    assert watch.fault is not None
    assert "3600 s behind" in watch.fault
    assert clocks.offset_us == (START_S - 1000) * 1e6
    clocks.wall_s += HOUR_S
    watch.check()
    assert (watch.fault, clocks.told) == (None, [True, False])


def test_corrections_are_no_fault(clocks: Clocks) -> None:
    """Small steps either way are followed, however many there are, and a clock put forward stops nothing."""
    watch = clocks.watch()
    for _ in range(10):
        clocks.wall_s -= MOST_BEHIND_S / 2
        watch.check()
    assert clocks.offset_us == (START_S - 1000 - 5 * MOST_BEHIND_S) * 1e6
    clocks.wall_s += HOUR_S
    watch.check()
    assert (watch.fault, clocks.told) == (None, [])


def test_set_back_before_the_start(clocks: Clocks) -> None:
    """A start with a log that is newer than the clock finds the clock wrong, until it has come that far."""
    watch = clocks.watch(newest_us=int((START_S + HOUR_S) * 1e6))
    watch.check()
    assert watch.fault is not None
    clocks.wall_s += HOUR_S
    watch.check()
    assert watch.fault is None


def test_directory_knows_better(clocks: Clocks) -> None:
    """A clock that was wrong from the start is found out by the date of a directory's answer; what is no date, and an
    old one, say nothing."""
    watch = clocks.watch()
    for text in ("", "soon", date(START_S - HOUR_S)):
        watch.note_date(text)
        watch._next_date_s = 0.0  # as if a second had passed
    assert watch.fault is None
    watch.note_date(date(START_S + HOUR_S))
    assert watch.fault is not None
    clocks.wall_s += HOUR_S
    watch.check()
    assert clocks.told == [True, False]


def test_clock_that_was_ahead_is_believed_when_a_directory_agrees(clocks: Clocks) -> None:
    """A clock that is set back since it was ahead is right as soon as a directory, asked for that, gives its time."""
    with FakeHttp(lambda *_: reply(404, Date=date(clocks.wall_s))) as plc:
        watch = clocks.watch("http://127.0.0.1:9", plc.url)
        clocks.wall_s -= HOUR_S
        watch.stop()
        watch.run()  # once
        assert (watch.fault, clocks.told) == (None, [True, False])
        assert [request.path for request in plc.requests] == ["/_health"]
    assert clocks.offset_us == (START_S - HOUR_S - 1000) * 1e6


def test_start_asks_a_directory(clocks: Clocks) -> None:
    """A watch that begins asks the directories in turn until one gives a time, and so finds a clock that has been wrong
    since before."""
    right = reply(200, Date=date(START_S + HOUR_S))
    with (
        FakeHttp(lambda *_: reply(200)) as dumb,
        FakeHttp(lambda *_: right) as plc,
        FakeHttp(lambda *_: right) as other,
    ):
        watch = clocks.watch(dumb.url, plc.url, other.url)
        watch.stop()
        watch.run()  # once
        watch.wait_asked(0)
        assert watch.fault is not None
        assert [len(one.requests) for one in (dumb, plc, other)] == [1, 1, 0]


@pytest.fixture
def network() -> Iterator[Network]:
    """A directory and a host."""
    one = Network()
    yield one
    one.close()


def drops() -> int:
    """Frames dropped so far, by any relay of this process, but for those that a stop has let go."""
    counts = verdicts.counts()
    return sum(n for (verdict, reason), n in counts.items() if verdict == "drop" and reason != "shutdown")


def test_relay_waits_for_its_clock(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a relay's clock is an hour behind it judges nothing, drops nothing, and readiness says why; then it goes
    on."""
    back_s = 0.0
    monkeypatch.setattr("zlay.clock._clocks", lambda: (time.time() - back_s, time.monotonic()))
    dropped = drops()
    network.homes[did(1)] = f"http://{network.pds.hostname}"
    with LiveRelay(tmp_path / "relay", RELAY_PLC_URL=network.plc.url) as live:
        relay = live.relay
        relay.registry.add([NewHost(network.pds.hostname, "admin", no_tls=True)])
        _, sock = network.connection()
        sock.sendall(account(1, did(1)))
        wait_until(lambda: relay.log.published_end == 1, "the first is published")
        back_s = HOUR_S
        wait_until(lambda: relay.clock.fault is not None, "the clock is found wrong")
        assert any(reason.startswith("clock: ") for reason in relay.readiness())
        frames = relay.stats()["hosts"]["frames"]  # of this process
        sock.sendall(account(2, did(1)))
        wait_until(lambda: relay.stats()["hosts"]["frames"] == frames + 1, "the second has come")
        time.sleep(0.3)  # lets a wrong verdict happen
        assert relay.log.published_end == 1
        back_s = 0.0
        wait_until(lambda: relay.log.published_end == 2, "the second is published")
        assert not any(reason.startswith("clock: ") for reason in relay.readiness())
    assert drops() == dropped
