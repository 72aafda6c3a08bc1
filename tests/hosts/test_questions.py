"""Questions to hosts about accounts: in lanes, with answers for all, and resyncs that heal."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.net.fake_http import FakeHttp, Request, reply, reply_json
from tests.reference.drisl_ref import Cid
from tests.state.support import ACTIVE, CID_B, DEACTIVATED, TAKENDOWN, delta, did, rev
from zlay._fast import verdicts
from zlay.errors import HttpFault
from zlay.hosts.lanes import MAX_PER_HOST, HostLanes
from zlay.hosts.questions import HostAsker
from zlay.hosts.registry import HostEntry, Registry
from zlay.hosts.resync import Resync
from zlay.hosts.status_check import NO_ANSWER, StatusChecker
from zlay.state.interface import NewHost
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 20.0
INACTIVE = verdicts.STATUSES.index("inactive")
UNKNOWN = verdicts.STATUSES.index("unknown")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An empty store."""
    opened = SqliteStore(tmp_path / "state.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def registry(store: SqliteStore) -> Registry:
    """A registry without hosts."""
    return Registry(store, store.hosts(), host_credit_bytes=1 << 20)


def host_of(registry: Registry, server: FakeHttp) -> HostEntry:
    """The server as a host."""
    return registry.add([NewHost(f"localhost:{server.port}", "config", no_tls=True)])[0]


class Edge:
    """The pipeline: questions in, answers out."""

    def __init__(self) -> None:
        self.requests: queue.Queue[tuple[str, int]] = queue.Queue()
        self.answers: queue.Queue[tuple[str, int]] = queue.Queue()

    def next_request(self, timeout_s: float) -> tuple[str, int] | None:
        """As the pipeline's."""
        try:
            return self.requests.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def post(self, who: str, answer: int) -> None:
        """As the pipeline's."""
        self.answers.put((who, answer))

    def answer(self) -> tuple[str, int]:
        """The next answer."""
        return self.answers.get(timeout=PATIENCE_S)


@contextmanager
def running(part: StatusChecker | Resync) -> Iterator[None]:
    """All its threads; they have ended afterwards."""
    threads = [threading.Thread(target=target, name=name) for name, target in part.threads()]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        part.stop()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


# --- lanes ---


def test_one_question_per_host_at_a_time() -> None:
    """A host's next item waits for the end of its question and its pause, other hosts' items do not."""
    lanes: HostLanes[str] = HostLanes(pause_s=0.2)
    for item in ("a1", "a2"):
        assert lanes.put(1, item)
    assert lanes.put(2, "b1")
    assert lanes.take(PATIENCE_S) == (1, "a1")
    assert lanes.take(PATIENCE_S) == (2, "b1")
    assert lanes.take(0.05) is None
    ended = time.monotonic()
    lanes.done(1)
    assert lanes.take(PATIENCE_S) == (1, "a2")
    assert time.monotonic() - ended >= 0.2
    ended = time.monotonic()
    lanes.done(1)
    assert lanes.put(1, "a3")
    assert lanes.take(PATIENCE_S) == (1, "a3")
    assert time.monotonic() - ended >= 0.2


def test_delayed_item_holds_up_no_other() -> None:
    """An item for later does not delay one of the same host that is due."""
    lanes: HostLanes[str] = HostLanes(pause_s=0)
    began = time.monotonic()
    assert lanes.put(1, "later", delay_s=0.3)
    assert lanes.put(1, "now")
    assert lanes.take(PATIENCE_S) == (1, "now")
    lanes.done(1)
    assert lanes.take(PATIENCE_S) == (1, "later")
    assert time.monotonic() - began >= 0.3


def test_lane_is_bounded() -> None:
    """Beyond its bound a host's lane takes no more, another host's does."""
    lanes: HostLanes[int] = HostLanes(pause_s=0)
    assert all(lanes.put(1, n) for n in range(MAX_PER_HOST))
    assert not lanes.put(1, 0)
    assert lanes.put(2, 0)
    assert lanes.waiting() == MAX_PER_HOST + 1


def test_close_wakes_takers() -> None:
    """A thread that waits for work ends with the lanes."""
    lanes: HostLanes[int] = HostLanes(pause_s=0)
    taken: list[object] = []
    thread = threading.Thread(target=lambda: taken.append(lanes.take(PATIENCE_S)))
    thread.start()
    lanes.close()
    thread.join(PATIENCE_S)
    assert taken == [None]
    assert not lanes.put(1, 1)


# --- what hosts say ---


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"active": True}, ACTIVE),
        ({"active": True, "status": "throttled"}, ACTIVE),
        ({"active": False, "status": "deactivated"}, DEACTIVATED),
        ({"active": False, "status": "takendown"}, TAKENDOWN),
        ({"active": False}, INACTIVE),
        ({"active": False, "status": "sleeping"}, UNKNOWN),
        ({"active": False, "status": "active"}, UNKNOWN),
    ],
)
def test_repo_status(said: dict[str, object], status: int) -> None:
    """What getRepoStatus says becomes a status of the core's table."""
    with FakeHttp(lambda *_: reply_json({"did": did(1), **said})) as host:
        asker = HostAsker(allow_private=True)
        assert asker.repo_status(f"localhost:{host.port}", did(1), no_tls=True) == status
        assert host.requests[0].target == f"/xrpc/com.atproto.sync.getRepoStatus?did={did(1)}"
        asker.close()


