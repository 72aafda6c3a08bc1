"""150 frames of the public network, served by a fake PDS, through the relay."""

from __future__ import annotations

import copy
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests import fixtures
from tests.e2e.fakes import FakePds, FakePlc
from tests.e2e.relay import RelayProcess
from tests.reference.consumer import Collector
from tests.reference.frame_ref import Frame, decode_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WAIT_S = 60.0


def recorded() -> list[tuple[int, bytes]]:
    """(upstream seq, frame) of the recording."""
    return [(decode_frame(raw).seq or 0, raw) for raw in fixtures.recorded_frames()]


def documents(pds_url: str) -> dict[str, Any]:
    """The recorded DID documents with the fake's address; the accounts that have none get one of the same shape."""
    result = {did: copy.deepcopy(document) for did, document in fixtures.recorded_did_docs().items()}
    some = next(iter(result.values()))
    for raw in fixtures.recorded_frames():
        did = decode_frame(raw).did or ""
        if did not in result:
            result[did] = {**copy.deepcopy(some), "id": did}
            result[did]["verificationMethod"][0].update(id=f"{did}#atproto", controller=did)
    for document in result.values():
        for service in document["service"]:
            if service["id"].endswith("#atproto_pds"):
                service["serviceEndpoint"] = pds_url
    return result


def shortest_uint(number: int) -> bytes:
    """CBOR's shortest form of an unsigned integer, written out once more so that no code is trusted twice."""
    for limit, first, form in ((24, None, ""), (2**8, 0x18, ">B"), (2**16, 0x19, ">H"), (2**32, 0x1A, ">I")):
        if number < limit:
            return bytes([number]) if first is None else bytes([first]) + struct.pack(form, number)
    return b"\x1b" + struct.pack(">Q", number)


def spliced(raw: bytes, old_seq: int, new_seq: int) -> bytes:
    """The frame with its `seq` replaced: the text key, its old value, and nothing else."""
    old = b"\x63seq" + shortest_uint(old_seq)
    places = [at for at in range(len(raw)) if raw.startswith(old, at)]
    assert len(places) == 1, "the recording has one seq per frame"
    return raw[: places[0]] + b"\x63seq" + shortest_uint(new_seq) + raw[places[0] + len(old) :]


def operations(frames: Iterable[Frame]) -> Iterator[tuple[str, ...]]:
    """(did, collection, rkey, rev, operation) of each op of each commit, as Jetstream names them."""
    for frame in frames:
        if frame.kind == "#commit":
            for op in frame.payload["ops"]:
                collection, rkey = op["path"].split("/")
                yield frame.payload["repo"], collection, rkey, frame.payload["rev"], op["action"]


def expected_operations() -> list[tuple[str, ...]]:
    """The same of what a production Jetstream v1 sent."""
    return [
        (line["did"], *(line["commit"][name] for name in ("collection", "rkey", "rev", "operation")))
        for line in fixtures.recorded_expected()
        if line["kind"] == "commit"
    ]


def test_recorded_frames_come_out_unchanged(tmp_path: Path) -> None:
    """All 150 frames come out once, byte-identical but for seq, live and in a replay, and say what Jetstream said."""
    frames = recorded()
    with (
        FakePds() as pds,
        FakePlc(documents(pds.url)) as plc,
        RelayProcess(tmp_path / "relay", plc_url=plc.url, hosts=[pds.host]) as relay,
    ):
        pds.wait_subscribed()
        with Collector(relay.port, 0) as live:
            pds.publish(*frames)
            out = [frame for frame in live.wait_count(len(frames), WAIT_S) if isinstance(frame, Frame)]
        assert [frame.seq for frame in out] == list(range(1, 151))
        by_did: dict[str | None, list[bytes]] = {}
        for frame in out:
            by_did.setdefault(frame.did, []).append(frame.raw)
        seqs = {(frame.did, frame.normalized): frame.seq for frame in out}
        for old_seq, raw in frames:
            source = decode_frame(raw)
            new_seq = seqs.get((source.did, source.normalized))
            assert new_seq is not None, f"{source.kind} of {source.did} is missing or changed"
            assert spliced(raw, old_seq, new_seq) == by_did[source.did].pop(0)
        assert not any(by_did.values())
        assert sorted(operations(out)) == sorted(expected_operations())
        with Collector(relay.port, 0) as replay:
            again = replay.wait_count(len(frames), WAIT_S)
        assert [frame.raw for frame in again if isinstance(frame, Frame)] == [frame.raw for frame in out]
        assert relay.terminate() == 0


def test_recorded_frames_come_once_over_a_reconnect_and_a_restart(tmp_path: Path) -> None:
    """A PDS that ends the connection, and a relay that is restarted, cost no event and repeat none."""
    frames = recorded()
    with (
        FakePds() as pds,
        FakePlc(documents(pds.url)) as plc,
        RelayProcess(tmp_path / "relay", plc_url=plc.url, hosts=[pds.host]) as relay,
        Collector(relay.port, 0, reconnect=True) as consumer,
    ):
        pds.wait_subscribed(1)
        pds.publish(*frames[:50])
        consumer.wait_count(50, WAIT_S)
        pds.drop_connections()
        pds.publish(*frames[50:100])
        pds.wait_subscribed(2)
        consumer.wait_count(100, WAIT_S)
        assert pds.cursors == [None, frames[49][0]]
        assert relay.terminate() == 0
        pds.publish(*frames[100:])
        relay.start()
        pds.wait_subscribed(3)
        out = [frame for frame in consumer.wait_count(150, WAIT_S) if isinstance(frame, Frame)]
        assert pds.cursors[2] == frames[99][0]
        assert [frame.seq for frame in out] == list(range(1, 151))
        assert {frame.normalized for frame in out} == {decode_frame(raw).normalized for _, raw in frames}
        assert relay.terminate() == 0


def test_the_recording_agrees_with_jetstream() -> None:
    """The recording itself says what Jetstream sent, so that the comparison above can fail only for the relay."""
    frames = [decode_frame(raw) for raw in fixtures.recorded_frames()]
    assert sorted(operations(frames)) == sorted(expected_operations())
    assert len(expected_operations()) == 150
