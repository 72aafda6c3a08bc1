"""What an operator may see and do. Only on the metrics port, only with the password, closed when there is none."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from zlay.api import figures
from zlay.api.arguments import account, fields_of, known_host, required, text_field
from zlay.api.message import Request, Response, XrpcError, json_response
from zlay.errors import HostRefused, StateError
from zlay.hosts.limits import MOST as MOST_LIMIT
from zlay.hosts.limits import Given
from zlay.hosts.names import normalise_domain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zlay.api.interface import HostView, RelayView

__all__ = ["ADMIN", "authorize"]

MOST_THROTTLED = 20
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


def _named(relay: RelayView, body: dict[str, Any]) -> str:
    """The name, as the registry has it, of the known host that a body names. Raises XrpcError."""
    return known_host(relay, text_field(body, "hostname")).hostname


@contextlib.contextmanager
def _durably() -> Iterator[None]:
    """What is done must be in the database: 503 where it is not certain to be."""
    try:
        yield
    except StateError as exc:
        raise XrpcError(503, "ServiceUnavailable", str(exc)) from None


def hosts(relay: RelayView, request: Request) -> Response:
    """All hosts, or the one named by `hostname`."""
    parameters = request.parameters("hostname")
    if parameters:
        return json_response(_host_json(known_host(relay, required(parameters, "hostname"))))
    found = relay.hosts()
    slowest = sorted((host for host in found if host.throttled_s), key=lambda host: -host.throttled_s)
    return json_response(
        {
            "hosts": [_host_json(host) for host in found],
            "active_workers": sum(host.connected for host in found),
            "most_throttled": [
                {"hostname": host.hostname, "throttled_s": host.throttled_s, "throttled": host.throttled}
                for host in slowest[:MOST_THROTTLED]
            ],
        }
    )


def _answer(host: HostView | None) -> Response:
    if host is None:
        raise XrpcError(404, "HostNotFound", "this relay does not know the host")
    return json_response(_host_json(host))


def change_limits(relay: RelayView, request: Request) -> Response:
    """Gives a host limits of its own: what is named is changed, null = by tier again, the rest stays."""
    limits = [item.name for item in fields(Given)]
    body = fields_of(request, "hostname", "account_limit", *limits)
    host = known_host(relay, text_field(body, "hostname"))
    del body["hostname"]
    if not body:
        raise XrpcError(400, "InvalidRequest", f"one or more of account_limit, {', '.join(limits)}")
    account_limit = body.pop("account_limit", host.account_limit)
    if account_limit is not None and (type(account_limit) is not int or not 0 <= account_limit <= MOST_LIMIT):
        raise XrpcError(400, "InvalidRequest", "account_limit: a whole number, or null = by tier")
    given = Given(**{**host.limits_given, **body})
    try:
        with _durably():
            return _answer(relay.change_limits(host.hostname, given, account_limit))
    except ValueError as exc:
        raise XrpcError(400, "InvalidRequest", str(exc)) from None


def reset_cursor(relay: RelayView, request: Request) -> Response:
    """Gives a host's cursor up: its stream ends, and it is dialled live."""
    name = _named(relay, fields_of(request, "hostname"))
    with _durably():
        relay.reset_cursor(name)
    return json_response({"hostname": name, "reset": True})


def block_host(relay: RelayView, request: Request) -> Response:
    """Bans a host: its connection ends, it is dialled no more, what it has in flight is dropped."""
    return _ban(relay, request, banned=True)


def unblock_host(relay: RelayView, request: Request) -> Response:
    """Lifts that."""
    return _ban(relay, request, banned=False)


def _ban(relay: RelayView, request: Request, *, banned: bool) -> Response:
    name = _named(relay, fields_of(request, "hostname"))
    with _durably():
        return _answer(relay.ban_host(name, banned=banned))


def domains(relay: RelayView, request: Request) -> Response:
    """The banned domains."""
    request.parameters()
    return json_response({"domains": relay.domain_bans()})


def ban_domain(relay: RelayView, request: Request) -> Response:
    """`{"domain", "banned"}`: bans a domain with every host under it, or lifts that."""
    body = fields_of(request, "domain", "banned")
    banned = body.get("banned", True)
    if not isinstance(banned, bool):
        raise XrpcError(400, "InvalidRequest", "banned is true or false")
    try:
        domain = normalise_domain(text_field(body, "domain"))
    except HostRefused as exc:
        raise XrpcError(400, "InvalidRequest", str(exc)) from None
    with _durably():
        concerned = relay.ban_domain(domain, banned=banned)
    return json_response({"domain": domain, "banned": banned, "hosts": concerned})


def add_host(relay: RelayView, request: Request) -> Response:
    """Adds a host as requestCrawl does, without its limits per address and day."""
    hostname = text_field(fields_of(request, "hostname"), "hostname")
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
    did = account(text_field(fields_of(request, "did"), "did"))
    with _durably():
        after = relay.set_takedown(did, down=down)
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
    ("POST", "/admin/hosts/block"): block_host,
    ("POST", "/admin/hosts/unblock"): unblock_host,
    ("POST", "/admin/hosts/changeLimits"): change_limits,
    ("POST", "/admin/hosts/resetCursor"): reset_cursor,
    ("GET", "/admin/domains"): domains,
    ("POST", "/admin/domains"): ban_domain,
    ("POST", "/admin/repo/ban"): ban_repo,
    ("POST", "/admin/repo/unban"): unban_repo,
    ("GET", "/admin/consumers"): figures.consumers,
    ("POST", "/admin/consumers/disconnect"): figures.disconnect,
    ("GET", "/admin/memory"): figures.memory,
    ("GET", "/admin/leaks"): figures.leaks,
    ("POST", "/admin/shutdown"): shutdown,
}
