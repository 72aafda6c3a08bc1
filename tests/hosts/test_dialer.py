"""The dialer against hosts at the socket: streams, cursors, back-off, numbering, deadlines, many dials at once."""

from __future__ import annotations

import contextlib
import itertools
import queue
import resource
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.hosts.fake_pds import FakePds, accept, error, event, upgrade
from zlay._fast import host, pool, reader, tls
from zlay.hosts.backoff import BackoffPolicy
from zlay.hosts.connection import starter
from zlay.hosts.dial import DialRules
from zlay.hosts.dialer import MANY, Dialer
from zlay.hosts.interface import DialTarget, Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zlay.hosts.connection import StartReader
    from zlay.hosts.dial import OpenStream
    from zlay.hosts.interface import HostStatus

DEADLINE_S = 20.0
QUICK = BackoffPolicy(
    first_s=0.01, most_s=0.05, least_s=0.001, offline_after=4, offline_first_s=0.02, offline_most_s=0.05
)
RULES = DialRules("zlay/test (atproto-relay)", allow_private=True)
_ids = itertools.count(900_000)


class Registry:
    """The registry's side of the seam, in memory, with what it was told."""

    def __init__(self) -> None:
        self.targets: dict[int, DialTarget] = {}
        self.epochs: dict[int, int] = {}
        self.told: queue.SimpleQueue[tuple[int, HostStatus, Failure | None]] = queue.SimpleQueue()

    def add(self, hostname: str, cursor: int | None = None, *, no_tls: bool = True) -> int:
        """A new host; its id."""
        host_id = next(_ids)
        index = host.new(host_id, hostname)
        host.set_epoch(index, 1, cursor)
        self.targets[host_id] = DialTarget(host_id, index, hostname, no_tls)
        self.epochs[host_id] = 1
        return host_id

    def host(self, host_id: int) -> DialTarget | None:
        """See HostRegistry."""
        return self.targets.get(host_id)

    def cursor_for_dial(self, host_id: int) -> int | None:
        """See HostRegistry."""
        return host.resume_seq(self.targets[host_id].index)

    def new_epoch(self, host_id: int) -> int:
        """See HostRegistry."""
        self.epochs[host_id] += 1
        host.set_epoch(self.targets[host_id].index, self.epochs[host_id])
        return self.epochs[host_id]

    def set_status(self, host_id: int, status: HostStatus, failure: Failure | None) -> None:
        """See HostRegistry."""
        self.told.put((host_id, status, failure))

    def next(self, host_id: int, status: HostStatus | None = None, kind: str | None = None) -> Failure | None:
        """Waits until the host's status (or failure) of that kind is told."""
        while True:
            told_id, told_status, failure = self.told.get(timeout=DEADLINE_S)
            if told_id != host_id or (status is not None and told_status != status):
                continue
            if kind is None or (failure is not None and failure.kind == kind):
                return failure


