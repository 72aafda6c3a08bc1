"""The operator's endpoints at the socket: who may, and what they do. Against a whole relay."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.api.support import request_bytes
from tests.live import PASSWORD, LiveRelay
from zlay._fast import limits
from zlay.api import admin
from zlay.api.message import Request, XrpcError

if TYPE_CHECKING:
    from tests.api.support import Answer, Client

BEARER = f"Bearer {PASSWORD}".encode().decode("latin-1")  # headers are sent as latin-1: these are the bytes of UTF-8


def basic(user: str, password: str) -> str:
    """An Authorization header's value."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def request(authorization: str | None) -> Request:
    """An admin request with this header."""
    headers = {} if authorization is None else {"authorization": authorization}
    return Request("GET", "/admin/hosts", "", headers, b"", "10.0.0.1", is_internal=True)


@pytest.mark.parametrize("value", [BEARER, BEARER.replace("Bearer", "bearer"), basic("admin", PASSWORD)])
def test_the_password_opens(internal: Client, value: str) -> None:
    """The password opens as Bearer, and as Basic with the user admin; it may have any characters."""
    assert internal.request("GET", "/admin/hosts", {"Authorization": value}).status == 200


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {PASSWORD}x".encode().decode("latin-1"),
        basic("root", PASSWORD),
        basic("", PASSWORD),
        basic("admin", ""),
        basic("admin", "wrong"),
        "Basic !!!",
        "Basic " + base64.b64encode(PASSWORD.encode()).decode(),
        f"Digest {PASSWORD}".encode().decode("latin-1"),
        "Basic " + "A" * 8000,
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/admin/hosts"), ("POST", "/admin/shutdown"), ("GET", "/admin/x")]
)
def test_anything_else_does_not(live: LiveRelay, internal: Client, value: str | None, method: str, path: str) -> None:
    """Without the password every admin path is 401, whether it exists or not, and nothing is done."""
    told = internal.request(method, path, {} if value is None else {"Authorization": value}, b"")
    assert (told.status, told.json["error"]) == (401, "AuthenticationRequired")
    assert told.headers["www-authenticate"].startswith("Basic ")
    assert live.asked_to_stop == []


@pytest.mark.parametrize("value", [None, "Bearer ", "Bearer", basic("admin", "")])
def test_no_password_is_closed(value: str | None) -> None:
    """Where no password is set admin is closed to everybody, an empty password included."""
    with pytest.raises(XrpcError) as caught:
        admin.authorize(request(value), None)
    assert (caught.value.status, caught.value.error) == (403, "Forbidden")


def test_hosts_added_and_listed(live: LiveRelay, internal: Client) -> None:
    """A host that the operator adds is there with all that operators see, asked or not asked before."""
    secret = {"Authorization": BEARER, "Content-Type": "application/json"}
    told = internal.request("POST", "/admin/hosts/add", secret, b'{"hostname": "http://LOCALHOST:1"}')
    assert (told.status, told.json) == (200, {"hostname": "http://LOCALHOST:1", "added": True})
    listed = internal.request("GET", "/admin/hosts", secret).json
    assert listed["active_workers"] == 0
    assert [host["hostname"] for host in listed["hosts"]] == ["localhost:1"]
    one = internal.request("GET", "/admin/hosts?hostname=localhost:1", secret).json
    assert {"id", "hostname", "status", "last_seq", "failed_attempts", "account_limit", "account_count"} <= set(one)
    assert (one["no_tls"], one["last_seq"], one["connected"]) == (True, 0, False)
    missing = internal.request("GET", "/admin/hosts?hostname=x.example.com", secret)
    assert (missing.status, missing.json["error"]) == (404, "HostNotFound")
    for body in (b"{}", b'{"hostname": 5}', b'{"hostname": "a b"}', b"[]", b""):
        assert internal.request("POST", "/admin/hosts/add", secret, body).status == 400
    assert live.relay.registry.find("a b") is None


def admin_post(client: Client, path: str, body: object) -> Answer:
    """What an operator sends."""
    headers = {"Authorization": BEARER, "Content-Type": "application/json"}
    return client.request("POST", f"/admin/{path}", headers, json.dumps(body).encode())


