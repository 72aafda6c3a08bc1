"""The directory, the upstream relay or hosts are away: zlay starts, says so, waits, and loses nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.e2e.ledger import Seen, difference, expected, seen
from tests.e2e.relay import RelayProcess, request
from tests.ops.command import log_lines, readiness, unready_because
from tests.ports import free_ports
from tests.reference.consumer import Collector
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WAIT_S = 60.0
HOSTS = 3
OUTAGE_S = 2.5  # beyond HOLD_SECONDS=1: a clock that did not stand still would drop
FLAGS = [
    *("--hosts", str(HOSTS), "--accounts", "60", "--rate", "200", "--settle-s", "600"),
    *("--mix", "rotate=0", "--mix", "migrate=0"),
]
EXPIRED = 'relay_events_total{reason="hold_expired",verdict="drop"}'


def dropped(relay: RelayProcess) -> dict[str, float]:
    """Drops by metric name, those that happened."""
    return {name: value for name, value in relay.metrics().items() if 'verdict="drop"' in name and value}


def everything_came(sim: SimProcess, relay: RelayProcess, consumer: Collector) -> None:
    """The simulation ends; its valid events, each once, and no other."""
    sim.finish()
    with sim.ledger() as ledger:
        events = expected(ledger)
    consumer.wait_count(len(events), WAIT_S)
    assert relay.metrics().get(EXPIRED, 0) == 0
    assert difference(events, [frame for frame in consumer.frames if isinstance(frame, Seen)]) == ""


@pytest.mark.parametrize("mode", ["down", "error", "garbage"])
def test_the_directory_fails(mode: str, tmp_path: Path) -> None:
    """A directory that hangs up, errs or talks rubbish: frames wait beyond HOLD_SECONDS, and none is lost."""
    with SimProcess(*FLAGS, "--ledger", str(tmp_path / "ledger")) as sim:
        sim.set_plc(mode)
        env = {"HOLD_SECONDS": "1"}
        with (
            RelayProcess(tmp_path / "data", plc_url=sim.plc, hosts=sim.hosts, env=env) as relay,
            Collector(relay.port, 0, keep=seen) as consumer,
        ):
            relay.wait_metric("relay_held_frames", 50)
            sim.pause()  # the hosts' credit is for the frames under way, not for a test's whole flood
            relay.wait_for(lambda: unready_because(relay, "directory"), "readiness that names the directory", WAIT_S)
            held = relay.metrics()["relay_held_frames"]
            until = relay_clock(relay) + OUTAGE_S
            relay.wait_for(lambda: relay_clock(relay) >= until, "some time", WAIT_S)
            assert relay.metrics()["relay_held_frames"] >= held
            assert not dropped(relay)
            assert not consumer.frames
            assert request(relay.metrics_port, "GET", "/_health")[0] == 200
            sim.set_plc("ok")
            sim.resume()
            relay.wait_ready()
            consumer.wait_for(lambda frames: len(frames) > held, "what was held", WAIT_S)
            everything_came(sim, relay, consumer)
            assert relay.terminate() == 0


def relay_clock(relay: RelayProcess) -> float:
    """Seconds that the relay has been up, by itself."""
    status, body = request(relay.metrics_port, "GET", "/_stats")
    assert status == 200
    uptime: float = json.loads(body)["uptime_s"]
    return uptime


def test_a_slow_directory(tmp_path: Path) -> None:
    """A directory that takes half a second for each answer delays first sights, and nothing else happens."""
    with SimProcess(*FLAGS, "--ledger", str(tmp_path / "ledger")) as sim:
        sim.set_plc("slow", ms=500)
        with (
            RelayProcess(tmp_path / "data", plc_url=sim.plc, hosts=sim.hosts, env={"HOLD_SECONDS": "1"}) as relay,
            Collector(relay.port, 0, keep=seen) as consumer,
        ):
            consumer.wait_for(lambda frames: len(frames) > 300, "events", WAIT_S)
            assert not any("directory" in reason for reason in readiness(relay)[1])
            everything_came(sim, relay, consumer)


def test_nobody_is_there_at_the_start(tmp_path: Path) -> None:
    """Started before anybody else, it serves, says who is missing, and takes up each when it comes."""
    first = free_ports(HOSTS + 3)  # hosts, directory, upstream, control
    names = [f"localhost:{first + index}" for index in range(HOSTS)]
    env = {"RELAY_UPSTREAM": f"localhost:{first + HOSTS + 1}", "LOG_LEVEL": "debug"}
    gone = ["localhost:9", "no-such-host.invalid", "192.0.2.7:2583"]
    with (
        RelayProcess(
            tmp_path / "data", plc_url=f"http://127.0.0.1:{first + HOSTS}", hosts=[names[0], *gone], env=env
        ) as relay,
        Collector(relay.port, 0, keep=seen) as consumer,
    ):
        relay.wait_for(lambda: unready_because(relay, "no host is connected"), "readiness that says why", WAIT_S)
        assert request(relay.metrics_port, "GET", "/_health")[0] == 200

        def failing() -> dict[str, int]:
            hosts = relay.admin("GET", "/admin/hosts")["hosts"]
            return {host["hostname"]: host["failed_attempts"] for host in hosts if host["failure_text"]}

        relay.wait_for(lambda: failing().keys() >= {names[0], *gone[:2]}, "failures with their reason", WAIT_S)

        def said() -> list[str]:
            return [
                line["upstream"] for line in log_lines(relay) if line["event"] == "hosts cannot be read from upstream"
            ]

        relay.wait_for(lambda: bool(said()), "the upstream's failure in the log", WAIT_S)
        assert said()[0] == env["RELAY_UPSTREAM"]

        with SimProcess(*FLAGS, "--port", str(first), "--ledger", str(tmp_path / "ledger")) as sim:
            assert sim.hosts == names
            relay.wait_ready()
            consumer.wait_for(lambda frames: len(frames) > 100, "events of all hosts, two known from upstream", WAIT_S)
            everything_came(sim, relay, consumer)
        assert relay.terminate() == 0
