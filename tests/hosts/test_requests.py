"""requestCrawl, the operator's hosts and another relay's list: what is added and what is refused."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.net.fake_http import FakeHttp, Request, reply, reply_json
from zlay.errors import HostRefused, HttpFault
from zlay.hosts.registry import Registry
from zlay.hosts.requests import MAX_CHECKS, CrawlRequests
from zlay.hosts.seeds import PAGE_TIMEOUT_S, Seeder
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

DESCRIPTION = {"did": "did:web:pds.example.com", "availableUserDomains": []}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry without hosts."""
    store = SqliteStore(tmp_path / "state.sqlite")
    yield Registry(store, store.hosts(), host_credit_bytes=1 << 20, max_new_per_day=20)
    store.close()


@pytest.fixture
def crawl(registry: Registry) -> CrawlRequests:
    """Requests in private mode."""
    return CrawlRequests(registry, allow_private=True)


def pds(_: Request, __: socket.socket) -> bytes:
    """A host that describes itself."""
    return reply_json(DESCRIPTION, Server="pds")


def refusal(crawl: CrawlRequests, hostname: str) -> HostRefused:
    """Why the host is refused."""
    with pytest.raises(HostRefused) as caught:
        crawl.request(hostname)
    return caught.value


def test_good_host_is_added(crawl: CrawlRequests, registry: Registry) -> None:
    """A host that describes itself is added and dialled."""
    announced: list[int] = []
    registry.on_added = announced.append
    with FakeHttp(pds) as host:
        entry = crawl.request(f"localhost:{host.port}")
        assert host.requests[0].target == "/xrpc/com.atproto.server.describeServer"
    assert (entry.hostname, entry.no_tls, entry.source) == (f"localhost:{host.port}", True, "request")
    assert announced == [entry.id]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(404), "HostNotFound"),
        (reply(200, b"hello"), "HostNotFound"),
        (reply_json({"no": "did"}), "HostNotFound"),
        (reply_json(["did"]), "HostNotFound"),
        (reply(200, b"x" * 200_000), "HostNotFound"),
        (reply(302, Location="http://elsewhere/"), "HostNotFound"),
        (reply_json(DESCRIPTION, Server="indigo (atproto-relay)"), "BadRequest"),
        (reply(404, Server="zlay (atproto-relay)"), "BadRequest"),
        (None, "HostNotFound"),
    ],
    ids=["404", "no-json", "no-did", "no-object", "huge", "redirect", "relay", "relay-404", "closed"],
)
def test_bad_host_leaves_no_trace(crawl: CrawlRequests, registry: Registry, answer: bytes | None, error: str) -> None:
    """A host that is no PDS, or is a relay, is refused by name and nothing of it is kept."""
    with FakeHttp(lambda *_: answer) as host:
        assert refusal(crawl, f"localhost:{host.port}").error == error
    assert registry.page(0, 10) == []


