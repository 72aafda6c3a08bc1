"""One relay between fake hosts, a fake directory and a strict consumer, and what every case may ask of them.

One test thread. Everything a case sends goes over a socket; everything it is judged by comes from /metrics and from the
consumer.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from tests._fast.actor import Actor
from tests.e2e.fakes import Answer, FakePds, FakePlc
from tests.e2e.relay import RelayProcess
from tests.reference.consumer import Collector
from tests.reference.frame_ref import Frame
from zlay._fast import verdicts
from zlay._fast.syntax import tid_text
from zlay.pipeline.types import AccountDelta
from zlay.state.interface import NewHost
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_S = 60.0
HOLD_S = 3  # a stall of the whole machine is no part of it: the hold clock makes no long steps
_EVENTS = re.compile(r'^relay_events_total\{reason="(\w+)",verdict="(\w+)"\}$')

type Counts = dict[tuple[str, str], int]


class Directory(FakePlc):
    """A directory that also knows DIDs that were tombstoned, and some about which it fails to answer.

    While `gate` is cleared every answer waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tombstoned: set[str] = set()
        self.failing: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def answer(self, method: str, target: str) -> Answer:
        """As a directory's."""
        self.gate.wait(WAIT_S)
        did = target.removeprefix("/")
        if did in self.failing:
            return 500, {"message": "database is locked"}
        if did in self.tombstoned:
            return 404, {"message": f"DID not available: {did}"}
        return super().answer(method, target)


class Pds(FakePds):
    """A PDS whose answers wait while `gate` is cleared; its stream does not."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def answer(self, method: str, target: str) -> Answer:
        """As a PDS's."""
        self.gate.wait(WAIT_S)
        return super().answer(method, target)


class Host:
    """One PDS and its numbers; `sent` counts the frames of its stream."""

    def __init__(self, pds: Pds) -> None:
        self.pds = pds
        self.name = pds.host
        self.seq = 0
        self.sent = 0

    def next_seq(self) -> int:
        """The next number of its stream."""
        self.seq += 1
        return self.seq

    def publish(self, *frames: bytes) -> None:
        """Sends messages as they are, at the end of the stream."""
        self.sent += len(frames)
        self.pds.publish(*((self.seq, frame) for frame in frames))


class Stage:
    """`alice` lives on `main`, `bob` on `other`; both are known to the relay and go on with valid commits.

    `banished` is taken down here.
    """

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        try:
            self._open(folder)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, folder: Path) -> None:
        self.plc = self._stack.enter_context(Directory())
        self.main = Host(self._stack.enter_context(Pds()))
        self.other = Host(self._stack.enter_context(Pds()))
        self.alice = self.actor("alice")
        self.bob = self.actor("bob", self.other)
        self.banished = self.actor("banished")
        self._take_down(folder, self.banished)
        names = [self.main.name, self.other.name]
        self.relay = RelayProcess(
            folder, plc_url=self.plc.url, hosts=names, env={"HOLD_SECONDS": str(HOLD_S), "FRAME_WORKERS": "2"}
        )
        self._stack.enter_context(self.relay)
        self.main.pds.wait_subscribed()
        self.other.pds.wait_subscribed()
        self.consumer = self._stack.enter_context(Collector(self.relay.port, 0, reconnect=True))
        self.pass_on(self.alice, self.main)
        self.pass_on(self.bob, self.other)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        self._stack.__exit__(kind, value, traceback)

    def _take_down(self, folder: Path, actor: Actor) -> None:
        """What an earlier run of the relay has left in the state: hosts, and an account taken down here."""
        folder.mkdir(parents=True, exist_ok=True)
        store = SqliteStore(folder / "state.sqlite")
        row, _ = store.add_hosts([NewHost(host.name, "config", no_tls=True) for host in (self.main, self.other)])
        takendown = verdicts.STATUSES.index("takendown")
        store.apply([AccountDelta(actor.did, row.id, 0, takendown, None, None, None, 0, False)], [], 0, None)
        store.close()

    # --- accounts ---

    def actor(self, name: str, host: Host | None = None) -> Actor:
        """A new account whose document names the host (`main`)."""
        actor = Actor(name)
        self.plc.documents[actor.did] = actor.document((host or self.main).name)
        return actor

    def known(self, name: str) -> Actor:
        """A new account on `main` with a first commit published."""
        actor = self.actor(name)
        self.pass_on(actor, self.main)
        return actor

    def pass_on(self, actor: Actor, host: Host) -> None:
        """The actor's next commit, which must reach the consumer."""
        host.publish(actor.commit(host.next_seq()))
        self.wait_seen(actor)

    def wait_seen(self, actor: Actor) -> None:
        """Until the consumer has the actor's newest commit."""
        self.consumer.wait_for(lambda frames: self.has_seen(actor, frames), f"the commit of {actor.did}", WAIT_S)

    @staticmethod
    def has_seen(actor: Actor, frames: list[object]) -> bool:
        """Whether the actor's newest commit is among them."""
        rev = tid_text(actor.rev)
        return any(
            isinstance(frame, Frame) and frame.did == actor.did and frame.payload.get("rev") == rev
            for frame in reversed(frames)
        )

    @contextmanager
    def unanswered(self) -> Iterator[None]:
        """Inside, no question of the relay to the directory or to the main host is answered."""
        gates = (self.plc.gate, self.main.pds.gate)
        for gate in gates:
            gate.clear()
        try:
            yield
        finally:
            for gate in gates:
                gate.set()

    # --- what the relay says ---

    @property
    def sent(self) -> int:
        """Frames that both hosts have sent."""
        return self.main.sent + self.other.sent

    def counts(self) -> Counts:
        """relay_events_total by verdict and reason."""
        found: Counts = {}
        for name, value in self.relay.metrics().items():
            if match := _EVENTS.match(name):
                found[match[2], match[1]] = int(value)
        return found

    def since(self, before: Counts, verdict: str) -> dict[str, int]:
        """Verdicts of a class given since then."""
        return {
            reason: n - before[kind, reason]
            for (kind, reason), n in self.counts().items()
            if kind == verdict and n != before[kind, reason]
        }

    def wait_counts(self, before: Counts, verdict: str, expected: dict[str, int]) -> None:
        """Until at least so many verdicts were given since then; AssertionError with what was, at the deadline."""
        deadline = time.monotonic() + WAIT_S
        while True:
            found = self.since(before, verdict)
            if all(found.get(reason, 0) >= n for reason, n in expected.items()):
                return
            assert time.monotonic() < deadline, f"{verdict}: {found} instead of {expected}"
            time.sleep(0.01)

    def wait_nothing_held(self) -> None:
        """Until every frame that has come has its verdict."""
        self.relay.wait_for(lambda: self.relay.metrics()["relay_held_frames"] == 0, "the end of all holds", WAIT_S)

    def wait_settled(self, before: Counts, sent: int) -> None:
        """Until `sent` frames were passed or dropped since then, and the consumer has all that was passed."""
        self.relay.wait_for(
            lambda: sum((self.since(before, "pass") | self.since(before, "drop")).values()) >= sent,
            f"verdicts on {sent} frames",
            WAIT_S,
        )
        seq = int(self.relay.metrics()["relay_log_appended_seq"])
        self.consumer.wait_for(lambda _: (self.consumer.seq or 0) >= seq, f"seq {seq}", WAIT_S)
