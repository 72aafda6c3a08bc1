"""What workers ask and Python threads answer: as plain lists, and through a whole relay."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import cbor2
import pytest

from tests.api.support import wait_until
from tests.e2e.relay import RelayProcess
from tests.hosts.fake_pds import FakePds, frame, upgrade
from tests.live import LiveRelay
from tests.net.fake_http import FakeHttp, Request, reply, reply_json
from tests.state.support import did
from zlay._fast import requests, verdicts
from zlay.pipeline.link import Link
from zlay.pipeline.types import ResolveRequest
from zlay.state.interface import NewHost

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from zlay.pipeline.types import Identity
    from zlay.relay import Relay

WAIT_S = 10.0
KEY = "zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme"  # a K-256 did:key of the W3C's examples


# --- requests, without workers ---


@pytest.fixture
def link() -> Iterator[Link]:
    """A link whose requests the test makes."""
    requests.open_lists()
    yield Link(lambda _name: 0)
    requests.close_lists()


def test_requests_come_out_in_their_terms(link: Link) -> None:
    """Each kind of question comes out once, in order, with what its thread needs."""
    requests.put(requests.RESOLVE, did(1))
    requests.put(requests.REFRESH, did(2))
    assert link.next_resolve(WAIT_S) == ResolveRequest(did(1), force=False)
    assert link.next_resolve(WAIT_S) == ResolveRequest(did(2), force=True)
    for kind in (requests.RESOLVE, requests.REFRESH, requests.RENEW):
        requests.put(kind, "did:web:a.test")
    assert link.next_resolve(0) is None
    assert [link.next_resolve_web(WAIT_S) for _ in range(3)] == [
        ResolveRequest("did:web:a.test", force=force) for force in (False, True, True)
    ]
    requests.put(requests.RECHECK, did(3))
    assert link.next_recheck(WAIT_S) == did(3)
    requests.put(requests.STATUS, did(4), 7)
    requests.put(requests.RESYNC, did(5), 8)
    assert link.next_status_check(WAIT_S) == (did(4), 7)
    assert link.next_resync(WAIT_S) == (did(5), 8)
    for n in range(10):
        requests.put(requests.LOAD, did(n))
    assert link.next_loads(4, WAIT_S) == [did(n) for n in range(4)]
    assert link.next_loads(100, WAIT_S) == [did(n) for n in range(4, 10)]


def test_hosts_take_turns(link: Link) -> None:
    """However many accounts a host brings up, another host's is asked for next but one; each host's in their order."""
    many, few, others = range(1000), range(1000, 1003), range(2000, 2100)
    for n in many:
        requests.put(requests.RESOLVE, did(n), 1)
    assert link.next_resolve(WAIT_S) == ResolveRequest(did(0), force=False)
    for n in few:
        requests.put(requests.REFRESH, did(n), 2)
    taken = [link.next_resolve(WAIT_S) for _ in range(6)]
    names = [asked.did for asked in taken if asked is not None]
    assert names == [did(n) for n in (1, 1000, 2, 1001, 3, 1002)]
    for host_id, n in enumerate(others, 600):  # more than there are lanes apart: some share one
        requests.put(requests.RESOLVE, did(n), host_id % 777)
    asked = [request.did for _ in range(996 + 100) if (request := link.next_resolve(WAIT_S)) is not None]
    assert set(asked[:205]) >= {did(n) for n in others}
    assert [name for name in asked if name in {did(n) for n in many}] == [did(n) for n in range(4, 1000)]
    assert link.next_resolve(0) is None


def test_nothing_to_do_takes_the_time_given_and_no_more(link: Link) -> None:
    """Without a request a thread waits as long as it said, and gets nothing."""
    began = time.monotonic()
    assert link.next_resolve(0.1) is None
    assert link.next_recheck(0.1) is None
    assert link.next_status_check(0.1) is None
    assert link.next_resync(0.1) is None
    assert link.next_loads(10, 0.1) == []
    assert 0.45 < time.monotonic() - began < WAIT_S


def test_a_request_wakes_one_of_many_waiting_threads(link: Link) -> None:
    """However many threads wait, each request is taken once, and soon."""
    taken: queue.SimpleQueue[str] = queue.SimpleQueue()
    stop = threading.Event()

    def wait() -> None:
        while not stop.is_set():
            asked = link.next_resolve(WAIT_S)
            if asked is not None:
                taken.put(asked.did)

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    for n in range(500):
        requests.put(requests.RESOLVE, did(n))
    assert sorted(taken.get(timeout=WAIT_S) for _ in range(500)) == [did(n) for n in range(500)]
    stop.set()
    requests.close_lists()  # what the stop of the pipeline does: nobody sleeps on
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert taken.empty()


# --- through a whole relay ---


def account(seq: int, who: str) -> bytes:
    """An #account message in its frame."""
    body = {"did": who, "seq": seq, "time": "2026-01-01T00:00:00Z", "active": True}
    header = {"t": "#account", "op": 1}
    return frame(cbor2.dumps(header, canonical=True) + cbor2.dumps(body, canonical=True))


