"""A small HTTP/1.1 client on h11: GET and POST, JSON, nothing else.

Promises: an answer or an HttpFault within the time given, and soon once a stop has begun (the system's resolver alone
may take longer, and then holds up this thread only); never more than `max_body_bytes` of body in memory; no redirect is
followed; no address is dialled that `allow_address` refuses, whatever the name resolves to (E17). Connections are kept
open between requests, a few.

Assumes hostile servers: a body without end, a byte a minute, headers without end, lies about lengths.

Threads: an HttpClient belongs to one thread, so no socket and no SSL object is ever shared. The SSLContext may be
shared by clients, as it is only read.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import ssl
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import h11

import zlay.net.h11_tables  # noqa: F401 - for what it does
from zlay import shared
from zlay.errors import HttpFault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["FAULT_KINDS", "USER_AGENT", "HttpClient", "HttpResponse", "split_url", "tls_context"]

FAULT_KINDS = (
    "url", "dns", "address", "connect", "tls", "timeout", "closed", "protocol", "too_large", "json", "stopped"
)  # fmt: skip

USER_AGENT = "zlay (atproto-relay)"  # E16: peers recognise a relay by this

MAX_HEAD_BYTES = 16 * 1024  # status line and headers; no server we ask has reason for more
MAX_IDLE_CONNECTIONS = 4  # per client: a directory or two, and the host asked last
IDLE_LIMIT_S = 30.0  # servers close idle connections after 5 to 75 s; ours go before most of theirs do
CONNECT_TIMEOUT_S = 5.0  # protocol.md E18
ADDRESSES_TRIED = 3  # of those a name resolves to
RECV_BYTES = 64 * 1024
STOP_LOOK_S = 0.25  # how soon who waits for a peer sees that it is to stop

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A complete answer. Header names are in lower case; of a repeated header the last one counts."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> object:
        """The body as JSON; HttpFault("json") when it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as exc:
            raise HttpFault("json", "the answer is not JSON") from exc


def split_url(url: str) -> tuple[str, str, int, str]:
    """(scheme, host, port, target) of an http or https URL; HttpFault("url") for anything else."""
    try:
        parts = shared.split_url(url)
        port = parts.port
    except ValueError as exc:
        raise HttpFault("url", f"not a URL: {url!r}") from exc
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.username is not None:
        raise HttpFault("url", f"not an http or https URL: {url!r}")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme], target


