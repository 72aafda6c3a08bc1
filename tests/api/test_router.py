"""Where requests go, on which port and with which method; the firehose's upgrade. Against a whole relay."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from tests.api.support import UPGRADE, request_bytes, wait_until
from tests.live import PASSWORD
from tests.reference.consumer import SUBSCRIBE, RefusedError, StreamError, StrictConsumer
from zlay.api.message import Request, XrpcError
from zlay.api.router import PROCEDURES_AT_ONCE, RelayRouter

if TYPE_CHECKING:
    from tests.api.support import Client
    from tests.live import LiveRelay

PUBLIC_PORT = 0


def port(live: LiveRelay) -> int:
    """Of the firehose."""
    return live.relay.http.addresses[PUBLIC_PORT][1]


# --- ports and methods ---


@pytest.mark.parametrize("path", ["/_health", "/_healthz", "/xrpc/_health"])
def test_health_on_both_ports(public: Client, internal: Client, path: str) -> None:
    """Health is on both ports, for GET and HEAD, with the version."""
    for client in (public, internal):
        told = client.request("GET", path)
        assert (told.status, told.json["status"]) == (200, "ok")
        assert told.json["version"]
        assert client.request("HEAD", path).status == 200
        assert client.request("POST", path, body=b"").status == 405


def test_readiness_says_why_not(internal: Client) -> None:
    """/_readyz is 503 with its reasons while no host is known."""
    told = internal.request("GET", "/_readyz")
    assert told.status == 503
    assert told.json == {"ready": False, "reasons": ["no hosts are known yet"]}


@pytest.mark.parametrize("path", ["/_health", "/_readyz", "/", "/openapi.json", "/metrics", "/_stats"])
def test_methods_of_pages(internal: Client, path: str) -> None:
    """A page takes GET and HEAD, anything else is 405 that says so."""
    for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW"):
        told = internal.request(method, path, body=b"")
        assert (told.status, told.headers["allow"]) == (405, "GET, HEAD")
    whole, head = internal.request("GET", path), internal.request("HEAD", path)
    assert whole.status == head.status
    assert head.body == b""


@pytest.mark.parametrize("path", ["/metrics", "/_stats", "/admin/hosts", "/admin/shutdown"])
def test_the_inside_is_not_on_the_public_port(public: Client, path: str) -> None:
    """Metrics, figures and admin are not on the firehose's port, with the password or without."""
    secret = {"Authorization": "Bearer anything"}
    assert public.request("GET", path).status == 404
    assert public.request("GET", path, secret).status == 404
    assert public.request("POST", path, secret, b"{}").status == 404


def test_pages_for_people(public: Client, internal: Client) -> None:
    """`/` says what this is on both ports; other paths are 404 in the error form."""
    for client in (public, internal):
        assert b"zlay" in client.request("GET", "/").body
        told = client.request("GET", "/nothing")
        assert (told.status, set(told.json)) == (404, {"error", "message"})


def test_figures_inside(internal: Client) -> None:
    """/_stats is JSON, /metrics Prometheus' text form."""
    assert internal.request("GET", "/_stats").json["seq"] == 0
    told = internal.request("GET", "/metrics")
    assert told.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"\nrelay_seq 0.0\n" in told.body
    told = internal.request("GET", "/metrics", {"Accept-Encoding": "gzip"})  # as Prometheus asks
    assert b"\nrelay_seq 0.0\n" in gzip.decompress(told.body)


def test_methods_of_xrpc(public: Client) -> None:
    """Queries take GET and HEAD, procedures POST, else 405 that names what is allowed; unknown methods are 501."""
    base = "/xrpc/com.atproto.sync."
    told = public.request("POST", base + "listHosts", body=b"{}")
    assert (told.status, told.headers["allow"]) == (405, "GET, HEAD")
    told = public.request("GET", base + "requestCrawl")
    assert (told.status, told.headers["allow"]) == (405, "POST")
    assert public.request("HEAD", base + "listHosts").status == 200
    told = public.request("GET", "/xrpc/com.example.nothing")
    assert (told.status, told.json["error"]) == (501, "MethodNotImplemented")


