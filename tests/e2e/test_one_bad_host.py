"""One host that misbehaves does not cost the others their latency, nor one of their events."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.arrivals import Arrivals
from tests.e2e.fakes import Answer, FakePds, FakePlc, Subscription
from tests.e2e.ledger import difference, expected
from tests.e2e.relay import RelayProcess, request
from tests.fixtures import ROOT, recorded_frames
from tests.reference.car_ref import write_car
from tests.reference.drisl_ref import Cid, encode
from tests.reference.frame_ref import decode_frame
from zlay.sim.messages import tid
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

RATE = 150  # honest events per second
CALM_S = 4.0
BAD_S = 6.0
WAIT_S = 60.0
# Shared test machines add noise of their own; a host that blocks others does so for seconds, up to its time-outs.
MEDIAN_MAX_S = 0.1
WORST_MAX_S = 1.0
STALLED_BYTES = 4_900_000
UNKNOWN_ANSWER_S = 0.3  # how long the directory thinks about a DID that it does not know

# Keys and hosts stay: how long an event takes must not depend on a directory that is asked again.
FLAGS = ["--hosts", "3", "--accounts", "120", "--rate", str(RATE), "--mix", "rotate=0", "--mix", "migrate=0"]


class CombinedPlc(FakePlc):
    """The directories of several simulations as one; it thinks for a while about DIDs that none of them knows."""

    def __init__(self, *simulations: SimProcess) -> None:
        super().__init__()
        self._ports = [port_of(sim.plc) for sim in simulations]

    def answer(self, method: str, target: str) -> Answer:
        """Ask one simulation after the other."""
        for port in self._ports:
            status, raw = request(port, method, target)
            if status == 200:
                return 200, json.loads(raw)
        self._closing.wait(UNKNOWN_ANSWER_S)
        return 404, {"message": "DID not registered"}


class StallingPds(FakePds):
    """Begins a message of 5 MB when something is published, sends half of it, and then nothing for ever."""

    stalled = False

    def upgraded(self, sock: socket.socket, head: bytes, target: str) -> None:
        """Accept, send half a message, wait."""
        subscription = Subscription(sock, head)
        with self._changed:
            self.cursors.append(None)
            self._changed.notify_all()
        self.wait_for(lambda: bool(self._frames) or self._closing.is_set(), "the order to stall", 120)
        subscription.send_raw(b"\x82\x7f" + STALLED_BYTES.to_bytes(8, "big") + bytes(STALLED_BYTES // 2))
        self.stalled = True
        subscription.read_until_closed()


def big_unknown(seq: int, rng: random.Random) -> bytes:
    """A well-formed #commit of 1.9 MB of an account that no directory knows."""
    did = "did:plc:" + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz234567", k=24))
    template = decode_frame(recorded_frames()[0])
    records = [encode({"$type": "app.bsky.feed.post", "text": "x" * 900_000, "n": seq * 2 + n}) for n in range(2)]
    rev = template.payload["rev"]
    unsigned = {"did": did, "rev": rev, "data": Cid.of(b"tree"), "prev": None, "version": 3}
    commit = encode({**unsigned, "sig": rng.randbytes(64)})
    blocks = [(Cid.of(block), block) for block in (commit, *records)]
    payload = {
        **template.payload,
        "seq": seq,
        "repo": did,
        "commit": blocks[0][0],
        "ops": [
            {"action": "create", "path": f"app.bsky.feed.post/3l{n}aaaaaaaaaaa"[:32], "cid": blocks[n + 1][0]}
            for n in range(2)
        ],
        "blocks": write_car([blocks[0][0]], blocks),
    }
    return encode({"op": 1, "t": "#commit"}) + encode(payload)


def port_of(url: str) -> int:
    """The port in an URL or in localhost:PORT."""
    return int(url.rstrip("/").rpartition(":")[2])


def latencies(consumer: Arrivals, sim: SimProcess, since_s: float, until_s: float) -> list[float]:
    """Seconds from the making of each honest commit in this span to its arrival at the consumer."""
    arrived = {(frame.did, frame.rev): frame.at_s for frame in consumer.frames() if frame.rev}
    with sim.ledger() as ledger:
        events = [event for event in expected(ledger) if since_s <= event.time_us / 1e6 < until_s and event.rev]
    return [
        arrived[event.did, tid(event.rev)] - event.time_us / 1e6
        for event in events
        if (event.did, tid(event.rev)) in arrived
    ]


