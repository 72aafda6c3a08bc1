"""The simulation's server: one thread, one epoll loop, every socket.

Strategy: listeners, HTTP connections and subscribers hang in one table by file descriptor. A tick generates the
events that are due, writes the ledger, then lets the subscribers of the hosts that have spoken send. Delayed answers
and stalled subscribers stand in a heap of timers.

Round trips: the kernel connects over loopback at once, so the time that a server of `rtt_s` adds is taken before the
first byte of a connection is looked at: DIAL_ROUND_TRIPS for looking the name up and for TCP's handshake, one more for
that of TLS 1.3; and one before each answer. Events come without it, as a steady delay shows nowhere.

Promises: at most a few frames' worth of memory for each subscriber however slow it is; `run` returns when `stop` is
called (from a signal handler too).
Assumes: everything here runs on the thread that calls `run`, except `stop`.
"""

from __future__ import annotations

import heapq
import select
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from zlay.sim.http import BadRequest, Request, Response, error_response, parse, reply
from zlay.sim.subscriber import Subscriber, handshake
from zlay.sim.tls import TlsSocket

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from zlay.sim.endpoints import Site

__all__ = ["Server"]

RECV_BYTES = 65_536
BACKLOG = 512
IDLE_POLL_S = 0.2  # how soon a stop is seen when nothing happens
DIAL_ROUND_TRIPS = 2  # a question for the name, then SYN and its answer
TLS_ROUND_TRIPS = 1  # ClientHello and all that answers it; what the client says last goes with its request
MAX_INPUT = 2_000_000  # of one HTTP connection that has not been answered
_SUBSCRIBE = "/xrpc/com.atproto.sync.subscribeRepos"


class _Connection:
    """One accepted socket. HTTP until `subscriber` is set. `waiting`: an answer is being held back."""

    __slots__ = ("interest", "output", "received", "rtt_s", "site", "sock", "subscriber", "waiting")

    def __init__(self, sock: socket.socket | TlsSocket, site: Site, rtt_s: float) -> None:
        self.sock = sock
        self.site = site
        self.rtt_s = rtt_s
        self.received = b""
        self.output = b""
        self.subscriber: Subscriber | None = None
        self.waiting = False
        self.interest = 0 if rtt_s else select.EPOLLIN  # the dial's first round trips pass unheard


class _Listener(NamedTuple):
    """Where connections come in for a site."""

    sock: socket.socket
    site: Site
    context: ssl.SSLContext | None
    rtt_s: float


