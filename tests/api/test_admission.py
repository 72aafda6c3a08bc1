"""Who is let in, and what is kept for all: the counts alone."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.api.test_connection import new
from zlay.api import admission
from zlay.api.admission import Admission
from zlay.api.client import ByteSum, Client
from zlay.api.tally import BUCKETS_S, BY_STATUS, REASONS, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    """Four, on sockets that nobody uses."""
    socks = [socket.socket() for _ in range(4)]
    yield [Client(sock, sock.fileno(), "10.0.0.1", False, new(), 0.0) for sock in socks]
    for sock in socks:
        sock.close()


def test_connections_by_port_and_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port has its limit, a client its own on the public one, an IPv6 /64 being one; who leaves makes room, and is
    forgotten."""
    monkeypatch.setattr(admission, "MAX_CONNECTIONS", 5)
    monkeypatch.setattr(admission, "MAX_CONNECTIONS_PER_CLIENT", 2)
    monkeypatch.setattr(admission, "MAX_INTERNAL_CONNECTIONS", 3)
    one = Admission()
    peers = ["2001:db8::1", "2001:db8::2", "1.1.1.1", "1.1.1.1", "1.1.1.2"]
    assert [one.refusal(peer, is_internal=False) for peer in peers[:2]] == [None, None]
    assert one.refusal("2001:db8::3", is_internal=False) == "address_full"
    assert [one.refusal("2001:db8::1", is_internal=True) for _ in range(4)] == [None, None, None, "port_full"]
    assert [one.refusal(peer, is_internal=False) for peer in peers[2:]] == [None, None, None]
    assert one.refusal("1.1.1.3", is_internal=False) == "port_full"
    assert one.open == {False: 5, True: 3}
    for peer in peers:
        one.leave(peer, is_internal=False)
    for _ in range(3):
        one.leave("2001:db8::1", is_internal=True)
    assert (one.open, one.clients) == ({False: 0, True: 0}, 0)


def test_requests_by_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client has so many requests with the handlers of the public port; the other port's are not limited."""
    monkeypatch.setattr(admission, "MAX_WAITING_PER_CLIENT", 2)
    one = Admission()
    assert [one.ask("1.1.1.1", is_internal=False) for _ in range(3)] == [True, True, False]
    assert one.ask("1.1.1.2", is_internal=False)
    assert one.ask("1.1.1.1", is_internal=True)
    one.answered("1.1.1.1", is_internal=True)
    assert not one.ask("1.1.1.1", is_internal=False)
    for address in ("1.1.1.1", "1.1.1.1", "1.1.1.2"):
        one.answered(address, is_internal=False)
    assert one.clients == 0


def test_bytes_together(clients: list[Client]) -> None:
    """Over the bound the first that made us keep some are named, until half is free; growing is not coming anew."""
    a, b, c, d = clients
    kept = ByteSum(100)
    assert [kept.set(one, 30) for one in (a, b, c)] == [[], [], []]
    assert kept.set(a, 35) == []
    assert kept.set(b, 0) == []
    assert kept.set(b, 30) == []
    assert kept.bytes == 95
    assert kept.set(d, 10) == [a, c]  # 105 - 35 - 30 = 40
    for one in (a, c):
        kept.set(one, 0)
    assert kept.bytes == 40
    assert kept.set(d, 200) == [b, d]


def test_times_fall_into_buckets() -> None:
    """An answer counts in the bucket whose bound it does not exceed, by its route."""
    tally = Tally()
    for seconds in (0.0, BUCKETS_S[0], BUCKETS_S[0] + 1e-6, 1e9):
        tally.answered("/x", 200, seconds)
    tally.answered("/x", 404, 0.0)
    assert tally.answers == {("/x", 200): 4, ("/x", 404): 1}
    assert tally.times == {"/x": [3, 1, *[0] * (len(BUCKETS_S) - 2), 1]}
    assert set(BY_STATUS.values()) <= REASONS.keys()
    with pytest.raises(KeyError):
        tally.refuse("nothing known")
