"""One client's HTTP/1.1, without I/O: bytes in, whole requests out; answers in, bytes out.

h11 parses; this module decides what it gets to see, and turns its errors into answers. A head (request line and
headers) is collected here until it is whole, and looked at first for what costs much to parse or what two parsers may
read in two ways; only then an h11 connection is made for the one request. So whoever is idle or sends half a head
costs a few hundred bytes, and a byte of a head a search in the last four.
One request at a time is out for an answer; what a pipelining client sends meanwhile waits here, bounded by the reader
not being read. Belongs to the server's epoll thread.
"""

from __future__ import annotations

import email.utils
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import h11

import zlay.net.h11_tables  # noqa: F401 - for what it does
from zlay import __version__
from zlay.api.browsers import sharing_headers
from zlay.api.message import Request, Response, error_response

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_CHUNKS",
    "MAX_HEADER_BYTES",
    "MAX_HEADER_LINES",
    "MAX_TARGET_BYTES",
    "SERVER_NAME",
    "HttpConnection",
    "Upgrade",
]

MAX_HEADER_BYTES = 16 * 1024  # what common servers allow; a firehose client's headers are under 1 KiB
MAX_HEADER_LINES = 100  # Apache's limit; 16 KiB of shorter lines would take 13 ms to parse
MAX_TARGET_BYTES = 8 * 1024  # RFC 9112 3: at least 8,000
MAX_BODY_BYTES = 64 * 1024  # the largest body of ours is a host name and some numbers
MAX_CHUNKS = 1024  # of a chunked body: 8 us each
MAX_CHUNK_LINE_BYTES = 512  # with its extensions, and of all trailers; nobody sends any
MAX_FRAMED_BYTES = 2 * MAX_BODY_BYTES  # of a chunked body with its framing
NO_CONTENT = 204
SERVER_NAME = f"zlay/{__version__} (atproto-relay)"  # E16: relays find each other by these words

ERRORS = {  # what an error of this layer is called, by its status
    400: "InvalidRequest",
    408: "RequestTimeout",
    413: "PayloadTooLarge",
    414: "UriTooLong",
    431: "HeadersTooLarge",
    501: "NotImplemented",
    505: "HttpVersionNotSupported",
}

_ABSOLUTE = re.compile(r"^https?://[^/?]*", re.IGNORECASE)  # RFC 9112 3.2.2: a server must take the absolute form, too
_HEAD_END = re.compile(rb"\n\r?\n")
_HEAD_END_BYTES = 3
_FOLDED = re.compile(rb"\n[ \t]")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


class _RefusedError(Exception):
    """The client is at fault, and its request cannot be read on."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A request that asks to become a WebSocket; `leftover` = what came after it already."""

    request: Request
    raw_headers: list[tuple[bytes, bytes]]
    target: str
    leftover: bytes


