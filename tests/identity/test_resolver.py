"""Resolver threads against fake directories on real sockets."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.identity.test_document import K256_MULTIKEY, P256_MULTIKEY
from tests.net.fake_http import FakeHttp, Request, reply, reply_json
from tests.state.support import did
from zlay.identity.directory import FAILURES_BEFORE_PAUSE, FIRST_PAUSE_S, Asker, Directories
from zlay.identity.multibase import KEY_K256, KEY_P256
from zlay.identity.resolver import Resolver
from zlay.pipeline.types import Identity, ResolveRequest
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_S = 20.0


def document(who: str, key: str = K256_MULTIKEY, pds: str = "https://pds.example.com") -> dict[str, object]:
    """A DID document."""
    return {
        "id": who,
        "verificationMethod": [{"id": "#atproto", "type": "Multikey", "controller": who, "publicKeyMultibase": key}],
        "service": [{"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": pds}],
    }


def found(request: Request, _: socket.socket) -> bytes:
    """A directory that knows everybody."""
    return reply_json(document(request.path[1:]))


def asker(*servers: FakeHttp) -> Asker:
    """An asker of these directories."""
    return Asker(Directories([server.url for server in servers]), allow_private=True)


@contextmanager
def ask(*servers: FakeHttp) -> Iterator[Callable[[str], Identity]]:
    """Asks these directories from this thread."""
    made = asker(*servers)
    try:
        yield made.resolve
    finally:
        made.close()


class Worker:
    """The pipeline's edge: requests in, identities out."""

    def __init__(self) -> None:
        self.requests: queue.Queue[ResolveRequest] = queue.Queue()
        self.web_requests: queue.Queue[ResolveRequest] = queue.Queue()
        self.answers: queue.Queue[Identity] = queue.Queue()

    def next_resolve(self, timeout_s: float) -> ResolveRequest | None:
        """As the pipeline's."""
        return _next(self.requests, timeout_s)

    def next_resolve_web(self, timeout_s: float) -> ResolveRequest | None:
        """As the pipeline's."""
        return _next(self.web_requests, timeout_s)

    def ask(self, who: str, *, force: bool = False) -> None:
        """Asks for a DID."""
        requests = self.web_requests if who.startswith("did:web:") else self.requests
        requests.put(ResolveRequest(who, force))

    def answer(self) -> Identity:
        """The next answer."""
        return self.answers.get(timeout=PATIENCE_S)


def _next(requests: queue.Queue[ResolveRequest], timeout_s: float) -> ResolveRequest | None:
    try:
        return requests.get(timeout=timeout_s)
    except queue.Empty:
        return None


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An empty store."""
    opened = SqliteStore(tmp_path / "state.sqlite")
    yield opened
    opened.close()


@contextmanager
def running(
    store: SqliteStore,
    worker: Worker,
    *servers: FakeHttp,
    threads: int = 4,
    on_fault: Callable[[bool], None] | None = None,
) -> Iterator[Resolver]:
    """A resolver at work; its threads have ended afterwards."""
    resolver = Resolver(
        store,
        plc_urls=[server.url for server in servers],
        threads=threads,
        next_resolve=worker.next_resolve,
        next_resolve_web=worker.next_resolve_web,
        post_identity=worker.answers.put,
        on_fault=on_fault,
        allow_private=True,
    )
    spawned = [threading.Thread(target=target, name=name) for name, target in resolver.threads()]
    for thread in spawned:
        thread.start()
    try:
        yield resolver
    finally:
        resolver.stop()
        for thread in spawned:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def eventually(condition: Callable[[], bool]) -> None:
    """Waits until `condition` holds; fails when it does not in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "condition never held"
        time.sleep(0.01)


# --- one question ---


def test_found() -> None:
    """A document is asked for by its DID and read."""
    with FakeHttp(found) as plc, ask(plc) as resolve:
        identity = resolve(did(1))
        assert (identity.outcome, identity.pds, identity.key_type) == ("ok", "pds.example.com", KEY_K256)
        assert plc.requests[0].target == f"/{did(1)}"
        assert "did+ld+json" in plc.requests[0].headers["accept"]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (reply_json({"message": "DID not registered"}, 404), "not_found"),
        (reply_json({"message": f"DID not available: {did(1)}"}, 404), "tombstoned"),
        (reply(410), "tombstoned"),
    ],
)
def test_conclusive_answers(answer: bytes, outcome: str) -> None:
    """Unknown and tombstoned DIDs are told apart, both of the ways a tombstone is said."""
    with FakeHttp(lambda *_: answer) as plc, ask(plc) as resolve:
        assert resolve(did(1)).outcome == outcome


