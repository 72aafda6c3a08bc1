"""A relay reads hosts that speak TLS: from wss:// to a consumer, asked by https://, trusted by SSL_CERT_FILE alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.ledger import Seen, difference, expected, seen
from tests.e2e.relay import RelayProcess
from tests.reference.consumer import Collector
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

EVENTS = 400
WAIT_S = 60.0


def test_events_of_tls_hosts_reach_a_consumer(tmp_path: Path) -> None:
    """Hosts named by an upstream or an operator are dialled by wss://; all comes out once, broken streams or not."""
    flags = ["--tls", "--hosts", "3", "--accounts", "30", "--rate", "300", "--events", str(EVENTS)]
    with SimProcess(*flags, "--ledger", str(tmp_path / "ledger")) as sim:
        assert sim.ca is not None
        env = {"SSL_CERT_FILE": sim.ca, "RELAY_UPSTREAM": sim.upstream}
        with (
            RelayProcess(tmp_path / "relay", plc_url=sim.plc, hosts=sim.hosts[:1], env=env) as relay,
            Collector(relay.port, 0, keep=seen) as consumer,
        ):
            sim.wait_generated(EVENTS // 3, WAIT_S)
            for kind in ("disconnect_mid", "resend"):
                sim.misbehave(kind, count=20)
            sim.wait_generated(EVENTS, WAIT_S)
            with sim.ledger() as ledger:
                events = expected(ledger)
            consumer.wait_for(lambda frames: len(frames) >= len(events), "all events", WAIT_S)
            assert difference(events, [frame for frame in consumer.frames if isinstance(frame, Seen)]) == ""
            assert relay.terminate() == 0