class Server:
    """Sockets and timers. `on_tick(now)` is called in every round and says in how many seconds the next is wanted."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._listeners: dict[int, _Listener] = {}
        self._connections: dict[int, _Connection] = {}
        self._by_subscriber: dict[Subscriber, _Connection] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_count = 0
        self._stopping = False
        self.on_tick: Callable[[float], float] = lambda now: IDLE_POLL_S
        self.on_subscriber: Callable[[Site, Subscriber, bool], None] = lambda site, subscriber, came: None

    def listen(self, address: str, port: int) -> socket.socket:
        """A listening socket; port 0 = any. `serve` gives it its site. Raises OSError."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port))
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)
        return sock

    def serve(
        self, sock: socket.socket, site: Site, context: ssl.SSLContext | None = None, *, rtt_s: float = 0.0
    ) -> None:
        """Starts to accept connections for a site; with a context they speak TLS. `rtt_s`: see the module's head."""
        self._listeners[sock.fileno()] = _Listener(sock, site, context, rtt_s)
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def stop(self) -> None:
        """Has `run` return soon. May be called from a signal handler."""
        self._stopping = True

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Calls `action` once, later."""
        self._timer_count += 1
        heapq.heappush(self._timers, (time.monotonic() + delay_s, self._timer_count, action))

    def run(self) -> None:
        """Serves until `stop`; then closes every socket."""
        try:
            while not self._stopping:
                self._round()
        finally:
            for connection in list(self._connections.values()):
                self._close(connection)
            for listener in self._listeners.values():
                listener.sock.close()
            self._epoll.close()

    def _round(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        wait = self.on_tick(now)
        if self._timers:
            wait = min(wait, max(0.0, self._timers[0][0] - now))
        for fd, events in self._epoll.poll(wait):
            connection = self._connections.get(fd)
            if connection is None:
                self._accept(fd)
            else:
                self._ready(connection, events)

    def _accept(self, fd: int) -> None:
        listener = self._listeners.get(fd)
        if listener is None:  # closed earlier in this round
            return
        context = listener.context
        while True:
            try:
                sock, _ = listener.sock.accept()
            except OSError:  # nothing more, or gone again
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = sock if context is None else TlsSocket(sock, context)
            connection = _Connection(wire, listener.site, listener.rtt_s)
            self._connections[wire.fileno()] = connection
            self._epoll.register(wire.fileno(), connection.interest)
            if listener.rtt_s:
                trips = DIAL_ROUND_TRIPS + (0 if context is None else TLS_ROUND_TRIPS)
                self.after(trips * listener.rtt_s, partial(self._hear, connection))

    def _hear(self, connection: _Connection) -> None:
        """The round trips of the dial are over."""
        if connection.sock.fileno() >= 0:
            self._want(connection, False)

    def _close(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        if self._connections.pop(fd, None) is None:
            return
        self._epoll.unregister(fd)
        connection.sock.close()
        subscriber = connection.subscriber
        if subscriber is not None:
            del self._by_subscriber[subscriber]
            self.on_subscriber(connection.site, subscriber, False)

    def _ready(self, connection: _Connection, events: int) -> None:
        try:
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and not self._receive(connection):
                self._close(connection)
                return
            if connection.subscriber is not None:
                self.flush(connection.subscriber)
            elif connection.output:
                self._send(connection)
        except OSError:
            self._close(connection)

    def _receive(self, connection: _Connection) -> bool:
        """Takes what has come; False at the end. Raises OSError."""
        try:
            data = connection.sock.recv(RECV_BYTES)
        except BlockingIOError:  # the event was for an older socket of the same number
            return True
        if not data:
            return False
        if connection.subscriber is not None:
            return connection.subscriber.receive(data)
        connection.received += data
        return self._serve_requests(connection)

    def _want(self, connection: _Connection, output: bool) -> None:
        interest = select.EPOLLIN | (select.EPOLLOUT if output else 0)
        if interest != connection.interest:
            connection.interest = interest
            self._epoll.modify(connection.sock.fileno(), interest)

    # --- HTTP ---

    def _serve_requests(self, connection: _Connection) -> bool:
        """Answers the requests that are complete, one at a time; False to close."""
        while not connection.waiting and connection.subscriber is None:
            try:
                request = parse(connection.received)
            except BadRequest:
                return False
            if request is None:
                return len(connection.received) < MAX_INPUT
            raw = connection.received[: request.size]
            connection.received = connection.received[request.size :]
            if request.upgrade:
                return self._later(connection, partial(self._upgrade, connection, request, raw), connection.rtt_s)
            response = connection.site.answer(request)
            if request.path == _SUBSCRIBE and connection.site.source is not None:
                response = error_response(426, "UpgradeRequired", "this is a WebSocket endpoint")
            if not self._respond(connection, response):
                return False
        return True

    def _respond(self, connection: _Connection, response: Response) -> bool:
        if response.hang_up:
            return False
        return self._later(connection, partial(self._say, connection, response), connection.rtt_s + response.delay_s)

    def _say(self, connection: _Connection, response: Response) -> bool:
        connection.output += reply(response)
        self._send(connection)
        return True

    def _later(self, connection: _Connection, answer: Callable[[], bool], delay_s: float) -> bool:
        """Answers when that time has passed, at once when it is 0; False to close."""
        if delay_s <= 0:
            return answer()
        connection.waiting = True
        self.after(delay_s, partial(self._answer_late, connection, answer))
        return True

    def _answer_late(self, connection: _Connection, answer: Callable[[], bool]) -> None:
        if connection.sock.fileno() < 0:
            return
        connection.waiting = False
        try:
            if not (answer() and self._serve_requests(connection)):
                self._close(connection)
                return
            if connection.subscriber is not None:
                self.flush(connection.subscriber)
        except OSError:
            self._close(connection)

    def _send(self, connection: _Connection) -> None:
        try:
            sent = connection.sock.send(connection.output)
        except BlockingIOError:
            sent = 0
        connection.output = connection.output[sent:]
        self._want(connection, bool(connection.output))

    # --- subscribers ---

    def _upgrade(self, connection: _Connection, request: Request, raw: bytes) -> bool:
        source = connection.site.source
        cursor_text = request.query.get("cursor")
        if source is None or request.path != _SUBSCRIBE:
            return self._say(connection, error_response(404, "NotFound", request.path))
        if cursor_text is not None and not cursor_text.isdigit():
            return self._say(connection, error_response(400, "InvalidRequest", "cursor"))
        shaken = handshake(raw)
        if shaken is None:
            return self._say(connection, error_response(400, "InvalidRequest", "handshake"))
        ws, answer = shaken
        cursor = None if cursor_text is None else int(cursor_text)
        subscriber = Subscriber(connection.sock, ws, source, cursor)
        subscriber.rest = answer + bytes(subscriber.rest)
        connection.subscriber = subscriber
        self._by_subscriber[subscriber] = connection
        self.on_subscriber(connection.site, subscriber, True)
        return True

    def flush(self, subscriber: Subscriber) -> None:
        """Lets a subscriber send what is pending."""
        connection = self._by_subscriber.get(subscriber)
        if connection is None:
            return
        try:
            alive = subscriber.flush(time.monotonic())
        except OSError:
            alive = False
        if not alive:
            self._close(connection)
            return
        stall_s = subscriber.stalled_until - time.monotonic()
        if stall_s > 0:
            self.after(stall_s, lambda: self.flush(subscriber))
        # More is pending than one turn sends: EPOLLOUT brings it back in the next round.
        more = subscriber.blocked or bool(subscriber.rest) or subscriber.source.pending(subscriber.position)
        self._want(connection, more and stall_s <= 0)
