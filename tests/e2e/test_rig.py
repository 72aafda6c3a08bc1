"""The rig without the relay: third parties' consumers on a real PDS's own firehose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.pds import RealNetwork, npm_consumer, sdk_consumer
from tests.reference.consumer import Collector, StreamError, StrictConsumer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def port_of(host: str) -> int:
    """The port of localhost:PORT."""
    return int(host.rpartition(":")[2])


def test_consumers_verify_the_real_pds(tmp_path: Path) -> None:
    """Both third parties' consumers and the reference see and verify all that a real PDS sends, in the same order."""
    with RealNetwork(tmp_path) as network:
        port = port_of(network.pds_hosts[0])
        ws_url = network.pds_urls[0].replace("http", "ws")
        with (
            Collector(port, 0) as own,
            npm_consumer(ws_url, network.plc_url, tmp_path, 0) as npm,
            sdk_consumer(ws_url, network.plc_url, tmp_path, 0) as sdk,
        ):
            alice = network.create_account("alice")
            network.command("batch", did=alice, count=200)
            frames = own.wait_count(5, 60)
            for consumer in (npm, sdk):
                consumer.wait_seq(5)
                assert consumer.errors == []
                assert [(e["seq"], "#" + e["kind"], e["did"]) for e in consumer.events] == [
                    (f.seq, f.kind, f.did) for f in frames
                ]
                assert [e["kind"] for e in consumer.events if e.get("verified")] == ["commit", "sync", "commit"]
                assert len(consumer.events[4]["ops"]) == 200
        with StrictConsumer(port, 10_000) as ahead, pytest.raises(StreamError, match="FutureCursor"):
            ahead.next(10)


def test_consumers_see_a_wrong_signature(tmp_path: Path) -> None:
    """The consumers' verification is real: with another directory, that knows nobody, every commit is an error."""
    with RealNetwork(tmp_path / "a") as network, RealNetwork(tmp_path / "b") as stranger:
        ws_url = network.pds_urls[0].replace("http", "ws")
        alice = network.create_account("alice")
        network.command("post", did=alice, text="hello")
        for start in (npm_consumer, sdk_consumer):
            with start(ws_url, stranger.plc_url, tmp_path, 0) as consumer:
                consumer.wait_seq(5)
                assert {line["seq"] for line in consumer.errors} >= {3, 4, 5}
                assert not [event for event in consumer.events if event.get("verified")]