class Rig:
    """A dialer that runs, its registry, and the fakes it dials."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.fakes: list[FakePds] = []
        self.dialer: Dialer | None = None
        self._thread: threading.Thread | None = None

    def start(
        self,
        *,
        host_reader: str = "native",
        rules: DialRules = RULES,
        policy: BackoffPolicy = QUICK,
        start_reader: StartReader | None = None,
    ) -> Dialer:
        """Starts the dialer; `start_reader` takes its streams in place of a reader."""
        self.dialer = Dialer(self.registry, start_reader or starter(host_reader), rules, policy, seed=1)
        self._thread = threading.Thread(target=self.dialer.run, name="dialer")
        self._thread.start()
        return self.dialer

    def pds(self, script: Callable[[socket.socket], None]) -> FakePds:
        """A host that plays `script`."""
        self.fakes.append(FakePds(script))
        return self.fakes[-1]

    def close(self) -> None:
        """Stops all, in the relay's order."""
        if self.dialer is not None and self._thread is not None:
            self.dialer.stop()
            self._thread.join(DEADLINE_S)
            assert not self._thread.is_alive()
        assert reader.stop_all(10) == 0
        for fake in self.fakes:
            fake.close()
        reader.take_ends()
        reader.collected()


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A dialer to be started, on a pool and a collecting sink."""
    pool.init(64 << 20)
    reader.collect_here()
    made = Rig()
    yield made
    made.close()
    pool.close()


def seqs(index: int, n: int) -> list[int]:
    """Upstream seqs of the next `n` frames of the host. Saves its first cursor, as the applier does."""
    found: list[int] = []
    deadline = time.monotonic() + DEADLINE_S
    own_id = host.stats(index)["id"]
    while len(found) < n:
        for host_id, epoch, cursor in host.anchors():
            if host_id == own_id:
                host.set_saved(index, epoch, cursor)
        found += [row[1] for row in reader.collected() if row[0] == index]
        assert time.monotonic() < deadline, found
        time.sleep(0.001)
    return found


def hold(sock: socket.socket) -> None:
    """Keeps the connection until the relay closes it."""
    while sock.recv(65536):
        pass


@pytest.mark.parametrize("host_reader", ["native", "wsproto"])
def test_streams_and_goes_on_after_the_last_frame(rig: Rig, host_reader: str) -> None:
    """A host is dialled live, its events arrive, and after a break the dial goes on from the last frame received."""
    cursors: queue.SimpleQueue[str] = queue.SimpleQueue()

    def script(sock: socket.socket) -> None:
        cursor = upgrade(sock)
        cursors.put(cursor)
        first = int(cursor or 6) + 1
        sock.sendall(b"".join(event(seq) for seq in range(first, first + 3)))
        if first > 10:
            hold(sock)

    host_id = rig.registry.add(rig.pds(script).hostname)
    index = rig.registry.targets[host_id].index
    rig.start(host_reader=host_reader).add(host_id)
    assert seqs(index, 9) == list(range(7, 16))
    assert [cursors.get(timeout=DEADLINE_S) for _ in range(3)] == ["", "9", "12"]


def test_the_kernel_watches_the_connection_too(rig: Rig) -> None:
    """A reader gets a socket whose silent death the kernel notices within two minutes, and that sends at once."""
    taken: queue.SimpleQueue[OpenStream] = queue.SimpleQueue()
    host_id = rig.registry.add(rig.pds(script_hold).hostname)
    rig.start(start_reader=lambda _, stream: taken.put(stream)).add(host_id)
    with contextlib.closing(taken.get(timeout=DEADLINE_S)) as stream:
        tcp = {
            name: stream.sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"))
            for name in ("KEEPIDLE", "KEEPINTVL", "KEEPCNT", "USER_TIMEOUT", "NODELAY")
        }
        assert stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert tcp["KEEPIDLE"] + tcp["KEEPINTVL"] * tcp["KEEPCNT"] == 120
        assert tcp["USER_TIMEOUT"] == 120_000
        assert tcp["NODELAY"] == 1


def test_a_late_dialer_does_not_blame_hosts(rig: Rig) -> None:
    """An answer that has come in time counts, though the dialer's thread looks at it after the deadline."""
    both_asked = threading.Barrier(2)
    is_late, answered = threading.Event(), threading.Event()
    taken: queue.SimpleQueue[int] = queue.SimpleQueue()
    patience_s = 1.0

    def first(sock: socket.socket) -> None:
        _, answer = accept(sock)
        both_asked.wait(DEADLINE_S)
        sock.sendall(answer)
        hold(sock)

    def second(sock: socket.socket) -> None:
        _, answer = accept(sock)
        both_asked.wait(DEADLINE_S)
        assert is_late.wait(DEADLINE_S)
        sock.sendall(answer)
        answered.set()
        hold(sock)

    def be_late(index: int, stream: OpenStream) -> None:
        stream.close()
        if not is_late.is_set():
            is_late.set()
            assert answered.wait(DEADLINE_S)
            time.sleep(patience_s)  # the other one's time is up
        taken.put(index)

    hosts = [rig.registry.add(rig.pds(script).hostname) for script in (first, second)]
    dialer = rig.start(rules=replace(RULES, upgrade_s=patience_s), start_reader=be_late)
    for host_id in hosts:
        dialer.add(host_id)
    found = [taken.get(timeout=DEADLINE_S) for _ in hosts]
    assert found == [rig.registry.targets[host_id].index for host_id in hosts]
    rig.registry.next(hosts[1], "active")
    report = dialer.report(hosts[1])
    assert report is not None
    assert (report.attempts, report.failures) == (1, 0)


