"""Ten thousand unknown accounts at once from one host, while the directory fails in every way; others go on beside it.

A trial is one relay (`zlay run`), a simulated network of honest hosts whose accounts it knows, and a host whose
accounts it has never seen. For each mood of the directory that host sends its accounts' first events, good and bad
ones; they are held, time passes, and the directory answers again. In the end every good event of either has come once
and in order, and no other; what the honest ones' events took, and the relay's memory, are measured.

One test thread; the directory's answers are given on threads of its own.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests._fast.actor import Actor
from tests.e2e.arrivals import Arrivals
from tests.e2e.fakes import Answer, FakePds, FakePlc
from tests.e2e.ledger import difference, expected
from tests.e2e.relay import RelayProcess, request
from tests.reference.frame_ref import decode_frame
from zlay.sim.messages import tid
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from tests.e2e.ledger import Seen

MOODS = ("slow", "down", "error", "garbage", "stranger", "endless")
RATE = 150  # honest events per second
CALM_S = 1.0
WAIT_S = 300.0
HONEST = 30  # accounts: all of them must have been seen before the directory fails
FLAGS = ["--hosts", "3", "--accounts", str(HONEST), "--rate", str(RATE)]
# After an #identity, which a PDS also says of an account that is active again, its events wait for the directory.
NONE_OF = ("rotate", "migrate", "identity", "handle", "birth", "deactivate", "remove")
FLAGS += [part for kind in NONE_OF for part in ("--mix", f"{kind}=0")]
COMMITS_EVERY, FORGED_EVERY, AWAY_EVERY, DENIED_EVERY = 10, 20, 30, 40  # of the strangers
ENDLESS_BYTES = 100 << 20
MEDIAN_MOST_S = 0.1  # on a machine that others use, too
CREDIT_MIB = 32  # of each host: by default some 5,000 of the strangers' frames are held at once, and TCP holds the rest
# That credit, what the caches keep of its 60,000 accounts, and the allocators of 100 MB answers.
MEMORY_MOST_BYTES = 128 << 20
FEW = 20  # accounts that go on after a restart


class MoodyPlc(FakePlc):
    """Knows `documents`, and of the rest what the simulation's directory says; `mood` says how it fails all alike."""

    def __init__(self, sim: SimProcess, slow_s: float) -> None:
        super().__init__()
        self.mood = "ok"
        self._slow_s = slow_s
        self._another = Actor("somebody else").document("localhost:1")
        self._sim_port = int(sim.plc.rpartition(":")[2])

    def answer(self, method: str, target: str) -> Answer:
        """The document, late, another one's, or an error."""
        did = target.removeprefix("/")
        if did != "_health":
            if self.mood == "slow":
                self._closing.wait(self._slow_s)
            elif self.mood == "error":
                return 500, {"message": "database is locked"}
            elif self.mood == "stranger":
                return 200, self._another
            if did not in self.documents:
                status, raw = request(self._sim_port, method, target)
                if status == 200:
                    return status, json.loads(raw)
        return super().answer(method, target)

    def at_the_socket(self, sock: socket.socket, target: str) -> bool:
        """Hangs up, gives half a document, or one of 100 MB: what is no answer at all."""
        if target == "/_health" or self.mood not in ("down", "garbage", "endless"):
            return False
        if self.mood == "garbage":
            body = b'{"id": "did:plc:garbage", "service": ['
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        elif self.mood == "endless":
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            block = b" " * 65_536
            for _ in range(ENDLESS_BYTES // len(block)):
                sock.sendall(b"%x\r\n%b\r\n" % (len(block), block))
        return True


class Strangers(FakePds):
    """A host of accounts that nobody has seen. `good`: the frames that must come out, by DID, in order."""

    def __init__(self, plc: MoodyPlc) -> None:
        super().__init__()
        self.good: dict[str, list[bytes]] = defaultdict(list)
        self.actors: list[Actor] = []  # those that have a repository
        self.newest: set[str] = set()  # DIDs of the last `send`
        self._plc = plc
        self._seq = 0

    def send(self, number: int, mood: str) -> int:
        """The first events of so many new accounts; how many of them there are.

        Some have no document, or one that names another host, or sign with a key that is not theirs.
        """
        frames = []
        for n in range(number):
            actor = Actor(f"{mood} {n}")
            if n % DENIED_EVERY:
                self._plc.documents[actor.did] = actor.document(self.host if n % AWAY_EVERY else "localhost:1")
            true = bool(n % DENIED_EVERY and n % AWAY_EVERY)
            frames.append((actor, actor.account(self._next()), true))
            if n % FORGED_EVERY == 1:
                forger = Actor(f"forger {n}")
                forger.did = actor.did
                frames.append((actor, forger.commit(self._next()), False))
            if n % COMMITS_EVERY == 1:
                frames.append((actor, actor.commit(self._next()), true))
                self.actors += [actor] if true else []
        self.newest = {actor.did for actor, *_ in frames}
        for actor, frame, true in frames:
            if true:
                self.good[actor.did].append(decode_frame(frame).normalized)
        self.publish(*((self._seq - len(frames) + n, frame) for n, (_, frame, _) in enumerate(frames, 1)))
        return len(frames)

    def tell_of(self, actor: Actor) -> None:
        """An #identity of the account."""
        self._publish(actor, actor.identity_event(self._next()))

    def go_on(self, actors: Sequence[Actor]) -> None:
        """A further commit of each."""
        for actor in actors:
            self._publish(actor, actor.commit(self._next()))

    def all_came(self, consumer: Arrivals) -> bool:
        """Whether at least as many frames of the accounts have come as should."""
        return sum(frame.did in self.good for frame in consumer.frames()) >= sum(map(len, self.good.values()))

    def _publish(self, actor: Actor, frame: bytes) -> None:
        self.good[actor.did].append(decode_frame(frame).normalized)
        self.publish((self._seq, frame))

    def _next(self) -> int:
        self._seq += 1
        return self._seq


@dataclass(slots=True)
class Figures:
    """What a trial has measured."""

    latencies_s: dict[str, list[float]] = field(default_factory=dict)  # of honest commits, by mood; "calm" before
    held: dict[str, int] = field(default_factory=dict)  # frames, at most
    peak_bytes: dict[str, int] = field(default_factory=dict)  # resident, from the start on

    def lines(self) -> list[str]:
        """For people."""
        told = []
        for mood, values in self.latencies_s.items():
            median, late = statistics.median(values) * 1000, sorted(values)[int(len(values) * 0.99)] * 1000
            told.append(
                f"{mood:<9} {len(values):>6} honest commits, median {median:6.1f} ms, p99 {late:7.1f} ms;"
                f" {self.held.get(mood, 0):>6} frames held; peak of memory {self.peak_bytes[mood] >> 20} MiB"
            )
        return told


def faults(figures: Figures) -> list[str]:
    """What others have noticed, and memory beyond its bound."""
    found = []
    for mood, values in figures.latencies_s.items():
        if statistics.median(values) > MEDIAN_MOST_S:
            found.append(f"{mood}: honest events took {statistics.median(values):.3f} s in the median")
        if figures.peak_bytes[mood] - figures.peak_bytes["calm"] > MEMORY_MOST_BYTES:
            found.append(f"{mood}: memory grew to {figures.peak_bytes[mood] >> 20} MiB")
    return found


def trial(
    folder: Path,
    *,
    accounts: int,
    seconds: float,
    slow_s: float,
    moods: Sequence[str] = MOODS,
    say: Callable[[str], None] = lambda _: None,
) -> Figures:
    """Runs one; AssertionError where an event is lost, or one comes out that may not. See the module's head."""
    figures = Figures()
    with (
        SimProcess(*FLAGS, "--ledger", str(folder / "ledger")) as honest,
        MoodyPlc(honest, slow_s) as plc,
        Strangers(plc) as host,
        RelayProcess(
            folder / "relay",
            plc_url=plc.url,
            hosts=[*honest.hosts, host.host],
            env={"HOST_CREDIT_BYTES": f"{CREDIT_MIB}MiB"},
        ) as relay,
    ):
        with Arrivals(relay.port) as consumer:
            scene = _Scene(relay, consumer, plc, host)
            relay.wait_for(lambda: len({frame.did for frame in consumer.frames()}) == HONEST, "all accounts", WAIT_S)
            spans = {"calm": (time.time(), _pause(CALM_S))}
            figures.peak_bytes["calm"] = _peak(relay)
            for mood in moods:
                spans[mood] = scene.play(figures, mood, accounts, seconds)
                say(f"{mood}: over")
            honest.finish()
            made = scene.check(honest)
            for name, (since_s, until_s) in spans.items():
                figures.latencies_s[name] = [
                    frame.at_s - made[frame.did, frame.rev]
                    for frame in consumer.frames()
                    if since_s <= made.get((frame.did, frame.rev), 0.0) < until_s
                ]
        scene.warm_start()
    return figures


@dataclass(slots=True)
class _Scene:
    relay: RelayProcess
    consumer: Arrivals
    plc: MoodyPlc
    host: Strangers

    def play(self, figures: Figures, mood: str, accounts: int, seconds: float) -> tuple[float, float]:
        """Strangers come while the directory is so, and it then answers. From when to when that was."""
        since_s, before = time.time(), len(self.consumer.frames())
        self.plc.mood = mood
        sent = self.host.send(accounts, mood)
        held, until_s = 0, time.monotonic() + seconds
        while time.monotonic() < until_s:
            held = max(held, int(self.relay.metrics()["relay_held_frames"]))
            _pause(0.1)
        if mood != "slow":
            assert held > sent // 2, f"{mood}: {held} of {sent} frames were held"
            came = {frame.did for frame in self.consumer.frames()[before:]}
            assert not came & self.host.newest, f"{mood}: something came out unproven"
        self.plc.mood = "ok"
        self.relay.wait_for(lambda: self.host.all_came(self.consumer), f"the strangers' events, {mood}", WAIT_S)
        self.relay.wait_metric("relay_hosts_connected", 4)  # nobody was thrown out
        figures.held[mood] = held
        figures.peak_bytes[mood] = _peak(self.relay)
        return since_s, time.time()

    def check(self, honest: SimProcess) -> dict[tuple[str, str], float]:
        """Everything that is good has come out, and nothing else. When each honest commit was made."""
        with honest.ledger() as ledger:
            events = expected(ledger)
        mine = {event.did for event in events}

        def honest_frames() -> list[Seen]:
            return [frame for frame in self.consumer.frames() if frame.did in mine]

        self.relay.wait_for(lambda: len(honest_frames()) >= len(events), "the rest of the honest events", WAIT_S)
        assert difference(events, honest_frames(), contiguous=False) == ""
        came: dict[str, list[bytes]] = defaultdict(list)
        for frame in self.consumer.frames():
            if frame.did not in mine:
                came[frame.did].append(frame.normalized)
        assert came.keys() == self.host.good.keys()
        wrong = [did for did, frames in self.host.good.items() if came[did] != frames]
        assert not wrong, f"{len(wrong)} strangers' events differ, such as {wrong[0]}"
        return {(event.did, tid(event.rev)): event.time_us / 1e6 for event in events if event.rev}

    def warm_start(self) -> None:
        """After a restart accounts go on without a question to the directory, but for one that has changed."""
        assert self.relay.terminate() == 0
        self.plc.requests.clear()
        self.relay.start()
        changed, *others = self.host.actors[:FEW]
        changed.key = Actor("another key").key
        self.plc.documents[changed.did] = changed.document(self.host.host)
        self.host.tell_of(changed)
        self.host.go_on([changed, *others])
        with Arrivals(self.relay.port) as consumer:
            self.relay.wait_for(lambda: self.host.all_came(consumer), "the events after a restart", WAIT_S)
        asked = {target for target in self.plc.requests if "did:plc:" in target}
        assert asked == {f"GET /{changed.did}"}, f"{len(asked)} DIDs were asked for"


def _pause(seconds: float) -> float:
    """Lets a part of the trial last; the time afterwards."""
    threading.Event().wait(seconds)
    return time.time()


def _peak(relay: RelayProcess) -> int:
    """The most memory that the relay has had resident, in bytes."""
    assert relay.process is not None
    lines = Path(f"/proc/{relay.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
