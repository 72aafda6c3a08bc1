"""Real PDSes and a real PLC directory above the relay, third parties' strict consumers below it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from tests.e2e.pds import Consumer, RealNetwork, npm_consumer, sdk_consumer
from tests.e2e.relay import RelayProcess
from tests.reference.consumer import Collector
from tests.reference.frame_ref import Frame

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

WAIT_S = 60.0


def port_of(host: str) -> int:
    """The port of localhost:PORT."""
    return int(host.rpartition(":")[2])


def worth_sending(frames: Iterable[object]) -> list[Frame]:
    """What a relay sends of a PDS's frames: all but a #sync that says what the account's last commit said (E6)."""
    revs: dict[str | None, str] = {}
    result = []
    for frame in frames:
        assert isinstance(frame, Frame)
        if frame.kind == "#sync" and revs.get(frame.did) == frame.payload["rev"]:
            continue
        if "rev" in frame.payload:
            revs[frame.did] = frame.payload["rev"]
        result.append(frame)
    return result


def by_account(frames: Iterable[object]) -> dict[str | None, list[bytes]]:
    """Each account's frames in order, normalised."""
    result: dict[str | None, list[bytes]] = defaultdict(list)
    for frame in frames:
        assert isinstance(frame, Frame)
        result[frame.did].append(frame.normalized)
    return dict(result)


def assert_verified(consumer: Consumer, frames: list[Frame]) -> None:
    """A third party's consumer saw exactly these frames, in order, and verified each commit and sync."""
    assert consumer.errors == []
    assert [(e["seq"], "#" + e["kind"], e["did"], e.get("rev")) for e in consumer.events] == [
        (f.seq, f.kind, f.did, f.payload.get("rev")) for f in frames
    ]
    for event, frame in zip(consumer.events, frames, strict=True):
        assert bool(event.get("verified")) == (frame.kind in ("#commit", "#sync"))
        if frame.kind == "#commit":
            assert [(op["action"], op["path"]) for op in event["ops"]] == [
                (op["action"], op["path"]) for op in frame.payload["ops"]
            ]


def use_accounts(network: RealNetwork, sources: list[Collector]) -> None:
    """Everything that people do with accounts, on two PDSes: each kind of event comes of it."""
    alice, bob = network.create_account("alice", pds=0), network.create_account("bob", pds=1)
    carol = network.create_account("carol", pds=1)
    first = network.command("post", did=alice, text="hello")
    network.command("like", did=bob, uri=first["uri"], cid=first["cid"])
    rkey = first["uri"].rpartition("/")[2]
    profile = {"$type": "app.bsky.actor.profile", "displayName": "Bob"}
    network.command("putRecord", did=bob, collection="app.bsky.actor.profile", rkey="self", record=profile)
    profile["displayName"] = "Bob the second"
    network.command("putRecord", did=bob, collection="app.bsky.actor.profile", rkey="self", record=profile)
    edited = {"$type": "app.bsky.feed.post", "text": "hello, edited", "createdAt": "2026-01-01T00:00:00.000Z"}
    network.command("putRecord", did=alice, collection="app.bsky.feed.post", rkey=rkey, record=edited)
    network.command("batch", did=alice, count=200)
    network.command("deleteRecord", did=alice, collection="app.bsky.feed.post", rkey=rkey)
    network.command("updateHandle", did=carol, handle="carol2.test")
    network.command("deactivate", did=carol)
    network.command("reactivate", did=carol)
    network.command("post", did=carol, text="back again")
    # A PDS takes a deleted account's older events out of its window: let everybody have them first.
    sources[1].wait_for(lambda frames: ends_with_commit_of(frames, carol), "carol's last post", WAIT_S)
    network.command("deleteAccount", did=carol)
    network.command("post", did=bob, text="the end")
    network.command("post", did=alice, text="the end")


def ends_with_commit_of(frames: list[object], did: str) -> bool:
    """Whether the newest frame is a commit of this account."""
    return bool(frames) and isinstance(frames[-1], Frame) and (frames[-1].kind, frames[-1].did) == ("#commit", did)


def collect_sources(network: RealNetwork) -> list[Collector]:
    """A reference consumer on each PDS's own firehose."""
    return [Collector(port_of(host), 0) for host in network.pds_hosts]


def all_sent(network: RealNetwork, sources: list[Collector]) -> list[Frame]:
    """Every frame of every PDS so far, once the last post of each PDS has been seen."""
    for pds, source in enumerate(sources):
        marker = network.create_account(f"marker{pds}x{len(source.frames)}", pds=pds)
        source.wait_for(
            lambda frames, did=marker: any(f.did == did and f.kind == "#sync" for f in frames), "the last #sync", WAIT_S
        )
    return [frame for source in sources for frame in source.frames if isinstance(frame, Frame)]


def test_every_event_of_real_pdses_arrives_verified(tmp_path: Path) -> None:
    """Every event of real PDSes arrives once, in order per account, unchanged but for seq, and verified by others."""
    with (
        RealNetwork(tmp_path / "net", pds_count=2) as network,
        RelayProcess(tmp_path / "relay", plc_url=network.plc_url, hosts=network.pds_hosts) as relay,
    ):
        relay.wait_for(lambda: relay.admin("GET", "/admin/hosts")["active_workers"] == 2, "both PDSes", WAIT_S)
        sources = collect_sources(network)
        with (
            Collector(relay.port, 0) as live,
            npm_consumer(relay.ws_url, network.plc_url, tmp_path, 0) as npm,
            sdk_consumer(relay.ws_url, network.plc_url, tmp_path, 0) as sdk,
        ):
            use_accounts(network, sources)
            sent = worth_sending(all_sent(network, sources))
            frames = live.wait_count(len(sent), WAIT_S)
            assert by_account(frames) == by_account(sent)
            assert {frame.kind for frame in sent} == {"#identity", "#account", "#commit"}
            arrived = [frame for frame in frames if isinstance(frame, Frame)]
            assert [frame.seq for frame in arrived] == list(range(1, len(sent) + 1))
            for consumer in (npm, sdk):
                consumer.wait_seq(len(sent))
                assert_verified(consumer, arrived)
        with Collector(relay.port, 0) as replay:
            again = replay.wait_count(len(sent), WAIT_S)
            assert [f.raw for f in again if isinstance(f, Frame)] == [f.raw for f in arrived]
        for source in sources:
            source.stop()
        assert relay.terminate() == 0


def test_what_a_pds_sent_while_the_relay_was_down_arrives(tmp_path: Path) -> None:
    """After a stop and a start the relay goes on where it was: nothing lost, nothing twice, seq goes up by one."""
    with RealNetwork(tmp_path / "net") as network:
        relay = RelayProcess(tmp_path / "relay", plc_url=network.plc_url, hosts=network.pds_hosts)
        with relay:
            relay.wait_for(lambda: relay.admin("GET", "/admin/hosts")["active_workers"] == 1, "the PDS", WAIT_S)
            sources = collect_sources(network)
            with Collector(relay.port, 0, reconnect=True) as consumer:
                alice = network.create_account("alice")
                network.command("post", did=alice, text="before")
                consumer.wait_for(lambda frames: len(frames) == len(worth_sending(sources[0].frames)) >= 4, "4", WAIT_S)
                assert relay.terminate() == 0
                network.command("post", did=alice, text="while it was down")
                network.create_account("bob")
                relay.start()
                network.command("post", did=alice, text="after")
                sent = worth_sending(all_sent(network, sources))
                frames = consumer.wait_count(len(sent), WAIT_S)
                assert by_account(frames) == by_account(sent)
            sources[0].stop()
            assert relay.terminate() == 0
