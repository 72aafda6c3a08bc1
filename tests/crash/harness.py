"""One history: a relay that is killed again and again while a simulated network speaks, and all that is checked of it.

Each history has its own store, hosts and ledger. All the while frames are held (a slow directory, accounts that are
born), the state lags (its database is locked most of the time), two consumers follow, accounts come, go and change
status, some are taken down and up again, and now and then a host's numbering starts again. One thread.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.crash.check import Inspector, Keeper, log_agrees, read_index, read_state, state_agrees, whole_history
from tests.crash.databases import StateFile, StateServer
from tests.crash.plan import FIRST_START, needs_renumbering, needs_stop, needs_torn_end
from tests.crash.slow_state import SlowState
from tests.crash.takedowns import Operator, Takedowns
from tests.crash.witnesses import Restless, Truth, seen
from tests.e2e.relay import RelayFailedError, RelayProcess
from tests.reference.consumer import Collector, StrictConsumer
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.crash.databases import StateDatabase
    from tests.crash.plan import Kill
    from tests.crash.witnesses import Seen
    from zlay.bench.cluster import Cluster

__all__ = ["History", "Settings"]

HOSTS = 4
POINT_S = 20.0  # how long a point may take to be reached; then the kill comes all the same
PROGRESS_EVERY = 4  # kills between two waits for events, which a machine under load needs to make any
SOME_KILLS = 10  # from here on all that is to happen meanwhile must have
WAIT_S = 180.0
RETENTION_BYTES = 8_000_000
DIRECTORY_MS = 150
# No key or host changes, and no commits of inactive accounts: they are judged by what holds when they are read again.
MIX = ("rotate=0", "migrate=0", "identity=400", "account=300", "birth=200", "deactivate=60")
FAULTS = ("bad_signature=100", "broken_encoding=100", "unknown_did=100", "stale_rev=100", "bad_tree=100")


@dataclass(frozen=True, slots=True)
class Settings:
    """What differs from history to history."""

    seed: int
    rate: int = 150  # events per second
    workers: int = 3
    durability: str = "fsync"
    host_reader: str = "native"
    moment_s: float = 2.5  # random moments: so long after the start, at most
    quiet_s: float = 5.0  # at the end: what should not come has time to

    @classmethod
    def draw(cls, rng: random.Random) -> Settings:
        """At least two workers; now and then the other durability and the other reader."""
        return cls(
            rng.randrange(1 << 30),
            workers=rng.randint(2, 4),
            durability=rng.choice(("fsync", "fsync", "os")),
            host_reader=rng.choice(("native", "native", "wsproto")),
        )


@dataclass(slots=True)
class History:
    """One store from its first start to an orderly stop. `done` counts the hits; `missed`: points not reached."""

    work: Path
    tree: Path
    settings: Settings
    done: Counter[str | None]
    missed: list[str] = field(default_factory=list)
    say: Callable[[str], None] = lambda text: None
    server: Cluster | None = None  # PostgreSQL for the state; None = SQLite
    kills: int = 0
    _rng: random.Random = field(init=False)
    _sim: SimProcess = field(init=False)
    _relay: RelayProcess = field(init=False)
    _database: StateDatabase = field(init=False)
    _slow: SlowState = field(init=False)
    _truth: Truth = field(init=False)
    _inspector: Inspector = field(init=False)
    _consumer: Collector = field(init=False)
    _restless: Restless = field(init=False)
    _operator: Operator = field(init=False)
    _takedowns: Takedowns = field(init=False)
    _settled: bool = False
    _held: float = 0.0  # frames, as far as they were counted before a kill
    _counted: int = 0  # of the consumer's frames
    _heard: int = 0  # ... of accounts that nobody takes down

    def run(self, plan: Sequence[Kill]) -> None:
        """All kills, then the checks of the whole. AssertionError (RelayFailedError among them) with what is wrong."""
        self._rng = random.Random(self.settings.seed)
        with ExitStack() as stack:
            self._open(stack)
            for kill in plan:
                if not self._settled and kill.point not in FIRST_START:
                    self._settle()
                self._kill(kill)
            self._finish()

    def _open(self, stack: ExitStack) -> None:
        settings = self.settings
        flags = ["--seed", str(settings.seed), "--hosts", str(HOSTS), "--accounts", "200", "--rate", str(settings.rate)]
        flags += ["--skew", "0.5", "--ledger", str(self.work / "ledger")]
        flags += [word for share in MIX for word in ("--mix", share)]
        flags += [word for share in FAULTS for word in ("--fault", share)]
        self._sim = stack.enter_context(SimProcess(*flags))
        self._sim.set_plc("slow", ms=DIRECTORY_MS)
        self._truth = Truth(stack.enter_context(self._sim.ledger()))
        data_dir = self.work / "relay"
        self._database = StateFile(data_dir) if self.server is None else StateServer(self.server.new_schema())
        self._relay = RelayProcess(
            data_dir,
            plc_url=self._sim.plc,
            hosts=self._sim.hosts,
            env={
                "FRAME_WORKERS": str(settings.workers),
                "RELAY_DURABILITY": settings.durability,
                "HOST_READER": settings.host_reader,
                "RELAY_RETENTION_BYTES": str(RETENTION_BYTES),
                **self._database.settings,
            },
        )
        stack.push(self._relay.__exit__)  # started and killed by us, its log shown when something fails
        keeper = stack.enter_context(Keeper(self._relay.data_dir / "events", self.work / "kept"))
        self._takedowns = Takedowns(self._relay.data_dir / "events", self._truth.outlaws)
        self._inspector = Inspector(self._relay.data_dir, self._database, self._truth, keeper, self._takedowns)
        self._slow = stack.enter_context(SlowState(self._database, self._rng_of("slow")))
        self._consumer = stack.enter_context(
            Collector(self._relay.port, 0, reconnect=True, contiguous=False, keep=seen)
        )
        self._restless = Restless(self._relay.port, self._rng_of("restless"))
        stack.callback(self._restless.stop)
        orders = Operator(self._relay.metrics_port, self._truth.outlaws, self._rng_of("operator"))
        self._operator = stack.enter_context(orders)

    def _rng_of(self, what: str) -> random.Random:
        return random.Random(f"{self.settings.seed} {what}")

    # --- starting ---

    def _start(self, point: str = "", *, ready: bool) -> None:
        """Starts the relay, which dies at that point."""
        self._truth.read()  # so that the operator knows whom to take down
        cursor_s = self._rng.choice((0.3, 1.0, 4.0))
        self._relay.prefix = ["env", f"PYTHONPATH={self.tree}", f"ZLAY_CRASH_AT={point}", f"CRASH_CURSOR_S={cursor_s}",
                              sys.executable, "-P", "-X", "faulthandler", "-m", "tests.crash.relay_child"]  # fmt: skip
        self._relay.start(ready=ready)

    def _settle(self) -> None:
        """The relay has been connected to every host, and has noted that: from here on it owes every event."""
        self._start(ready=True)
        self._relay.wait_for(self._connected, "word of the hosts' connections", WAIT_S)
        self._relay.kill()
        self._settled = True

    def _connected(self) -> bool:
        cursors = self._host_rows("upstream_cursor")
        return len(cursors) == HOSTS and None not in cursors

    def _host_rows(self, column: str) -> list[int | None]:
        return [row[0] for row in self._database.rows(f"SELECT {column} FROM host ORDER BY id")]

    # --- killing ---

    def _kill(self, kill: Kill) -> None:
        self.kills += 1
        before = self._relay.log_path.stat().st_size if self._relay.log_path.exists() else 0
        if kill.point is None:
            self._at_a_moment()
        else:
            self._at_a_point(kill.point, kill.count)
        process = self._relay.process
        assert process is not None
        written = self._relay.log_path.read_bytes()[before:].decode(errors="replace")
        if process.returncode != -signal.SIGKILL and "crash point" not in written:
            raise RelayFailedError(f"ended with {process.returncode}\n{self._relay.log_tail()}")
        hit = kill.point if f"crash point {kill.point}\n" in written else None
        if kill.point != hit:
            self.missed.append(f"{kill.point}:{kill.count}")
        self.done[hit] += 1
        self.say(f"kill {self.kills}: {kill.point or 'a moment'}{'' if kill.point == hit else ', not reached'}")
        self._look()
        if self._settled and self.kills % PROGRESS_EVERY == 0:
            self._progress()

    def _at_a_moment(self) -> None:
        ready = self._rng.random() < 0.5
        self._start(ready=ready)
        time.sleep(self._rng.uniform(0.0, self.settings.moment_s))
        if ready:
            self._count_holds()
        self._relay.kill()

    def _count_holds(self) -> None:
        told = self._relay.metrics()
        self._held += sum(n for name, n in told.items() if name.startswith("relay_events_total{") and '"hold"' in name)

    def _at_a_point(self, point: str, count: int) -> None:
        if needs_torn_end(point):
            self._tear()
        if needs_renumbering(point):
            self._renumber(f"{point}:{count}")
            return
        self._start(f"{point}:{count}", ready=needs_stop(point))
        process = self._relay.process
        assert process is not None
        if needs_stop(point):
            time.sleep(self._rng.uniform(0.0, self.settings.moment_s))
            process.send_signal(signal.SIGTERM)
        self._until_dead()

    def _until_dead(self) -> None:
        process = self._relay.process
        assert process is not None
        deadline = time.monotonic() + POINT_S
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        self._relay.kill()

    def _tear(self) -> None:
        """Leaves behind the end of both files of the last segment what a power loss may leave."""
        names = sorted(path for path in (self._relay.data_dir / "events").iterdir() if path.suffix == ".index")
        if names:
            for path, n in ((names[-1], 64 * self._rng.randint(1, 4)), (names[-1].with_suffix(".frames"), 5_000)):
                with path.open("ab") as file:
                    file.write(self._rng.choice((bytes(n), self._rng.randbytes(n))))

    def _look(self) -> None:
        """What the dead relay has left, before anybody else touches it."""
        self._truth.read()
        with self._slow.resting, self._operator.resting:
            self._inspector.look()
            self._takedowns.agrees(self._operator)
        self._check_streams()

    def _check_streams(self) -> None:
        for problem in (self._consumer.problem, self._restless.problem):
            if problem is not None:
                raise AssertionError("a consumer's stream broke") from problem

    def _progress(self) -> None:
        """A while without kills, long enough for events to come out."""
        before = len(self._consumer.frames)
        self._start(ready=True)
        self._consumer.wait_for(lambda frames: len(frames) > before, "events after a kill", WAIT_S)
        with self._operator.resting:
            for did, down in self._operator.said.items():
                if down:
                    assert self._relay.xrpc("getRepoStatus", f"did={did}")["status"] == "takendown"
        self._count_holds()
        self._relay.kill()
        self._look()

    def _heard_all(self) -> bool:
        """Whether the consumer has had what was said, but for accounts that are taken down."""
        frames: list[Seen] = self._consumer.frames  # type: ignore[assignment]
        for frame in frames[self._counted :]:
            self._counted += 1
            self._heard += frame.did not in self._truth.outlaws
        return self._heard >= self._truth.count

    # --- a host whose numbering starts again ---

    def _quiet(self) -> None:
        """Nothing is said, and all that was said has come out: what a host forgets now is lost to nobody."""
        self._sim.pause()
        if self._relay.process is None or self._relay.process.poll() is not None:
            self._start(ready=True)
        deadline = time.monotonic() + WAIT_S
        while self._truth.read() and (not self._heard_all() or self._sim.stats()["unsent_events"]):
            self._check_streams()
            assert time.monotonic() < deadline, "events do not come out"
            time.sleep(0.1)
        self._relay.wait_for(lambda: self._sim.stats()["subscribers"] == HOSTS, "connections to all hosts", WAIT_S)

    def _renumber(self, point: str) -> None:
        """One host starts again; a relay that dies meanwhile is started again until it has noticed."""
        self._quiet()
        self._relay.kill()
        epochs = self._host_rows("epoch")
        self._start(point, ready=True)
        self._relay.wait_for(lambda: self._sim.stats()["subscribers"] == HOSTS, "connections to all hosts", WAIT_S)
        self._sim.misbehave("renumber", host=self._rng.randrange(HOSTS))
        deadline = time.monotonic() + WAIT_S
        process = self._relay.process
        assert process is not None
        while process.poll() is None and not self._noticed(epochs):
            assert time.monotonic() < deadline, f"the host's new numbering was not noticed\n{self._relay.log_tail()}"
            time.sleep(0.05)
        ended = process.poll() is not None
        if ended:
            self._start(ready=True)
        self._relay.wait_for(lambda: self._noticed(epochs), "notice of a host's new numbering", WAIT_S)
        self._sim.resume()
        before = len(self._consumer.frames)
        self._consumer.wait_for(lambda frames: len(frames) > before + 100, "events of a new epoch", WAIT_S)
        self._relay.kill()

    def _noticed(self, before: list[int | None]) -> bool:
        """One host has a new epoch, and its first cursor in it is saved."""
        return self._host_rows("epoch") != before and self._connected()

    # --- the end ---

    def _finish(self) -> None:
        self._sim.finish()
        self._truth.read()
        self._start(ready=True)
        self._consumer.wait_for(lambda _: self._heard_all(), "the last events", WAIT_S)
        self._count_holds()
        self._operator.settle(WAIT_S)
        time.sleep(self.settings.quiet_s)
        self._restless.stop()
        self._replay()
        status = self._relay.terminate()
        assert status == 0, self._relay.log_tail()
        self._check_streams()
        frames: list[Seen] = list(self._consumer.frames)  # type: ignore[arg-type]
        hidden = self._takedowns.may_be_missing()
        whole_history(self._truth, frames, hidden)
        self._restless.agrees(frames, hidden)
        log_agrees(self._relay.data_dir / "events", frames, hidden)
        with self._slow.resting:
            self._inspector.look()
            state = read_state(self._database)
        assert state is not None
        state_agrees(state, self._truth, frames, self._inspector.read_to)
        self._takedowns.agrees(self._operator)
        self._takedowns.state_agrees(self._database)
        assert {frame.kind for frame in frames} == {"#commit", "#sync", "#identity", "#account"}
        if self.kills >= SOME_KILLS:
            assert self._slow.locked > 0, "the state was never slow"
            assert self._held > 0, "no frame was ever held"
            assert self._takedowns.periods > 1, "no account was ever taken down but for the end"
        oldest = next(read_index(self._relay.data_dir / "events")).seq
        self.say(f"{len(frames)} events, {self._restless.again} seen again, log from {oldest}, held {self._held:.0f}")
        self.say(f"{self._takedowns.periods} takedowns, {len(hidden)} events hidden by them now or then")

    def _replay(self) -> None:
        """With nothing more to come, who reads from the beginning is shown all but what is hidden now."""
        visible = self._takedowns.visible(self._inspector.follow())
        with StrictConsumer(self._relay.port, 0, contiguous=False) as consumer:
            seqs = [consumer.next(WAIT_S).seq]
            while seqs[-1] != visible[-1]:
                seqs.append(consumer.next(WAIT_S).seq)
        left = [entry.seq for entry in self._inspector.follow()][:1]  # retention may have gone on
        assert [seq for seq in visible if seq >= left[0]] == [seq for seq in seqs if seq is not None and seq >= left[0]]
