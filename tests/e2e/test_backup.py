"""A backup of a running relay, and another relay that goes on from it when the first one is lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e.ledger import Seen, difference, expected, seen
from tests.e2e.relay import ZLAY, RelayProcess
from tests.fixtures import ROOT
from tests.reference.consumer import Collector
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

WAIT_S = 120.0
SOME = 150  # events
# No key or host changes: what was said before one would be judged by the new document when it is read again.
FLAGS = [
    *("--seed", "20261121", "--hosts", "2", "--accounts", "60", "--rate", "200", "--skew", "0.5"),
    *("--mix", "rotate=0", "--mix", "migrate=0", "--mix", "identity=400", "--mix", "account=300", "--mix", "birth=200"),
]


def zlay(*args: str) -> str:
    """What a command of zlay says on standard output; it must succeed."""
    done = subprocess.run(
        [*ZLAY, *args], capture_output=True, text=True, timeout=WAIT_S, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def frames_of(consumer: Collector) -> list[Seen]:
    """What has come so far."""
    return [frame for frame in consumer.frames if isinstance(frame, Seen)]


def test_going_on_from_a_backup(tmp_path: Path) -> None:
    """A relay is backed up under load and lost; one that is restored elsewhere reads from the hosts what the backup
    lacks, loses and doubles nothing in its log, gives out no number again, and serves a consumer of the first one by
    the cursor it has, even where that is newer than the backup."""
    with (
        SimProcess(*FLAGS, "--ledger", str(tmp_path / "ledger")) as sim,
        RelayProcess(tmp_path / "relay", plc_url=sim.plc, hosts=sim.hosts) as relay,
        Collector(relay.port, 0, reconnect=True, contiguous=False, keep=seen) as consumer,
    ):
        data = ("--relay-data-dir", str(relay.data_dir))
        consumer.wait_count(SOME, WAIT_S)
        told = re.search(r"seq 1 to ([\d,]+)", zlay("backup", str(tmp_path / "saved"), *data))
        assert told is not None
        saved = int(told[1].replace(",", ""))
        assert saved >= SOME
        consumer.wait_count(saved + SOME, WAIT_S)
        relay.kill()
        shutil.rmtree(relay.data_dir)

        told = re.search(r"goes on with seq ([\d,]+)", zlay("restore", str(tmp_path / "saved"), *data))
        assert told is not None
        first = int(told[1].replace(",", ""))
        relay.start()
        consumer.wait_for(
            lambda frames: len([f for f in frames_of(consumer) if f.seq >= first]) >= SOME, "more", WAIT_S
        )
        sim.finish()
        with sim.ledger() as ledger:
            events = expected(ledger)
        with Collector(relay.port, 0, contiguous=False, keep=seen) as replay:
            replay.wait_count(len(events), WAIT_S)
            whole = frames_of(replay)
        assert difference(events, whole, contiguous=False) == ""
        assert [frame.seq for frame in whole] == [*range(1, saved + 1), *range(first, first + len(events) - saved)]
        consumer.wait_for(lambda frames: frames_of(consumer)[-1].seq == whole[-1].seq, "the last event", WAIT_S)
        assert relay.terminate() == 0
        got = [(frame.seq, frame.normalized) for frame in frames_of(consumer)]
        given = max(seq for seq, _ in got if seq < first)
        assert given >= saved + SOME
        assert [seq for seq, _ in got] == [*range(1, given + 1), *range(first, whole[-1].seq + 1)]
        assert [one for one in got if one[0] <= saved or one[0] >= first] == [(f.seq, f.normalized) for f in whole]