@pytest.mark.parametrize(
    "answer",
    [
        reply(500),
        reply(302, Location="https://elsewhere.example.com/"),
        reply(200, b"garbage"),
        reply_json(document(did(2))),
        reply(200, b"[" * 100_000),
        reply(200, b"x" * 200_000),
        None,
    ],
    ids=["500", "redirect", "garbage", "wrong-id", "deep", "huge", "closed"],
)
def test_inconclusive_answers(answer: bytes | None) -> None:
    """What says nothing about the DID is a failure and never "no such DID"."""
    with FakeHttp(lambda *_: answer) as plc, ask(plc) as resolve:
        identity = resolve(did(1))
        assert identity.outcome == "failed"
        assert identity.detail


@pytest.mark.parametrize("text", ["did:plc:short", "did:key:zQ3sh", "did:web:a.com:path", "did:web:127.0.0.1"])
def test_no_such_did_without_asking(text: str) -> None:
    """A DID that cannot exist is answered without a question to anybody."""
    with FakeHttp(found) as plc, ask(plc) as resolve:
        assert resolve(text).outcome == "not_found"
        assert not plc.requests


def test_next_directory_is_asked() -> None:
    """Where one directory fails the next one is asked."""
    with FakeHttp(lambda *_: reply(503)) as broken, FakeHttp(found) as good, ask(broken, good) as resolve:
        assert resolve(did(1)).outcome == "ok"


def test_broken_directory_is_left_alone() -> None:
    """A directory that fails again and again is not asked each time while another one answers."""
    with FakeHttp(lambda *_: reply(503)) as broken, FakeHttp(found) as good, ask(broken, good) as resolve:
        for n in range(1, 51):
            assert resolve(did(n)).outcome == "ok"
        assert len(broken.requests) < 20


def test_retry_after_is_kept() -> None:
    """A directory that says 429 is asked again after the time it names, and not before."""
    times: list[float] = []

    def answer(request: Request, connection: socket.socket) -> bytes:
        times.append(time.monotonic())
        return reply(429, Retry_After="1") if len(times) == 1 else found(request, connection)

    with FakeHttp(answer) as plc, ask(plc) as resolve:
        assert resolve(did(1)).outcome == "failed"
        assert resolve(did(1)).outcome == "ok"
    assert times[1] - times[0] >= 0.9


def test_who_is_told_to_come_later_says_nothing_of_the_did() -> None:
    """An answer of "later", or no directory that may be asked in time, is not the DID's own failure."""

    def answer(request: Request, connection: socket.socket) -> bytes:
        return found(request, connection) if request.path == f"/{did(1)}" else reply(429, Retry_After="60")

    with FakeHttp(answer) as plc, ask(plc) as resolve:
        assert resolve(did(1)).outcome == "ok"
        for _ in range(2):
            later = resolve(did(2))
            assert (later.outcome, later.systemic, later.postponed, later.is_own) == ("failed", False, True, False)
        assert len(plc.requests) == 2
    with FakeHttp(lambda *_: reply(500)) as broken, FakeHttp(answer) as plc, ask(plc, broken) as resolve:
        assert resolve(did(1)).outcome == "ok"
        assert resolve(did(2)).is_own, "one of them did answer"


def test_one_thread_tries_a_directory_that_failed() -> None:
    """A directory that fails is tried by one question at a time, and failures of one moment lengthen its pause once."""
    directories = Directories(["http://a.test"])
    url = directories.choose((), 0)
    assert url is not None
    soon = time.monotonic() + PATIENCE_S
    for _ in range(FAILURES_BEFORE_PAUSE):
        asked_s = time.monotonic()
        for _ in range(16):
            directories.note_failure(url, asked_s, None)
    began = time.monotonic()
    assert directories.choose((), soon) == url, "after a first, short pause"
    assert time.monotonic() - began < 2 * FIRST_PAUSE_S
    assert directories.choose((), time.monotonic() + 0.05) is None, "it is being tried"
    got: queue.Queue[str | None] = queue.Queue()
    waiting = [threading.Thread(target=lambda: got.put(directories.choose((), soon))) for _ in range(4)]
    for thread in waiting:
        thread.start()
    directories.note_answer(url)
    assert [got.get(timeout=PATIENCE_S) for _ in waiting] == [url] * 4
    for _ in range(20):
        directories.note_failure(url, time.monotonic(), None)
    assert directories.choose((), time.monotonic() + 0.05) is None, "the pause is long by now"
    directories.note_answer(url)  # of a question that was under way
    assert directories.choose((), time.monotonic()) == url
    directories.close()
    assert directories.choose((), soon) is None


