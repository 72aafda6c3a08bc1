"""One client's HTTP/1.1, without I/O: bytes in, whole requests out; answers in, bytes out.

h11 parses; this module bounds what it may keep (headers, body) and turns its errors into answers. One request at a time
is out for an answer; what a pipelining client sends meanwhile waits here, bounded by the reader not being read.
Belongs to the server's epoll thread.
"""

from __future__ import annotations

import email.utils
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

import h11

from zlay import __version__
from zlay.api.message import Request, Response, error_response

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_BODY_BYTES", "MAX_HEADER_BYTES", "HttpConnection", "Upgrade"]

MAX_HEADER_BYTES = 16 * 1024  # what common servers allow; a firehose client's headers are under 1 KiB
MAX_BODY_BYTES = 1024 * 1024  # the largest body of ours is a host name
NO_CONTENT = 204
SERVER_NAME = f"zlay/{__version__} (atproto-relay)"  # E16: relays find each other by these words

_ABSOLUTE = re.compile(r"^https?://[^/?]*", re.IGNORECASE)  # RFC 9112 3.2.2: a server must take the absolute form, too


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A request that asks to become a WebSocket; `leftover` = what came after it already."""

    request: Request
    raw_headers: list[tuple[bytes, bytes]]
    target: str
    leftover: bytes


class HttpConnection:
    """The state of one connection. See the module's head."""

    def __init__(
        self, address: str, *, is_internal: bool, client_address: Callable[[str, dict[str, str]], str]
    ) -> None:
        """`client_address(peer, headers)` names the client behind trusted proxies."""
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._address = address
        self._is_internal = is_internal
        self._client_address = client_address
        self._head: h11.Request | None = None
        self._body = bytearray()
        self.keep_alive = True

    def feed(self, data: bytes) -> None:
        """Takes what the client sent; b"" = it will send no more. Raises h11.RemoteProtocolError."""
        self._h11.receive_data(data)

    def next(self) -> Request | Upgrade | Response | None:
        """The next whole request; a Response to be sent before closing when the client is at fault; None = need more.

        Call `answered` before asking for the next one.
        """
        try:
            return self._next()
        except h11.RemoteProtocolError as exc:
            self.keep_alive = False
            if self._h11.our_state is h11.ERROR:
                return None
            return error_response(exc.error_status_hint or 400, "InvalidRequest", "the request is not HTTP/1.1")

    def _next(self) -> Request | Upgrade | Response | None:
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                return None
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return None
            if isinstance(event, h11.Request):
                self._head = event
                self._body.clear()
                if _declared_bytes(event) > MAX_BODY_BYTES:
                    return self._too_large()
            elif isinstance(event, h11.Data):
                if len(self._body) + len(event.data) > MAX_BODY_BYTES:
                    return self._too_large()
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return self._complete()

    def _too_large(self) -> Response:
        self.keep_alive = False
        return error_response(413, "PayloadTooLarge", "the body is too large")

    @property
    def in_request(self) -> bool:
        """Whether bytes of a request have come and its end has not."""
        if self._h11.their_state is h11.IDLE:
            return bool(self._h11.trailing_data[0])
        return self._h11.their_state is h11.SEND_BODY

    def _complete(self) -> Request | Upgrade:
        assert self._head is not None
        head = self._head
        headers: dict[str, str] = {}
        for raw_name, raw_value in head.headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            # RFC 9110 5.3: lines of one name are one list. A proxy may add its own X-Forwarded-For below the client's.
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        target = head.target.decode("latin-1")
        path, _, query = _ABSOLUTE.sub("", target).partition("?")
        request = Request(
            head.method.decode("latin-1"),
            unquote(path) or "/",
            query,
            headers,
            bytes(self._body),
            self._client_address(self._address, headers),
            self._is_internal,
        )
        if "upgrade" in headers.get("connection", "").lower() and headers.get("upgrade", "").lower() == "websocket":
            return Upgrade(request, list(head.headers), target, bytes(self._h11.trailing_data[0]))
        return request

    @property
    def wants_continue(self) -> bool:
        """Whether the client waits for "100 Continue" before it sends a body."""
        return self._h11.they_are_waiting_for_100_continue

    def continue_bytes(self) -> bytes:
        """The interim answer that lets the client send its body."""
        return self._h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b""

    def answer(self, response: Response) -> bytes:
        """The bytes of an answer to the request that is out, or to bytes that were none."""
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.keep_alive = False
            return b""
        headers = [
            ("Date", email.utils.formatdate(usegmt=True)),
            ("Server", SERVER_NAME),
            ("Access-Control-Allow-Origin", "*"),
            *response.headers,
        ]
        if response.status != NO_CONTENT:  # RFC 9110 8.6: it has no Content-Length
            headers += [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
        if not self.keep_alive:
            headers.append(("Connection", "close"))
        out = self._h11.send(h11.Response(status_code=response.status, headers=headers)) or b""
        if self._head is None or self._head.method != b"HEAD":
            out += self._h11.send(h11.Data(data=response.body)) or b""
        out += self._h11.send(h11.EndOfMessage()) or b""
        if self._h11.our_state is h11.MUST_CLOSE or self._h11.their_state is not h11.DONE:
            self.keep_alive = False
        elif self.keep_alive:
            self._h11.start_next_cycle()
            self._head = None
        return out


def _declared_bytes(head: h11.Request) -> int:
    """Content-Length, which h11 has checked to be one number; 0 = none said."""
    return next((int(value) for name, value in head.headers if name == b"content-length"), 0)
