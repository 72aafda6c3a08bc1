"""Simulated hosts whose accounts are born, move, change keys, go and come back all the time, through a whole relay."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.e2e.ledger import Seen, difference, expected, seen
from tests.e2e.relay import RelayProcess
from tests.reference.consumer import Collector
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WAIT_S = 90.0
MIX = {"migrate": 500, "rotate": 300, "birth": 250, "remove": 200, "deactivate": 100, "identity": 200}
FLAGS = [*("--hosts", "2", "--accounts", "60", "--rate", "300", "--settle-s", "2")]
FLAGS += [part for kind, share in MIX.items() for part in ("--mix", f"{kind}={share}")]


def test_accounts_on_the_move(tmp_path: Path) -> None:
    """Every event comes out, once and in its account's order, beside a kill and a restart; in the end the relay counts
    as many accounts on each host as the host does."""

    def all_came() -> int:
        """Checks that; how many accounts have spoken on two hosts."""
        with sim.ledger() as ledger:
            events = expected(ledger)
        consumer.wait_count(len(events), WAIT_S)
        assert difference(events, [frame for frame in consumer.frames if isinstance(frame, Seen)]) == ""
        return sum(count > 1 for count in Counter(did for did, _ in {(e.did, e.host) for e in events}).values())

    with (
        SimProcess(*FLAGS, "--ledger", str(tmp_path / "ledger")) as sim,
        RelayProcess(tmp_path / "data", plc_url=sim.plc, hosts=sim.hosts) as relay,
        Collector(relay.port, 0, keep=seen, reconnect=True) as consumer,
    ):
        consumer.wait_count(1000, WAIT_S)
        sim.pause()  # what a host has said before an account left it is its word only until the directory names another
        all_came()
        relay.kill()
        relay.start()
        sim.resume()
        consumer.wait_count(1500, WAIT_S)
        sim.finish()
        assert all_came() > 5
        assert relay.terminate() == 0
        relay.start()
        with urllib.request.urlopen(f"{sim.upstream}/xrpc/com.atproto.sync.listHosts", timeout=WAIT_S) as answer:
            theirs = {host["hostname"]: host["accountCount"] for host in json.load(answer)["hosts"]}
        ours = {host["hostname"]: host["account_count"] for host in relay.admin("GET", "/admin/hosts")["hosts"]}
        assert ours == theirs
