"""The mirror of a directory, against the simulation's own directory on a real socket."""

from __future__ import annotations

import json
import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.hosts.fake_pds import FakePds, upgrade
from tests.identity.test_resolver import PATIENCE_S, eventually
from tests.live import LiveRelay
from tests.net.fake_http import FakeHttp, Request, reply, reply_json
from tests.pipeline.test_link import account
from tests.state.support import did
from zlay.identity.document import read_document
from zlay.identity.mirror import REQUEST_TIMEOUT_S, Mirror
from zlay.identity.operations import ExportError, read_page
from zlay.sim.directory import Directory
from zlay.sim.keys import SigningKey
from zlay.state.interface import MirrorPlace, NewHost
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

NOW_US = 1_700_000_000_000_000
KEYS = [SigningKey(curve, b"%d" % n).multikey for n, curve in enumerate(("k256", "p256", "k256"))]


class Exporter:
    """A directory that serves its export, and answers `wrong` in its place where there is some."""

    def __init__(self, accounts: int, pds: str = "https://pds.example.com") -> None:
        self._pds = pds
        self.directory = Directory(SigningKey("k256", b"rotation"))
        self.dids = [self.add(n) for n in range(accounts)]
        self.wrong: list[bytes] = []
        self.ends: int | None = None  # the operation after which it fails
        self.http = FakeHttp(self._answer)

    def add(self, n: int) -> str:
        """One more account."""
        return self.directory.create(f"a{n}.test", KEYS[n % 2], self._pds, NOW_US + n)

    def _answer(self, request: Request, _: socket.socket) -> bytes:
        query = parse_qs(urlsplit(request.target).query)
        if request.path == "/_health":
            return reply(200)
        if request.path != "/export":
            return reply_json(self.directory.document(request.path[1:]))
        if self.wrong:
            return self.wrong.pop(0)
        if self.ends is not None and int(query["after"][0]) >= self.ends:
            return reply(500)
        return reply(200, self.directory.export(int(query["count"][0]), query["after"][0]).encode())

    def afters(self) -> list[int]:
        """What has been asked for so far."""
        return [int(parse_qs(urlsplit(one.target).query)["after"][0]) for one in self.http.requests]

    def agrees(self, store: SqliteStore) -> bool:
        """Whether the store has of every DID what the directory's document says."""
        rows = store.load_accounts(self.dids, mirrored_us=NOW_US * 2)
        return all(
            row is not None and row.identity == read_document(who, self.directory.document(who), NOW_US * 2)
            for who, row in zip(self.dids, rows, strict=True)
        )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An empty store."""
    opened = SqliteStore(tmp_path / "state.sqlite")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pages and short pauses."""
    monkeypatch.setattr("zlay.identity.mirror.PAGE", 20)
    for name in ("PAGE_INTERVAL_S", "COMPLETE_INTERVAL_S", "FIRST_PAUSE_S"):
        monkeypatch.setattr(f"zlay.identity.mirror.{name}", 0.01)


@contextmanager
def following(store: SqliteStore, source: Exporter) -> Iterator[Mirror]:
    """A mirror at work; its thread has ended afterwards."""
    mirror = Mirror(store, source.http.url)
    thread = threading.Thread(target=mirror.run)
    thread.start()
    try:
        yield mirror
    finally:
        mirror.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_follows_and_goes_on_where_it_was(store: SqliteStore) -> None:
    """A mirror learns what every document says, then what is new; another goes on after the last operation stored."""
    source = Exporter(50)  # two operations each: five pages
    with source.http:
        with following(store, source) as mirror:
            eventually(lambda: mirror.complete_us() > 0)
            assert source.agrees(store)
            assert source.afters()[:6] == [0, 20, 40, 60, 80, 100]
            source.directory.update(source.dids[7], "new.test", KEYS[2], "https://new.example.com", NOW_US + 100)
            source.dids.append(source.add(51))
            eventually(lambda: source.agrees(store))
        asked = len(source.http.requests)
        source.directory.update(source.dids[8], "new.test", KEYS[2], "https://new.example.com", NOW_US + 200)
        with following(store, source):
            eventually(lambda: source.agrees(store))
        assert source.afters()[asked] == 103


def test_stop_while_the_directory_is_silent(store: SqliteStore) -> None:
    """A mirror whose question is not answered ends when it is asked to, and not with the time for an answer."""
    asked = threading.Event()

    def silent(*_: object) -> None:
        asked.set()
        http.ended.wait(PATIENCE_S)

    with FakeHttp(silent) as http:
        mirror = Mirror(store, http.url)
        thread = threading.Thread(target=mirror.run)
        thread.start()
        assert asked.wait(PATIENCE_S)
        mirror.stop()
        thread.join(REQUEST_TIMEOUT_S / 2)
        assert not thread.is_alive()
        assert mirror.fault is None
        http.ended.set()


def test_nothing_is_used_before_the_mirror_is_complete(store: SqliteStore) -> None:
    """Of an export that has not been followed to its end no identity is loaded, nor without a mirror at all."""
    source = Exporter(50)
    source.ends = 40
    with source.http, following(store, source) as mirror:
        eventually(lambda: mirror.fault is not None)
        assert mirror.place() == MirrorPlace(40, 0)
        assert store.load_accounts(source.dids, mirror.complete_us()) == [None] * 50
        source.ends = None
        eventually(lambda: mirror.complete_us() > 0)
    assert None not in store.load_accounts(source.dids, mirror.complete_us())
    assert store.load_accounts(source.dids) == [None] * 50


