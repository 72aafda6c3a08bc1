"""What an operator may see and do. Only on the metrics port, only with the password, closed when there is none."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from zlay.api.message import Request, Response, XrpcError, json_response
from zlay.errors import HostRefused, StateError
from zlay.identity.did import DidError, parse_did

if TYPE_CHECKING:
    from zlay.api.interface import HostView, RelayView

__all__ = ["ADMIN", "authorize"]

CHALLENGE = ("WWW-Authenticate", 'Basic realm="zlay admin", charset="UTF-8"')  # a browser asks for the password then


def authorize(request: Request, password: str | None) -> None:
    """Raises XrpcError unless the request carries the password: as Bearer, or Basic with the user `admin`.

    Takes the same time whatever is wrong with what was sent.
    """
    if password is None:
        raise XrpcError(403, "Forbidden", "admin is closed: RELAY_ADMIN_PASSWORD is not set")
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    given = b""
    if scheme.lower() == "bearer":
        given = value.strip().encode("latin-1")  # the bytes as sent: headers are decoded so
    elif scheme.lower() == "basic":
        try:
            user, _, given = base64.b64decode(value.strip(), validate=True).partition(b":")
        except (binascii.Error, ValueError):
            user = b""
        if not hmac.compare_digest(user, b"admin"):
            given = b""
    if not hmac.compare_digest(given, password.encode()):
        raise XrpcError(401, "AuthenticationRequired", "the admin password is missing or wrong", (CHALLENGE,))


def _host_json(host: HostView) -> dict[str, Any]:
    out = asdict(host)
    out["last_seq"] = host.last_seq or 0
    return out


def hosts(relay: RelayView, request: Request) -> Response:
    """All hosts, or the one named by `hostname`."""
    name = request.parameters().get("hostname")
    if name is not None:
        host = relay.host(name.lower())
        if host is None:
            raise XrpcError(404, "HostNotFound", "this relay does not know the host")
        return json_response(_host_json(host))
    found = relay.hosts()
    return json_response(
        {"hosts": [_host_json(host) for host in found], "active_workers": sum(host.connected for host in found)}
    )


def add_host(relay: RelayView, request: Request) -> Response:
    """Adds a host as requestCrawl does, without its limits per address and day."""
    hostname = request.json_object().get("hostname")
    if not isinstance(hostname, str) or not hostname:
        raise XrpcError(400, "InvalidRequest", "hostname is required")
    try:
        relay.request_crawl(hostname, None)
    except HostRefused as exc:
        raise XrpcError(exc.status, exc.error, str(exc)) from None
    return json_response({"hostname": hostname, "added": True})


def ban_repo(relay: RelayView, request: Request) -> Response:
    """Takes an account down: nothing of its content is served any more, nor passed on."""
    return _takedown(relay, request, down=True)


def unban_repo(relay: RelayView, request: Request) -> Response:
    """Lifts that."""
    return _takedown(relay, request, down=False)


def _takedown(relay: RelayView, request: Request, *, down: bool) -> Response:
    did = request.json_object().get("did")
    if not isinstance(did, str):
        raise XrpcError(400, "InvalidRequest", "did is required")
    try:
        parse_did(did, allow_private=True)
    except DidError as exc:
        raise XrpcError(400, "InvalidRequest", f"did: {exc}") from None
    try:
        after = relay.set_takedown(did, down=down)
    except StateError as exc:
        raise XrpcError(503, "ServiceUnavailable", str(exc)) from None
    if after is None:
        raise XrpcError(404, "RepoNotFound", "this relay does not know the account")
    return json_response({"did": did, "active": after.active, "status": after.status, "seq": after.seq})


def shutdown(relay: RelayView, request: Request) -> Response:
    """The graceful stop that SIGTERM gives."""
    relay.shutdown("POST /admin/shutdown")
    return json_response({"stopping": True})


ADMIN = {
    ("GET", "/admin/hosts"): hosts,
    ("POST", "/admin/hosts/add"): add_host,
    ("POST", "/admin/repo/ban"): ban_repo,
    ("POST", "/admin/repo/unban"): unban_repo,
    ("POST", "/admin/shutdown"): shutdown,
}
