"""SIGKILL at any moment: nothing valid is lost, nothing comes twice, seq goes up by one."""

from __future__ import annotations

import random
import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest

from tests.e2e.ledger import Seen, difference, expected, seen
from tests.e2e.relay import RelayProcess
from tests.reference.consumer import Collector
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

KILLS = 20
RATE = 300  # events per second: load enough that frames are queued, held and unsynced at each kill
WAIT_S = 120.0
QUIET_S = 8.0  # nothing comes for so long: nothing will
SEED = 20261121

# No key or host changes (an event of before one is judged by the new document when it is read again after it), and more
# #identity and #account events than a real network has.
FLAGS = [
    *("--seed", str(SEED), "--hosts", "4", "--accounts", "400", "--rate", str(RATE), "--skew", "0.5"),
    *("--mix", "rotate=0", "--mix", "migrate=0", "--mix", "identity=400", "--mix", "account=300", "--mix", "birth=200"),
    *("--fault", "bad_signature=100", "--fault", "broken_encoding=100", "--fault", "unknown_did=100"),
    *("--fault", "stale_rev=100", "--fault", "bad_tree=100"),
]


class SlowState:
    """Makes every transaction of the relay's state slow: holds SQLite's write lock for most of the time. Own thread."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self._path = path
        self._rng = rng
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slow-state", daemon=True)
        self.locked = 0

    def __enter__(self) -> SlowState:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.wait(self._rng.uniform(0.02, 0.2)):
            if self._path.exists():
                self._hold()

    def _hold(self) -> None:
        connection = sqlite3.connect(self._path, timeout=0.5, isolation_level=None)
        try:
            connection.execute("begin immediate")
            self.locked += 1
            self._stopping.wait(self._rng.uniform(0.1, 0.8))
            connection.execute("rollback")
        except sqlite3.OperationalError:
            pass  # the relay holds the lock at this moment, or is just making the file
        finally:
            connection.close()


def cursors_saved(relay: RelayProcess, least: int = 0) -> int:
    """How many hosts have a cursor in the state; 0 says that they were connected and have sent no event."""
    state = sqlite3.connect(relay.data_dir / "state.sqlite", timeout=30)
    try:
        return int(state.execute("select count(*) from host where upstream_cursor >= ?", (least,)).fetchone()[0])
    finally:
        state.close()


def check(consumer: Collector, sim: SimProcess) -> None:
    """What came out is what the ledger of the finished simulation calls valid, each once, in order, seq + 1."""
    with sim.ledger() as ledger:
        events = expected(ledger)
    count = -1
    while count != len(consumer.frames) < len(events):  # until all have come, or nothing comes any more
        count = len(consumer.frames)
        threading.Event().wait(QUIET_S)
    frames = [frame for frame in consumer.frames if isinstance(frame, Seen)]
    assert difference(events, frames) == ""
    assert frames[0].seq == 1
    assert {frame.kind for frame in frames} == {"#commit", "#sync", "#identity", "#account"}


def test_killed_at_twenty_moments(tmp_path: Path) -> None:
    """Twenty SIGKILLs under load, with held frames and a slow state: the ledger's valid events, each once, seq + 1."""
    rng = random.Random(SEED)
    with (
        SimProcess(*FLAGS, "--ledger", str(tmp_path / "ledger")) as sim,
        RelayProcess(tmp_path / "relay", plc_url=sim.plc, hosts=sim.hosts, env={"FRAME_WORKERS": "3"}) as relay,
        Collector(relay.port, 0, reconnect=True, keep=seen) as consumer,
    ):
        sim.set_plc("slow", ms=150)
        relay.wait_for(lambda: cursors_saved(relay) == len(sim.hosts), "the hosts' first cursors", WAIT_S)
        held = 0.0
        with SlowState(relay.data_dir / "state.sqlite", rng) as slow:
            for _ in range(KILLS):
                threading.Event().wait(rng.uniform(0.05, 1.5))
                held = max(held, relay.metrics()["relay_held_frames"])
                relay.kill()
                before = len(consumer.frames)
                relay.start()
                consumer.wait_for(lambda frames, least=before: len(frames) > least, "events after a kill", WAIT_S)
        sim.finish()
        check(consumer, sim)
        assert relay.terminate() == 0
        assert slow.locked > 0, "the state was never slow"
        assert held > 0, "no kill met a held frame"


def test_killed_while_it_starts(tmp_path: Path) -> None:
    """SIGKILLs in the middle of start and recovery cost nothing either."""
    rng = random.Random(SEED + 1)
    with (
        SimProcess(*FLAGS, "--ledger", str(tmp_path / "ledger")) as sim,
        RelayProcess(tmp_path / "relay", plc_url=sim.plc, hosts=sim.hosts) as relay,
        Collector(relay.port, 0, reconnect=True, keep=seen) as consumer,
    ):
        relay.wait_for(lambda: cursors_saved(relay) == len(sim.hosts), "the hosts' first cursors", WAIT_S)
        for _ in range(10):
            relay.kill()
            relay.start(ready=False)
            threading.Event().wait(rng.uniform(0.0, 1.0))
        relay.kill()
        relay.start()
        sim.finish()
        check(consumer, sim)
        assert relay.terminate() == 0


@pytest.mark.parametrize("host_reader", ["native", "wsproto"])
def test_killed_before_the_first_event_was_saved(tmp_path: Path, host_reader: str) -> None:
    """A kill before a first event, or its cursor, could be saved loses nothing that new hosts had sent."""
    with (
        SimProcess(*FLAGS, "--start", "paused", "--ledger", str(tmp_path / "ledger")) as sim,
        RelayProcess(tmp_path / "relay", plc_url=sim.plc, hosts=sim.hosts, env={"HOST_READER": host_reader}) as relay,
        Collector(relay.port, 0, reconnect=True, keep=seen) as consumer,
    ):
        relay.wait_for(lambda: cursors_saved(relay) == len(sim.hosts), "word of the hosts' connections", WAIT_S)
        state = sqlite3.connect(relay.data_dir / "state.sqlite", timeout=30, isolation_level=None)
        state.execute("begin immediate")  # from here on nothing can be saved
        sim.set_plc("slow", ms=400)
        sim.resume()
        threading.Event().wait(2.0)  # events arrive and are held; what the relay does with them is its own affair
        relay.kill()
        state.close()
        relay.start()
        consumer.wait_for(lambda frames: len(frames) > 200, "events after the kill", WAIT_S)
        sim.finish()
        check(consumer, sim)
        assert relay.terminate() == 0