class HttpConnection:
    """The state of one connection. See the module's head."""

    __slots__ = (
        "_address", "_body", "_buffer", "_chunks", "_client_address", "_ended", "_fed_bytes", "_h11", "_head",
        "_is_internal", "_path", "_searched", "keep_alive",
    )  # fmt: skip

    def __init__(
        self, address: str, *, is_internal: bool, client_address: Callable[[str, dict[str, str]], str]
    ) -> None:
        """`client_address(peer, headers)` names the client behind trusted proxies."""
        self._address = address
        self._is_internal = is_internal
        self._client_address = client_address
        self._buffer = bytearray()  # received, and not h11's yet
        self._searched = 0  # bytes of it in which no head ends
        self._ended = False
        self._h11: h11.Connection | None = None  # of the request that is being read or answered
        self._head: h11.Request | None = None
        self._path: str | None = None  # of the request that is out
        self._body = bytearray()
        self._fed_bytes = 0  # to h11 for the body that is being read
        self._chunks = 0
        self.keep_alive = True

    def feed(self, data: bytes) -> None:
        """Takes what the client sent; b"" = it will send no more."""
        self._buffer += data
        self._ended = self._ended or not data

    def next(self) -> Request | Upgrade | Response | None:
        """The next whole request; a Response to be sent before closing when the client is at fault; None = need more.

        Call `answer` before asking for the next one.
        """
        try:
            if self._h11 is None and not self._read_head():
                return None
            return self._read_body()
        except h11.RemoteProtocolError as exc:
            return self.refuse(exc.error_status_hint or 400, "the request is not HTTP/1.1")
        except _RefusedError as exc:
            return self.refuse(exc.status, exc.message)

    def refuse(self, status: int, message: str) -> Response:
        """The answer that ends a connection whose request cannot be read to its end."""
        self.keep_alive = False
        self._buffer.clear()
        self._body.clear()
        return error_response(status, ERRORS[status], message)

    @property
    def in_request(self) -> bool:
        """Whether bytes of a request have come and its end has not."""
        return bool(self._buffer) if self._h11 is None else self._h11.their_state is h11.SEND_BODY

    @property
    def held_bytes(self) -> int:
        """At most so many bytes of requests that are not whole are kept."""
        return len(self._buffer) + self._fed_bytes

    # --- the head ---

    def _read_head(self) -> bool:
        """Makes `_h11` of a whole head; False = more must come. Raises _RefusedError, h11.RemoteProtocolError."""
        while self._buffer.startswith(b"\r\n"):  # RFC 9112 2.2: empty lines before a request mean nothing
            del self._buffer[:2]
            self._searched = 0
        if not self._buffer:
            return False
        found = _HEAD_END.search(self._buffer, max(0, self._searched - _HEAD_END_BYTES))
        end = len(self._buffer) if found is None else found.end()
        _check_size(self._buffer, end)
        if found is None:
            self._searched = end
            if self._ended:
                raise _RefusedError(400, "the request is cut short")
            if (
                self._buffer[0] <= ord(" ") and self._buffer != b"\r"
            ):  # a TLS client, most likely: it will not send the end of a head
                raise _RefusedError(400, "the request is not HTTP/1.1")
            return False
        head = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._searched = 0
        _check_lines(head)
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_CHUNK_LINE_BYTES)
        self._h11.receive_data(head)
        event = self._h11.next_event()
        assert isinstance(event, h11.Request)  # a whole head is one, or an error
        self._head = event
        _check_request(event)
        return True

    # --- the body ---

    def _read_body(self) -> Request | Upgrade | None:
        """The request, when its body is whole. Raises _RefusedError, h11.RemoteProtocolError."""
        assert self._h11 is not None
        while True:
            event = self._h11.next_event()
            if isinstance(event, h11.Data):
                self._body += event.data
                self._chunks += event.chunk_end  # h11 forgets starts that come alone
            elif isinstance(event, h11.EndOfMessage):
                self._buffer[:0] = self._h11.trailing_data[0]
                return self._complete()
            elif self._buffer:
                piece = bytes(self._buffer[:MAX_CHUNK_LINE_BYTES] if self._is_chunked() else self._buffer)
                del self._buffer[: len(piece)]
                self._fed_bytes += len(piece)
                self._h11.receive_data(piece)
            elif self._ended:
                self._h11.receive_data(b"")  # an error, the next time
            else:
                return None
            self._check_body()

    def _is_chunked(self) -> bool:
        """Then h11 sees small pieces: it bounds what is not whole only, and 16 KiB of trailers take it 24 ms."""
        assert self._head is not None
        return any(name == b"transfer-encoding" for name, _ in self._head.headers)

    def _check_body(self) -> None:
        """Chunk extensions and trailers are bounded by `_fed_bytes`: what follows the body in the same piece counts,
        and is less than a piece."""
        if len(self._body) > MAX_BODY_BYTES or self._chunks > MAX_CHUNKS or self._fed_bytes > MAX_FRAMED_BYTES:
            raise _RefusedError(413, "the body is too large")

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
        self._path = _decoded(path) or "/"
        request = Request(
            head.method.decode("latin-1"),
            self._path,
            query,
            headers,
            bytes(self._body),
            self._client_address(self._address, headers),
            self._is_internal,
        )
        self._body.clear()
        self._fed_bytes = self._chunks = 0
        if "upgrade" in headers.get("connection", "").lower() and headers.get("upgrade", "").lower() == "websocket":
            return Upgrade(request, list(head.headers), target, bytes(self._buffer))
        return request

    @property
    def wants_continue(self) -> bool:
        """Whether the client waits for "100 Continue" before it sends a body."""
        return self._h11 is not None and self._h11.they_are_waiting_for_100_continue

    def continue_bytes(self) -> bytes:
        """The interim answer that lets the client send its body."""
        assert self._h11 is not None
        return self._h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b""

    # --- answers ---

    def answer(self, response: Response) -> bytes:
        """The bytes of an answer to the request that is out, or to bytes that were none."""
        if self._h11 is None:
            self._h11 = h11.Connection(h11.SERVER)
        headers = [
            ("Date", email.utils.formatdate(usegmt=True)),
            ("Server", SERVER_NAME),
            ("X-Content-Type-Options", "nosniff"),
            *sharing_headers(self._path, is_internal=self._is_internal),
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
        self._h11 = self._head = self._path = None
        return out


def _check_size(buffer: bytearray, end: int) -> None:
    """What a head, whole or not, must keep to. Raises _RefusedError."""
    line_end = buffer.find(b"\n", 0, end)
    if (end if line_end < 0 else line_end) > MAX_TARGET_BYTES:
        raise _RefusedError(414, "the request line is too long")
    if end > MAX_HEADER_BYTES or (end > MAX_HEADER_LINES and buffer.count(b"\n", 0, end) > MAX_HEADER_LINES + 2):
        raise _RefusedError(431, "the headers are too large")


def _check_lines(head: bytes) -> None:
    """RFC 9112 2.2, 5.2: what one parser takes for a line's end, or for a header of its own, and another does not."""
    if _FOLDED.search(head) or _BARE_LF.search(head):
        raise _RefusedError(400, "the headers have folded lines, or lines that end without CR")


def _check_request(head: h11.Request) -> None:
    """A version and a method that are offered; the body's length said once, and within bounds. Raises _RefusedError."""
    if head.http_version not in (b"1.0", b"1.1"):
        raise _RefusedError(505, "this server speaks HTTP/1.1")
    if head.method == b"CONNECT":
        raise _RefusedError(501, "this server makes no tunnels")
    names = [name for name, _ in head.headers]
    if b"transfer-encoding" in names and (b"content-length" in names or head.http_version == b"1.0"):
        raise _RefusedError(400, "Transfer-Encoding does not go with Content-Length, nor with HTTP/1.0")  # 9112 6.1
    declared = next((int(value) for name, value in head.headers if name == b"content-length"), 0)  # h11: one number
    if declared > MAX_BODY_BYTES:
        raise _RefusedError(413, "the body is too large")


def _decoded(path: str) -> str:
    """A path without percent signs. What a proxy in front may read in another way is none: an encoded slash, control
    characters, bytes that are no UTF-8, half a percent sequence. Raises _RefusedError."""
    if "%" not in path:
        return path
    try:
        text = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if _BAD_PERCENT.search(path) or "%2f" in path.lower() or _CONTROLS.search(text):
        raise _RefusedError(400, "the path cannot be read")
    return text
