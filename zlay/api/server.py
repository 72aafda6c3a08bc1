"""The HTTP server: one epoll thread for all connections, small pools for handlers.

Promises: a client that is slow, silent or idle costs one connection's memory and no thread; requests, connections,
headers, bodies, answers and time are bounded; an answer that a client does not take stops the reading of its next
request; what a pool cannot take is answered 503; health answers come from the epoll thread itself, so they do not wait
for anything. A WebSocket upgrade leaves with its socket. The internal port has connections and handlers of its own:
what strangers do on the public one cannot keep operators out.
Threads: `_loop` runs in one thread and owns every connection; handlers run in others and give their answers back
through a list and an eventfd. `stop` and `close` belong to the thread that runs the relay.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from zlay import logs
from zlay.api.connection import HttpConnection, Upgrade
from zlay.api.handlers import HandlerPool, Router, failure
from zlay.api.listening import Proxies, listen, plain_address
from zlay.api.message import Request, Response, error_response
from zlay.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["HttpServer", "Router"]

HANDLERS = 12  # eight may wait for strangers' hosts (zlay.hosts.requests); the rest answers from memory or one query
MAX_WAITING = 256  # requests for them; at a millisecond each, a quarter of a second
INTERNAL_HANDLERS = 2
MAX_INTERNAL_WAITING = 32
MAX_CONNECTIONS = 12_000  # HTTP ones on the public port; about 20 KiB each. Consumers are counted elsewhere
MAX_CONNECTIONS_PER_ADDRESS = 4_000  # above any load balancer's, far below the whole
MAX_INTERNAL_CONNECTIONS = 500
MAX_UNSENT_BYTES = 64 * 1024 * 1024  # answers that clients have not taken yet, all together (R5); then the oldest go
RECEIVE_BYTES = 16 * 1024
REQUEST_DEADLINE_S = 15.0  # from a request's first byte to its last, and from connecting to the first
IDLE_DEADLINE_S = 60.0
WRITE_DEADLINE_S = 60.0  # to take an answer
LINGER_S = 2.0  # from the last answer to the client's end
STOP_DEADLINE_S = 1.0  # for answers under way when the server stops
SWEEP_S = 1.0
ACCEPT_PAUSE_S = 0.5  # when descriptors have run out
ACCEPTS_AT_ONCE = 64  # then the connections get their turn
EVENTS_AT_ONCE = 256

_TRY_AGAIN = (("Retry-After", "5"),)

log = logs.get("http")


@dataclass(slots=True, eq=False)
class _Client:
    """One connection. The epoll thread's, but while a handler has an upgrade of it: then `sock` is the handler's."""

    sock: socket.socket
    fd: int  # of `sock`, kept for the books: a consumer's socket is detached from its object
    peer: str
    is_internal: bool
    http: HttpConnection
    deadline: float
    out: bytearray
    busy: bool = False  # a handler works for it: nothing is read
    closing: bool = False  # when `out` is empty
    got_end: bool = False
    interest: int = select.EPOLLIN  # as epoll knows it; -1 = not registered
    unsent: int = 0  # bytes of `out` in the server's sum
    began: float = 0.0  # when the first byte of the request under way came; 0 = none is


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
        self._proxies = Proxies(trusted_proxies)
        self._epoll = select.epoll()
        self._ring_lock = threading.Lock()  # guards `_wake`: no late handler may ring a descriptor that is another's
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._listeners: dict[int, tuple[socket.socket, bool]] = {}
        self._clients: dict[int, _Client] = {}
        self._leaving: set[_Client] = set()  # upgrades with a handler; their descriptors may be another's already
        self._per_address: dict[str, int] = {}
        self._open = {False: 0, True: 0}  # connections by is_internal
        self._done: deque[tuple[_Client, Response | None]] = deque()
        self._pools = {
            False: self._pool("http-handler", HANDLERS, MAX_WAITING),
            True: self._pool("http-internal", INTERNAL_HANDLERS, MAX_INTERNAL_WAITING),
        }
        self._stopping = threading.Event()
        self._accept_after = 0.0
        self._unsent_bytes = 0
        self.requests = 0  # epoll thread writes, as the next
        self.refused = 0  # connections and requests over a limit
        self.addresses: list[tuple[str, int]] = []
        try:
            for address, port, is_internal in listeners:
                self._listen(address, port, is_internal)
        except StartError:
            self.close()
            raise

    def _pool(self, name: str, threads: int, most_waiting: int) -> HandlerPool[_Client]:
        return HandlerPool(
            self._router,
            name,
            threads=threads,
            most_waiting=most_waiting,
            socket_of=lambda client: client.sock,
            done=self._hand_back,
        )

    def _listen(self, address: str, port: int, is_internal: bool) -> None:
        sock = listen(address, port)
        self._listeners[sock.fileno()] = (sock, is_internal)
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self.addresses.append((address, sock.getsockname()[1]))

    @property
    def connections(self) -> int:
        """HTTP connections open now. Any thread."""
        return sum(self._open.values())

    @property
    def waiting(self) -> int:
        """Requests that handlers have or will have. Any thread."""
        return sum(pool.waiting for pool in self._pools.values())

    def threads(self) -> list[tuple[str, Callable[[], None]]]:
        """(name, target) of every thread the server needs."""
        return [("http", self._loop), *(one for pool in self._pools.values() for one in pool.threads())]

    def stop(self) -> None:
        """Ends accepting and all connections, and the threads as soon as their request is answered."""
        self._stopping.set()
        for pool in self._pools.values():
            pool.stop()
        self._ring()

    def close(self) -> None:
        """After `stop`, when the epoll thread has ended or never ran: gives the descriptors back."""
        self._close_listeners()
        for client in [*self._clients.values(), *self._leaving]:
            client.sock.close()
        self._epoll.close()
        with self._ring_lock:
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1

    # --- handler threads ---

    def _hand_back(self, client: _Client, response: Response | None) -> None:
        self._done.append((client, response))
        self._ring()

    def _ring(self) -> None:
        with self._ring_lock:
            if self._wake >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_write(self._wake, 1)

    # --- the epoll thread ---

    def _loop(self) -> None:
        swept = time.monotonic()
        while not self._stopping.is_set():
            for fd, events in self._epoll.poll(SWEEP_S, EVENTS_AT_ONCE):
                self._event(fd, events)
            self._finish_done()
            now = time.monotonic()
            if now - swept >= SWEEP_S:
                swept = now
                self._sweep(now)
        self._close_listeners()
        self._finish_under_way()

    def _close_listeners(self) -> None:
        for sock, _ in self._listeners.values():
            sock.close()
        self._listeners.clear()

    def _finish_under_way(self) -> None:
        """Lets go of who waits for nothing, and gives the others' answers a moment."""
        until = time.monotonic() + STOP_DEADLINE_S
        while True:
            self._finish_done()
            for client in [one for one in self._clients.values() if not one.busy and not one.out]:
                self._close(client)
            if not (self._clients or self._leaving) or time.monotonic() >= until:
                break
            for fd, events in self._epoll.poll(0.05, EVENTS_AT_ONCE):
                self._event(fd, events)
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
        if client is not None:
            self._guard(client, partial(self._ready, client, events))

    def _guard(self, client: _Client, step: Callable[[], None]) -> None:
        """Whatever goes wrong with one connection ends that one."""
        try:
            step()
        except BlockingIOError:
            return  # woken for nothing
        except OSError:
            self._close(client)
        except Exception as exc:  # noqa: BLE001 - one connection must not end the others
            log.warn_rate("connection", "a connection failed", peer=client.peer, error=f"{type(exc).__name__}: {exc}")
            self._close(client)

    def _ready(self, client: _Client, events: int) -> None:
        if client.busy:
            # Its end has come while a handler works: epoll would say so again and again. The answer will find out.
            self._unregister(client)
            return
        if events & select.EPOLLOUT:
            self._flush(client)
            self._advance(client)
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and self._clients.get(client.fd) is client:
            self._read(client)

    # --- accepting ---

    def _accept(self, listener: socket.socket, is_internal: bool) -> None:
        if time.monotonic() < self._accept_after:
            return
        for _ in range(ACCEPTS_AT_ONCE):
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
            self._admit(sock, plain_address(where[0]), is_internal)

    def _admit(self, sock: socket.socket, peer: str, is_internal: bool) -> None:
        here = self._per_address.get(peer, 0)
        most = MAX_INTERNAL_CONNECTIONS if is_internal else MAX_CONNECTIONS
        if self._open[is_internal] >= most or here >= MAX_CONNECTIONS_PER_ADDRESS:
            self.refused += 1
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        http = HttpConnection(peer, is_internal=is_internal, client_address=self._proxies.client_address)
        deadline = time.monotonic() + REQUEST_DEADLINE_S
        client = _Client(sock, sock.fileno(), peer, is_internal, http, deadline, bytearray())
        self._clients[client.fd] = client
        self._per_address[peer] = here + 1
        self._open[is_internal] += 1
        self._epoll.register(client.fd, client.interest)

    # --- one connection ---

    def _read(self, client: _Client) -> None:
        data = client.sock.recv(RECEIVE_BYTES)
        if client.closing:
            # What a client sends while it is answered for the last time is thrown away; its end ends it.
            if not data:
                self._close(client)
            return
        client.http.feed(data)
        client.got_end = client.got_end or not data
        self._advance(client)

    def _advance(self, client: _Client) -> None:
        """Goes on until a handler works, the answer must be taken first, more must come, or the connection ends."""
        while not client.busy and not client.closing and not client.out:
            found = client.http.next()
            if found is None:
                self._await_more(client)
                break
            client.began = 0.0
            if isinstance(found, Response):
                self._answer(client, found)
                continue
            self.requests += 1
            instant = self._instant(found) if isinstance(found, Request) else None
            if instant is not None:
                self._answer(client, instant)
            elif not self._pools[client.is_internal].submit(client, found):
                self.refused += 1
                busy = error_response(503, "ServiceUnavailable", "too many requests are waiting", _TRY_AGAIN)
                self._answer(client, busy)
            else:
                client.busy = True
                if isinstance(found, Upgrade):
                    self._leave(client)
        self._watch(client)

    def _await_more(self, client: _Client) -> None:
        if client.http.wants_continue:
            self._send(client, client.http.continue_bytes())
        elif client.got_end:
            client.closing = True
            self._flush(client)
        if client.http.in_request and not client.began:
            client.began = time.monotonic()
            client.deadline = client.began + REQUEST_DEADLINE_S

    def _instant(self, request: Request) -> Response | None:
        try:
            return self._router.instant(request)
        except Exception as exc:  # noqa: BLE001 - a handler's fault is no fault of this thread
            return failure(exc, request.path)

    def _finish_done(self) -> None:
        while self._done:
            client, response = self._done.popleft()
            self._pools[client.is_internal].finished()
            client.busy = False
            if client in self._leaving:
                self._leaving.discard(client)
                if response is None:
                    self._uncount(client)
                    continue
                self._clients[client.fd] = client
            assert response is not None  # only an upgrade's socket can be gone
            self._guard(client, partial(self._go_on, client, response))

    def _go_on(self, client: _Client, response: Response) -> None:
        self._answer(client, response)
        self._advance(client)

    def _answer(self, client: _Client, response: Response) -> None:
        data = client.http.answer(response)
        if not client.http.keep_alive or not data:
            client.closing = True
        client.deadline = time.monotonic() + WRITE_DEADLINE_S
        self._send(client, data)
        if not client.out and not client.closing:
            client.deadline = time.monotonic() + IDLE_DEADLINE_S

    def _send(self, client: _Client, data: bytes) -> None:
        client.out += data
        self._flush(client)

    def _flush(self, client: _Client) -> None:
        """Sends what the socket takes. At the end of a last answer says that no more comes, and waits for the client's
        end, so that a reset does not eat the answer."""
        while client.out:
            try:
                sent = client.sock.send(client.out)
            except BlockingIOError:
                break
            del client.out[:sent]
        self._count_unsent(client)
        if client.out:
            self._watch(client)
            return
        if not client.closing:
            return
        if client.got_end:
            self._close(client)
            return
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_WR)
        client.deadline = time.monotonic() + LINGER_S
        self._watch(client)

    def _count_unsent(self, client: _Client) -> None:
        """Keeps the sum, and below its bound: who has waited longest has had the best chance to read."""
        self._unsent_bytes += len(client.out) - client.unsent
        client.unsent = len(client.out)
        if self._unsent_bytes <= MAX_UNSENT_BYTES:
            return
        log.warn_rate("unsent", "answers wait for too many clients: the oldest are let go", bytes=self._unsent_bytes)
        for one in sorted((c for c in self._clients.values() if c.unsent), key=lambda c: c.deadline):
            if self._unsent_bytes <= MAX_UNSENT_BYTES // 2:
                break
            self.refused += 1
            self._close(one)

    def _watch(self, client: _Client) -> None:
        """Asks epoll for what the connection can use now."""
        if self._clients.get(client.fd) is not client:
            return
        if client.out:
            interest = select.EPOLLOUT
        else:
            interest = 0 if client.busy else select.EPOLLIN
        if client.interest < 0:
            self._epoll.register(client.fd, interest)
        elif interest != client.interest:
            self._epoll.modify(client.fd, interest)
        client.interest = interest

    def _unregister(self, client: _Client) -> None:
        if client.interest >= 0:
            client.interest = -1
            self._epoll.unregister(client.fd)

    def _sweep(self, now: float) -> None:
        for client in [c for c in self._clients.values() if c.deadline < now and not c.busy]:
            self._close(client)
        if self._accept_after and now >= self._accept_after:
            self._accept_after = 0.0
            for fd in self._listeners:
                self._epoll.modify(fd, select.EPOLLIN)

    def _leave(self, client: _Client) -> None:
        """A handler gets the socket, and may give it to a consumer: from here on its descriptor may be another's."""
        self._unregister(client)
        del self._clients[client.fd]
        self._leaving.add(client)

    def _close(self, client: _Client) -> None:
        if self._clients.get(client.fd) is not client:
            return
        self._unregister(client)
        del self._clients[client.fd]
        self._uncount(client)
        client.sock.close()

    def _uncount(self, client: _Client) -> None:
        self._unsent_bytes -= client.unsent
        client.unsent = 0
        self._open[client.is_internal] -= 1
        left = self._per_address[client.peer] - 1
        if left > 0:
            self._per_address[client.peer] = left
        else:
            del self._per_address[client.peer]