def test_quiet_host_is_not_dialled_live_twice(rig: Rig) -> None:
    """A host that was connected and sent nothing is asked for all that it keeps: it may have spoken meanwhile."""
    cursors: queue.SimpleQueue[str] = queue.SimpleQueue()

    def script(sock: socket.socket) -> None:
        cursors.put(upgrade(sock))

    host_id = rig.registry.add(rig.pds(script).hostname)
    rig.start().add(host_id)
    assert [cursors.get(timeout=DEADLINE_S) for _ in range(2)] == ["", "0"]


def test_persisted_cursor_is_used(rig: Rig) -> None:
    """After a start the dial asks for what follows the persisted cursor."""
    cursors: queue.SimpleQueue[str] = queue.SimpleQueue()

    def script(sock: socket.socket) -> None:
        cursors.put(upgrade(sock))
        hold(sock)

    host_id = rig.registry.add(rig.pds(script).hostname, cursor=4_711)
    rig.start().add(host_id)
    assert cursors.get(timeout=DEADLINE_S) == "4711"
    rig.registry.next(host_id, "active")


@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_answer_and_frames_in_any_pieces(rig: Rig, piece: int) -> None:
    """The answer byte by byte, and the first frames in one segment with its end, lose nothing."""

    def script(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _, answer = accept(sock)
        data = answer + b"".join(event(seq) for seq in range(1, 4))
        for at in range(0, len(data), piece):
            sock.sendall(data[at : at + piece])
        hold(sock)

    host_id = rig.registry.add(rig.pds(script).hostname)
    rig.start().add(host_id)
    assert seqs(rig.registry.targets[host_id].index, 3) == [1, 2, 3]


def test_refused_connection_backs_off_to_offline_for_ever(rig: Rig) -> None:
    """A port nobody listens on is tcp_refused, becomes offline after many failures, and is still dialled."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    host_id = rig.registry.add(f"127.0.0.1:{port}")
    dialer = rig.start()
    dialer.add(host_id)
    first = rig.registry.next(host_id, "idle", "tcp_refused")
    assert first is not None
    assert first.attempts == 1
    for _ in range(3):
        failure = rig.registry.next(host_id, "offline", "tcp_refused")
    assert failure is not None
    assert failure.attempts >= 6
    assert failure.next_retry_s >= QUICK.offline_first_s
    report = dialer.report(host_id)
    assert report is not None
    assert (report.connects, report.last_failure is not None) == (0, True)


def test_hosts_that_answer_nothing_or_nonsense(rig: Rig) -> None:
    """Silence after the connect, an HTTP error and a closed connection each end a dial as http_upgrade."""

    def refuse(sock: socket.socket) -> None:
        accept(sock)
        sock.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nfull")
        hold(sock)

    def leave(sock: socket.socket) -> None:
        accept(sock)

    hosts = {
        rig.registry.add(rig.pds(s).hostname): text for s, text in ((hold, "within"), (refuse, "503"), (leave, "clos"))
    }
    rules = DialRules("zlay", allow_private=True, upgrade_s=0.2)
    dialer = rig.start(rules=rules)
    for host_id in hosts:
        dialer.add(host_id)
    for host_id, text in hosts.items():
        deadline = time.monotonic() + DEADLINE_S
        while True:
            report = dialer.report(host_id)
            if report is not None and report.last_failure is not None:
                break
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert report.last_failure.kind == "http_upgrade"
        assert text in report.last_failure.text


def test_a_name_that_does_not_resolve(rig: Rig) -> None:
    """A name without addresses is a failure of kind dns."""
    host_id = rig.registry.add("no-such-host.invalid")
    rig.start().add(host_id)
    failure = rig.registry.next(host_id, kind="dns")
    assert failure is not None


def test_what_this_build_cannot_dial_is_said(rig: Rig) -> None:
    """A host that needs TLS is a failure of kind config that says so; no connection is made."""
    reached = threading.Event()
    fake = rig.pds(lambda sock: reached.set())
    tls = rig.registry.add(fake.hostname, no_tls=False)
    dialer = rig.start()
    dialer.add(tls)
    failure = rig.registry.next(tls, "offline", "config")
    assert failure is not None
    assert "wss://" in failure.text
    assert not reached.is_set()


def test_private_hosts_need_leave(rig: Rig) -> None:
    """Without RELAY_ALLOW_PRIVATE_HOSTS a ws:// host is not dialled."""
    reached = threading.Event()
    host_id = rig.registry.add(rig.pds(lambda sock: reached.set()).hostname)
    rig.start(rules=DialRules("zlay")).add(host_id)
    failure = rig.registry.next(host_id, "offline", "config")
    assert failure is not None
    assert "RELAY_ALLOW_PRIVATE_HOSTS" in failure.text
    assert not reached.is_set()


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "::1", "0.0.0.0"])
def test_a_name_that_leads_inside_is_not_dialled(rig: Rig, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a host's name led to when it was added: where it leads to private addresses at a dial, nothing is
    connected to, and the failure says so (E17)."""
    reached = threading.Event()
    fake = rig.pds(lambda sock: reached.set())
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sockaddr = (address, fake.port, 0, 0) if ":" in address else (address, fake.port)
    answers: list[list[object]] = [[], [(family, socket.SOCK_STREAM, 0, "", sockaddr)]]

    def getaddrinfo(*_: object, **__: object) -> list[object]:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    host_id = rig.registry.add(f"pds.example.com:{fake.port}", no_tls=False)
    rig.start(rules=DialRules("zlay", tls=tls.Context())).add(host_id)
    failures = [rig.registry.next(host_id, kind="dns") for _ in range(3)]
    texts = [failure.text for failure in failures if failure is not None]
    assert texts == ["resolves to no address", *["resolves to private addresses only"] * 2]
    assert not reached.is_set()


@pytest.mark.parametrize("how", ["error frame", "low seq"])
def test_future_cursor_is_confirmed_then_given_up(rig: Rig, how: str) -> None:
    """A host that says twice that the cursor is in its future begins a new epoch, live, and is counted."""
    cursors: queue.SimpleQueue[str] = queue.SimpleQueue()

    def script(sock: socket.socket) -> None:
        cursor = upgrade(sock)
        cursors.put(cursor)
        if cursor:
            sock.sendall(error("FutureCursor") if how == "error frame" else event(5))
        else:
            sock.sendall(event(3))
        hold(sock)

    host_id = rig.registry.add(rig.pds(script).hostname, cursor=1_000_000)
    index = rig.registry.targets[host_id].index
    dialer = rig.start()
    dialer.add(host_id)
    assert seqs(index, 1) == [3]
    assert [cursors.get(timeout=DEADLINE_S) for _ in range(3)] == ["1000000", "1000000", ""]
    assert rig.registry.epochs[host_id] == 2
    assert dialer.stats()["epochs_total"] == 1
    assert host.stats(index)["last_seq"] == 3


def test_one_future_cursor_alone_changes_nothing(rig: Rig) -> None:
    """A FutureCursor that is not repeated was a mistake of the moment: cursor and epoch stay."""
    answers = iter([error("FutureCursor"), event(1_000_001), error("FutureCursor"), event(1_000_002)])
    cursors: queue.SimpleQueue[str] = queue.SimpleQueue()

    def script(sock: socket.socket) -> None:
        cursors.put(upgrade(sock))
        answer = next(answers, None)
        if answer is None:
            hold(sock)
        else:
            sock.sendall(answer)

    host_id = rig.registry.add(rig.pds(script).hostname, cursor=1_000_000)
    dialer = rig.start()
    dialer.add(host_id)
    assert seqs(rig.registry.targets[host_id].index, 2) == [1_000_001, 1_000_002]
    seen = [cursors.get(timeout=DEADLINE_S) for _ in range(5)]
    assert seen == ["1000000", "1000000", "1000001", "1000001", "1000002"]
    assert rig.registry.epochs[host_id] == 1


def test_other_error_frames_back_off(rig: Rig) -> None:
    """Any other error frame is a failure of kind error_frame with its name."""

    def script(sock: socket.socket) -> None:
        upgrade(sock)
        sock.sendall(error("ConsumerTooSlow"))

    host_id = rig.registry.add(rig.pds(script).hostname, cursor=5)
    rig.start().add(host_id)
    failure = rig.registry.next(host_id, kind="error_frame")
    assert failure is not None
    assert failure.text == "ConsumerTooSlow"


@pytest.mark.parametrize("host_reader", ["native", "wsproto"])
@pytest.mark.parametrize("says", [b"", b"\x82", event(1)], ids=["nothing", "a byte", "an event"])
def test_a_stream_that_fails_right_after_a_good_dial_backs_off(rig: Rig, says: bytes, host_reader: str) -> None:
    """A host that accepts every dial, says a little and drops it counts failures in a row, as one that refuses."""

    def script(sock: socket.socket) -> None:
        upgrade(sock)
        sock.sendall(says)

    host_id = rig.registry.add(rig.pds(script).hostname, cursor=0)
    dialer = rig.start(host_reader=host_reader)
    dialer.add(host_id)
    failure = rig.registry.next(host_id, "offline", "websocket")
    assert failure is not None
    assert failure.attempts >= QUICK.offline_after
    assert dialer.stats()["connects_total"] >= QUICK.offline_after


@pytest.mark.parametrize("host_reader", ["native", "wsproto"])
@pytest.mark.parametrize("says", [event(1), b"\x8a\x00", b""], ids=["an event", "a pong", "nothing"])
def test_a_good_stream_forgets_failures(rig: Rig, says: bytes, host_reader: str) -> None:
    """A stream that lived long enough and on which anything was heard makes the next failure a first one."""
    turns = itertools.count()

    def script(sock: socket.socket) -> None:
        turn = next(turns)
        upgrade(sock)
        if turn == 2:
            sock.sendall(says)
            time.sleep(0.3)  # what the policy below calls a good stream

    host_id = rig.registry.add(rig.pds(script).hostname, cursor=0)
    policy = BackoffPolicy(first_s=0.01, most_s=0.02, least_s=0.001, good_stream_s=0.2)
    rig.start(policy=policy, host_reader=host_reader).add(host_id)
    attempts = []
    while len(attempts) < 5:
        failure = rig.registry.next(host_id, kind="websocket")
        assert failure is not None
        attempts.append(failure.attempts)
    assert attempts == ([1, 2, 1, 2, 3] if says else [1, 2, 3, 4, 5])


@pytest.mark.parametrize("began", ["with a network", "without"])
def test_our_own_network_comes_back(rig: Rig, began: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all hosts had failed until they were offline and one can be reached again, all are dialled at once; but for
    one that had said itself when to come back, and one that fails while others stream."""
    monkeypatch.setattr("zlay.hosts.dialer.ALL_AGAIN_S", 0.1)
    works, system = threading.Event(), socket.getaddrinfo

    def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        if not works.is_set():
            raise socket.gaierror("no network")
        return system(*args, **kwargs)

    def busy(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 429 Later\r\nRetry-After: 3000\r\nContent-Length: 0\r\n\r\n")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    hosts = [rig.registry.add(rig.pds(script_hold).hostname) for _ in range(MANY + 1)]
    away, dead = (rig.registry.add(rig.pds(script).hostname) for script in (busy, lambda sock: None))
    dialer = rig.start(policy=BackoffPolicy(first_s=0.01, least_s=0.001, offline_after=2, offline_first_s=3600))
    works.set()
    dialer.add(away)
    rig.registry.next(away, "idle")
    if began == "without":
        works.clear()
    for host_id in hosts:
        dialer.add(host_id)
        rig.registry.next(host_id, "active" if works.is_set() else "offline")
    if works.is_set():
        works.clear()
        for host_id in hosts:
            reader.stop(rig.registry.targets[host_id].index)  # what follows is a dial at once, which fails
            rig.registry.next(host_id, "offline")
    works.set()
    dialer.add(hosts[3])  # one is asked for
    awaited = set(hosts)
    while awaited:
        told_id, status, _ = rig.registry.told.get(timeout=DEADLINE_S)
        awaited -= {told_id} if status == "active" else set()
    dialer.add(dead)
    rig.registry.next(dead, "offline")
    reader.stop(rig.registry.targets[hosts[0]].index)
    rig.registry.next(hosts[0], "active")
    reports = [dialer.report(host_id) for host_id in (away, dead)]
    assert [report and (report.stage, report.attempts, report.failures) for report in reports] == [
        ("waiting", 1, 1),
        ("waiting", 2, 2),
    ]


def test_removed_host_is_ended_and_never_dialled_again(rig: Rig) -> None:
    """A host that is removed loses its connection, and no dial follows."""
    ended = threading.Event()
    dials = itertools.count()
    count = [0]

    def script(sock: socket.socket) -> None:
        count[0] = next(dials) + 1
        upgrade(sock)
        hold(sock)
        ended.set()

    host_id = rig.registry.add(rig.pds(script).hostname)
    other = rig.registry.add(rig.pds(script_hold).hostname)
    dialer = rig.start()
    dialer.add(host_id)
    rig.registry.next(host_id, "active")
    dialer.remove(host_id)
    assert ended.wait(DEADLINE_S)
    dialer.add(other)
    rig.registry.next(other, "active")
    assert count == [1]
    assert dialer.report(host_id) is None


def script_hold(sock: socket.socket) -> None:
    """Upgrades and keeps the connection."""
    upgrade(sock)
    hold(sock)


def test_a_ban_between_dial_and_upgrade_holds(rig: Rig) -> None:
    """A host banned while its upgrade is under way gets no reader."""
    asked, go = threading.Event(), threading.Event()

    def script(sock: socket.socket) -> None:
        _, answer = accept(sock)
        asked.set()
        assert go.wait(DEADLINE_S)
        sock.sendall(answer)
        hold(sock)

    host_id = rig.registry.add(rig.pds(script).hostname)
    dialer = rig.start()
    dialer.add(host_id)
    assert asked.wait(DEADLINE_S)
    target = rig.registry.targets[host_id]
    rig.registry.targets[host_id] = DialTarget(host_id, target.index, target.hostname, True, banned=True)
    go.set()
    deadline = time.monotonic() + DEADLINE_S
    while dialer.report(host_id) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert not reader.alive(target.index)


@pytest.mark.parametrize("stage", ["streaming", "waiting", "dialling"])
def test_reset_gives_the_cursor_up(rig: Rig, stage: str) -> None:
    """An operator's reset begins a new epoch and dials live, at once, whatever the host is at."""
    cursors: queue.SimpleQueue[str] = queue.SimpleQueue()
    unanswered = ["9"] if stage == "dialling" else []

    def script(sock: socket.socket) -> None:
        cursors.put(unanswered.pop() if unanswered else upgrade(sock))
        hold(sock)

    host_id = rig.registry.add(rig.pds(script).hostname, cursor=9)
    if stage == "waiting":
        rig.registry.targets[host_id] = replace(rig.registry.targets[host_id], no_tls=False)  # cannot be dialled
    dialer = rig.start(policy=BackoffPolicy(first_s=60.0, least_s=60.0))
    dialer.add(host_id)
    if stage == "waiting":
        rig.registry.next(host_id, "offline")
        rig.registry.targets[host_id] = replace(rig.registry.targets[host_id], no_tls=True)
    else:
        assert cursors.get(timeout=DEADLINE_S) == "9"
    if stage == "streaming":
        rig.registry.next(host_id, "active")
    dialer.reset(host_id)
    assert cursors.get(timeout=DEADLINE_S) == ""
    assert rig.registry.epochs[host_id] == 2


def test_requested_crawl_does_not_wait_for_the_schedule(rig: Rig) -> None:
    """A host that waits an hour for its next dial is dialled at once when asked for."""
    served = threading.Event()
    works = threading.Event()

    def script(sock: socket.socket) -> None:
        if not works.is_set():
            return
        upgrade(sock)
        served.set()
        hold(sock)

    host_id = rig.registry.add(rig.pds(script).hostname)
    policy = BackoffPolicy(offline_after=1, offline_first_s=3600)
    dialer = rig.start(policy=policy)
    dialer.add(host_id)
    failure = rig.registry.next(host_id, "offline")
    assert failure is not None
    assert failure.next_retry_s >= 3600
    works.set()
    dialer.add(host_id)
    assert served.wait(DEADLINE_S)


def test_silent_hosts_do_not_hold_up_others(rig: Rig) -> None:
    """With 300 dials stuck in silent upgrades a good host is still dialled at once."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1024:
        pytest.skip("fewer than 1,024 file descriptors allowed")
    silent = socket.create_server(("127.0.0.1", 0), backlog=600)
    port = silent.getsockname()[1]
    stuck = [rig.registry.add(f"127.0.0.1:{port}") for _ in range(300)]
    good = rig.registry.add(rig.pds(script_hold).hostname)
    rules = DialRules("zlay", allow_private=True, upgrade_s=60)
    dialer = rig.start(rules=rules)
    for host_id in stuck:
        dialer.add(host_id)
    deadline = time.monotonic() + DEADLINE_S
    while dialer.stats()["in_flight"] < 300:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    dialer.add(good)
    rig.registry.next(good, "active")
    assert dialer.stats()["in_flight"] == 300
    silent.close()


def test_out_of_descriptors_pauses_and_recovers(rig: Rig) -> None:
    """When no descriptor is left dialling pauses without blaming the host, and goes on when there are some."""
    earlier = rig.registry.add(rig.pds(script_hold).hostname)
    host_id = rig.registry.add(rig.pds(script_hold).hostname)
    dialer = rig.start()
    dialer.add(earlier)
    rig.registry.next(earlier, "active")  # everything is loaded that needs a descriptor of its own
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as probe:
        lowest_free = probe.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        dialer.add(host_id)
        deadline = time.monotonic() + DEADLINE_S
        while dialer.stats()["descriptor_pauses_total"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    rig.registry.next(host_id, "active")
    report = dialer.report(host_id)
    assert report is not None
    assert report.failures == 0


def test_run_may_be_called_again(rig: Rig) -> None:
    """After a fault ends the dialer's loop, a second run dials what was in flight and keeps what streams."""
    streaming = rig.registry.add(rig.pds(script_hold).hostname)
    dialer = Dialer(rig.registry, starter("native"), RULES, QUICK, seed=1)
    broken = rig.registry.add(rig.pds(script_hold).hostname)

    class Fault(Exception):
        pass

    def fail(host_id: int) -> int | None:
        if host_id == broken:
            raise Fault
        return None

    rig.registry.cursor_for_dial = fail  # type: ignore[method-assign]
    dialer.add(streaming)
    ended = threading.Event()

    def run() -> None:
        try:
            dialer.run()
        except Fault:
            ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    rig.registry.next(streaming, "active")
    dialer.add(broken)
    assert ended.wait(DEADLINE_S)
    thread.join(DEADLINE_S)
    del rig.registry.cursor_for_dial
    rig.dialer = dialer
    rig._thread = threading.Thread(target=dialer.run)
    rig._thread.start()
    rig.registry.next(broken, "active")
    assert reader.alive(rig.registry.targets[streaming].index)


def test_run_again_finds_the_stream_that_was_not_noted(rig: Rig) -> None:
    """A fault right after a reader was started does not lead to a second dial of its host."""
    dials = itertools.count(1)
    dialled: list[int] = []

    def script(sock: socket.socket) -> None:
        dialled.append(next(dials))
        upgrade(sock)
        hold(sock)

    class Fault(Exception):
        pass

    def fail(host_id: int, status: HostStatus, failure: Failure | None) -> None:
        raise Fault

    host_id = rig.registry.add(rig.pds(script).hostname)
    rig.dialer = dialer = Dialer(rig.registry, starter("native"), RULES, QUICK, seed=1)
    rig.registry.set_status = fail  # type: ignore[method-assign]
    dialer.add(host_id)
    with pytest.raises(Fault):
        dialer.run()
    del rig.registry.set_status
    rig._thread = threading.Thread(target=dialer.run)
    rig._thread.start()
    other = rig.registry.add(rig.pds(script_hold).hostname)
    dialer.add(other)
    rig.registry.next(other, "active")
    report = dialer.report(host_id)
    assert report is not None
    assert (report.stage, dialled, dialer.stats()["descriptor_pauses_total"]) == ("streaming", [1], 0)


def test_no_thread_for_a_reader(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOST_READER=wsproto: where no thread can be had for a host, its connection is given up and dialled again."""
    start, refusals = threading.Thread.start, [RuntimeError("can't start new thread")]

    def no_thread(self: threading.Thread) -> None:
        if self.name.startswith("wsproto-") and refusals:
            raise refusals.pop()
        start(self)

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    host_id = rig.registry.add(rig.pds(script_hold).hostname)
    dialer = rig.start(host_reader="wsproto")
    dialer.add(host_id)
    rig.registry.next(host_id, "active")
    assert not refusals
    assert dialer.stats()["descriptor_pauses_total"] == 1