def test_limits_of_a_host(live: LiveRelay, internal: Client) -> None:
    """What an operator gives a host is in force and shown; what is not named stays, null is the tier's again."""
    admin_post(internal, "hosts/add", {"hostname": "localhost:2"})
    given = {"hostname": "LOCALHOST:2", "tier": "default", "per_hour": 7, "account_limit": 3}
    told = admin_post(internal, "hosts/changeLimits", given).json
    assert (told["tier"], told["accounts_allowed"], told["account_limit"]) == ("default", 3, 3)
    assert told["limits_given"] == {"tier": "default", "per_hour": 7}
    assert [told["limits"][name] for name in ("per_second", "per_hour", "bytes_per_hour")] == [50, 7, 7 * 65536]
    entry = live.relay.registry.find("localhost:2")
    assert entry is not None
    assert limits.limits(entry.index)[:3] == (50, 7, 20_000)
    told = admin_post(internal, "hosts/changeLimits", {"hostname": "localhost:2", "per_hour": None}).json
    assert (told["limits"]["per_hour"], told["account_limit"]) == (2500, 3)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("hosts/changeLimits", {"hostname": "localhost:2"}, 400),
        ("hosts/changeLimits", {"hostname": "localhost:2", "per_minute": 5}, 400),
        ("hosts/changeLimits", {"hostname": "localhost:2", "per_hour": -1}, 400),
        ("hosts/changeLimits", {"hostname": "localhost:2", "per_hour": True}, 400),
        ("hosts/changeLimits", {"hostname": "localhost:2", "tier": "best"}, 400),
        ("hosts/changeLimits", {"hostname": "localhost:2", "tier": {}}, 400),
        ("hosts/changeLimits", {"hostname": "localhost:2", "tier": ["trusted"]}, 400),
        ("hosts/changeLimits", {"hostname": "localhost:2", "per_day": {}}, 400),
        ("hosts/changeLimits", {"hostname": "localhost:2", "account_limit": "many"}, 400),
        ("hosts/changeLimits", {"hostname": ["localhost:2"], "per_day": 5}, 400),
        ("hosts/changeLimits", {"hostname": "nobody.example.com", "per_hour": 5}, 404),
        ("hosts/block", {}, 400),
        ("hosts/block", {"hostname": "localhost:2", "forever": True}, 400),
        ("hosts/block", {"hostname": "a b"}, 400),
        ("hosts/add", {"hostname": "localhost:2", "other": 1}, 400),
        ("repo/ban", {"did": "did:plc:short"}, 400),
        ("repo/ban", {"did": "did:plc:" + "a" * 24}, 404),
        ("repo/unban", {}, 400),
        ("hosts/block", {"hostname": "nobody.example.com"}, 404),
        ("domains", {"domain": "a b"}, 400),
        ("domains", {"domain": "example.com", "banned": "yes"}, 400),
        ("domains", {"domain": ""}, 400),
    ],
)
def test_what_cannot_be_meant(internal: Client, path: str, body: object, status: int) -> None:
    """A host that is not known is 404, anything else that makes no sense 400; nothing is changed."""
    admin_post(internal, "hosts/add", {"hostname": "localhost:2"})
    assert admin_post(internal, path, body).status == status


def test_blocked_host(internal: Client) -> None:
    """A blocked host is banned, cannot be added, and is dialled again once unblocked."""
    admin_post(internal, "hosts/add", {"hostname": "localhost:3"})
    assert admin_post(internal, "hosts/block", {"hostname": "localhost:3"}).json["status"] == "banned"
    told = admin_post(internal, "hosts/add", {"hostname": "localhost:3"})
    assert (told.status, told.json["error"]) == (400, "HostBanned")
    assert admin_post(internal, "hosts/unblock", {"hostname": "localhost:3"}).json["status"] == "idle"


def test_reset_cursor(live: LiveRelay, internal: Client) -> None:
    """A host's cursor is given up when an operator says so."""
    admin_post(internal, "hosts/add", {"hostname": "localhost:5"})
    told = admin_post(internal, "hosts/resetCursor", {"hostname": "localhost:5"})
    assert (told.status, told.json) == (200, {"hostname": "localhost:5", "reset": True})
    deadline = time.monotonic() + 20
    while live.relay.store.host("localhost:5").epoch != 2:  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_banned_domain(internal: Client) -> None:
    """A banned domain is listed, and its hosts are banned, until that is lifted."""
    admin_post(internal, "hosts/add", {"hostname": "a.evil.localhost:4"})
    told = admin_post(internal, "domains", {"domain": ".EVIL.localhost"})
    assert told.json == {"domain": "evil.localhost", "banned": True, "hosts": 1}
    listed = internal.request("GET", "/admin/domains", {"Authorization": BEARER}).json
    assert listed == {"domains": ["evil.localhost"]}
    one = internal.request("GET", "/admin/hosts?hostname=a.evil.localhost:4", {"Authorization": BEARER}).json
    assert one["status"] == "banned"
    assert admin_post(internal, "domains", {"domain": "evil.localhost", "banned": False}).status == 200
    assert internal.request("GET", "/admin/domains", {"Authorization": BEARER}).json == {"domains": []}


def test_methods(internal: Client) -> None:
    """The wrong method is 405 with the right one, and an unknown path 404."""
    secret = {"Authorization": BEARER}
    told = internal.request("POST", "/admin/hosts", secret, b"{}")
    assert (told.status, told.headers["allow"]) == (405, "GET, HEAD")
    assert internal.request("GET", "/admin/nothing", secret).status == 404


def test_shutdown_asks_and_answers_first(live: LiveRelay, internal: Client) -> None:
    """POST /admin/shutdown asks for the stop once per call and is answered; GET asks for nothing."""
    secret = {"Authorization": BEARER}
    assert internal.request("GET", "/admin/shutdown", secret).status == 405
    assert live.asked_to_stop == []
    internal.send(request_bytes("POST", "/admin/shutdown", secret, b""))
    told = internal.answer()
    assert (told.status, told.json) == (200, {"stopping": True})
    assert live.asked_to_stop == ["POST /admin/shutdown"]
