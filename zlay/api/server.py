"""The HTTP server: one epoll thread for all connections, a small pool for handlers.

Promises: a client that is slow, silent or idle costs one connection's memory and no thread; requests, connections,
headers, bodies, answers and time are bounded; what the pool cannot take is answered 503; health answers come from the
epoll thread itself, so they do not wait for anything. A WebSocket upgrade leaves with its socket.
Threads: `_loop` runs in one thread and owns every connection; handlers run in HANDLERS others and give their answers
back through a list and an eventfd. `start` and `stop` belong to the thread that runs the relay.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import queue
import select
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import h11

from zlay import logs
from zlay.api.connection import HttpConnection, Upgrade
from zlay.api.message import Request, Response, XrpcError, error_response
from zlay.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["HttpServer", "Router"]

HANDLERS = 8  # answers come from memory or one indexed query; more would only contend
MAX_WAITING = 256  # requests for the pool; at a millisecond each, a quarter of a second
MAX_CONNECTIONS = 12_000  # HTTP ones; about 20 KiB each. Consumers are counted elsewhere
MAX_CONNECTIONS_PER_ADDRESS = 4_000  # above any load balancer's, far below the whole
RECEIVE_BYTES = 16 * 1024
REQUEST_DEADLINE_S = 15.0  # from a request's first byte to its last
IDLE_DEADLINE_S = 60.0
WRITE_DEADLINE_S = 60.0  # to take an answer
SWEEP_S = 1.0
ACCEPT_PAUSE_S = 0.5  # when descriptors have run out
BACKLOG = 1024

log = logs.get("http")


class Router(Protocol):
    """What answers. Any of these may raise XrpcError."""

    def instant(self, request: Request) -> Response | None:
        """An answer from counters alone, in the epoll thread; None = not such a request."""

    def handle(self, request: Request) -> Response:
        """Any other answer, in a handler thread."""

    def subscribe(self, upgrade: Upgrade, sock: socket.socket) -> Response | None:
        """Takes over the socket of a firehose consumer, or refuses with a Response (the socket stays the server's).

        In a handler thread. The socket is non-blocking and nothing has been sent on it for this request.
        """


@dataclass(slots=True, eq=False)
class _Client:
    """One connection. The epoll thread's, but while a handler has `busy` set it may use `sock` in `subscribe`."""

    sock: socket.socket
    fd: int  # of `sock`, kept for the books: a consumer's socket is detached from its object
    peer: str
    http: HttpConnection
    out: bytearray
    deadline: float
    registered: bool = True  # with epoll; not while a handler may give the socket to a consumer
    busy: bool = False  # a handler works for it: nothing is read
    closing: bool = False  # when `out` is empty
    interest: int = select.EPOLLIN
    got_end: bool = False


@dataclass(frozen=True, slots=True)
class _Done:
    client: _Client
    response: Response | None  # None = the socket is gone with a consumer


class HttpServer:
    """See the module's head. `listeners`: (address, port, is_internal) of each port."""

    def __init__(
        self,
        router: Router,
        listeners: Sequence[tuple[str, int, bool]],
        *,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        """Binds. Raises StartError when a port is taken or an address is not ours."""
        self._router = router
        self._proxies = [ipaddress.ip_network(name) for name in trusted_proxies]
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._listeners: dict[int, tuple[socket.socket, bool]] = {}
        self._clients: dict[int, _Client] = {}
        self._per_address: dict[str, int] = {}
        self._work: queue.SimpleQueue[tuple[_Client, Request | Upgrade] | None] = queue.SimpleQueue()
        self._waiting = 0  # epoll thread only: requests with the pool
        self._done: deque[_Done] = deque()
        self._stopping = threading.Event()
        self._accept_after = 0.0
        self.requests = 0  # epoll thread writes
        self.refused = 0
        self.addresses: list[tuple[str, int]] = []
        for address, port, is_internal in listeners:
            self._listen(address, port, is_internal)

    def _listen(self, address: str, port: int, is_internal: bool) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((address, port))
            sock.listen(BACKLOG)
        except OSError as exc:
            sock.close()
            if exc.errno == errno.EADDRINUSE:
                raise StartError(f"port {port} on {address} is taken: is another zlay running?") from None
            raise StartError(f"cannot listen on {address} port {port}: {exc.strerror}") from None
        self._listeners[sock.fileno()] = (sock, is_internal)
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self.addresses.append((address, sock.getsockname()[1]))

    @property
    def connections(self) -> int:
        """HTTP connections open now."""
        return len(self._clients)

    def threads(self) -> list[tuple[str, Callable[[], None]]]:
        """(name, target) of every thread the server needs."""
        return [("http", self._loop), *((f"http-handler-{n}", self._handle_all) for n in range(HANDLERS))]

    def stop(self) -> None:
        """Ends accepting and all connections, and the threads as soon as their request is answered."""
        self._stopping.set()
        for _ in range(HANDLERS):
            self._work.put(None)
        self._ring()

    def close(self) -> None:
        """After the threads have ended: gives the descriptors back."""
        for sock, _ in self._listeners.values():
            sock.close()
        self._listeners.clear()
        self._epoll.close()
        os.close(self._wake)

    # --- handler threads ---

    def _handle_all(self) -> None:
        while True:
            item = self._work.get()
            if item is None:
                return
            client, request = item
            self._done.append(_Done(client, self._handle(client, request)))
            self._ring()

    def _handle(self, client: _Client, request: Request | Upgrade) -> Response | None:
        try:
            if isinstance(request, Upgrade):
                return self._router.subscribe(request, client.sock)
            return self._router.handle(request)
        except XrpcError as exc:
            return error_response(exc.status, exc.error, exc.message)
        except Exception as exc:  # noqa: BLE001 - one request must not end a handler
            path = request.request.path if isinstance(request, Upgrade) else request.path
            log.warn_rate(f"failed {path}", "a request failed", path=path, error=f"{type(exc).__name__}: {exc}")
            return error_response(500, "InternalServerError", "the request failed; the log says why")

    def _ring(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    # --- the epoll thread ---

    def _loop(self) -> None:
        swept = time.monotonic()
        while not self._stopping.is_set():
            for fd, events in self._epoll.poll(SWEEP_S, 256):
                self._event(fd, events)
            self._finish_done()
            now = time.monotonic()
            if now - swept >= SWEEP_S:
                swept = now
                self._sweep(now)
        for client in list(self._clients.values()):
            if not client.busy:
                self._close(client)
        self._await_handlers()

    def _await_handlers(self) -> None:
        """Answers what handlers still work on, for a moment, then closes."""
        until = time.monotonic() + 1.0
        while self._clients and time.monotonic() < until:
            self._epoll.poll(0.05)
            self._finish_done()
            for client in [c for c in self._clients.values() if not c.busy and not c.out]:
                self._close(client)
        for client in list(self._clients.values()):
            self._close(client)

    def _event(self, fd: int, events: int) -> None:
        if fd == self._wake:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            return
        listener = self._listeners.get(fd)
        if listener is not None:
            self._accept(*listener)
            return
        client = self._clients.get(fd)
        if client is None:
            return
        try:
            if events & select.EPOLLOUT:
                self._flush(client)
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and fd in self._clients:
                self._read(client)
        except OSError:
            self._close(client)

    def _accept(self, listener: socket.socket, is_internal: bool) -> None:
        if time.monotonic() < self._accept_after:
            return
        for _ in range(64):  # then the others get their turn
            try:
                sock, where = listener.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._accept_after = time.monotonic() + ACCEPT_PAUSE_S
                    for fd in self._listeners:
                        self._epoll.modify(fd, 0)
                    log.warn_rate("accept", "no more connections can be accepted just now", error=exc.strerror)
                    return
                continue  # the client was gone before it was accepted
            self._admit(sock, _plain_address(where[0]), is_internal)

    def _admit(self, sock: socket.socket, peer: str, is_internal: bool) -> None:
        here = self._per_address.get(peer, 0)
        if len(self._clients) >= MAX_CONNECTIONS or here >= MAX_CONNECTIONS_PER_ADDRESS:
            self.refused += 1
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        http = HttpConnection(peer, is_internal=is_internal, client_address=self._client_address)
        client = _Client(sock, sock.fileno(), peer, http, bytearray(), time.monotonic() + REQUEST_DEADLINE_S)
        self._clients[client.fd] = client
        self._per_address[peer] = here + 1
        self._epoll.register(client.fd, select.EPOLLIN)

    def _client_address(self, peer: str, headers: dict[str, str]) -> str:
        """The last address in X-Forwarded-For that is not a trusted proxy's, when the peer is one."""
        address = peer
        hops = [hop.strip() for hop in headers.get("x-forwarded-for", "").split(",") if hop.strip()]
        while self._is_proxy(address) and hops:
            try:
                address = str(ipaddress.ip_address(hops.pop()))
            except ValueError:
                break
        return address

    def _is_proxy(self, address: str) -> bool:
        return bool(self._proxies) and any(ipaddress.ip_address(address) in net for net in self._proxies)

    def _read(self, client: _Client) -> None:
        if client.busy or client.closing:
            self._drain_closing(client)
            return
        try:
            data = client.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        was_idle = not client.http.in_request
        try:
            client.http.feed(data)
        except h11.RemoteProtocolError:
            self._close(client)
            return
        if not data:
            client.got_end = True
        self._advance(client)
        if was_idle and client.http.in_request:
            client.deadline = time.monotonic() + REQUEST_DEADLINE_S

    def _drain_closing(self, client: _Client) -> None:
        """What a client sends while it is answered for the last time is thrown away; its end ends it."""
        if not client.closing:
            self._watch(client, client.interest & ~select.EPOLLIN)
            return
        if not client.sock.recv(RECEIVE_BYTES):
            self._close(client)

    def _advance(self, client: _Client) -> None:
        """Goes on with what has been received until a handler works, more is needed, or the connection ends."""
        while not client.busy and not client.closing:
            found = client.http.next()
            if found is None:
                if client.http.wants_continue:
                    self._send(client, client.http.continue_bytes())
                elif client.got_end:
                    client.closing = True
                    self._flush(client)
                return
            if isinstance(found, Response):
                self._answer(client, found)
                continue
            self.requests += 1
            if isinstance(found, Request):
                instant = self._instant(found)
                if instant is not None:
                    self._answer(client, instant)
                    continue
            if self._waiting >= MAX_WAITING:
                self.refused += 1
                busy = error_response(503, "ServiceUnavailable", "too many requests are waiting")
                self._answer(client, busy)
                continue
            client.busy = True
            self._waiting += 1
            if isinstance(found, Upgrade):
                self._unregister(client)
            else:
                self._watch(client, client.interest & ~select.EPOLLIN)
            self._work.put((client, found))

    def _instant(self, request: Request) -> Response | None:
        try:
            return self._router.instant(request)
        except XrpcError as exc:
            return error_response(exc.status, exc.error, exc.message)

    def _finish_done(self) -> None:
        while self._done:
            done = self._done.popleft()
            client = done.client
            client.busy = False
            self._waiting -= 1
            if done.response is None:
                self._forget(client)
                continue
            try:
                if not client.registered:
                    client.registered = True
                    client.interest = 0
                    self._epoll.register(client.fd, 0)
                self._answer(client, done.response)
                if not client.closing:
                    self._watch(client, client.interest | select.EPOLLIN)
                    self._advance(client)
            except OSError:
                self._close(client)

    def _answer(self, client: _Client, response: Response) -> None:
        data = client.http.answer(response)
        if not client.http.keep_alive or not data:
            client.closing = True
        client.deadline = time.monotonic() + (WRITE_DEADLINE_S if client.closing else IDLE_DEADLINE_S)
        self._send(client, data)

    def _send(self, client: _Client, data: bytes) -> None:
        client.out += data
        self._flush(client)

    def _flush(self, client: _Client) -> None:
        while client.out:
            try:
                sent = client.sock.send(client.out)
            except BlockingIOError:
                self._watch(client, client.interest | select.EPOLLOUT)
                return
            del client.out[:sent]
        if client.interest & select.EPOLLOUT:
            self._watch(client, client.interest & ~select.EPOLLOUT)
        if client.closing:
            self._half_close(client)

    def _half_close(self, client: _Client) -> None:
        """Says that no more comes and waits for the client's end, so that a reset does not eat the answer."""
        if client.got_end:
            self._close(client)
            return
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_WR)
        client.deadline = min(client.deadline, time.monotonic() + 2.0)
        self._watch(client, select.EPOLLIN)

    def _watch(self, client: _Client, interest: int) -> None:
        if interest != client.interest and client.registered:
            client.interest = interest
            self._epoll.modify(client.fd, interest)

    def _unregister(self, client: _Client) -> None:
        if client.registered:
            client.registered = False
            self._epoll.unregister(client.fd)

    def _sweep(self, now: float) -> None:
        for client in [c for c in self._clients.values() if c.deadline < now and not c.busy]:
            self._close(client)
        if self._accept_after and now >= self._accept_after:
            self._accept_after = 0.0
            for fd in self._listeners:
                self._epoll.modify(fd, select.EPOLLIN)

    def _close(self, client: _Client) -> None:
        self._forget(client)
        client.sock.close()

    def _forget(self, client: _Client) -> None:
        """Takes the connection out of all books."""
        if self._clients.get(client.fd) is not client:
            return
        del self._clients[client.fd]
        self._unregister(client)
        left = self._per_address.get(client.peer, 1) - 1
        if left > 0:
            self._per_address[client.peer] = left
        else:
            self._per_address.pop(client.peer, None)


def _plain_address(address: str) -> str:
    """An IPv4 client that came over an IPv6 socket, as IPv4."""
    return address.removeprefix("::ffff:") if address.startswith("::ffff:") and "." in address else address