def test_failure_of_everybody_is_systemic() -> None:
    """When no DID gets an answer a failure says so; when others do it is the DID's own."""
    with FakeHttp(lambda *_: reply(500)) as plc, ask(plc) as resolve:
        assert resolve(did(1)).systemic

    def one_is_broken(request: Request, connection: socket.socket) -> bytes:
        return reply(500) if request.path.endswith(did(1)) else found(request, connection)

    with FakeHttp(one_is_broken) as plc, ask(plc) as resolve:
        assert resolve(did(2)).outcome == "ok"
        failed = resolve(did(1))
        assert (failed.outcome, failed.systemic) == ("failed", False)


def test_directory_that_is_gone() -> None:
    """A directory that nobody serves is a systemic failure, soon."""
    with FakeHttp(found) as plc:
        pass
    with ask(plc) as resolve:
        identity = resolve(did(1))
        assert (identity.outcome, identity.systemic) == ("failed", True)


def test_did_web() -> None:
    """A did:web is asked of its host; its failure is never everybody's."""

    def answer(request: Request, _: socket.socket) -> bytes:
        assert request.target == "/.well-known/did.json"
        return reply_json(document(who, key=P256_MULTIKEY))

    with FakeHttp(answer) as web, FakeHttp(found) as plc, ask(plc) as resolve:
        who = f"did:web:localhost%3A{web.port}"
        assert resolve(who).key_type == KEY_P256
        assert not plc.requests
    with ask(plc) as resolve:
        identity = resolve(who)
        assert (identity.outcome, identity.systemic) == ("failed", False)


def test_did_web_never_reaches_private_addresses() -> None:
    """Outside private mode a did:web whose name leads inside is not dialled."""
    strict = Asker(Directories([]), allow_private=False)
    assert strict.resolve("did:web:localhost%3A80").outcome == "not_found"


def test_connections_are_recycled() -> None:
    """RESOLVER_RECYCLE_INTERVAL closes and makes anew a thread's connections after so many requests."""
    with FakeHttp(found) as plc:
        made = Asker(Directories([plc.url]), allow_private=True, recycle_after=5)
        for n in range(20):
            made.resolve(did(n))
        made.close()
        assert max(request.connection for request in plc.requests) == 5


def test_connections_are_not_kept() -> None:
    """RESOLVER_KEEP_ALIVE off gives every request a connection of its own."""
    with FakeHttp(found) as plc:
        made = Asker(Directories([plc.url]), allow_private=True, keep_alive=False)
        for n in range(5):
            made.resolve(did(n))
        assert max(request.connection for request in plc.requests) == 5


# --- threads ---


def test_every_request_is_answered(store: SqliteStore) -> None:
    """Many requests over few threads are all answered, and their identities are in the store afterwards."""
    worker = Worker()
    wanted = {did(n) for n in range(200)}
    with FakeHttp(found) as plc, running(store, worker, plc):
        for who in wanted:
            worker.ask(who)
        assert {worker.answer().did for _ in wanted} == wanted
    rows = store.load_accounts(sorted(wanted))
    assert all(row is not None and row.identity is not None for row in rows)


def test_one_question_per_did_at_a_time(store: SqliteStore) -> None:
    """Requests for one DID never lead to two questions at once; a forced one leads to a later question."""
    together: Counter[str] = Counter()
    worst = 0
    release = threading.Event()
    asked = threading.Event()

    def answer(request: Request, connection: socket.socket) -> bytes:
        nonlocal worst
        together[request.path] += 1
        worst = max(worst, together[request.path])
        asked.set()
        release.wait(PATIENCE_S)
        together[request.path] -= 1
        return found(request, connection)

    worker = Worker()
    with FakeHttp(answer) as plc, running(store, worker, plc) as resolver:
        worker.ask(did(1))
        assert asked.wait(PATIENCE_S)
        worker.ask(did(1))
        worker.ask(did(1), force=True)
        eventually(worker.requests.empty)
        eventually(lambda: resolver.statistics()["in_flight"] == 1)
        time.sleep(0.05)  # lets a wrong second question reach the server
        release.set()
        assert worker.answer().did == worker.answer().did == did(1)
        assert len(plc.requests) == 2
    assert worst == 1


