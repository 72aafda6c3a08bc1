"""One subscription to a firehose as a client: connect, TLS, upgrade, then messages as they come.

Promises: whole binary messages only; a server that is silent is pinged, and given up when it stays so; no byte of it is
trusted. The upgrade and the cutting of frames are those that the relay reads its hosts with. One thread per Stream.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import time
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from zlay import __version__
from zlay._fast import ws
from zlay.errors import ConfigError, RemoteFault
from zlay.hosts.upgrade import PATH, DialFailed, Upgrade
from zlay.net.http_client import tls_context

__all__ = ["Refused", "Stream", "StreamBroken", "StreamEnded", "Target", "parse_target"]

MAX_MESSAGE = 5_000_000  # A8
CONNECT_S = 10.0
UPGRADE_S = 10.0
PING_AFTER_S = 30.0  # of silence (A9)
GIVE_UP_S = 75.0
RECEIVE_BYTES = 1 << 20
PING, PONG = 9, 10
NORMAL = 1000
USER_AGENT = f"zlay-consume/{__version__}"  # not the name of a relay: relays refuse one another by it (E16)
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PASSING = (429, 500, 502, 503, 504)  # worth another try


class StreamEnded(RemoteFault):
    """The connection is over; the text says how. Come back with the cursor."""


class StreamBroken(StreamEnded):
    """The server sent what is no event stream, or an error frame. `is_final`: coming back would not help."""

    def __init__(self, text: str, *, is_final: bool = False) -> None:
        super().__init__(text)
        self.is_final = is_final


class Refused(RemoteFault):
    """The server does not serve this request, and will not either when it is asked again."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to subscribe."""

    host: str
    port: int
    secure: bool
    cursor: int | None  # that the URL itself asks for

    def __str__(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.name}"

    @property
    def name(self) -> str:
        """The host as the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def parse_target(text: str) -> Target:
    """A relay's URL: ws, wss, http or https; without a scheme wss, but ws for this machine. Raises ConfigError."""
    bare = "://" not in text
    try:
        parts = urlsplit(f"//{text}" if bare else text)
        port = parts.port
    except ValueError as exc:
        raise ConfigError(f"{text!r} is no URL: {exc}") from None
    if not parts.hostname or parts.username is not None or parts.fragment:
        raise ConfigError(f"{text!r} is no URL of a relay")
    if not bare and parts.scheme not in ("ws", "wss", "http", "https"):
        raise ConfigError(f"{text!r}: the scheme is one of ws, wss, http, https")
    if parts.path not in ("", "/", PATH):
        raise ConfigError(f"{text!r}: the firehose is at {PATH}, which may be left out")
    secure = parts.hostname not in LOOPBACK if bare else parts.scheme in ("wss", "https")
    return Target(parts.hostname, port or (443 if secure else 80), secure, _cursor_of(text, parts.query))


def _cursor_of(text: str, query: str) -> int | None:
    given = parse_qs(query).get("cursor", [""])[0]
    if given and not (given.isascii() and given.isdigit()):
        raise ConfigError(f"{text!r}: the cursor is no number")
    return int(given) if given else None


class Stream:
    """An open subscription."""

    def __init__(self, target: Target, cursor: int | None) -> None:
        """Connects and upgrades. Raises StreamEnded, Refused."""
        self._cutter = ws.MessageCutter(MAX_MESSAGE)
        self._ready: list[bytes] = []
        self._end: StreamEnded | None = None
        try:
            self._sock = _connect(target)
        except OSError as exc:
            raise StreamEnded(f"cannot connect to {target}: {exc}") from exc
        try:
            self._take(self._upgrade(target, cursor))
        except DialFailed as exc:
            self._sock.close()
            if exc.status is not None and exc.status not in PASSING:
                raise Refused(f"{target} {exc.text}") from exc
            raise StreamEnded(f"{target}: {exc.text}") from exc
        except OSError as exc:
            self._sock.close()
            raise StreamEnded(f"{target}: {exc}") from exc
        self._heard_s = self._pinged_s = time.monotonic()

    @property
    def peer(self) -> str:
        """The address at the other end."""
        return str(self._sock.getpeername()[0])

    def _upgrade(self, target: Target, cursor: int | None) -> bytes:
        """Sends the request and takes the answer; what came behind it. Raises DialFailed, OSError."""
        upgrade = Upgrade(target.name, cursor, USER_AGENT, allow_relays=True)
        deadline = time.monotonic() + UPGRADE_S
        self._sock.settimeout(UPGRADE_S)
        self._sock.sendall(upgrade.request)
        while True:
            self._sock.settimeout(max(0.01, deadline - time.monotonic()))
            data = self._sock.recv(RECEIVE_BYTES)
            if not data:
                raise DialFailed("http_upgrade", "closed without an answer")
            if upgrade.feed(data):
                return upgrade.leftover

    def receive(self, timeout_s: float) -> list[bytes]:
        """The messages that have come, in order; none after timeout_s. Raises StreamEnded once all were taken."""
        if not self._ready and self._end is None:
            self._read(timeout_s)
        if self._ready:
            taken, self._ready = self._ready, []
            return taken
        if self._end is not None:
            raise self._end
        return []

    def close(self) -> None:
        """Says good-bye, and does not wait for an answer."""
        with contextlib.suppress(OSError):
            self._sock.settimeout(0.5)
            self._sock.sendall(ws.close_frame(NORMAL, "", secrets.randbits(32)))
        self._sock.close()

    def _read(self, timeout_s: float) -> None:
        try:
            self._sock.settimeout(timeout_s)
            data = self._sock.recv(RECEIVE_BYTES)
        except TimeoutError:
            self._check_silence()
            return
        except OSError as exc:
            self._end = StreamEnded(f"the connection broke: {exc}")
            return
        if not data:
            self._end = StreamEnded("the connection was closed without a close frame")
            return
        self._heard_s = time.monotonic()
        self._take(data)

    def _check_silence(self) -> None:
        now = time.monotonic()
        if now - self._heard_s >= GIVE_UP_S:
            self._end = StreamEnded(f"nothing came for {GIVE_UP_S:.0f} s, not even a pong")
        elif now - max(self._heard_s, self._pinged_s) >= PING_AFTER_S:
            self._pinged_s = now
            self._send(ws.control_frame(PING, b"", secrets.randbits(32)))

    def _send(self, frame: bytes) -> None:
        try:
            self._sock.settimeout(CONNECT_S)
            self._sock.sendall(frame)
        except OSError as exc:
            self._end = StreamEnded(f"the connection broke: {exc}")

    def _take(self, data: bytes) -> None:
        for event in self._cutter.feed(data):
            match event:
                case ("message", message):
                    self._ready.append(message)
                case ("ping", payload):
                    self._send(ws.control_frame(PONG, payload, secrets.randbits(32)))
                case ("close", code, reason):
                    self._end = StreamEnded(f"closed with {code or 'no code'}{f' {reason!r}' if reason else ''}")
                case ("fail", _, text):
                    self._end = StreamEnded(f"the server broke the WebSocket protocol: {text}")
                case ("skip",):
                    self._end = StreamEnded(f"a message over {MAX_MESSAGE:,} bytes")


def _connect(target: Target) -> socket.socket:
    """Raises OSError."""
    sock = socket.create_connection((target.host, target.port), CONNECT_S)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not target.secure:
            return sock
        return tls_context().wrap_socket(sock, server_hostname=target.host)
    except (OSError, ssl.CertificateError):
        sock.close()
        raise
