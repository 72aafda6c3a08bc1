"""The comparison with the simulation's ledger can fail: what it calls a difference, and what not."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.e2e.fakes import FakePds
from tests.e2e.ledger import Seen, difference, seen
from tests.e2e.relay import request
from tests.e2e.test_one_bad_host import CombinedPlc, big_unknown, port_of
from tests.reference.car_ref import read_car
from tests.reference.consumer import Collector
from tests.reference.frame_ref import decode_frame
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

EVENTS = 400


def test_the_ledger_and_a_host_agree_and_deviations_are_seen(tmp_path: Path) -> None:
    """What a simulated host sends is what its ledger says; a lost, doubled, moved or changed event is a difference."""
    flags = ["--hosts", "1", "--accounts", "20", "--rate", "0", "--events", str(EVENTS)]
    with SimProcess(*flags, "--ledger", str(tmp_path / "ledger")) as sim:
        with Collector(port_of(sim.hosts[0]), 0, contiguous=False, keep=seen) as consumer:
            sim.wait_generated(EVENTS, 60)
            with sim.ledger() as ledger:
                events = list(ledger.poll())
            frames = [frame for frame in consumer.wait_count(len(events), 60) if isinstance(frame, Seen)]
        assert difference(events, frames, contiguous=False) == ""
        assert "seq" in difference(events, frames), "numbering of a host has gaps"
        assert "1 lost, 0 twice, 0 that" in difference(events, frames[1:], contiguous=False)
        assert "0 lost, 1 twice, 0 that" in difference(events, [*frames, frames[3]], contiguous=False)
        assert "0 lost, 0 twice, 1 that" in difference(events[:-1], frames, contiguous=False)
        mine = [index for index, frame in enumerate(frames) if frame.did == frames[0].did]
        moved = [frames[mine[1]], *frames[1 : mine[1]], frames[0], *frames[mine[1] + 1 :]]
        assert "out of order" in difference(events, moved, contiguous=False)
        did = next(iter(ledger.dids.values()))
        with CombinedPlc(sim) as plc:
            assert request(plc.port, "GET", f"/{did}")[0] == 200
            assert request(plc.port, "GET", "/did:plc:aaaaaaaaaaaaaaaaaaaaaaaa")[0] == 404


def test_big_frames_are_well_formed() -> None:
    """The bad host's big frames break no rule of framing and size: they are wrong only in whose they are."""
    rng = random.Random(1)
    with FakePds() as pds, Collector(pds.port, None) as consumer:
        pds.wait_subscribed()
        pds.publish(*[(seq, big_unknown(seq, rng)) for seq in (1, 2)])
        frames = consumer.wait_count(2, 30)
    payload = decode_frame(frames[0].raw).payload  # type: ignore[attr-defined]
    assert 1_700_000 < len(payload["blocks"]) <= 2_000_000
    roots, blocks = read_car(payload["blocks"])
    assert roots == [payload["commit"]]
    assert all(op["cid"] in blocks and len(blocks[op["cid"]]) < 1_000_000 for op in payload["ops"])