@pytest.mark.parametrize(
    "wrong",
    [
        reply(500),
        reply(429, Retry_After="0"),
        reply(200, b"garbage"),
        reply(200, b"[]"),
        reply_json({"did": did(1), "operation": {}, "createdAt": "2025-01-01T00:00:00Z", "nullified": False}),
        reply_json({"did": did(1), "operation": {}, "createdAt": "2025-01-01T00:00:00Z", "seq": 0}),
        reply_json({"did": "did:web:a.com", "operation": {}, "createdAt": "2025-01-01T00:00:00Z", "seq": 1}),
        reply_json({"did": did(1), "operation": {}, "createdAt": "yesterday", "seq": 1}),
    ],
    ids=["500", "429", "garbage", "no-object", "no-seq", "seq-back", "no-plc", "no-time"],
)
def test_bad_pages(store: SqliteStore, wrong: bytes) -> None:
    """A page that cannot be used moves nothing and is asked for again; what follows it is complete."""
    source = Exporter(3)
    source.wrong = [wrong, wrong]
    with source.http, following(store, source) as mirror:
        eventually(lambda: mirror.complete_us() > 0)
        assert source.agrees(store)
        assert source.afters()[:3] == [0, 0, 0]
        assert mirror.fault is None


def line(n: int, operation: object, **more: object) -> bytes:
    """One line of an export."""
    entry = {"did": did(1), "operation": operation, "createdAt": "2025-01-01T00:00:00.000Z", "seq": n, **more}
    return json.dumps(entry).encode() + b"\n"


def operation(pds: str = "https://a.example.com", key: str = KEYS[0]) -> dict[str, object]:
    """A plc_operation."""
    return {
        "type": "plc_operation",
        "verificationMethods": {"atproto": f"did:key:{key}"},
        "services": {"atproto_pds": {"type": "AtprotoPersonalDataServer", "endpoint": pds}},
    }


def test_newest_operation_that_counts() -> None:
    """Of several operations for a DID the last counts, but for one that the directory has nullified."""
    body = line(1, operation("https://a.example.com")) + line(2, operation("https://b.example.com"))
    (one,) = read_page(body + line(3, operation("https://c.example.com"), nullified=True), 0, NOW_US * 2).newest
    assert one.identity is not None
    assert one.identity.pds == "b.example.com"


@pytest.mark.parametrize(
    "unclear",
    [
        {"type": "plc_tombstone"},
        {"type": "plc_operation"},
        {"type": "news"},
        operation(pds="https://a.example.com/path"),
        operation(key="zNonsense"),
        "text",
    ],
)
def test_operations_that_leave_something_open(unclear: object) -> None:
    """An operation that does not say key and host means that its DID is asked for, whatever stood there before."""
    (one,) = read_page(line(1, operation()) + line(2, unclear), 0, NOW_US * 2).newest
    assert one.identity is None


def test_first_form_of_operations() -> None:
    """The operations of the directory's first year are read."""
    create = {"type": "create", "signingKey": f"did:key:{KEYS[1]}", "service": "https://a.example.com", "prev": None}
    page = read_page(line(5, create), 4, NOW_US * 2)
    assert page.last_seq == 5
    assert page.newest[0].identity is not None
    assert page.newest[0].identity.pds == "a.example.com"


def test_an_empty_page_is_where_it_was() -> None:
    """Without lines the place stays."""
    assert read_page(b"\n", 7, NOW_US).last_seq == 7
    with pytest.raises(ExportError):
        read_page(line(7, operation()), 7, NOW_US)


def test_place_is_each_directorys_own(store: SqliteStore) -> None:
    """Another directory is followed from its beginning."""
    store.save_mirrored("http://a.test", [], MirrorPlace(5, 6))
    assert store.mirror_place("http://a.test") == MirrorPlace(5, 6)
    assert store.mirror_place("http://b.test") == MirrorPlace(0, 0)


def test_a_new_relay_knows_keys_unasked(tmp_path: Path) -> None:
    """With PLC_MIRROR=1 the events of accounts never seen before pass without a look-up."""
    connections: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
    ended = threading.Event()

    def play(sock: socket.socket) -> None:
        upgrade(sock)
        connections.put(sock)
        ended.wait(60)

    pds = FakePds(play)
    source = Exporter(30, f"http://{pds.hostname}")
    folder = tmp_path / "relay"
    with source.http, LiveRelay(folder, RELAY_PLC_URL=source.http.url, PLC_MIRROR="1") as live:
        mirror = live.relay.mirror
        assert mirror is not None
        eventually(lambda: mirror.complete_us() > 0)
        live.relay.registry.add([NewHost(pds.hostname, "admin", no_tls=True)])
        frames = (account(n, who) for n, who in enumerate(source.dids, 1))
        connections.get(timeout=PATIENCE_S).sendall(b"".join(frames))
        eventually(lambda: live.relay.log.published_end == 30)
        ended.set()
    pds.close()
    assert {request.path for request in source.http.requests} == {"/export", "/_health"}
