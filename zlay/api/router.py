"""Which request goes where, on which port, with which method. Any thread; no state but what it was made with."""

from __future__ import annotations

import contextlib
import os
import socket
from math import ceil
from typing import TYPE_CHECKING

from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection
from wsproto.events import Request as WsRequest
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError

from zlay import __version__, logs
from zlay.api import admin, xrpc
from zlay.api.connection import SERVER_NAME
from zlay.api.limits import AddressLimit
from zlay.api.message import Request, Response, XrpcError, error_response, json_response
from zlay.firehose.consumers import TooManyConsumers
from zlay.firehose.cursor import BadCursor, parse_cursor
from zlay.shared import look_up

if TYPE_CHECKING:
    from zlay.api.connection import Upgrade
    from zlay.api.interface import RelayView

__all__ = ["RelayRouter"]

log = logs.get("http")

FIREHOSE = "/xrpc/com.atproto.sync.subscribeRepos"
PROCEDURES_AT_ONCE, PROCEDURE_INTERVAL_S = 60, 5.0  # an operator's hundred PDSes call every 20 min from one address
TEXT = "text/plain; charset=utf-8"
RETRY = ("Retry-After", "30")
METRICS = "text/plain; version=0.0.4; charset=utf-8"
ROOT_TEXT = (
    f"zlay {__version__}: an AT Protocol relay.\n\nThe firehose is at {FIREHOSE}.\n"
    "Most of the XRPC endpoints are under /xrpc/com.atproto.sync.\n"
)


class RelayRouter:
    """Routes for one relay; `password` opens /admin."""

    def __init__(self, relay: RelayView, password: str | None) -> None:
        self._relay = relay
        self._password = password
        self._procedures = AddressLimit(PROCEDURES_AT_ONCE, PROCEDURE_INTERVAL_S)

    def instant(self, request: Request) -> Response | None:
        """Health and what needs no handler: from counters, in the epoll thread."""
        if request.method == "OPTIONS":
            return _preflight()
        reads = request.method in ("GET", "HEAD")
        if request.path in ("/xrpc/_health", "/_health", "/_healthz"):
            if not reads:
                return _not_allowed("GET, HEAD")
            if self._relay.alive():
                return json_response({"version": __version__, "status": "ok"})
            return json_response({"version": __version__, "status": "failing"}, 503)
        if request.path == "/_readyz" and reads:
            reasons = self._relay.readiness()
            return json_response({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)
        return None

    def handle(self, request: Request) -> Response:
        """Everything else. Raises XrpcError."""
        path, method = request.path, request.method
        self._refuse_while_starting()
        if path.startswith("/xrpc/"):
            return self._xrpc(request, path.removeprefix("/xrpc/"))
        if request.is_internal:
            found = self._internal(request)
            if found is not None:
                return found
        if path == "/" and method in ("GET", "HEAD"):
            return Response(200, ROOT_TEXT.encode(), TEXT)
        return error_response(404, "NotFound", "no such page")

    def _refuse_while_starting(self) -> None:
        if not self._relay.is_open:
            raise XrpcError(503, "ServiceUnavailable", "the relay is starting", (("Retry-After", "5"),))

    def _xrpc(self, request: Request, nsid: str) -> Response:
        if nsid in xrpc.QUERIES:
            if request.method not in ("GET", "HEAD"):
                return _not_allowed("GET, HEAD")
            return xrpc.QUERIES[nsid](self._relay, request)
        if nsid in xrpc.PROCEDURES:
            if request.method != "POST":
                return _not_allowed("POST")
            self._admit_procedure(request)
            return xrpc.PROCEDURES[nsid](self._relay, request)
        if request.path == FIREHOSE:
            if request.method != "GET":
                return _not_allowed("GET")
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

    def _internal(self, request: Request) -> Response | None:
        path, method = request.path, request.method
        if path.startswith("/admin/"):
            admin.authorize(request, self._password)
            handler = look_up(admin.ADMIN, (method, path))
            if handler is not None:
                return handler(self._relay, request)
            allowed = [m for m, p in admin.ADMIN if p == path]
            return _not_allowed(", ".join(allowed)) if allowed else None
        if method in ("GET", "HEAD"):
            if path == "/metrics":
                return Response(200, self._relay.metrics(), METRICS)
            if path == "/_stats":
                return json_response(self._relay.stats())
        return None

    def subscribe(self, upgrade: Upgrade, sock: socket.socket) -> Response | None:
        """A1, A2: the upgrade's answer, then the socket goes to its consumer."""
        request = upgrade.request
        self._refuse_while_starting()
        if request.path != FIREHOSE:
            return error_response(404, "NotFound", "no WebSocket here")
        if request.method != "GET":
            return _not_allowed("GET")
        answer = _accept(upgrade)
        try:
            cursor = parse_cursor(request.query)
            self._relay.consumers.admit(request.address)
        except BadCursor as exc:
            raise XrpcError(400, "BadRequest", str(exc)) from None
        except TooManyConsumers as exc:
            raise XrpcError(429, "RateLimitExceeded", str(exc), (RETRY,)) from None
        if not _send_whole(sock, answer):
            self._relay.consumers.release(request.address)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # half an answer cannot be followed by another one
            raise XrpcError(400, "InvalidRequest", "the client does not read")
        fd = sock.detach()
        try:
            self._relay.consumers.accept(fd, request.address, cursor, upgrade.leftover)
        except (OSError, RuntimeError) as exc:
            self._relay.consumers.release(request.address)
            os.close(fd)
            log.warn_rate("accept", "a consumer could not be served", error=str(exc))
        return None


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


def _not_allowed(allowed: str) -> Response:
    return error_response(405, "MethodNotAllowed", f"allowed: {allowed}", (("Allow", allowed),))


def _preflight() -> Response:
    """CORS: any origin may read (E21)."""
    headers = (
        ("Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS"),
        ("Access-Control-Allow-Headers", "Authorization, Content-Type, atproto-accept-labelers, atproto-proxy"),
        ("Access-Control-Max-Age", "86400"),
    )
    return Response(204, headers=headers)
