"""The little of HTTP/1.1 that the simulation serves: whole requests in, whole responses out. No I/O.

Assumes: peers are the relay under test and test programs, so a request that cannot be read simply ends the connection.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

__all__ = ["BadRequest", "Request", "Response", "parse", "reply"]

MAX_HEAD = 16_384  # bytes of request line and headers
MAX_BODY = 1_000_000

_REASONS = {
    200: "OK",
    302: "Found",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    426: "Upgrade Required",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}


class BadRequest(Exception):
    """Not HTTP, or more of it than is taken."""


@dataclass(slots=True)
class Request:
    """One request; header names are lower case. `size`: bytes it took of the connection's input."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    size: int

    @property
    def upgrade(self) -> bool:
        """Whether this asks for a WebSocket."""
        return self.headers.get("upgrade", "").lower() == "websocket"


@dataclass(slots=True)
class Response:
    """One answer. delay_s holds it back; hang_up closes the connection without any answer."""

    status: int
    body: bytes
    content_type: str = "application/json"
    delay_s: float = 0.0
    hang_up: bool = False


def parse(data: bytes) -> Request | None:
    """The first request in data; None if it is not complete. Raises BadRequest."""
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        if len(data) > MAX_HEAD:
            raise BadRequest("head too long")
        return None
    lines = data[:head_end].decode("latin-1").split("\r\n")
    try:
        method, target, _ = lines[0].split(" ")
        headers = {}
        for line in lines[1:]:
            name, value = line.split(":", 1)
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
    except ValueError:
        raise BadRequest("not HTTP") from None
    if not 0 <= length <= MAX_BODY:
        raise BadRequest("body too long")
    start = head_end + 4
    if len(data) < start + length:
        return None
    url = urlsplit(target)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    return Request(method, url.path, query, headers, data[start : start + length], start + length)


def reply(response: Response) -> bytes:
    """The bytes of a response on a connection that stays open."""
    head = (
        f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Other')}\r\n"
        f"Content-Type: {response.content_type}\r\nContent-Length: {len(response.body)}\r\n\r\n"
    )
    return head.encode("ascii") + response.body


def json_response(value: object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(status, json.dumps(value).encode())


def error_response(status: int, name: str, message: str) -> Response:
    """An XRPC error (E21)."""
    return json_response({"error": name, "message": message}, status)
