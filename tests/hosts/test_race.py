"""Happy eyeballs: which of a host's addresses wins, how soon the next one is begun with, that nothing is left open."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
from typing import TYPE_CHECKING

import pytest

from zlay.hosts.dns import Address
from zlay.hosts.race import ADDRESSES_TRIED, ATTEMPT_DELAY_S, OutOfDescriptors, Race
from zlay.hosts.upgrade import DialFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 20.0
WITHIN_S = 5.0


class Place:
    """A selector, and listeners to connect to."""

    def __init__(self) -> None:
        self.selector = selectors.EpollSelector()
        self.keep = contextlib.ExitStack()

    def listens(self, address: str = "127.0.0.1") -> Address:
        """An address where somebody listens."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = self.keep.enter_context(socket.create_server((address, 0), family=family))
        return Address(family, listener.getsockname())

    def refuses(self) -> Address:
        """An address where nobody listens."""
        with socket.create_server(("127.0.0.1", 0)) as gone:
            return Address(socket.AF_INET, gone.getsockname())

    def is_dead(self) -> Address:
        """An address that never answers: its queue is full, so the kernel drops what comes."""
        listener = self.keep.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            sock = self.keep.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        return Address(socket.AF_INET, listener.getsockname())

    def race(self, *addresses: Address, now: float = 0.0) -> Race:
        """A race over these."""
        return Race(addresses, self.selector, "owner", now, WITHIN_S)

    def socks(self) -> list[socket.socket]:
        """What is in flight."""
        return [key.fileobj for key in self.selector.get_map().values()]  # type: ignore[misc]

    def wait(self, count: int = 1) -> None:
        """Until so many of them are ready."""
        deadline = time.monotonic() + DEADLINE_S
        while len(self.selector.select(0.01)) < count:
            assert time.monotonic() < deadline


@pytest.fixture
def place() -> Iterator[Place]:
    """Nothing may be left in the selector."""
    made = Place()
    with made.keep:
        yield made
        assert made.socks() == []
    made.selector.close()


def test_the_first_address_wins_when_it_answers(place: Place) -> None:
    """The first address is the one connected to, and no other is tried."""
    first, second = place.listens(), place.listens()
    race = place.race(first, second)
    place.wait()
    (only,) = place.socks()
    won = race.ready(only, 0.01)
    assert won is only
    with won:
        assert won.getpeername() == first.sockaddr


@pytest.mark.parametrize("second", ["127.0.0.1", "::1"])
def test_a_dead_address_costs_a_quarter_of_a_second(place: Place, second: str) -> None:
    """After ATTEMPT_DELAY_S the next address is begun with beside the first; the one that answers wins."""
    if second == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 on this machine")
    good = place.listens(second)
    race = place.race(place.is_dead(), good)
    assert race.deadline == ATTEMPT_DELAY_S
    (dead,) = place.socks()
    race.expired(race.deadline)
    assert race.deadline == WITHIN_S
    place.wait()
    ((key, _),) = place.selector.select(0)
    assert key.fileobj is not dead
    assert key.data == "owner"
    won = race.ready(key.fileobj, 0.3)  # type: ignore[arg-type]
    assert won is not None
    with won:
        assert won.getpeername()[:2] == good.sockaddr[:2]
    assert dead.fileno() == -1


def test_a_late_first_answer_still_wins(place: Place) -> None:
    """An address that answers after the next one was begun with is as good."""
    first = place.listens()
    race = place.race(first, place.is_dead())
    (slow,) = place.socks()
    race.expired(race.deadline)
    place.wait()
    won = race.ready(slow, 0.4)
    assert won is slow
    won.close()


def test_a_refusal_is_followed_at_once(place: Place) -> None:
    """Where an address refuses, the next one is not waited for."""
    good = place.listens()
    race = place.race(place.refuses(), good)
    place.wait()
    (refused,) = place.socks()
    assert race.ready(refused, 0.01) is None
    (next_one,) = place.socks()
    place.wait()
    won = race.ready(next_one, 0.02)
    assert won is not None
    with won:
        assert won.getpeername() == good.sockaddr


def test_all_refuse(place: Place) -> None:
    """When every address refuses, the dial has failed as refused, and all of them are named."""
    race = place.race(place.refuses(), place.refuses())
    place.wait()
    assert race.ready(place.socks()[0], 0.01) is None
    place.wait()
    with pytest.raises(DialFailed, match=r"refused \(127\.0\.0\.1, 127\.0\.0\.1\)") as caught:
        race.ready(place.socks()[0], 0.02)
    assert caught.value.kind == "tcp_refused"


def test_none_answers(place: Place) -> None:
    """All addresses together have `within_s`; at most ADDRESSES_TRIED of them are tried."""
    dead = place.is_dead()
    race = place.race(*[dead] * (ADDRESSES_TRIED + 3))
    now = 0.0
    for _ in range(ADDRESSES_TRIED - 1):
        assert race.deadline == pytest.approx(now + ATTEMPT_DELAY_S)
        now = race.deadline
        race.expired(now)
    assert len(place.socks()) == ADDRESSES_TRIED
    assert race.deadline == WITHIN_S
    with pytest.raises(DialFailed) as caught:
        race.expired(WITHIN_S)
    assert (caught.value.kind, "ETIMEDOUT" in caught.value.text) == ("tcp_timeout", True)
    race.close()
    race.close()


def test_a_family_that_the_machine_does_not_have(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no socket of the first address's family can be had, the next address is begun with at once."""
    good = place.listens()
    made = socket.socket

    def refuse_ipv6(family: int = -1, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no such family")
        return made(family, *rest)

    monkeypatch.setattr(socket, "socket", refuse_ipv6)
    race = place.race(Address(socket.AF_INET6, ("::1", 9, 0, 0)), good)
    monkeypatch.undo()
    place.wait()
    won = race.ready(place.socks()[0], 0.01)
    assert won is not None
    won.close()


def test_no_descriptor_is_no_fault_of_the_host(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a descriptor for the first attempt the race says so; for a later one those in flight go on."""
    dead = place.is_dead()
    race = place.race(dead, dead)

    def none_left(*_: int) -> socket.socket:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(socket, "socket", none_left)
    race.expired(race.deadline)
    assert len(place.socks()) == 1
    with pytest.raises(OutOfDescriptors):
        place.race(dead)
    monkeypatch.undo()
    race.close()