@pytest.mark.parametrize("answer", [reply(500), reply(200, b"x"), reply_json({}), reply_json([]), None])
def test_no_status(answer: bytes | None) -> None:
    """What is no status is a fault."""
    with FakeHttp(lambda *_: answer) as host:
        asker = HostAsker(allow_private=True)
        with pytest.raises(HttpFault):
            asker.repo_status(f"localhost:{host.port}", did(1), no_tls=True)
        asker.close()


# --- threads ---


def test_every_status_request_is_answered(registry: Registry) -> None:
    """Good hosts, hosts that know no such account, broken, banned and unknown ones: each request has one answer."""

    def answer(request: Request, _: socket.socket) -> bytes:
        if request.target.endswith(did(2)):
            return reply_json({"error": "RepoNotFound"}, 400)
        return reply_json({"did": did(1), "active": True})

    edge = Edge()
    with FakeHttp(answer) as good, FakeHttp(lambda *_: reply(500)) as broken, FakeHttp(answer) as banned:
        hosts = [host_of(registry, one) for one in (good, broken, banned)]
        registry.ban(hosts[2].id, banned=True)
        checker = StatusChecker(registry, next_request=edge.next_request, post_status=edge.post, allow_private=True)
        with running(checker):
            for who, host_id in (
                (did(1), hosts[0].id), (did(2), hosts[0].id), (did(3), hosts[1].id), (did(4), hosts[2].id), (did(5), 99)
            ):  # fmt: skip
                edge.requests.put((who, host_id))
            answers = dict(edge.answer() for _ in range(5))
        assert not banned.requests
    assert answers == {did(1): ACTIVE, **{did(n): NO_ANSWER for n in (2, 3, 4, 5)}}


def test_a_stop_is_no_answer(registry: Registry) -> None:
    """What a stop cuts short, under way or not, is not answered: its frames must not be dropped for that."""
    asked = threading.Event()

    def silent(_: Request, __: socket.socket) -> None:
        asked.set()
        host.ended.wait(PATIENCE_S)

    edge = Edge()
    with FakeHttp(silent) as host:
        checker = StatusChecker(registry, next_request=edge.next_request, post_status=edge.post, allow_private=True)
        host_id = host_of(registry, host).id
        with running(checker):
            for n in range(3):
                edge.requests.put((did(n), host_id))
            assert asked.wait(PATIENCE_S)
            checker.stop()
            edge.requests.put((did(3), host_id))
        host.ended.set()
    assert edge.answers.empty()


def test_slow_host_delays_no_other(registry: Registry) -> None:
    """Any number of questions to a host that is silent hold up no question to another."""

    def silent(_: Request, __: socket.socket) -> None:
        slow.ended.wait(PATIENCE_S)

    edge = Edge()
    with FakeHttp(silent) as slow, FakeHttp(lambda *_: reply_json({"active": True})) as good:
        slow_host, good_host = host_of(registry, slow), host_of(registry, good)
        checker = StatusChecker(registry, next_request=edge.next_request, post_status=edge.post, allow_private=True)
        with running(checker):
            for n in range(50):
                edge.requests.put((did(n), slow_host.id))
            edge.requests.put((did(99), good_host.id))
            assert edge.answer() == (did(99), ACTIVE)
            slow.ended.set()


def resync_of(store: SqliteStore, registry: Registry, edge: Edge) -> Resync:
    """A resync that asks soon."""
    return Resync(store, registry, next_request=edge.next_request, post_resync=edge.post, allow_private=True)


def test_resync_heals_when_the_host_agrees(
    store: SqliteStore, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is ahead is asked again until our state is its own; then the account is healed."""
    monkeypatch.setattr("zlay.hosts.resync.TRIES_AFTER_S", (0.01, 0.05, 0.05, 0.05))
    monkeypatch.setattr("zlay.hosts.resync.PAUSE_S", 0.0)
    edge = Edge()

    def answer(_: Request, __: socket.socket) -> bytes:
        if len(host.requests) == 2:  # now the event that was on its way has come
            store.apply([delta(1, seq=2, rev=rev(5), host_id=entry.id)], [], 2, None)
        return reply_json({"cid": str(Cid(CID_B)), "rev": rev(5)})

    with FakeHttp(answer) as host:
        entry = host_of(registry, host)
        store.apply([delta(1, seq=1, rev=rev(4), host_id=entry.id, desynchronized=True)], [], 1, None)
        resync = resync_of(store, registry, edge)
        with running(resync):
            edge.requests.put((did(1), entry.id))
            assert edge.answer() == (did(1), True)
        assert resync.statistics() == {"healed": 1, "given_up": 0, "waiting": 0}


@pytest.mark.parametrize(
    "answer",
    [
        reply_json({"cid": str(Cid(CID_B)), "rev": rev(6)}),
        reply_json({"cid": "bafy", "rev": rev(5)}),
        reply_json({"error": "RepoNotFound"}, 404),
        reply(500),
        None,
    ],
    ids=["other-rev", "other-cid", "no-repo", "broken", "closed"],
)
def test_resync_gives_up(
    store: SqliteStore, registry: Registry, monkeypatch: pytest.MonkeyPatch, answer: bytes | None
) -> None:
    """An account whose host never agrees stays marked, after a bounded number of questions."""
    monkeypatch.setattr("zlay.hosts.resync.TRIES_AFTER_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr("zlay.hosts.resync.PAUSE_S", 0.0)
    edge = Edge()
    with FakeHttp(lambda *_: answer) as host:
        entry = host_of(registry, host)
        store.apply([delta(1, seq=1, rev=rev(5), host_id=entry.id)], [], 1, None)
        with running(resync_of(store, registry, edge)):
            edge.requests.put((did(1), entry.id))
            assert edge.answer() == (did(1), False)
        assert len(host.requests) == 3