CHANGING = {"/metrics", "/_stats", "/_history", "/admin/memory", "/admin/leaks"}  # between two requests
ALSO = {"/nothing", "/xrpc/com.example.nothing", "/xrpc/com.atproto.sync.requestCrawl", "/admin/nothing"}


@pytest.mark.parametrize("accept", ["gzip", "identity"])
def test_head_says_what_get_says(live: LiveRelay, accept: str) -> None:
    """HEAD has the status and headers of GET, its length included, and no body, of all answers and errors."""
    more = {"Accept-Encoding": accept, "Authorization": f"Bearer {PASSWORD}".encode().decode("latin-1")}
    for is_internal in (False, True):
        routes = live.relay._router.routes(is_internal=is_internal)
        paths = {path for method, path in routes if method == "GET"} | ALSO
        with live.client(internal=is_internal) as client:
            for path in sorted(paths):
                told = client.request("GET", path, more)
                head = client.request("HEAD", path, more)
                assert (head.status, head.body) == (told.status, b""), path
                assert head.headers.keys() == told.headers.keys(), path
                assert int(told.headers["content-length"]) == len(told.body)
                if path not in CHANGING:
                    assert {**head.headers, "date": ""} == {**told.headers, "date": ""}, path


def test_calls_are_limited_by_client(live: LiveRelay) -> None:
    """An IPv6 /64 is one client, an IPv4 address another; the metrics port's calls are not limited."""
    router = RelayRouter(live.relay, None)

    def call(address: str, *, is_internal: bool = False) -> int:
        path = "/xrpc/com.atproto.sync.requestCrawl"
        try:
            return router.handle(Request("POST", path, "", {}, b"", address, is_internal)).status
        except XrpcError as exc:
            return exc.status

    assert {call(f"2001:db8::{n:x}") for n in range(PROCEDURES_AT_ONCE)} == {400}
    assert call("2001:db8::ffff:1") == 429
    assert call("2001:db8:0:1::1") == 400
    assert call("192.0.2.1") == 400
    assert call("2001:db8::1", is_internal=True) == 400


# --- the firehose: what is refused before the upgrade (A2) ---


def test_the_firehose_wants_an_upgrade(public: Client) -> None:
    """Without Upgrade 426, with another method 405, and the connection goes on."""
    told = public.request("GET", SUBSCRIBE)
    assert (told.status, told.json["error"]) == (426, "UpgradeRequired")
    assert told.headers["upgrade"] == "websocket"
    told = public.request("GET", SUBSCRIBE + "?cursor=x")
    assert (told.status, told.json["error"]) == (400, "BadRequest")
    told = public.request("POST", SUBSCRIBE, body=b"")
    assert (told.status, told.headers["allow"]) == (405, "GET, HEAD")
    told = public.request("POST", SUBSCRIBE, UPGRADE, b"")
    assert told.status == 405
    assert public.request("GET", "/").status == 200


@pytest.mark.parametrize(
    "query", ["cursor=x", "cursor=-1", "cursor=1.5", "cursor=%2B1", "cursor=" + "9" * 30, "a&" * 200 + "cursor=1"]
)
def test_a_bad_cursor_is_refused_before_the_upgrade(live: LiveRelay, query: str) -> None:
    """A cursor that is no number is 400 BadRequest, before the upgrade, and takes no consumer's place."""
    for _ in range(5):  # more than an address has places
        with live.client() as client:
            told = client.request("GET", f"{SUBSCRIBE}?{query}", UPGRADE)
            assert (told.status, told.json["error"]) == (400, "BadRequest")
            assert client.request("GET", "/").status == 200
    with StrictConsumer(port(live)):
        pass


