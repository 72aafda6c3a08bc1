"""A machine whose clock is wrong, from end to end: the real process under a clock of the test's own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.ledger import Seen, difference, expected, seen
from tests.e2e.relay import RelayProcess
from tests.ops.command import readiness, unready_because
from tests.preload import preload
from tests.reference.consumer import Collector
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WAIT_S = 60.0
HOUR_S = 3600
SOURCE = Path(__file__).with_name("wrong_clock.c")
FLAGS = [*("--hosts", "2", "--accounts", "30", "--rate", "200"), *("--mix", "rotate=0", "--mix", "migrate=0")]


class WrongClock:
    """A library for the relay's process, and what its clock is off by."""

    def __init__(self, folder: Path) -> None:
        self._library = folder / "wrong_clock.so"
        self._offset = folder / "offset"
        command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(self._library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        self.set(0)
        self.env = {"LD_PRELOAD": preload(self._library), "CLOCK_OFF": str(self._offset)}

    def set(self, seconds: int) -> None:
        """From now on."""
        with self._offset.open("r+b" if self._offset.exists() else "wb") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))


def test_clock_set_an_hour_back(tmp_path: Path) -> None:
    """While the clock of the machine is an hour behind, set back in the middle of traffic or before a start, nothing is
    judged and nothing dropped, and readiness says why; once it is right every event comes, once."""
    clock = WrongClock(tmp_path)
    with (
        SimProcess(*FLAGS, "--ledger", str(tmp_path / "ledger")) as sim,
        RelayProcess(tmp_path / "data", plc_url=sim.plc, hosts=sim.hosts, env=clock.env) as relay,
    ):

        def waiting() -> float:
            found = relay.metrics()
            return found["relay_queue_frames"] + found["relay_held_frames"]

        def while_wrong(begin: Callable[[], object]) -> None:
            clock.set(-HOUR_S)
            begin()
            relay.wait_for(lambda: unready_because(relay, "clock: "), "readiness that names the clock", WAIT_S)
            seq = relay.metrics()["relay_log_appended_seq"]
            relay.wait_for(lambda: waiting() > 50, "frames that wait", WAIT_S)
            assert relay.metrics()["relay_log_appended_seq"] == seq
            clock.set(0)
            relay.wait_ready()

        with Collector(relay.port, 0, keep=seen, reconnect=True) as consumer:
            consumer.wait_count(100, WAIT_S)
            while_wrong(lambda: None)
            assert relay.terminate() == 0
            while_wrong(relay.start)
            assert readiness(relay)[0] == 200
            sim.finish()
            with sim.ledger() as ledger:
                events = expected(ledger)
            consumer.wait_count(len(events), WAIT_S)
            assert difference(events, [frame for frame in consumer.frames if isinstance(frame, Seen)]) == ""
        refused = [name for name, n in relay.metrics().items() if 'reason="rev_future"' in name and n]
        assert refused == []
