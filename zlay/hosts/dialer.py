"""Keeps one connection to every host: dials, backs off, hands open streams to readers, learns of their ends.

Promises: one thread for all dials, at least 256 in flight; every host that is known and not banned is dialled for ever,
ever more slowly while it fails; a host has one connection at a time; a cursor is given up only after the host has said
twice that it lies in the future; running out of descriptors pauses dialling and is said; when our own network comes
back, hosts that had become offline for its sake are dialled at once.

Threads: `run` belongs to one (supervised) thread, which owns all state here. `add`, `remove`, `reset`, `stop` may be
called from any thread: they only put a command on a queue. `report` and `stats` may be called from any thread: reports
are immutable and replaced as a whole.
"""

from __future__ import annotations

import heapq
import os
import queue
import random
import selectors
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from zlay import logs
from zlay._fast import reader
from zlay.errors import ZlayError
from zlay.hosts.backoff import Backoff, BackoffPolicy
from zlay.hosts.connection import failure_of, numbering_restarted
from zlay.hosts.dial import Dial, DialRules, OpenStream
from zlay.hosts.dns import Resolver
from zlay.hosts.interface import DialTarget, Failure, FailureKind
from zlay.hosts.names import split_port
from zlay.hosts.race import OutOfDescriptors
from zlay.hosts.upgrade import DialFailed
from zlay.shared import look_up

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from zlay.hosts.connection import StartReader
    from zlay.hosts.dns import Answer
    from zlay.hosts.interface import HostRegistry, HostStatus

__all__ = ["Dialer", "HostReport"]

MAX_HOSTS = 10_000  # RELAY_MAX_HOSTS
MAX_IN_FLIGHT = 1024  # dials: four round trips each on the real network, and ten seconds where nobody answers
BEGUN_AT_ONCE = 64  # dials; then those under way go on: where processors are slow, fewer wait for them at a time
DNS_THREADS = 8
DESCRIPTOR_PAUSE_S = 1.0
STORE_PAUSE_S = 5.0  # when the registry cannot answer: our fault, the host's back-off stays as it is
LONGEST_SLEEP_S = 60.0
MANY = 10  # hosts that do not all fail at once by themselves
OF_THE_NETWORK: tuple[FailureKind, ...] = ("dns", "tcp_refused", "tcp_timeout", "tls", "websocket")  # no host said so
ALL_AGAIN_S = 10.0  # over which they are dialled when they can be reached again

Stage = Literal["waiting", "dialling", "streaming"]

log = logs.get("hosts")


@dataclass(frozen=True, slots=True)
class HostReport:
    """What the dialer knows of one host, for admin (design 9)."""

    stage: Stage
    attempts: int  # dials begun since the process started
    connects: int  # of these, streams opened
    failures: int  # in a row
    epochs_begun: int  # cursors given up since the process started
    last_failure: Failure | None
    next_dial_unix_s: float | None  # while waiting


@dataclass(slots=True)
class _Host:
    """One host's state. Dialer thread only."""

    id: int
    index: int
    name: str
    backoff: Backoff
    stage: Stage = "waiting"
    plan: int = 0  # the number of the entry in the schedule that counts; 0 = none
    due: float = 0.0
    attempts: int = 0
    connects: int = 0
    epochs_begun: int = 0
    cursor: int | None = None  # of the last dial
    suspect: bool = False  # has said once that its numbering starts again
    removed: bool = False
    reset: bool = False  # its cursor is to be given up when its stream has ended
    last_failure: Failure | None = None
    dial: Dial | None = None
    question: int = 0  # of the dial, to the resolver


@dataclass(slots=True)
class _Counts:
    """Since the process started. Written by the dialer thread alone."""

    dials: int = 0
    connects: int = 0
    failures: dict[FailureKind, int] = field(default_factory=dict)
    epochs: int = 0
    descriptor_pauses: int = 0


