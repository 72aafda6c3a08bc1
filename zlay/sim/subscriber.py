"""One subscriber of one simulated host: the WebSocket side of com.atproto.sync.subscribeRepos.

Strategy: a subscriber is a position in its source (a host's window, or a recording). When its socket takes bytes, the
next stretch of ready-made frames is handed over; nothing is queued for it but the rest of what the socket did not
take. wsproto does the handshake and the few things that clients say (pings, close).

Promises: frames go out whole and in order unless a stall or a cut was ordered; memory is bounded by SEND_BYTES.
Assumes: one thread, the server's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, Request
from wsproto.utilities import ProtocolError

if TYPE_CHECKING:
    import socket

    from zlay.sim.tls import TlsSocket

__all__ = ["SEND_BYTES", "Source", "Subscriber", "handshake"]

SEND_BYTES = 256 * 1024  # what is handed to a socket at a time
SEND_ROUNDS = 16  # stretches sent before others have their turn


class Source(Protocol):
    """Where a subscriber's frames come from. Positions are the source's own."""

    def begin(self, cursor: int | None) -> tuple[int, bytes, bool]:
        """Position for a new subscriber, frames to say first, and whether to close after them (FutureCursor)."""

    def pending(self, position: int) -> bool:
        """Whether there is something after the position."""

    def peek(self, position: int) -> bytes:
        """The frame at a position after which something is pending."""

    def send(self, sock: socket.socket | TlsSocket, position: int) -> tuple[int, bytes | memoryview]:
        """Sends some; the new position (the old one if the socket is full), and what is left of frames before it."""

    def left(self, position: int, cursor: int | None) -> None:
        """The subscriber has gone; what stands before the position was handed to its socket, the rest of it maybe."""


class Subscriber:
    """A WebSocket connection after its handshake.

    `blocked`: the socket is full. `rest`: bytes that go first, always up to the end of a frame. `leaving`: the
    connection is closed once nothing is pending; `closing`: once `rest` is sent. `cut`, `stall_mid_s`: orders for the
    next frame. `stalled_until`: nothing is sent before that moment (monotonic seconds).
    """

    __slots__ = (
        "blocked",
        "closing",
        "cursor",
        "cut",
        "leaving",
        "position",
        "rest",
        "sock",
        "source",
        "stall_mid_s",
        "stalled_until",
        "ws",
    )

    def __init__(self, sock: socket.socket | TlsSocket, ws: WSConnection, source: Source, cursor: int | None) -> None:
        self.sock = sock
        self.ws = ws
        self.source = source
        self.cursor = cursor
        self.blocked = False
        self.leaving = False
        self.cut = False
        self.stall_mid_s = 0.0
        self.stalled_until = 0.0
        self.rest: bytes | memoryview
        self.position, self.rest, self.closing = source.begin(cursor)
        if self.closing:
            self._say(ws.send(CloseConnection(code=1008, reason="FutureCursor")))

    def _send_rest(self) -> bool:
        """Sends what was left over; whether nothing is left."""
        while self.rest:
            try:
                sent = self.sock.send(self.rest)
            except BlockingIOError:
                self.blocked = True
                return False
            self.rest = memoryview(self.rest)[sent:] if sent < len(self.rest) else b""
        return True

    def flush(self, now: float) -> bool:
        """Sends until the socket is full or nothing is pending; False when the connection is to be closed.

        Raises OSError when the connection is broken.
        """
        if now < self.stalled_until:
            return True
        self.blocked = False
        for _ in range(SEND_ROUNDS):
            if not self._send_rest():
                return True
            if self.closing:
                return False
            if not self.source.pending(self.position):
                if not self.leaving:
                    return True
                self.closing = True
                self._say(self.ws.send(CloseConnection(code=1001, reason="going away")))
            elif self.cut or self.stall_mid_s:
                return self._send_half(now)
            else:
                before = self.position
                self.position, self.rest = self.source.send(self.sock, before)
                if self.position == before:
                    self.blocked = True
                    return True
        return True

    def _send_half(self, now: float) -> bool:
        """Sends half of the next frame, then ends or rests, as ordered."""
        frame = self.source.peek(self.position)
        try:
            sent = self.sock.send(frame[: max(1, len(frame) // 2)])
        except BlockingIOError:
            self.blocked = True
            return True
        if self.cut:
            return False
        self.rest = frame[sent:]
        self.position += 1
        self.stalled_until = now + self.stall_mid_s
        self.stall_mid_s = 0.0
        return True

    def receive(self, data: bytes) -> bool:
        """Takes bytes from the client; False when it is gone."""
        try:
            self.ws.receive_data(data)
            for event in self.ws.events():
                if isinstance(event, Ping):
                    self._say(self.ws.send(event.response()))
                elif isinstance(event, CloseConnection):
                    return False
        except ProtocolError:
            return False
        return True

    def _say(self, data: bytes) -> None:
        """Puts a control frame after what is being sent: `rest` always ends with a whole frame."""
        self.rest = bytes(self.rest) + data


def handshake(request: bytes) -> tuple[WSConnection, bytes] | None:
    """The server's side of the opening handshake: the connection and the answer; None if the request is no good."""
    ws = WSConnection(ConnectionType.SERVER)
    try:
        ws.receive_data(request)
        for event in ws.events():
            if isinstance(event, Request):
                return ws, ws.send(AcceptConnection())
    except ProtocolError:
        return None
    return None