def test_slow_did_web_does_not_delay_plc(store: SqliteStore) -> None:
    """Any number of did:web hosts that never answer keep no did:plc waiting."""
    worker = Worker()

    def silent(_: Request, __: socket.socket) -> None:
        web.ended.wait(PATIENCE_S)

    with FakeHttp(silent) as web, FakeHttp(found) as plc, running(store, worker, plc, threads=2):
        for _ in range(20):
            worker.ask(f"did:web:localhost%3A{web.port}")
        for n in range(20):
            worker.ask(f"did:web:h{n}.test")
            worker.ask(did(n))
        answered = set()
        while len(answered) < 20:
            identity = worker.answer()
            if identity.did.startswith("did:plc:"):
                answered.add(identity.did)
        web.ended.set()


def test_recheck_finds_what_a_replica_did_not_know(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an #identity the document is asked for again until it has changed, and then no more."""
    monkeypatch.setattr("zlay.identity.resolver.RECHECK_AFTER_S", (0.1, 0.4))
    keys = [K256_MULTIKEY, K256_MULTIKEY, P256_MULTIKEY, P256_MULTIKEY]
    worker = Worker()

    def answer(request: Request, _: socket.socket) -> bytes:
        return reply_json(document(request.path[1:], key=keys[min(len(plc.requests), len(keys)) - 1]))

    with FakeHttp(answer) as plc, running(store, worker, plc) as resolver:
        worker.ask(did(1))
        assert worker.answer().key_type == KEY_K256
        eventually(lambda: store.account(did(1)) is not None)
        resolver.recheck(did(1))
        assert [worker.answer().key_type, worker.answer().key_type] == [KEY_K256, KEY_P256]
        assert resolver.statistics()["rechecks_waiting"] == 0


def test_recheck_expires_the_stored_answer(store: SqliteStore) -> None:
    """From an #identity on the stored answer is not used after a restart before it has been asked for again."""
    store.save_identities([Identity(did(1), "ok", "a.example.com", KEY_K256, b"\2" * 33, 5)])
    worker = Worker()
    with FakeHttp(lambda *_: reply(500)) as plc, running(store, worker, plc) as resolver:
        resolver.recheck(did(1))
    assert store.account(did(1)) is None


def test_outage_is_reported_and_over(store: SqliteStore) -> None:
    """While no directory answers `fault` says so, and it is gone with the first answer."""
    worker = Worker()
    told: list[bool] = []
    down = threading.Event()
    down.set()
    with (
        FakeHttp(lambda *at: reply(500) if down.is_set() else found(*at)) as plc,
        running(store, worker, plc, on_fault=told.append) as resolver,
    ):
        worker.ask(did(1))
        assert worker.answer().systemic
        assert resolver.fault is not None
        down.clear()
        worker.ask(did(1))
        assert worker.answer().outcome == "ok"
        assert resolver.fault is None
    assert told == [True, False]


def test_no_threads_no_resolution(store: SqliteStore) -> None:
    """RESOLVER_THREADS=0 asks nobody: every request is answered by a failure of its own."""
    worker = Worker()
    with FakeHttp(found) as plc, running(store, worker, plc, threads=0) as resolver:
        for who in (did(1), "did:web:a.test"):
            worker.ask(who)
            answer = worker.answer()
            assert (answer.did, answer.outcome, answer.is_own) == (who, "failed", True)
        assert resolver.fault is None
        assert not plc.requests


def test_a_fault_of_ours_is_an_answer_too(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a question breaks the thread that asks it the worker gets a failure, and the fault is not hidden."""
    worker = Worker()
    with FakeHttp(found) as plc:
        monkeypatch.setattr(Asker, "resolve", lambda *_: 1 // 0)
        resolver = Resolver(
            store,
            plc_urls=[plc.url],
            threads=1,
            next_resolve=worker.next_resolve,
            next_resolve_web=worker.next_resolve_web,
            post_identity=worker.answers.put,
            allow_private=True,
        )
        worker.ask(did(1))
        with pytest.raises(ZeroDivisionError):
            resolver.threads()[0][1]()
        answer = worker.answer()
        assert (answer.did, answer.outcome, answer.is_own) == (did(1), "failed", True)
        assert resolver.statistics()["in_flight"] == 0
