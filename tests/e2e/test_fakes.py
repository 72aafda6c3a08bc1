"""The fakes themselves: what a fake PDS sends arrives at a strict consumer."""

from __future__ import annotations

import json

import pytest

from tests.e2e.fakes import FakePds, FakePlc
from tests.e2e.relay import request
from tests.e2e.test_recorded import documents, recorded
from tests.reference.consumer import ClosedError, Collector, Frame, StrictConsumer

pytestmark = pytest.mark.e2e


def drain(consumer: StrictConsumer) -> None:
    """Read frames until the stream ends, which raises."""
    while True:
        consumer.next(10)


def test_a_fake_pds_serves_from_a_cursor_and_live() -> None:
    """A subscriber gets what lies above its cursor, then what is published; one without a cursor only the latter."""
    frames = recorded()
    with FakePds() as pds:
        pds.publish(*frames[:100])
        with (
            Collector(pds.port, 0, contiguous=False) as whole,
            Collector(pds.port, frames[49][0], contiguous=False) as half,
            StrictConsumer(pds.port, None, contiguous=False) as live,
        ):
            pds.wait_subscribed(3)
            pds.publish(*frames[100:])
            got = [frame.raw for frame in whole.wait_count(150, 30) if isinstance(frame, Frame)]
            assert got == [raw for _, raw in frames]
            assert [frame.raw for frame in half.wait_count(100, 30) if isinstance(frame, Frame)] == got[50:]
            assert live.next(10).raw == got[100]
            pds.drop_connections()
            with pytest.raises(ClosedError):
                drain(live)


def test_a_fake_directory_answers() -> None:
    """A fake PLC gives the documents that it was given, and 404 for others."""
    with FakePds() as pds, FakePlc(documents(pds.url)) as plc:
        did, document = next(iter(plc.documents.items()))
        status, body = request(plc.port, "GET", f"/{did}")
        assert (status, json.loads(body)) == (200, document)
        assert request(plc.port, "GET", "/did:plc:aaaaaaaaaaaaaaaaaaaaaaaa")[0] == 404
        assert request(pds.port, "GET", "/xrpc/com.atproto.server.describeServer")[0] == 200
        assert plc.requests[0] == f"GET /{did}"
