"""subscribeRepos as its clients meet it: a whole relay's port, every cursor over a restart, origins, proxies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.api.support import UPGRADE, wait_until
from tests.eventlog.support import WAIT_S, append, fill, opened
from tests.live import LiveRelay
from tests.reference.consumer import SUBSCRIBE, StreamError, StrictConsumer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zlay.eventlog.log import EventLog

HEAD = 24  # events of five segments: 1 to 5, 6 to 10, 11 to 15, 16 to 20, 21 to 24
OLDEST = 6  # the first segment is gone


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRelay]:
    """A relay that was started again on a log of small segments whose oldest one has been taken away."""
    folder = tmp_path_factory.mktemp("relay")
    relay = LiveRelay(folder, RELAY_MAX_CONSUMERS_PER_IP="4", RELAY_TRUSTED_PROXIES="127.0.0.0/8")
    relay.stop()
    with opened(folder, segment_entries=5) as log:
        fill(log, HEAD)
    relay.start()  # the state takes in the whole log
    relay.stop()
    for kind in ("index", "frames"):
        (folder / "events" / f"{1:020}.{kind}").unlink()
    relay.start()
    try:
        yield relay
    finally:
        relay.stop()


def port(live: LiveRelay) -> int:
    """The firehose's port."""
    return live.relay.http.addresses[0][1]


def log_of(live: LiveRelay) -> EventLog:
    """Its log."""
    return live.relay.log


def check_cursor(live: LiveRelay, cursor: int, head: int) -> None:
    """What a strict consumer gets with a cursor, up to the newest event: what A12 to A16 say."""
    with StrictConsumer(port(live), cursor, contiguous=False) as consumer:
        if cursor > head:
            with pytest.raises(StreamError, match="FutureCursor"):
                consumer.next(WAIT_S)
            return
        first = max(cursor + 1, OLDEST)
        if 0 < cursor < OLDEST - 1:
            info = consumer.next(WAIT_S)
            assert (info.kind, info.payload["name"]) == ("#info", "OutdatedCursor")
        for seq in range(first, head + 1):
            assert consumer.next(WAIT_S).seq == seq


def test_every_cursor_after_a_restart(live: LiveRelay) -> None:
    """After a restart each cursor from 0 to beyond the head, first and last of every segment among them, gets what the
    rules say, through the real port; so do 2^53 - 1, 2^53 and the largest number that is looked at."""
    assert (log_of(live).oldest_seq, log_of(live).published_end) == (OLDEST, HEAD)
    for cursor in (*range(HEAD + 3), 2**53 - 1, 2**53, 10**19 - 1):
        check_cursor(live, cursor, HEAD)


def test_head_and_one_above_it_while_the_head_moves(live: LiveRelay) -> None:
    """A consumer at the head gets the next event and nothing else; one above it is the future until that event is
    there, and then is the head."""
    head = log_of(live).published_end
    with StrictConsumer(port(live), head) as at_head, StrictConsumer(port(live)) as from_now:
        with StrictConsumer(port(live), head + 1) as above, pytest.raises(StreamError, match="FutureCursor"):
            above.next(WAIT_S)
        append(log_of(live), "the next one")
        assert at_head.next(WAIT_S).seq == from_now.next(WAIT_S).seq == head + 1
        check_cursor(live, head + 1, head + 1)


@pytest.mark.parametrize("value", ["-1", "-9223372036854775808", "0x10", "1e3", "١", "NaN", "9" * 40, "5;6", "%00"])
def test_a_cursor_that_is_none_never_reaches_the_stream(live: LiveRelay, value: str) -> None:
    """Negative numbers and garbage are HTTP 400 BadRequest before the upgrade (A2)."""
    with live.client() as client:
        told = client.request("GET", f"{SUBSCRIBE}?cursor={value}".encode().decode("latin-1"), UPGRADE)
        assert told.status == 400


@pytest.mark.parametrize("origin", ["https://example.com", "http://localhost:8080", "null", "chrome-extension://abc"])
def test_browsers_may_connect_from_any_origin(live: LiveRelay, origin: str) -> None:
    """A handshake with any Origin, and a browser's other headers, is accepted; no extension is agreed to."""
    browser = {
        "Origin": origin,
        "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36",
        "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
        "Accept-Encoding": "gzip, deflate, br, zstd",
        "Accept-Language": "en-US,en;q=0.9",
        "Cache-Control": "no-cache",
        "Pragma": "no-cache",
    }
    with live.client() as client:
        told = client.request("GET", SUBSCRIBE + "?cursor=0", {**UPGRADE, **browser})
        assert told.status == 101
        assert "sec-websocket-extensions" not in told.headers
        while len(client.received) < 2:
            client.received += client.sock.recv(65_536)
        assert client.received[0] == 0x82


def test_places_are_counted_by_the_address_that_a_trusted_proxy_names(live: LiveRelay) -> None:
    """Behind a trusted proxy each forwarded client has its own places, and all of an IPv6 /64 share theirs."""

    def ask(forwarded: str) -> int:
        client = live.client()
        clients.append(client)
        return client.request("GET", SUBSCRIBE, {**UPGRADE, "X-Forwarded-For": forwarded}).status

    wait_until(lambda: not live.relay.consumers.stats(), "nobody is connected")
    clients = []
    try:
        assert [ask("198.51.100.1") for _ in range(5)] == [101] * 4 + [429]
        assert ask("203.0.113.9, 198.51.100.1") == 429  # the proxy's own word is the last one
        assert ask("198.51.100.2") == 101
        networks = [f"2001:db8::{n}:1" for n in range(1, 6)]
        assert [ask(address) for address in networks] == [101] * 4 + [429]
        assert ask("2001:db8:0:1::1") == 101
        named = {"198.51.100.1", "198.51.100.2", "2001:db8:0:1::1", *networks[:4]}
        wait_until(lambda: {row.peer for row in live.relay.consumers.stats()} == named, "all are listed")
    finally:
        for client in clients:
            client.sock.close()
    wait_until(lambda: not live.relay.consumers.stats(), "nobody is left")


def test_every_end_has_its_reason_in_the_metrics(live: LiveRelay) -> None:
    """relay_consumer_disconnects_total has every reason from the start, and counts each end under its own."""
    with pytest.raises(StreamError, match="FutureCursor"), StrictConsumer(port(live), 10_000) as consumer:
        consumer.next(WAIT_S)
    StrictConsumer(port(live)).close()
    wait_until(lambda: not live.relay.consumers.stats(), "nobody is left")
    text = live.relay.metrics().decode()
    found = {
        line.split('"')[1]: float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("relay_consumer_disconnects_total{")
    }
    assert set(found) == set(live.relay.consumers.disconnects())
    assert found["client_gone"] >= 1
    assert found["future_cursor"] >= 1
