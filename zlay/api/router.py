"""Which request goes where, on which port, with which method. Any thread; no state but what it was made with."""

from __future__ import annotations

import contextlib
import os
import socket
from importlib.resources import files
from math import ceil
from typing import TYPE_CHECKING

from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection
from wsproto.events import Request as WsRequest
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError

from zlay import __version__, logs
from zlay.api import admin, xrpc
from zlay.api.browsers import preflight, refuse_other_sites
from zlay.api.connection import SERVER_NAME
from zlay.api.limits import AddressLimit
from zlay.api.message import Request, Response, XrpcError, error_response, json_response
from zlay.api.page import status_page
from zlay.firehose.consumers import TooManyConsumers
from zlay.firehose.cursor import BadCursor, parse_cursor
from zlay.shared import look_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zlay.api.connection import Upgrade
    from zlay.api.interface import RelayView

__all__ = ["RelayRouter"]

log = logs.get("http")

XRPC, ADMIN = "/xrpc/", "/admin/"
FIREHOSE = XRPC + "com.atproto.sync.subscribeRepos"
HEALTH = (XRPC + "_health", "/_health", "/_healthz")
READS = ("GET", "HEAD")
PROCEDURES_AT_ONCE, PROCEDURE_INTERVAL_S = 60, 5.0  # an operator's hundred PDSes call every 20 min from one address
TEXT = "text/plain; charset=utf-8"
RETRY = ("Retry-After", "30")
METRICS = "text/plain; version=0.0.4; charset=utf-8"
OPENAPI = files("zlay.api").joinpath("openapi.json").read_bytes()  # docs/openapi.json is a link to it
ROOT_TEXT = (
    f"zlay {__version__}: an AT Protocol relay.\n\nThe firehose is at {FIREHOSE}.\n"
    "Most of the XRPC endpoints are under /xrpc/com.atproto.sync. All of them are described at /openapi.json.\n"
)