def check_latency(name: str, values: list[float]) -> None:
    """The events of a span came, and came soon."""
    values.sort()
    assert len(values) > RATE, f"{name}: {len(values)} commits came"
    median, worst = statistics.median(values), values[int(len(values) * 0.99)]
    print(f"{name}: {len(values)} commits, median {median * 1000:.1f} ms, p99 {worst * 1000:.1f} ms")
    assert median < MEDIAN_MAX_S, name
    assert worst < WORST_MAX_S, name


def sim_dids(sim: SimProcess) -> set[str]:
    """The accounts of the simulation."""
    with sim.ledger() as ledger:
        for _ in ledger.poll():
            pass
        return set(ledger.dids.values())


def hold_others_to_their_latency(
    tmp_path: Path, honest: SimProcess, plc: FakePlc, bad_host: str, misbehave: Callable[[], None]
) -> None:
    """Honest hosts beside a bad one: their latency before and while it misbehaves, and all their events in the end."""
    with (
        RelayProcess(tmp_path / "relay", plc_url=plc.url, hosts=[*honest.hosts, bad_host]) as relay,
        Arrivals(relay.port) as consumer,
    ):
        relay.wait_for(lambda: len(consumer.frames()) > RATE, "honest events", WAIT_S)
        calm_since = time.time()
        threading.Event().wait(CALM_S)
        bad_since = time.time()
        misbehave()
        threading.Event().wait(max(0.0, bad_since + BAD_S - time.time()))
        bad_until = time.time()
        honest.finish()
        mine = sim_dids(honest)
        with honest.ledger() as ledger:
            events = expected(ledger)
        relay.wait_for(lambda: sum(f.did in mine for f in consumer.frames()) >= len(events), "the rest", WAIT_S)
        relay.kill()
        frames = [frame for frame in consumer.frames() if frame.did in mine]
        assert difference(events, frames, contiguous=False) == ""
        check_latency("calm", latencies(consumer, honest, calm_since, bad_since))
        check_latency("beside the bad host", latencies(consumer, honest, bad_since, bad_until))


def test_big_frames_of_unknown_accounts(tmp_path: Path) -> None:
    """A host that sends 2 MB frames of accounts that the directory takes its time to deny costs the others nothing."""
    rng = random.Random(1)
    frames = [(seq, big_unknown(seq, rng)) for seq in range(1, 41)]
    with (
        SimProcess(*FLAGS, "--ledger", str(tmp_path / "ledger")) as honest,
        CombinedPlc(honest) as plc,
        FakePds() as bad,
    ):
        hold_others_to_their_latency(tmp_path, honest, plc, bad.host, lambda: bad.publish(*frames))
        assert bad.cursors, "the bad host was never subscribed to"
        asked = {target for target in plc.requests if "did:plc:" in target}
        assert len(asked & {f"GET /{decode_frame(raw).did}" for _, raw in frames}) >= 10, (
            "its frames were never looked at"
        )


def test_a_stall_in_the_middle_of_a_frame(tmp_path: Path) -> None:
    """A host that goes silent in the middle of a 5 MB frame costs the others nothing."""
    with (
        SimProcess(*FLAGS, "--ledger", str(tmp_path / "ledger")) as honest,
        CombinedPlc(honest) as plc,
        StallingPds() as bad,
    ):
        hold_others_to_their_latency(tmp_path, honest, plc, bad.host, lambda: bad.publish((1, b"")))
        assert bad.stalled, "it never stalled"


def test_a_flood(tmp_path: Path) -> None:
    """A host that sends valid events as fast as the relay takes them leaves the others theirs."""
    recording = tmp_path / "flood.recording"
    flags = ["--hosts", "1", "--accounts", "200", "--seed", "99", "--events", "15000", "--record", str(recording)]
    subprocess.run([sys.executable, "-m", "zlay.sim", *flags], check=True, timeout=120, cwd=ROOT, capture_output=True)
    with (
        SimProcess("--serve", str(recording), "--start", "paused") as bad,
        SimProcess(*FLAGS, "--ledger", str(tmp_path / "ledger")) as honest,
        CombinedPlc(honest, bad) as plc,
    ):
        hold_others_to_their_latency(tmp_path, honest, plc, bad.hosts[0], lambda: bad.resume() and None)