def identity(seq: int, who: str) -> bytes:
    """An #identity message in its frame."""
    body = {"did": who, "seq": seq, "time": "2026-01-01T00:00:00Z"}
    header = {"t": "#identity", "op": 1}
    return frame(cbor2.dumps(header, canonical=True) + cbor2.dumps(body, canonical=True))


class Network:
    """A directory and one host that sends what the test says; `homes` maps a DID to its PDS."""

    def __init__(self) -> None:
        self.homes: dict[str, str] = {}
        self.refused: set[str] = set()  # DIDs for which the directory fails
        self.plc = FakeHttp(self._document)
        self._connections: queue.SimpleQueue[tuple[str, socket.socket]] = queue.SimpleQueue()
        self._ended = threading.Event()
        self.pds = FakePds(self._play)

    def _document(self, request: Request, _connection: socket.socket) -> bytes:
        who = request.path.removeprefix("/")
        if who not in self.homes:
            return reply(404)
        if who in self.refused:
            return reply(500)
        method = {"id": f"{who}#atproto", "type": "Multikey", "controller": who, "publicKeyMultibase": KEY}
        service = {"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": self.homes[who]}
        return reply_json({"id": who, "verificationMethod": [method], "service": [service]})

    def _play(self, sock: socket.socket) -> None:
        self._connections.put((upgrade(sock), sock))
        self._ended.wait(60)

    def connection(self) -> tuple[str, socket.socket]:
        """The relay's next connection to the host: cursor asked for ("" = none), socket."""
        return self._connections.get(timeout=WAIT_S)

    def asked(self, who: str) -> int:
        """How often the directory has been asked for a DID."""
        return sum(one.path == f"/{who}" for one in self.plc.requests)

    def close(self) -> None:
        """Ends everything."""
        self._ended.set()
        self.pds.close()
        self.plc.close()


@pytest.fixture
def network() -> Iterator[Network]:
    """A directory and a host."""
    one = Network()
    yield one
    one.close()


@pytest.fixture
def relay(network: Network, tmp_path: Path) -> Iterator[Relay]:
    """A relay between them."""
    with LiveRelay(tmp_path / "relay", RELAY_PLC_URL=network.plc.url) as live:
        live.relay.registry.add([NewHost(network.pds.hostname, "admin", no_tls=True)])
        yield live.relay


def dropped(reason: str) -> int:
    """Frames dropped for this reason so far."""
    return verdicts.counts()[("drop", reason)]


def test_an_identity_lets_its_accounts_events_pass(network: Network, relay: Relay) -> None:
    """A frame of an unknown account waits for one look-up, passes when the document names its host, and is stored."""
    network.homes[did(1)] = f"http://{network.pds.hostname}"
    _, sock = network.connection()
    sock.sendall(account(1, did(1)) + account(2, did(1)))
    wait_until(lambda: relay.log.published_end == 2, "both are published")
    assert network.asked(did(1)) == 1

    def is_stored() -> bool:
        row = relay.store.account(did(1))  # its identity is stored by another thread
        return row is not None and row.host_id == relay.registry.id_of(network.pds.hostname)

    wait_until(is_stored, "the account is stored")