class Dialer:
    """The dialer. `registry` is asked and told on the dialer's thread; `start_reader` takes over open sockets."""

    def __init__(
        self,
        registry: HostRegistry,
        start_reader: StartReader,
        rules: DialRules,
        policy: BackoffPolicy | None = None,
        *,
        max_hosts: int = MAX_HOSTS,
        max_in_flight: int = MAX_IN_FLIGHT,
        dns_threads: int = DNS_THREADS,
        seed: int | None = None,
    ) -> None:
        """`max_hosts`: more are not dialled, in the order added; a host that is removed makes room for later ones."""
        self._registry = registry
        self._start_reader = start_reader
        self._max_hosts = max_hosts
        self._rules = rules
        self._policy = policy or BackoffPolicy()
        self._max_in_flight = max_in_flight
        self._rng = random.Random(seed)
        self._commands: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # lives as long as the dialer object
        self._resolver = Resolver(dns_threads, self._deliver, wanted=self._is_resolving)
        self._stopping = False
        self._hosts: dict[int, _Host] = {}
        self._by_index: dict[int, _Host] = {}
        self._left_out: dict[int, None] = {}  # ids beyond max_hosts, in their order
        self._schedule: list[tuple[float, int, _Host]] = []  # heap of (due, number, host)
        self._deadlines: list[tuple[float, int, Dial]] = []  # heap; an entry counts if the dial still has that deadline
        self._ready: deque[tuple[int, _Host]] = deque()  # due, but no dial is free: (number of the plan, host)
        self._in_flight: dict[Dial, _Host] = {}
        self._resolving: dict[int, Dial] = {}
        self._tie = 0
        self._paused_until = 0.0
        self._counts = _Counts()
        self._reports: dict[int, HostReport] = {}
        self._selector: selectors.BaseSelector = selectors.EpollSelector()

    # --- any thread ---

    def add(self, host_id: int) -> None:
        """Dial this host from now on; one that is known already is dialled at once if it waits."""
        self._command("add", host_id)

    def remove(self, host_id: int) -> None:
        """End the host's connection and dial it no more (banned, or gone)."""
        self._command("remove", host_id)

    def reset(self, host_id: int) -> None:
        """Give the host's cursor up, and dial it live at once; a stream of it ends first."""
        self._command("reset", host_id)

    def stop(self) -> None:
        """Makes `run` return soon. Streams are left to `reader.stop_all`."""
        self._stopping = True
        self._wake()

    def report(self, host_id: int) -> HostReport | None:
        """What is known of the host now; None for a stranger."""
        return look_up(self._reports, host_id)

    def stats(self) -> dict[str, int]:
        """Gauges and counters for metrics."""
        counts = self._counts
        return {
            "hosts": len(self._hosts),
            "in_flight": len(self._in_flight),
            "due": len(self._ready),
            "questions": len(self._resolving),
            "left_out": len(self._left_out),
            "dials_total": counts.dials,
            "connects_total": counts.connects,
            "epochs_total": counts.epochs,
            "descriptor_pauses_total": counts.descriptor_pauses,
        }

    def failures_by_kind(self) -> dict[FailureKind, int]:
        """Failed dials and broken streams since the process started."""
        return dict(self._counts.failures)

    def _command(self, what: str, host_id: int) -> None:
        self._commands.put((what, host_id))
        self._wake()

    def _deliver(self, token: int, answer: Answer) -> None:
        self._answers.put((token, answer))
        self._wake()

    def _is_resolving(self, token: int) -> bool:
        return token in self._resolving

    def _wake(self) -> None:
        os.eventfd_write(self._wake_fd, 1)

    # --- the dialer's thread ---

    def run(self) -> None:
        """Dials until `stop`. May be called again after an exception: all is planned anew, what streams goes on."""
        self._resolver.start()
        self._begin()
        try:
            while not self._stopping:
                now = time.monotonic()
                self._take_commands()
                self._begin_due(now)
                for key, _ in self._selector.select(self._sleep_s()):
                    if isinstance(key.data, Dial):
                        self._drive(key.data, key.fileobj)  # type: ignore[arg-type]
                self._take_wake()
                self._expire(now)  # last: what came in time counts, however late this thread is
        finally:
            self._end()

    def _begin(self) -> None:
        self._selector = selectors.EpollSelector()
        self._selector.register(self._wake_fd, selectors.EVENT_READ)
        self._selector.register(reader.event_fd(), selectors.EVENT_READ)
        self._ready.clear()
        self._schedule.clear()
        for host in self._hosts.values():
            if reader.alive(host.index):  # whatever was not noted of it
                host.stage = "streaming"
                self._note(host)
            else:
                self._plan(host, max(0.0, host.due - time.monotonic()) if host.stage == "waiting" else 0.0)

    def _end(self) -> None:
        for dial, host in self._in_flight.items():
            dial.close()
            host.dial = None
        self._in_flight.clear()
        self._resolving.clear()
        self._deadlines.clear()
        self._selector.close()
        if self._stopping:
            self._resolver.stop()

    def _take_wake(self) -> None:
        """What other threads have left: resolved names and ends of connections."""
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            pass
        while not self._answers.empty():
            token, answer = self._answers.get_nowait()
            dial = self._resolving.pop(token, None)
            if dial is not None and dial in self._in_flight:
                self._guard(dial, partial(dial.resolved, answer, time.monotonic()))
        for end in reader.take_ends():
            host = self._by_index.get(end.host_index)
            if host is not None and host.stage == "streaming":
                self._stream_ended(host, end)

    def _take_commands(self) -> None:
        while not self._commands.empty():
            what, host_id = self._commands.get_nowait()
            host = look_up(self._hosts, host_id)
            if what == "remove":
                self._remove(host)
            elif host is None:
                self._add(host_id)
            elif what == "reset":
                self._reset(host)
            elif host.stage == "waiting":
                self._plan(host, 0.0)
            elif host.stage == "streaming":
                host.removed = False  # removed and added again before its end came: the end is followed by a dial

    def _add(self, host_id: int) -> None:
        if len(self._hosts) >= self._max_hosts:
            self._left_out[host_id] = None
            log.warn_rate("max-hosts", "a host is not dialled: RELAY_MAX_HOSTS is reached", host_id=host_id)
            return
        self._left_out.pop(host_id, None)
        target = self._ask_registry(host_id)
        if target is None:
            self._take_left_out()
            return
        host = _Host(host_id, target.index, target.hostname, Backoff(self._policy))
        self._hosts[host_id] = host
        self._by_index[target.index] = host
        self._plan(host, 0.0)

    def _reset(self, host: _Host) -> None:
        if host.stage == "streaming":
            host.reset = True
            reader.stop(host.index)  # its end gives the cursor up
            return
        if host.dial is not None:
            self._drop_dial(host.dial)
        self._begin_epoch(host)
        self._plan(host, 0.0)

    def _take_left_out(self) -> None:
        """There is room for one more host."""
        for host_id in self._left_out:
            del self._left_out[host_id]
            self.add(host_id)
            return

    def _remove(self, host: _Host | None) -> None:
        if host is None:  # one beyond RELAY_MAX_HOSTS: when its turn comes the registry says that it is banned
            return
        host.removed = True
        if host.stage == "streaming":
            reader.stop(host.index)  # its end forgets it
            return
        if host.dial is not None:
            self._drop_dial(host.dial)
        self._forget(host)

    def _forget(self, host: _Host) -> None:
        host.plan = 0
        self._hosts.pop(host.id, None)
        self._by_index.pop(host.index, None)
        self._reports.pop(host.id, None)
        self._take_left_out()

    def _ask_registry(self, host_id: int) -> DialTarget | None:
        try:
            target = self._registry.host(host_id)
        except ZlayError as exc:
            log.warn_rate("registry", "the registry does not answer", error=str(exc))
            return None
        return None if target is None or target.banned else target

    def _plan(self, host: _Host, delay_s: float) -> None:
        """Dial the host after `delay_s`; what was planned before no longer counts."""
        host.stage = "waiting"
        host.due = time.monotonic() + delay_s
        self._tie += 1
        host.plan = self._tie
        heapq.heappush(self._schedule, (host.due, self._tie, host))
        self._note(host)

    def _sleep_s(self) -> float:
        """How long nothing happens by the clock alone."""
        until = [time.monotonic() + LONGEST_SLEEP_S]
        if self._schedule:
            until.append(self._schedule[0][0])
        if self._deadlines:
            until.append(self._deadlines[0][0])
        if self._ready and len(self._in_flight) < self._max_in_flight:
            until.append(self._paused_until)
        return max(0.0, min(until) - time.monotonic())

    def _begin_due(self, now: float) -> None:
        while self._schedule and self._schedule[0][0] <= now:
            _, number, host = heapq.heappop(self._schedule)
            if host.plan == number:
                self._ready.append((number, host))
        for _ in range(BEGUN_AT_ONCE):
            if not self._ready or len(self._in_flight) >= self._max_in_flight or now < self._paused_until:
                break
            number, host = self._ready.popleft()
            if host.plan == number:  # else it has been planned anew, or banned, while no dial was free
                self._dial(host, now)

    def _dial(self, host: _Host, now: float) -> None:
        try:
            target = self._registry.host(host.id)
            cursor = self._registry.cursor_for_dial(host.id)
        except ZlayError as exc:
            log.warn_rate("registry", "the registry does not answer", error=str(exc))
            self._plan(host, STORE_PAUSE_S)
            return
        if target is None or target.banned:
            self._forget(host)
            return
        if not target.no_tls and self._rules.tls is None:
            self._failed(host, "config", "wss:// cannot be dialled: there are no certificate authorities", None)
            return
        if target.no_tls and not self._rules.allow_private:
            self._failed(host, "config", "ws:// is dialled with RELAY_ALLOW_PRIVATE_HOSTS only", None)
            return
        host.stage = "dialling"
        host.plan = 0
        host.attempts += 1
        host.cursor = cursor
        self._counts.dials += 1
        dial = Dial(target, cursor, self._rules, self._selector, now)
        host.dial = dial
        self._in_flight[dial] = host
        self._watch_deadline(dial)
        self._tie += 1
        host.question = self._tie
        self._resolving[self._tie] = dial
        name, port = split_port(target.hostname, no_tls=target.no_tls)
        self._resolver.ask(self._tie, name, port)
        self._note(host)

    def _watch_deadline(self, dial: Dial) -> None:
        self._tie += 1
        heapq.heappush(self._deadlines, (dial.deadline, self._tie, dial))

    def _expire(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, _, dial = heapq.heappop(self._deadlines)
            if dial in self._in_flight and dial.deadline == deadline:
                self._guard(dial, partial(dial.expired, now))

    def _drive(self, dial: Dial, sock: socket.socket) -> None:
        if dial in self._in_flight and self._guard(dial, partial(dial.ready, sock, time.monotonic())):
            self._opened(dial)

    def _guard(self, dial: Dial, step: Callable[[], bool | None]) -> bool:
        """One step of a dial; its failure is the host's."""
        host = self._in_flight[dial]
        deadline = dial.deadline
        try:
            done = step()
        except DialFailed as exc:
            self._drop_dial(dial)
            self._failed(host, exc.kind, exc.text, exc.retry_after_s)
            return False
        except OutOfDescriptors as exc:
            self._drop_dial(dial)
            self._pause(host, str(exc))
            return False
        if dial.deadline != deadline:
            self._watch_deadline(dial)
        return bool(done)

    def _drop_dial(self, dial: Dial) -> None:
        dial.close()
        host = self._in_flight.pop(dial)
        host.dial = None
        self._resolving.pop(host.question, None)

    def _pause(self, host: _Host, text: str) -> None:
        """No descriptor: every other dial would meet the same."""
        self._counts.descriptor_pauses += 1
        self._paused_until = time.monotonic() + DESCRIPTOR_PAUSE_S
        log.warn_rate("descriptors", "dialling pauses: no file descriptors left", error=text)
        self._plan(host, DESCRIPTOR_PAUSE_S)

    def _opened(self, dial: Dial) -> None:
        """The upgrade is through: the reader's from here."""
        host = self._in_flight.pop(dial)
        host.dial = None
        stream = dial.detach()
        target = self._ask_registry(host.id)  # a ban may have come meanwhile
        if target is None or self._stopping:
            stream.close()
            self._forget(host)
            return
        protocol = None if stream.session is None else stream.session.describe()[0]
        alone = reader.stats()["alive"] == 0
        if not self._hand_over(host, stream):
            return
        if alone:
            self._all_again()
        host.stage = "streaming"
        host.connects += 1
        self._counts.connects += 1
        self._tell(host, "active", None)
        log.info("host connected", host=host.name, cursor=dial.cursor, tls=protocol)

    def _all_again(self) -> None:
        """Nobody was streamed from, and now somebody is: our own network had failed, and not so many hosts."""
        waiting = [host for host in self._hosts.values() if host.stage == "waiting" and host.backoff.failures]
        failed = [host for host in waiting if host.last_failure and host.last_failure.kind in OF_THE_NETWORK]
        if len(failed) < MANY:
            return
        log.info("hosts can be reached again: all are dialled", hosts=len(failed))
        for host in failed:
            host.backoff.good()
            self._plan(host, self._rng.uniform(0.0, ALL_AGAIN_S))

    def _hand_over(self, host: _Host, stream: OpenStream) -> bool:
        try:
            self._start_reader(host.index, stream)
        except OSError as exc:
            stream.close()
            self._pause(host, str(exc))
            return False
        return True

    def _stream_ended(self, host: _Host, end: reader.ConnectionEnd) -> None:
        if host.reset:
            host.reset = False
            self._begin_epoch(host)
        if host.removed:
            self._forget(host)
            return
        if end.cause == "stopped":
            self._plan(host, 0.0)
            return
        if (end.good or end.received_bytes) and end.seconds >= self._policy.good_stream_s:
            host.backoff.good()
        if numbering_restarted(end):
            self._numbering(host)
        elif end.good:
            host.suspect = False
        kind, text = failure_of(end)
        self._failed(host, kind, text, None)

    def _numbering(self, host: _Host) -> None:
        """A13: what is said once may be a mistake of the moment; said twice, the cursor is given up."""
        if host.cursor is None:
            return
        if not host.suspect:
            host.suspect = True
            return
        self._begin_epoch(host)  # where the registry does not answer the host will say it again

    def _begin_epoch(self, host: _Host) -> None:
        """Gives the cursor up. The host must have no stream."""
        try:
            epoch = self._registry.new_epoch(host.id)
        except ZlayError as exc:
            log.warn_rate("registry", "the registry does not answer", error=str(exc))
            return
        host.suspect = False
        host.epochs_begun += 1
        self._counts.epochs += 1
        log.warning("cursor given up", host=host.name, cursor=host.cursor, epoch=epoch)

    def _failed(self, host: _Host, kind: FailureKind, text: str, retry_after_s: float | None) -> None:
        delay_s = max(host.backoff.failed(self._rng), retry_after_s or 0.0)
        self._counts.failures[kind] = self._counts.failures.get(kind, 0) + 1
        host.last_failure = Failure(kind, text, time.time_ns() // 1000, host.backoff.failures, delay_s)
        retry_s = round(delay_s, 1)
        # What our settings or this build forbid holds for thousands of hosts at once: one line says it of all.
        key = text if kind == "config" else f"{host.name}:{kind}"
        log.warn_rate(key, "host failed", host=host.name, kind=kind, text=text, retry_s=retry_s)
        self._tell(host, "offline" if host.backoff.offline or kind == "config" else "idle", host.last_failure)
        self._plan(host, delay_s)

    def _tell(self, host: _Host, status: HostStatus, failure: Failure | None) -> None:
        try:
            self._registry.set_status(host.id, status, failure)
        except ZlayError as exc:
            log.warn_rate("registry", "the registry does not answer", error=str(exc))
        self._note(host)

    def _note(self, host: _Host) -> None:
        waits = host.due - time.monotonic() if host.stage == "waiting" else None
        self._reports[host.id] = HostReport(
            host.stage,
            host.attempts,
            host.connects,
            host.backoff.failures,
            host.epochs_begun,
            host.last_failure,
            None if waits is None else time.time() + waits,
        )