class RelayRouter:
    """Routes for one relay; `password` opens /admin."""

    def __init__(self, relay: RelayView, password: str | None) -> None:
        self._relay = relay
        self._password = password
        self._procedures = AddressLimit(PROCEDURES_AT_ONCE, PROCEDURE_INTERVAL_S)
        self._instant: Mapping[str, Callable[[], Response]] = {
            **dict.fromkeys(HEALTH, self._health),
            "/_readyz": self._readiness,
        }
        self._pages: Mapping[str, Callable[[], Response]] = {"/": _root, "/openapi.json": _description}
        self._figures: Mapping[str, Callable[[], Response]] = {
            "/metrics": self._metrics,
            "/_stats": self._stats,
            "/_history": self._history,
        }
        self._paths = frozenset(path for _, path in self.routes(is_internal=True))

    def routes(self, *, is_internal: bool) -> set[tuple[str, str]]:
        """(method, path) of all that one port offers, but for HEAD, which goes with each GET, and OPTIONS."""
        pages = {*self._instant, *self._pages, *(self._figures if is_internal else ())}
        return {
            ("GET", FIREHOSE),
            *(("GET", path) for path in pages),
            *(("GET", XRPC + nsid) for nsid in xrpc.QUERIES),
            *(("POST", XRPC + nsid) for nsid in xrpc.PROCEDURES),
            *(admin.ADMIN if is_internal else ()),
        }

    def instant(self, request: Request) -> Response | None:
        """Health and what needs no handler: from counters, in the epoll thread."""
        if request.method == "OPTIONS":
            return preflight(request)
        page = look_up(self._instant, request.path)
        return None if page is None else _page(page, request)

    def route(self, path: str) -> str:
        """The path, where it is one of this relay's."""
        return path if path in self._paths else "other"

    def handle(self, request: Request) -> Response:
        """Everything else. Raises XrpcError."""
        path = request.path
        if path == "/" and request.is_internal:  # says itself that the relay is starting
            return _page(status_page, request)
        self._refuse_while_starting()
        if path.startswith(XRPC):
            return self._xrpc(request, path.removeprefix(XRPC))
        if path.startswith(ADMIN) and request.is_internal:
            return self._admin(request)
        page = look_up(self._figures, path) if request.is_internal else None
        if page is None:
            page = look_up(self._pages, path)
        return error_response(404, "NotFound", "no such page") if page is None else _page(page, request)

    def _refuse_while_starting(self) -> None:
        if not self._relay.is_open:
            raise XrpcError(503, "ServiceUnavailable", "the relay is starting", (("Retry-After", "5"),))

    def _health(self) -> Response:
        if self._relay.alive():
            return json_response({"version": __version__, "status": "ok"})
        return json_response({"version": __version__, "status": "failing"}, 503)

    def _readiness(self) -> Response:
        reasons = self._relay.readiness()
        return json_response({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    def _metrics(self) -> Response:
        return Response(200, self._relay.metrics(), METRICS)

    def _stats(self) -> Response:
        return json_response(self._relay.stats())

    def _history(self) -> Response:
        return json_response(self._relay.history())

    def _xrpc(self, request: Request, nsid: str) -> Response:
        if nsid in xrpc.QUERIES:
            if request.method not in READS:
                return _not_allowed("GET")
            return xrpc.QUERIES[nsid](self._relay, request)
        if nsid in xrpc.PROCEDURES:
            if request.method != "POST":
                return _not_allowed("POST")
            self._admit_procedure(request)
            return xrpc.PROCEDURES[nsid](self._relay, request)
        if request.path == FIREHOSE:
            if request.method not in READS:
                return _not_allowed("GET")
            _cursor(request)
            return error_response(426, "UpgradeRequired", "this endpoint speaks WebSocket", _UPGRADE)
        return error_response(501, "MethodNotImplemented", "this relay does not offer the method")

    def _admit_procedure(self, request: Request) -> None:
        """Procedures make us ask strangers' hosts: so often for each address. Raises XrpcError."""
        if request.is_internal:
            return
        wait_s = self._procedures.take(request.address)
        if wait_s > 0:
            raise XrpcError(
                429, "RateLimitExceeded", "too many requests from this address", (("Retry-After", str(ceil(wait_s))),)
            )

    def _admin(self, request: Request) -> Response:
        """The password first: who has none learns nothing of what is there."""
        refuse_other_sites(request)
        admin.authorize(request, self._password)
        method = "GET" if request.method == "HEAD" else request.method
        handler = look_up(admin.ADMIN, (method, request.path))
        if handler is not None:
            return handler(self._relay, request)
        allowed = [method for method, path in admin.ADMIN if path == request.path]
        return _not_allowed(*allowed) if allowed else error_response(404, "NotFound", "no such page")

    def subscribe(self, upgrade: Upgrade, sock: socket.socket) -> Response | None:
        """A1, A2: the upgrade's answer, then the socket goes to its consumer."""
        request = upgrade.request
        self._refuse_while_starting()
        if request.path != FIREHOSE:
            return error_response(404, "NotFound", "no WebSocket here")
        if request.method != "GET":
            return _not_allowed("GET")
        answer = _accept(upgrade)
        cursor = _cursor(request)
        try:
            self._relay.consumers.admit(request.address)
        except TooManyConsumers as exc:
            raise XrpcError(429, "RateLimitExceeded", str(exc), (RETRY,)) from None
        if not _send_whole(sock, answer):
            self._relay.consumers.release(request.address)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # half an answer cannot be followed by another one
            raise XrpcError(400, "InvalidRequest", "the client does not read")
        fd = sock.detach()
        try:
            self._relay.consumers.accept(
                fd,
                request.address,
                cursor,
                upgrade.leftover,
                user_agent=look_up(request.headers, "user-agent"),
            )
        except (OSError, RuntimeError) as exc:
            self._relay.consumers.release(request.address)
            os.close(fd)
            log.warn_rate("accept", "a consumer could not be served", error=str(exc))
        return None


def _cursor(request: Request) -> int | None:
    try:
        return parse_cursor(request.query)
    except BadCursor as exc:
        raise XrpcError(400, "BadRequest", str(exc)) from None


def _send_whole(sock: socket.socket, data: bytes) -> bool:
    """A fresh socket's buffer takes 200 bytes at once, or the peer is gone or plays games."""
    try:
        return sock.send(data) == len(data)
    except OSError:
        return False


def _accept(upgrade: Upgrade) -> bytes:
    """The answer that completes a WebSocket upgrade. Raises XrpcError for a handshake that is none."""
    handshake = H11Handshake(ConnectionType.SERVER)
    try:
        handshake.initiate_upgrade_connection(upgrade.raw_headers, upgrade.target)
        asked = next(handshake.events())
        if not isinstance(asked, WsRequest):
            raise RemoteProtocolError("the upgrade is refused")
        server = [(b"server", SERVER_NAME.encode())]
        return handshake.send(AcceptConnection(extra_headers=server))
    except (RemoteProtocolError, StopIteration) as exc:
        raise XrpcError(400, "InvalidRequest", f"not a WebSocket upgrade: {exc}") from None


_UPGRADE = (("Upgrade", "websocket"), ("Connection", "Upgrade"))


def _page(answer: Callable[[], Response], request: Request) -> Response:
    return answer() if request.method in READS else _not_allowed("GET")


def _root() -> Response:
    return Response(200, ROOT_TEXT.encode(), TEXT)


def _description() -> Response:
    return Response(200, OPENAPI)


def _not_allowed(*methods: str) -> Response:
    """405 with what is: HEAD goes with GET."""
    allowed = ", ".join("GET, HEAD" if method == "GET" else method for method in methods)
    return error_response(405, "MethodNotAllowed", f"allowed: {allowed}", (("Allow", allowed),))