@pytest.mark.parametrize(
    "changed",
    [{"Sec-WebSocket-Version": "8"}, {"Sec-WebSocket-Version": ""}, {"Sec-WebSocket-Key": ""}],
)
def test_a_broken_handshake_is_refused(public: Client, changed: dict[str, str]) -> None:
    """A handshake of another version or without a key is a 4xx, and the connection goes on."""
    headers = {name: value for name, value in (UPGRADE | changed).items() if value}
    told = public.request("GET", SUBSCRIBE, headers)
    assert 400 <= told.status < 500
    assert set(told.json) == {"error", "message"}
    assert public.request("GET", "/").status == 200


def test_an_upgrade_elsewhere_is_refused(public: Client) -> None:
    """Only the firehose speaks WebSocket."""
    assert public.request("GET", "/xrpc/com.atproto.sync.listHosts", UPGRADE).status == 404
    assert public.request("GET", "/", UPGRADE).status == 404


# --- the firehose: what is served ---


def test_an_upgrade_has_the_right_key_and_name(live: LiveRelay) -> None:
    """The answer to an upgrade proves that it read the key (RFC 6455 1.3), and names this relay (E16)."""
    with live.client() as client:
        told = client.request("GET", SUBSCRIBE, UPGRADE)
        assert told.status == 101
        assert told.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert told.headers["server"].endswith("(atproto-relay)")


def test_a_ping_in_the_same_segment_as_the_upgrade(live: LiveRelay) -> None:
    """What a client sends right behind its upgrade is not lost: its ping is answered."""
    with live.client() as client:
        client.send(request_bytes("GET", SUBSCRIBE, UPGRADE) + b"\x89\x84\0\0\0\0ping")
        assert client.answer().status == 101
        while len(client.received) < 6:  # it may have come with the answer
            client._more()
        assert client.received == b"\x8a\x04ping"


def test_an_upgrade_one_byte_at_a_time(live: LiveRelay) -> None:
    """An upgrade may come in any pieces."""
    with live.client() as client:
        for byte in request_bytes("GET", SUBSCRIBE, UPGRADE):
            client.send(bytes([byte]))
        assert client.answer().status == 101


@pytest.mark.parametrize("query", ["", "?cursor=", "?cursor=0", "?cursor=0&cursor=x"])
def test_cursors_that_are_good(live: LiveRelay, query: str) -> None:
    """No cursor, an empty one, zero, and the first of two are served."""
    with live.client() as client:
        assert client.request("GET", SUBSCRIBE + query, UPGRADE).status == 101


def test_a_cursor_in_the_future(live: LiveRelay) -> None:
    """A cursor above the head is an error frame after the upgrade, FutureCursor, then the end (A7, A13)."""
    with StrictConsumer(port(live), 10_000) as consumer, pytest.raises(StreamError, match="FutureCursor"):
        consumer.next(10)
    with live.client() as client:
        assert client.request("GET", SUBSCRIBE + "?cursor=10000", UPGRADE).status == 101
        while b"\x88" not in client.received:  # the close frame; the error frame holds only ASCII and CBOR heads
            client._more()
        assert client.received[client.received.index(b"\x88") + 2 :][:2] == (1008).to_bytes(2, "big")


def test_places_of_an_address_are_limited_and_come_back(live: LiveRelay) -> None:
    """A consumer above the limit of its address is 429 with Retry-After; a place that is free again is given again."""
    wait_until(lambda: not live.relay.consumers.stats(), "nobody is connected")
    consumers = [StrictConsumer(port(live)) for _ in range(3)]
    with live.client() as client:
        told = client.request("GET", SUBSCRIBE, UPGRADE)
        assert (told.status, told.json["error"], told.headers["retry-after"]) == (429, "RateLimitExceeded", "30")
        assert client.request("GET", "/").status == 200
    consumers.pop().close()
    wait_until(lambda: len(live.relay.consumers.stats()) == 2, "one is gone")
    consumers.append(StrictConsumer(port(live)))
    with pytest.raises(RefusedError) as caught:
        StrictConsumer(port(live))
    assert json.loads(caught.value.body)["error"] == "RateLimitExceeded"
    for consumer in consumers:
        consumer.close()