@cache
def tls_context() -> ssl.SSLContext:
    """The context for asking public servers: system's roots, host names checked, TLS 1.2 or newer. Any thread.

    It trusts whom `zlay._fast.tls` trusts for streams: SSL_CERT_FILE and SSL_CERT_DIR count, and certificates that only
    the strictest reading of RFC 5280 refuses pass, for a host that can be streamed from must also be asked.
    """
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class HttpClient:
    """Asks servers, one request at a time. One thread."""

    def __init__(
        self,
        *,
        allow_address: Callable[[str], bool],
        keep_alive: bool = True,
        context: ssl.SSLContext | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """`allow_address` judges each resolved address; `context` None = `tls_context()`. Once `stop` is set nobody is
        waited for any more: HttpFault("stopped")."""
        self._stop = stop or threading.Event()
        self._allow_address = allow_address
        self._keep_alive = keep_alive
        self._context = context
        self._idle: OrderedDict[tuple[str, str, int], _Connection] = OrderedDict()
        self.connects = 0

    def get(
        self,
        url: str,
        *,
        timeout_s: float,
        max_body_bytes: int,
        accept: str = "application/json",
        headers: Sequence[tuple[str, str]] = (),
    ) -> HttpResponse:
        """The answer to GET `url`, whatever its status, within `timeout_s`. Raises HttpFault."""
        origin, request = self._request("GET", url, [("Accept", accept), *headers])
        deadline = time.monotonic() + timeout_s
        connection = self._take_idle(origin)
        if connection is not None:
            try:
                return self._exchange(origin, connection, request, b"", deadline, max_body_bytes)
            except HttpFault as fault:
                # The server may close an idle connection just when we use it: a GET may be asked again (RFC 9112 9.5).
                if fault.kind != "closed" or connection.answered:
                    raise
        return self._exchange(origin, self._connect(origin, deadline), request, b"", deadline, max_body_bytes)

    def post(
        self,
        url: str,
        body: bytes,
        *,
        timeout_s: float,
        max_body_bytes: int,
        headers: Sequence[tuple[str, str]] = (),
    ) -> HttpResponse:
        """The answer to a POST of JSON, whatever its status, within `timeout_s`. Raises HttpFault.

        On a connection of its own, since it must not be sent twice.
        """
        length = str(len(body))
        said = [
            ("Accept", "application/json"),
            ("Content-Type", "application/json"),
            ("Content-Length", length),
            *headers,
        ]
        origin, request = self._request("POST", url, said)
        deadline = time.monotonic() + timeout_s
        return self._exchange(origin, self._connect(origin, deadline), request, body, deadline, max_body_bytes)

    def close(self) -> None:
        """Closes the connections kept open; the client can be used again."""
        while self._idle:
            self._idle.popitem()[1].close()

    def _request(
        self, method: str, url: str, headers: Sequence[tuple[str, str]]
    ) -> tuple[tuple[str, str, int], h11.Request]:
        """Whom to ask, and what."""
        scheme, host, port, target = split_url(url)
        name = f"[{host}]" if ":" in host else host
        authority = name if port == _DEFAULT_PORTS[scheme] else f"{name}:{port}"
        said = [("User-Agent", USER_AGENT), ("Accept-Encoding", "identity"), *headers]
        if not self._keep_alive:
            said.append(("Connection", "close"))
        try:
            lines = [(b"Host", authority.encode("ascii")), *((name.encode(), value.encode()) for name, value in said)]
            return (scheme, host, port), h11.Request(method=method, target=target, headers=lines)
        except (h11.LocalProtocolError, UnicodeEncodeError) as exc:
            raise HttpFault("url", f"not a URL for a request: {target!r}") from exc

    def _take_idle(self, origin: tuple[str, str, int]) -> _Connection | None:
        connection = self._idle.pop(origin, None)
        if connection is not None and time.monotonic() - connection.idle_since_s > IDLE_LIMIT_S:
            connection.close()
            return None
        return connection

    def _connect(self, origin: tuple[str, str, int], deadline: float) -> _Connection:
        scheme, host, port = origin
        until = min(deadline, time.monotonic() + CONNECT_TIMEOUT_S)
        raw = _dial(_addresses(host, port, self._allow_address), until, self._stop)
        self.connects += 1
        if scheme == "http":
            return _Connection(raw, self._stop)
        try:
            raw.settimeout(_left_s(deadline))
            return _Connection((self._context or tls_context()).wrap_socket(raw, server_hostname=host), self._stop)
        except TimeoutError as exc:
            raw.close()
            raise HttpFault("timeout", f"TLS with {host} takes too long") from exc
        except OSError as exc:  # ssl.SSLError is one
            raw.close()
            raise HttpFault("tls", f"TLS with {host}: {exc}") from exc
        except ValueError as exc:  # a name that cannot stand in a certificate
            raw.close()
            raise HttpFault("tls", f"TLS with {host}: {exc}") from exc
        except HttpFault:
            raw.close()
            raise

    def _exchange(
        self,
        origin: tuple[str, str, int],
        connection: _Connection,
        request: h11.Request,
        body: bytes,
        deadline: float,
        max_body_bytes: int,
    ) -> HttpResponse:
        reusable = False
        try:
            response = connection.ask(request, body, deadline, max_body_bytes)
            reusable = self._keep_alive and connection.start_next()
        except TimeoutError as exc:
            raise HttpFault("timeout", f"{origin[1]} does not answer in time") from exc
        except OSError as exc:
            raise HttpFault("closed", f"{origin[1]} closed the connection: {exc}") from exc
        except h11.RemoteProtocolError as exc:
            raise HttpFault("protocol", f"{origin[1]} does not speak HTTP: {exc}") from exc
        finally:
            if not reusable:
                connection.close()
        if reusable:
            self._keep(origin, connection)
        return response

    def _keep(self, origin: tuple[str, str, int], connection: _Connection) -> None:
        connection.idle_since_s = time.monotonic()
        self._idle[origin] = connection
        while len(self._idle) > MAX_IDLE_CONNECTIONS:
            self._idle.popitem(last=False)[1].close()


class _Connection:
    """One open connection and its h11 state. Owner: the client, which closes it."""

    def __init__(self, sock: socket.socket, stop: threading.Event) -> None:
        self._sock = sock
        self._stop = stop
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self.answered = False  # a byte of the present answer has come
        self.idle_since_s = 0.0

    def close(self) -> None:
        self._sock.close()

    def start_next(self) -> bool:
        """Ready for another request? Then forgets the last."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        if self._http.trailing_data[0]:  # said unasked: it would be taken for the answer to the next question
            return False
        self._http.start_next_cycle()
        return True

    def ask(self, request: h11.Request, content: bytes, deadline: float, max_body_bytes: int) -> HttpResponse:
        """Raises TimeoutError, OSError, h11.RemoteProtocolError or HttpFault."""
        self.answered = False
        self._sock.settimeout(_left_s(deadline))
        said: list[h11.Event] = [request, *([h11.Data(data=content)] if content else []), h11.EndOfMessage()]
        self._sock.sendall(b"".join(self._http.send(event) or b"" for event in said))
        head: h11.Response | None = None
        body = bytearray()
        while True:
            event = self._next_event(deadline)
            if isinstance(event, h11.Response):
                head = event
                _refuse_large(head, max_body_bytes)
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > max_body_bytes:
                    raise HttpFault("too_large", f"the answer is larger than {max_body_bytes} bytes")
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
                return HttpResponse(head.status_code, headers, bytes(body))
            elif isinstance(event, h11.ConnectionClosed):
                raise OSError("before the end of its answer")

    def _next_event(self, deadline: float) -> h11.Event:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.InformationalResponse):
                continue
            if event is h11.PAUSED:
                raise HttpFault("protocol", "the server changes the protocol")
            if event is not h11.NEED_DATA:
                assert isinstance(event, h11.Event)
                return event
            data = self._receive(deadline)
            if not data and not self.answered:
                raise OSError("without an answer")
            self.answered = self.answered or bool(data)
            self._http.receive_data(data)

    def _receive(self, deadline: float) -> bytes:
        while True:
            self._sock.settimeout(min(_left_s(deadline), STOP_LOOK_S))
            try:
                return self._sock.recv(RECV_BYTES)
            except TimeoutError:
                _refuse_stopped(self._stop)


def _refuse_stopped(stop: threading.Event) -> None:
    if stop.is_set():
        raise HttpFault("stopped", "given up: a stop has begun")


def _refuse_large(head: h11.Response, max_body_bytes: int) -> None:
    for name, value in head.headers:
        if name == b"content-length" and int(value) > max_body_bytes:  # h11 has checked that it is a number
            raise HttpFault("too_large", f"the answer is larger than {max_body_bytes} bytes")


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise HttpFault("timeout", "no time left")
    return left_s


def _addresses(
    host: str, port: int, allow: Callable[[str], bool]
) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """Addresses of `host` that may be dialled, in the system's order."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise HttpFault("dns", f"{host} does not resolve: {exc}") from exc
    allowed = [(family, (str(at[0]), port)) for family, _, _, _, at in found if allow(str(at[0]))]
    if not allowed:
        raise HttpFault("address", f"{host} has no address that may be dialled")
    return allowed


def _dial(
    addresses: list[tuple[socket.AddressFamily, tuple[str, int]]], until: float, stop: threading.Event
) -> socket.socket:
    failure: OSError = TimeoutError("no time left")
    tried = addresses[:ADDRESSES_TRIED]
    for number, (family, address) in enumerate(tried):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as exc:  # a family that this machine does not have, or no descriptor
            failure = exc
            continue
        try:
            # One dead address must leave time for the others.
            _connect(sock, address, time.monotonic() + _left_s(until) / (len(tried) - number), stop)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as exc:
            sock.close()
            failure = exc
        except HttpFault:
            sock.close()
            raise
    kind = "timeout" if isinstance(failure, TimeoutError) else "connect"
    raise HttpFault(kind, f"cannot connect: {failure}") from failure


def _connect(sock: socket.socket, address: tuple[str, int], until: float, stop: threading.Event) -> None:
    """Raises TimeoutError and other OSErrors, HttpFault."""
    sock.setblocking(False)
    code = sock.connect_ex(address)
    if code not in (0, errno.EINPROGRESS):
        raise OSError(code, os.strerror(code))
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while not poll.poll(1000 * min(STOP_LOOK_S, max(0.0, until - time.monotonic()))):
        _refuse_stopped(stop)
        if time.monotonic() >= until:
            raise TimeoutError("no connection in time")
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
