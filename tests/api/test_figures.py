"""What operators see of consumers, memory and growth, at the socket. Against a whole relay."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.support import UPGRADE, Client, wait_until
from tests.eventlog.support import message
from tests.live import PASSWORD, LiveRelay
from tests.reference.consumer import SUBSCRIBE
from zlay.api.router import OPENAPI

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.api.support import Answer

SECRET = {"Authorization": f"Bearer {PASSWORD}".encode().decode("latin-1"), "Content-Type": "application/json"}
AGENT = "indexer/1.0 (+https://example.com) " + "x" * 300


def get(client: Client, path: str) -> Any:
    """An admin answer."""
    told = client.request("GET", f"/admin/{path}", SECRET)
    assert told.status == 200, told.body
    return told.json


def post(client: Client, path: str, body: object) -> Answer:
    """An admin request with a body."""
    return client.request("POST", f"/admin/{path}", SECRET, json.dumps(body).encode())


@pytest.fixture
def connected(live: LiveRelay, internal: Client) -> Iterator[list[Client]]:
    """Three consumers: one live, one from the beginning with a name, one from 1."""
    wait_until(lambda: get(internal, "consumers")["connected"] == 0, "nobody is connected")
    while live.relay.log.published_end < 3:
        seq = live.relay.log.append_local(message(1), did="did:plc:" + "a" * 24, kind=1)
        assert live.relay.log.wait_synced(seq, 10)
    clients = []
    for target, headers in (
        (SUBSCRIBE, {}),
        (f"{SUBSCRIBE}?cursor=0", {"User-Agent": AGENT}),
        (f"{SUBSCRIBE}?cursor=1", {"User-Agent": "two"}),
    ):
        clients.append(live.client())
        assert clients[-1].request("GET", target, {**UPGRADE, **headers}).status == 101
    yield clients
    for client in clients:
        client.sock.close()


def test_consumers(internal: Client, connected: list[Client]) -> None:
    """Each consumer is listed with what it asked for, who it says it is, and how far it is."""
    wait_until(lambda: all(one["lag"] == 0 for one in get(internal, "consumers")["consumers"]), "all have got all")
    told = get(internal, "consumers")
    assert (told["connected"], "cursor" in told) == (3, False)
    first, second, third = told["consumers"]
    assert [one["cursor"] for one in told["consumers"]] == [None, 0, 1]
    assert [one["user_agent"] for one in told["consumers"]] == [None, AGENT[:200], "two"]
    assert (first["first_seq"], second["first_seq"], third["first_seq"]) == (4, 1, 2)
    assert [one["events"] for one in told["consumers"]] == [0, 3, 2]
    assert second["bytes"] > third["bytes"] > 0
    assert {one["next_seq"] for one in told["consumers"]} == {4}
    assert {(one["lag_bytes"], one["lag_s"], one["blocked_s"]) for one in told["consumers"]} == {(0, 0.0, 0.0)}
    assert {(one["peer"], one["state"]) for one in told["consumers"]} == {("127.0.0.1", "streaming")}
    assert all(abs(one["since_us"] / 1e6 - time.time()) < 60 for one in told["consumers"])


def test_consumers_in_pages(internal: Client, connected: list[Client]) -> None:
    """Pages hold every consumer once; the last one has no cursor."""
    whole = [one["id"] for one in get(internal, "consumers")["consumers"]]
    page = get(internal, "consumers?limit=2")
    assert [one["id"] for one in page["consumers"]] == whole[:2]
    rest = get(internal, f"consumers?limit=2&cursor={page['cursor']}")
    assert [one["id"] for one in rest["consumers"]] == whole[2:]
    assert "cursor" not in rest
    assert len(get(internal, "consumers?cursor=")["consumers"]) == 3
    for query in ("limit=0", "limit=10001", "limit=x", "cursor=-1", "cursor=x", "other=1"):
        assert internal.request("GET", f"/admin/consumers?{query}", SECRET).status == 400


def test_disconnected_by_an_operator(live: LiveRelay, internal: Client, connected: list[Client]) -> None:
    """A consumer that an operator wants gone is gone, for that reason; the others stay."""
    ids = [one["id"] for one in get(internal, "consumers")["consumers"]]
    before = live.relay.consumers.disconnects()["operator"]
    told = post(internal, "consumers/disconnect", {"id": ids[1]})
    assert (told.status, told.json) == (200, {"id": ids[1], "disconnected": True})
    while True:
        try:
            connected[1]._more()
        except EOFError:
            break
    wait_until(lambda: live.relay.consumers.disconnects()["operator"] == before + 1, "its end is counted")
    assert [one["id"] for one in get(internal, "consumers")["consumers"]] == [ids[0], ids[2]]
    told = post(internal, "consumers/disconnect", {"id": float(ids[1])})
    assert (told.status, told.json["error"]) == (404, "ConsumerNotFound")
    for bad in ({}, {"id": "1"}, {"id": True}, {"id": 0}, {"id": 1 << 70}, {"id": 1.5}, {"id": ids[0], "all": True}):
        assert post(internal, "consumers/disconnect", bad).status == 400


def test_memory(internal: Client) -> None:
    """Memory is told by part and by tag of the core; parts and remainder are the whole."""
    told = get(internal, "memory")
    assert told["rss"] == sum(told["parts"].values()) + told["remainder"]
    assert all(value >= 0 for value in told["parts"].values())
    assert told["figures"]["rss"] > 1 << 20
    tags = {one["tag"]: one for one in told["core"]}
    assert tags["account"]["live_bytes"] > 0
    assert all(one["peak_bytes"] >= one["live_bytes"] for one in told["core"])
    assert told["allocator"]


def test_leaks_without_a_trace(internal: Client) -> None:
    """Where LEAK_TRACE is 0, growth is 409 with the way to have it."""
    told = internal.request("GET", "/admin/leaks", SECRET)
    assert (told.status, told.json["error"]) == (409, "LeakTraceOff")
    assert "LEAK_TRACE=" in told.json["message"]
    assert internal.request("GET", "/admin/leaks?limit=0", SECRET).status == 400


def grow() -> list[bytearray]:
    """Memory that stays, made in one line."""
    return [bytearray(20_000) for _ in range(50)]


def test_leaks_since_the_first_question(live: LiveRelay, internal: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """With LEAK_TRACE the first answer begins the count, later ones name what has grown since, most first."""
    monkeypatch.setattr(live.relay.leaks, "_frames", 5)
    earlier = grow()
    live.relay.leaks.start()
    try:
        begun = get(internal, "leaks")
        assert begun["sites"] == []
        kept = grow()
        told = get(internal, "leaks?limit=3")
        assert (told["since_us"], told["frames"]) == (begun["since_us"], 5)
        assert len(told["sites"]) <= 3
        site = told["sites"][0]
        described = json.loads(OPENAPI)["components"]["schemas"]["Leaks"]["properties"]
        assert set(told) == set(described)
        assert set(site) == set(described["sites"]["items"]["properties"])
        assert site["stack"][-1] == f"{__file__}:{grow.__code__.co_firstlineno + 2}"
        assert site["bytes"] >= len(kept) * 20_000
        assert told["grown_bytes"] >= site["bytes"]
        assert site["live_bytes"] < site["bytes"] + len(earlier) * 20_000  # what was there before is not counted
    finally:
        tracemalloc.stop()