def test_silent_host_is_refused_in_time(
    crawl: CrawlRequests, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that does not answer is refused after the time for checks, and the number of checks is bounded."""
    monkeypatch.setattr("zlay.hosts.requests.CHECK_TIMEOUT_S", 0.5)

    def silent(_: Request, __: socket.socket) -> None:
        host.ended.wait(20)

    with FakeHttp(silent) as host, ThreadPoolExecutor(3 * MAX_CHECKS) as pool:
        together = threading.Barrier(3 * MAX_CHECKS)

        def ask(_: int) -> str:
            together.wait(20)
            return refusal(crawl, f"localhost:{host.port}").error

        started = time.monotonic()
        errors = list(pool.map(ask, range(3 * MAX_CHECKS)))
        assert time.monotonic() - started < 10
        assert set(errors) == {"HostNotFound", "RateLimitExceeded"}
        assert errors.count("HostNotFound") == MAX_CHECKS
        host.ended.set()
    assert registry.page(0, 10) == []


def test_known_host_is_dialled_again(crawl: CrawlRequests, registry: Registry) -> None:
    """A known host is not asked or added again; without connection it is dialled."""
    with FakeHttp(pds) as host:
        first = crawl.request(f"localhost:{host.port}")
        registry.set_status(first.id, "offline", None)
        announced: list[int] = []
        registry.on_added = announced.append
        assert crawl.request(f"LOCALHOST:{host.port}").id == first.id
        assert announced == [first.id]
        assert len(host.requests) == 1


def test_banned_host_is_refused_unasked(crawl: CrawlRequests, registry: Registry) -> None:
    """A banned host, and one under a banned domain, are refused without a question to them."""
    with FakeHttp(pds) as host:
        entry = crawl.request(f"localhost:{host.port}")
        registry.ban(entry.id, banned=True)
        assert refusal(crawl, entry.hostname).error == "HostBanned"
        registry.ban_domain("example.com", banned=True)
        assert refusal(crawl, "new.example.com").error == "HostBanned"
        assert len(host.requests) == 1


def test_names_are_judged_first(registry: Registry) -> None:
    """Outside private mode local names, addresses and ports are refused without a connection."""
    strict = CrawlRequests(registry, allow_private=False)
    with FakeHttp(pds) as host:
        for name in (f"localhost:{host.port}", f"127.0.0.1:{host.port}", "localhost", "10.0.0.1"):
            assert refusal(strict, name).error == "BadRequest"
        assert not host.requests


def test_strangers_are_rationed(crawl: CrawlRequests, registry: Registry) -> None:
    """Beyond the day's ration a new host is refused unasked, a known one is not."""
    with FakeHttp(pds) as host:
        known = crawl.request(f"localhost:{host.port}")
        registry._max_new_per_day = 1
        assert refusal(crawl, f"127.0.0.1:{host.port}").error == "RateLimitExceeded"
        assert crawl.request(known.hostname).id == known.id
        assert len(host.requests) == 1


def test_ration_holds_for_those_that_come_together(crawl: CrawlRequests, registry: Registry) -> None:
    """Strangers' hosts that are checked at the same time are counted one by one; one host twice is one host."""
    registry._max_new_per_day = 2
    together = threading.Barrier(4)

    def described(_: Request, __: socket.socket) -> bytes:
        together.wait(20)  # all have been admitted, and none is added yet
        return reply_json(DESCRIPTION)

    def ask(host: FakeHttp) -> str:
        try:
            return crawl.request(f"localhost:{host.port}").hostname
        except HostRefused as refused:
            return refused.error

    with FakeHttp(described) as a, FakeHttp(described) as b, FakeHttp(described) as c, ThreadPoolExecutor(4) as pool:
        told = list(pool.map(ask, [a, a, b, c]))
    added = {entry.hostname for entry in registry.page(0, 10)}
    assert len(added) == 2
    assert set(told) == added | {"RateLimitExceeded"}


def test_banned_host_in_the_settings(crawl: CrawlRequests, registry: Registry) -> None:
    """A ban of a host that stands in RELAY_HOSTS does not keep the relay from starting: the others are added."""
    (banned,) = crawl.add(["localhost:1"], "config")
    registry.ban(banned.id, banned=True)
    (added,) = crawl.add(["localhost:1", "localhost:2"], "config")
    assert added.hostname == "localhost:2"
    found = registry.find("localhost:1")
    assert found is not None
    assert found.banned
    with pytest.raises(HostRefused) as caught:
        crawl.add(["localhost:1"], "admin")
    assert caught.value.error == "HostBanned"


def test_operators_hosts_need_not_answer(crawl: CrawlRequests) -> None:
    """Hosts of the settings are added though they are down; one bad name adds none."""
    entries = crawl.add(["localhost:1", "http://localhost:2"], "config")
    assert [(entry.hostname, entry.no_tls, entry.source) for entry in entries] == [
        ("localhost:1", True, "config"),
        ("localhost:2", True, "config"),
    ]
    with pytest.raises(HostRefused):
        crawl.add(["localhost:3", "not a name"], "config")
    assert len(crawl._registry.page(0, 10)) == 2


# --- another relay's list ---


def listing(pages: list[list[dict[str, object]]]) -> FakeHttp:
    """A relay whose listHosts has these pages."""

    def answer(request: Request, _: socket.socket) -> bytes:
        query = parse_qs(urlsplit(request.target).query)
        at = int(query.get("cursor", ["0"])[0])
        page: dict[str, object] = {"hosts": pages[at]}
        if at + 1 < len(pages):
            page["cursor"] = str(at + 1)
        return reply_json(page)

    return FakeHttp(answer)


def test_seeds_are_read_to_the_end(registry: Registry) -> None:
    """Every page is read; bad names, banned hosts and what is no host are left out."""
    registry.ban_domain("bad.example.com", banned=True)
    pages: list[list[dict[str, object]]] = [
        [{"hostname": "a.example.com"}, {"hostname": "B.example.com", "status": "offline"}],
        [{"hostname": "no name"}, {"hostname": "x.bad.example.com"}, {"hostname": 5}, {}],
        [{"hostname": "c.example.com", "status": "banned"}, {"hostname": "d.example.com"}],
    ]
    with listing(pages) as relay:
        Seeder(registry, f"localhost:{relay.port}", allow_private=True).read()
        assert "limit=1000" in relay.requests[0].target
    assert [entry.hostname for entry in registry.page(0, 10)] == ["a.example.com", "b.example.com", "d.example.com"]
    assert {entry.source for entry in registry.page(0, 10)} == {"upstream"}


def test_list_without_end(registry: Registry) -> None:
    """A list that gives the same cursor for ever ends."""

    def answer(_: Request, __: socket.socket) -> bytes:
        return reply_json({"hosts": [{"hostname": "a.example.com"}], "cursor": "same"})

    with FakeHttp(answer) as relay:
        Seeder(registry, f"localhost:{relay.port}", allow_private=True).read()
        assert len(relay.requests) == 2


@pytest.mark.parametrize("answer", [reply(500), reply(200, b"x"), reply_json([]), reply_json({"hosts": 5})])
def test_broken_list(registry: Registry, answer: bytes) -> None:
    """What is no list is a fault."""
    with FakeHttp(lambda *_: answer) as relay, pytest.raises(HttpFault):
        Seeder(registry, f"localhost:{relay.port}", allow_private=True).read()


def test_reading_is_tried_again(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the other relay does not answer the reading is tried again, and what went wrong can be seen."""
    monkeypatch.setattr("zlay.hosts.seeds.FIRST_RETRY_S", 0.02)
    broken = threading.Event()
    broken.set()

    def answer(_: Request, __: socket.socket) -> bytes:
        return reply(500) if broken.is_set() else reply_json({"hosts": [{"hostname": "a.example.com"}]})

    with FakeHttp(answer) as relay:
        seeder = Seeder(registry, f"localhost:{relay.port}", allow_private=True)
        thread = threading.Thread(target=seeder.run)
        thread.start()
        deadline = time.monotonic() + 20
        while seeder.fault is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert seeder.fault is not None
        broken.clear()
        while not seeder.readings and time.monotonic() < deadline:
            time.sleep(0.005)
        seeder.stop()
        thread.join(20)
        assert not thread.is_alive()
    assert registry.id_of("a.example.com") == 1
    assert seeder.fault is None


def test_stop_while_the_other_relay_is_silent(registry: Registry) -> None:
    """A reading that is not answered ends with the stop, and not with the time for an answer; that is no fault."""
    asked = threading.Event()

    def silent(*_: object) -> None:
        asked.set()
        relay.ended.wait(60)

    with FakeHttp(silent) as relay:
        seeder = Seeder(registry, f"localhost:{relay.port}", allow_private=True)
        thread = threading.Thread(target=seeder.run)
        thread.start()
        assert asked.wait(20)
        seeder.stop()
        thread.join(PAGE_TIMEOUT_S / 2)
        assert not thread.is_alive()
        relay.ended.set()
    assert (seeder.fault, seeder.readings) == (None, 0)
