"""What pages of other sites may read and cause, at a whole relay."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from tests.live import PASSWORD
from zlay.api.browsers import is_shared, refuse_other_sites
from zlay.api.message import Request, XrpcError

if TYPE_CHECKING:
    from tests.api.support import Client
    from tests.live import LiveRelay

ORIGIN = {"Origin": "https://example.com"}
SYNC = "/xrpc/com.atproto.sync."
BASIC = {"Authorization": "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()}
PUBLIC = (
    "/",
    "/_health",
    "/_healthz",
    "/_readyz",
    "/xrpc/_health",
    *(SYNC + name for name in ("subscribeRepos", "listHosts", "getHostStatus", "listRepos", "getRepoStatus")),
    *(SYNC + name for name in ("getLatestCommit", "getRepo", "requestCrawl")),
)
OPERATORS = ("/metrics", "/_stats", "/_history", "/admin/hosts", "/admin/shutdown", "/admin/%68osts", "/%61dmin/hosts")


@pytest.mark.parametrize("path", PUBLIC)
def test_preflights_of_public_paths(public: Client, internal: Client, path: str) -> None:
    """A page anywhere may ask what is public, on both ports, for a day; the answer depends on nobody's origin (E21)."""
    asked = ORIGIN | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for client in (public, internal):
        told = client.request("OPTIONS", path, asked)
        assert (told.status, told.body) == (204, b"")
        assert told.headers["access-control-allow-origin"] == "*"
        assert told.headers["access-control-allow-methods"] == "GET, HEAD, POST, OPTIONS"
        assert {"authorization", "content-type"} <= {
            name.strip().lower() for name in told.headers["access-control-allow-headers"].split(",")
        }
        assert told.headers["access-control-max-age"] == "86400"
        assert "access-control-allow-credentials" not in told.headers
        assert "origin" not in told.headers.get("vary", "").lower()


@pytest.mark.parametrize("path", PUBLIC)
def test_answers_and_errors_are_open_to_pages(public: Client, internal: Client, path: str) -> None:
    """Each answer of a public path, good or bad, may be read by pages of any site, with Retry-After."""
    for client in (public, internal):
        for method in ("GET", "POST", "DELETE"):
            told = client.request(method, path, ORIGIN, b"" if method == "POST" else None)
            assert told.headers["access-control-allow-origin"] == "*", told
            assert "retry-after" in told.headers["access-control-expose-headers"].lower()
            assert told.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", OPERATORS)
def test_what_is_the_operators_is_closed_to_pages(internal: Client, path: str) -> None:
    """No page may read what is only on the internal port, nor send it a password or JSON: no preflight is granted."""
    preflight = internal.request("OPTIONS", path, ORIGIN | {"Access-Control-Request-Method": "POST"})
    assert preflight.status == 204
    answers = [preflight, *(internal.request("GET", path, more) for more in (ORIGIN, BASIC, {}))]
    for told in answers:
        assert not [name for name in told.headers if name.startswith("access-control-")]


def test_each_route_is_shared_where_it_is_public(live: LiveRelay) -> None:
    """Pages may read the routes of the public port, on both ports, and no other route."""
    paths = {port: {path for _, path in live.relay._router.routes(is_internal=port)} for port in (False, True)}
    for path in paths[True]:
        assert is_shared(path, is_internal=True) == (path in paths[False]), path
    assert all(is_shared(path, is_internal=False) for path in paths[False])


def test_a_page_cannot_use_a_password_that_the_browser_remembers(internal: Client) -> None:
    """A form of another site that stops the relay, sent with the operator's remembered password, is refused."""
    for caused in (ORIGIN, ORIGIN | {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        told = internal.request("POST", "/admin/shutdown", BASIC | caused, b"")
        assert (told.status, told.json["error"]) == (403, "Forbidden")
    assert internal.request("GET", "/admin/hosts", BASIC).status == 200


@pytest.mark.parametrize(
    ("method", "headers", "refused"),
    [
        ("POST", {}, False),  # no browser
        ("POST", {"origin": "http://relay:3001"}, False),
        ("POST", {"origin": "http://RELAY:3001"}, False),
        ("POST", {"origin": "https://relay"}, True),
        ("POST", {"origin": "null"}, True),
        ("POST", {"origin": "http://[relay"}, True),
        ("GET", {"origin": "https://example.com"}, True),
        ("POST", {"origin": "https://behind.proxy", "sec-fetch-site": "same-origin"}, False),
        ("POST", {"origin": "https://example.com", "sec-fetch-site": "cross-site"}, True),
        ("POST", {"origin": "https://other.behind.proxy", "sec-fetch-site": "same-site"}, True),
        ("POST", {"sec-fetch-site": "cross-site"}, True),
        ("GET", {"sec-fetch-site": "none"}, False),  # typed by a person
        ("GET", {"sec-fetch-site": "cross-site"}, False),  # a link that a person followed
    ],
)
def test_requests_that_other_sites_cause(method: str, headers: dict[str, str], refused: bool) -> None:
    """A browser's word on where a request comes from decides; who sends none of its headers is no browser."""
    request = Request(method, "/admin/x", "", {"host": "relay:3001", **headers}, b"", "10.0.0.1", is_internal=True)
    if refused:
        with pytest.raises(XrpcError) as caught:
            refuse_other_sites(request)
        assert caught.value.status == 403
    else:
        refuse_other_sites(request)