def test_another_hosts_account_is_dropped(network: Network, relay: Relay) -> None:
    """A document that names another host, known to the relay or not, drops the frame, after one refresh (E2)."""
    relay.registry.add([NewHost("localhost:1", "admin", no_tls=True)])
    network.homes[did(1)] = "http://localhost:1"
    network.homes[did(2)] = "https://stranger.example.com"
    before = dropped("wrong_host")
    _, sock = network.connection()
    sock.sendall(account(1, did(1)) + account(2, did(2)))
    wait_until(lambda: dropped("wrong_host") == before + 2, "both are dropped")
    assert relay.log.published_end == 0
    assert all(1 <= network.asked(did(n)) <= 2 for n in (1, 2))


def identities(relay: Relay, dids: list[str]) -> list[Identity | None]:
    """What is stored of each DID's document."""
    return [None if row is None else row.identity for row in relay.store.load_accounts(dids)]


def test_a_warm_start_asks_for_what_has_changed_alone(network: Network, tmp_path: Path) -> None:
    """After a restart the directory is asked for the account whose #identity it could not answer before, for nobody
    else; one whose identity is a day old passes without waiting, and is asked for behind its back (G5)."""
    changed, old = did(1), did(40)
    everybody = [did(n) for n in range(40)]
    network.homes = dict.fromkeys((*everybody, old), f"http://{network.pds.hostname}")
    with LiveRelay(tmp_path / "relay", RELAY_PLC_URL=network.plc.url) as live:
        live.relay.registry.add([NewHost(network.pds.hostname, "admin", no_tls=True)])
        _, sock = network.connection()
        sock.sendall(b"".join(account(1 + n, who) for n, who in enumerate(everybody)))
        wait_until(lambda: live.relay.log.published_end == 40, "all are published")
        wait_until(lambda: None not in identities(live.relay, everybody), "their identities are stored")
        (fresh,) = identities(live.relay, [did(0)])
        assert fresh is not None
        day_old = replace(fresh, did=old, resolved_us=fresh.resolved_us - 25 * 3600 * 1_000_000)
        live.relay.store.save_identities([day_old])
        network.refused = {changed, old}
        sock.sendall(identity(41, changed))
        wait_until(lambda: network.asked(changed) >= 2, "the directory is asked, and fails")
        live.stop()
        asked = len(network.plc.requests)
        live.start()
        cursor, sock = network.connection()
        assert cursor == "41"
        sock.sendall(b"".join(account(42 + n, who) for n, who in enumerate((*everybody, old))))
        wait_until(lambda: live.relay.log.published_end == 81, "all pass but those that wait for the directory")

        def old_has_passed() -> bool:
            row = live.relay.store.account(old)
            return row is not None and row.host_id != 0

        wait_until(old_has_passed, "the event of the old identity passes while the directory fails")
        wait_until(lambda: network.asked(old) > 0, "the old identity is renewed")
        network.refused = set()
        wait_until(lambda: live.relay.log.published_end == 82, "nothing is lost")
        requests_since = {one.path for one in network.plc.requests[asked:]}
        assert requests_since - {"/_health"} == {f"/{changed}", f"/{old}"}


@pytest.mark.e2e
def test_a_stored_account_is_not_asked_for_again(network: Network, tmp_path: Path) -> None:
    """After a restart an account comes from the database, its identity with it: the directory is not asked.
    Its host is listed with its cursor before it has sent anything (E20)."""
    host = network.pds.hostname
    network.homes[did(1)] = f"http://{host}"
    with RelayProcess(tmp_path / "data", plc_url=network.plc.url, hosts=[host]) as relay:
        network.connection()[1].sendall(account(1, did(1)))
        relay.wait_metric("relay_seq", 1)
        assert relay.terminate() == 0
        relay.start()
        cursor, sock = network.connection()
        assert cursor == "1"
        assert [(one["hostname"], one["seq"]) for one in relay.xrpc("listHosts")["hosts"]] == [(host, 1)]
        sock.sendall(account(2, did(1)))
        relay.wait_metric("relay_seq", 2)
    assert network.asked(did(1)) == 1
