"""SIGKILL before anything of new hosts could be saved. Every other moment: tests/crash."""

from __future__ import annotations

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


def cursors_saved(relay: RelayProcess) -> int:
    """How many hosts have a cursor in the state; 0 is one, of a host that was connected and has sent no event."""
    state = sqlite3.connect(relay.data_dir / "state.sqlite", timeout=30)
    try:
        return int(state.execute("select count(*) from host where upstream_cursor >= 0").fetchone()[0])
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
