"""The HTTP server: one epoll thread for all connections, small pools for handlers.

Promises: a client that is slow, silent or idle costs one connection's memory and no thread; requests, connections,
headers, bodies, answers and time are bounded, for each client and for all; an answer that a client does not take stops
the reading of its next request; who sends many requests at once has four of them answered and then waits for its next
turn; what a pool cannot take is answered 503; health answers come from the epoll thread itself, so they do not wait
for anything. A WebSocket upgrade leaves with its socket. The internal port has connections and handlers of its own, and
its turn comes after every few events of the public one: what strangers do there cannot keep operators out.
Threads: `_loop` runs in one thread and owns every connection; handlers run in others and give their answers back
through a list and an eventfd. `stop` and `close` belong to the thread that runs the relay.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from zlay import logs
from zlay.api.conversations import Conversations
from zlay.api.handlers import HandlerPool, Router
from zlay.api.listening import Proxies, listen, plain_address
from zlay.errors import StartError
from zlay.latency import answer_soon

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from zlay.api.client import Client
    from zlay.api.connection import Upgrade
    from zlay.api.message import Request, Response
    from zlay.api.tally import Tally

__all__ = ["HttpServer", "Router"]

HANDLERS = 12  # eight may wait for strangers' hosts (zlay.hosts.requests); the rest answers from memory or one query
MAX_WAITING = 256  # requests for them; at a millisecond each, a quarter of a second
INTERNAL_HANDLERS = 2
MAX_INTERNAL_WAITING = 32
STOP_DEADLINE_S = 1.0  # for answers under way when the server stops
SWEEP_S = 1.0
ACCEPT_PAUSE_S = 0.5  # when descriptors have run out
ACCEPTS_AT_ONCE = 64  # then the connections get their turn
AT_ONCE = {True: 256, False: 4}  # events, answers of handlers, turns: strangers' take up to 0.5 ms each
STOP_TURN_S = 0.05


log = logs.get("http")


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
        # By port, as all that follows. The public port's is in the other one, too, so that one wait is for both.
        self._epolls = {True: select.epoll(), False: select.epoll()}
        self._epolls[True].register(self._epolls[False].fileno(), select.EPOLLIN)
        self._ring_lock = threading.Lock()  # guards `_wake`: no late handler may ring a descriptor that is another's
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epolls[True].register(self._wake, select.EPOLLIN)
        self._listeners: dict[int, tuple[socket.socket, bool]] = {}
        self._done: dict[bool, deque[tuple[Client, Response | None]]] = {True: deque(), False: deque()}
        self._pools = {
            False: self._pool("http-handler", HANDLERS, MAX_WAITING),
            True: self._pool("http-internal", INTERNAL_HANDLERS, MAX_INTERNAL_WAITING),
        }
        self._stopping = threading.Event()
        self._accept_after = 0.0
        self._conversations = Conversations(router, Proxies(trusted_proxies), self._epolls, submit=self._submit)
        self.addresses: list[tuple[str, int]] = []
        try:
            for address, port, is_internal in listeners:
                self._listen(address, port, is_internal)
        except StartError:
            self.close()
            raise

    def _pool(self, name: str, threads: int, most_waiting: int) -> HandlerPool[Client]:
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
        self._epolls[is_internal].register(sock.fileno(), select.EPOLLIN)
        self.addresses.append((address, sock.getsockname()[1]))

    @property
    def connections(self) -> int:
        """HTTP connections open now. Any thread."""
        return self._conversations.open

    @property
    def tally(self) -> Tally:
        """What has happened. Any thread reads."""
        return self._conversations.tally

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
        self._conversations.close()
        for epoll in self._epolls.values():
            epoll.close()
        with self._ring_lock:
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1

    # --- handler threads ---

    def _hand_back(self, client: Client, response: Response | None) -> None:
        self._done[client.is_internal].append((client, response))
        self._ring()

    def _ring(self) -> None:
        with self._ring_lock:
            if self._wake >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_write(self._wake, 1)

    # --- the epoll thread ---

    def _loop(self) -> None:
        answer_soon()
        sweep_at = time.monotonic() + SWEEP_S
        while not self._stopping.is_set():
            self._turn(max(0.0, min(SWEEP_S, sweep_at - time.monotonic())))
            now = time.monotonic()
            if self._accept_after and now >= self._accept_after:
                self._go_on_accepting()
            if now >= sweep_at and self._conversations.sweep(now):
                sweep_at = now + SWEEP_S
        self._close_listeners()
        self._finish_under_way()

    def _close_listeners(self) -> None:
        for sock, _ in self._listeners.values():
            sock.close()
        self._listeners.clear()

    def _finish_under_way(self) -> None:
        """Lets go of who waits for nothing, and gives the others' answers a moment."""
        until = time.monotonic() + STOP_DEADLINE_S
        self._turn(0.0)
        while self._conversations.close_waiting() and time.monotonic() < until:
            self._turn(STOP_TURN_S)

    def _turn(self, wait_s: float) -> None:
        """What there is to do on the internal port, then some of what there is on the public one."""
        if self._conversations.has_queued or any(self._done.values()):
            wait_s = 0.0
        for is_internal, most in AT_ONCE.items():
            for fd, events in self._epolls[is_internal].poll(wait_s if is_internal else 0.0, most):
                self._event(fd, events)
            self._finish_done(is_internal, most)
            self._conversations.go_on(most, is_internal=is_internal)

    def _event(self, fd: int, events: int) -> None:
        if fd == self._epolls[False].fileno():
            return  # its turn comes
        if fd == self._wake:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            return
        listener = self._listeners.get(fd)
        if listener is not None:
            self._accept(*listener)
            return
        self._conversations.event(fd, events)

    def _submit(self, client: Client, request: Request | Upgrade) -> bool:
        return self._pools[client.is_internal].submit(client, request)

    def _finish_done(self, is_internal: bool, most: int) -> None:
        done = self._done[is_internal]
        for _ in range(min(most, len(done))):
            client, response = done.popleft()
            self._pools[client.is_internal].finished()
            self._conversations.answered(client, response)

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
                    self.tally.refuse("no_descriptors")
                    self._listen_for(0)
                    log.warn_rate("accept", "no more connections can be accepted just now", error=exc.strerror)
                    return
                continue  # the client was gone before it was accepted
            self._conversations.admit(sock, plain_address(where[0]), is_internal=is_internal)

    def _go_on_accepting(self) -> None:
        self._accept_after = 0.0
        self._listen_for(select.EPOLLIN)

    def _listen_for(self, events: int) -> None:
        for fd, (_, is_internal) in self._listeners.items():
            self._epolls[is_internal].modify(fd, events)
