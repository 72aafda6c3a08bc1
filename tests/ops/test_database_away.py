"""The database is away in the middle of traffic, whichever it is: events wait, none is lost, zlay says so and catches
up by itself; and one PostgreSQL is one relay's.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.e2e.ledger import seen
from tests.e2e.relay import RelayProcess, request
from tests.ops.command import log_lines, refusal, unready_because
from tests.ops.test_outages import FLAGS, OUTAGE_S, WAIT_S, dropped, everything_came, relay_clock
from tests.reference.consumer import Collector
from tests.state.databases import PostgresDatabase
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.state.databases import Database
    from zlay.bench.cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

# Fewer accounts fit into memory than there are: most frames ask the database for theirs. HOLD_SECONDS: below OUTAGE_S.
TIGHT = {"HOLD_SECONDS": "1", "DID_CACHE_SIZE": "64", "VALIDATOR_CACHE_SIZE": "64", "FRAME_WORKERS": "2"}
MANY = ["--accounts", "600"]


@contextlib.contextmanager
def tables_gone(database: Database) -> Iterator[None]:
    """Nothing can be read of accounts, nor written."""
    database.run("ALTER TABLE account RENAME TO account_gone")
    yield
    database.run("ALTER TABLE account_gone RENAME TO account")


@contextlib.contextmanager
def server_gone(cluster: Cluster) -> Iterator[None]:
    """It is there and answers nothing, then it has crashed, then it comes back."""
    cluster.pause()
    try:
        yield
    finally:
        cluster.stop(crash=True)
        cluster.start()


def test_the_database_is_away(tmp_path: Path, database: Database) -> None:
    """Frames whose accounts are not in memory wait beyond HOLD_SECONDS, readiness names the database, health goes on;
    when it is back all comes out, each event once and in order, though the relay is killed once more."""
    away = server_gone(database.cluster) if isinstance(database, PostgresDatabase) else tables_gone(database)
    env = {**TIGHT, "DATABASE_URL": database.url}
    with (
        SimProcess(*FLAGS, *MANY, "--ledger", str(tmp_path / "ledger")) as sim,
        RelayProcess(tmp_path / "data", plc_url=sim.plc, hosts=sim.hosts, env=env) as relay,
        Collector(relay.port, 0, keep=seen, reconnect=True) as consumer,
    ):
        consumer.wait_for(lambda frames: len(frames) > 100, "traffic", WAIT_S)
        relay.wait_metric("relay_state_applied_seq", 100)
        with away:
            relay.wait_metric("relay_held_frames", 20)
            sim.pause()  # the hosts' credit is for the frames under way, not for a test's whole flood
            relay.wait_for(lambda: unready_because(relay, "database: "), "readiness that names the database", WAIT_S)
            held = relay.metrics()["relay_held_frames"]
            until = relay_clock(relay) + OUTAGE_S
            relay.wait_for(lambda: relay_clock(relay) >= until, "some time", WAIT_S)
            assert relay.metrics()["relay_held_frames"] >= held
            assert not dropped(relay)
            assert request(relay.metrics_port, "GET", "/_health")[0] == 200
        relay.wait_ready()
        sim.resume()
        seq = relay.metrics()["relay_seq"]
        relay.wait_metric("relay_state_applied_seq", seq)
        consumer.wait_for(lambda frames: len(frames) > seq + 100, "traffic", WAIT_S)
        relay.kill()
        relay.start()
        everything_came(sim, relay, consumer)
        assert relay.terminate() == 0
    said = [line["event"] for line in log_lines(relay)]
    assert [text for text in said if "loaded" in text] == [
        "accounts cannot be loaded; their frames wait",
        "accounts are loaded again",
    ]


def test_one_relay_to_a_database(cluster: Cluster, tmp_path: Path) -> None:
    """A second relay on one PostgreSQL is refused, in words, whatever its own data directory."""
    database = PostgresDatabase(cluster)
    first = database.open()
    relay = RelayProcess(tmp_path / "two", plc_url="http://127.0.0.1:9", env={"DATABASE_URL": database.url})
    assert "another relay uses this database" in refusal(relay)
    first.set_store_id(b"another relay id")
    first.close()
    assert "are of two stores" in refusal(relay)
