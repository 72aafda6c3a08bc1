"""Every open connection, and what is said on it: reading, answering, deadlines, bounds. The epoll thread's alone.

Promises: a connection is read only when its client has taken all answers, no handler works for it and it is its turn;
a client at fault is told so where it can be told; each end for a cause is counted under that cause; whatever fails on
one connection ends that one. See the server for the whole.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from zlay import logs
from zlay.api.admission import Admission
from zlay.api.client import ByteSum, Client
from zlay.api.connection import HttpConnection, Upgrade
from zlay.api.handlers import failure
from zlay.api.listening import MAX_KERNEL_UNSENT_BYTES, bound_unsent
from zlay.api.message import Request, Response, error_response
from zlay.api.tally import BY_STATUS, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zlay.api.handlers import Router
    from zlay.api.listening import Proxies

__all__ = ["Conversations"]

MAX_UNSENT_BYTES = 64 * 1024 * 1024  # answers that clients have not taken yet, all together (R5)
MAX_HELD_BYTES = 32 * 1024 * 1024  # requests that are not whole yet, all together: 2.7 KiB for each connection
RECEIVE_BYTES = 16 * 1024
REQUEST_DEADLINE_S = 15.0  # from a request's first byte to its last, and from connecting to the first
IDLE_DEADLINE_S = 60.0
REST_S = 5.0  # between requests; then a connection may have to make room for a new one on a full port
WRITE_DEADLINE_S = 60.0  # to take an answer
LINGER_S = 2.0  # from the last answer to the client's end
SWEPT_AT_ONCE = 100  # connections over their deadline; then the others get their turn
REQUESTS_AT_ONCE = 4  # of one connection, 0.1 ms each; then the others get their turn
SWITCHING = 101

_TRY_AGAIN = (("Retry-After", "5"),)
_TURNED_AWAY = {
    "port_full": error_response(503, "ServiceUnavailable", "too many connections", _TRY_AGAIN),
    "address_full": error_response(429, "RateLimitExceeded", "too many connections of one client", _TRY_AGAIN),
}

log = logs.get("http")


class Conversations:
    """See the module's head."""

    def __init__(
        self,
        router: Router,
        proxies: Proxies,
        epolls: Mapping[bool, select.epoll],
        *,
        submit: Callable[[Client, Request | Upgrade], bool],
    ) -> None:
        """`epolls`: by whether a client is internal. `submit` gives a request to the handlers, whose answer comes back
        by `answered`; False = they are full."""
        self._router = router
        self._proxies = proxies
        self._epolls = epolls
        self._submit = submit
        self._clients: dict[int, Client] = {}
        self._leaving: set[Client] = set()  # upgrades with a handler; their descriptors may be another's already
        self._resting: dict[bool, dict[Client, float]] = {False: {}, True: {}}  # by port: between requests, since when
        self._queued: dict[bool, deque[Client]] = {False: deque(), True: deque()}  # with more requests, by port
        self._admission = Admission()
        self._unsent = ByteSum(MAX_UNSENT_BYTES)
        self._held = ByteSum(MAX_HELD_BYTES)
        self.tally = Tally()

    @property
    def open(self) -> int:
        """Connections. Any thread."""
        return sum(self._admission.open.values())

    @property
    def has_queued(self) -> bool:
        """Whether `go_on` has something to do."""
        return any(self._queued.values())

    def event(self, fd: int, events: int) -> None:
        """What epoll says of a descriptor."""
        client = self._clients.get(fd)
        if client is not None:
            self._guard(client, partial(self._ready, client, events))

    def answered(self, client: Client, response: Response | None) -> None:
        """A handler's answer; None = the socket has gone with a consumer."""
        if response is not None:
            self._take_back(client)
            self._guard(client, partial(self._go_on, client, response))
            return
        self._leaving.remove(client)  # only an upgrade's socket can be gone
        self._end_asking(client)
        self._count_answer(client, SWITCHING)
        self._admission.leave(client.peer, is_internal=client.is_internal)

    def go_on(self, most: int, *, is_internal: bool) -> None:
        """Gives so many of those that wait for their turn on a port one."""
        queued = self._queued[is_internal]
        for _ in range(min(most, len(queued))):
            client = queued.popleft()
            client.queued = False
            if self._is_open(client):
                self._guard(client, partial(self._advance, client))

    def sweep(self, now: float) -> bool:
        """Ends what is over its deadline; False = there are more of those."""
        overdue = [c for c in self._clients.values() if c.deadline < now and not c.busy and not c.queued]
        for client in overdue[:SWEPT_AT_ONCE]:
            self._guard(client, partial(self._end_overdue, client))
        return len(overdue) <= SWEPT_AT_ONCE

    def close_waiting(self) -> bool:
        """Lets go of who waits for nothing. False = nobody is left."""
        for client in [one for one in self._clients.values() if not one.busy and not one.out]:
            self._close(client)
        return bool(self._clients or self._leaving)

    def close(self) -> None:
        """Ends all connections at once, when the epoll thread runs no more."""
        for client in list(self._clients.values()):
            self._close(client)
        for client in self._leaving:
            client.sock.close()

    def admit(self, sock: socket.socket, peer: str, *, is_internal: bool) -> None:
        """A connection that has just been accepted."""
        sock.setblocking(False)
        http = HttpConnection(peer, is_internal=is_internal, client_address=self._proxies.client_address)
        reason = self._admission.refusal(peer, is_internal=is_internal)
        if reason == "port_full" and self._make_room(is_internal=is_internal):
            reason = self._admission.refusal(peer, is_internal=is_internal)
        if reason is not None:
            self.tally.refuse(reason)
            http.keep_alive = False
            with contextlib.suppress(OSError), sock:  # a fresh socket's buffer takes it, and the client may read it
                sock.send(http.answer(_TURNED_AWAY[reason]))
                sock.shutdown(socket.SHUT_WR)
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound_unsent(sock, MAX_KERNEL_UNSENT_BYTES)
        client = Client(sock, sock.fileno(), peer, is_internal, http, time.monotonic() + REQUEST_DEADLINE_S)
        self._clients[client.fd] = client
        self._resting[is_internal][client] = time.monotonic()
        self._epolls[client.is_internal].register(client.fd, client.interest)

    def _make_room(self, *, is_internal: bool) -> bool:
        """Lets go of the connection that has rested for longest, if any has for a while."""
        resting = self._resting[is_internal]
        if not resting:
            return False
        client, since = next(iter(resting.items()))
        if time.monotonic() - since < REST_S:
            return False
        self._let_go(client, "crowded_out")
        return True

    # --- one connection ---

    def _guard(self, client: Client, step: Callable[[], None]) -> None:
        """Whatever goes wrong with one connection ends that one."""
        try:
            step()
        except BlockingIOError:
            return  # woken for nothing
        except OSError:
            if client.http.in_request and not client.closing:
                self._let_go(client, "cut_short")
            elif client.out or client.route is not None:
                self._let_go(client, "broken")
            else:
                self._close(client)
        except Exception as exc:  # noqa: BLE001 - one connection must not end the others
            log.warn_rate("connection", "a connection failed", peer=client.peer, error=f"{type(exc).__name__}: {exc}")
            self._let_go(client, "fault")

    def _ready(self, client: Client, events: int) -> None:
        if client.busy or client.queued:
            # Its end has come while it is not read: epoll would say so again and again. The answer will find out.
            self._unregister(client)
            return
        if events & select.EPOLLOUT:
            self._flush(client)
            self._advance(client)
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and self._is_open(client):
            self._read(client)

    def _is_open(self, client: Client) -> bool:
        return self._clients.get(client.fd) is client

    def _read(self, client: Client) -> None:
        data = client.sock.recv(RECEIVE_BYTES)
        if client.closing:
            # What a client sends while it is answered for the last time is thrown away; its end ends it.
            if not data:
                self._close(client)
            return
        client.http.feed(data)
        client.got_end = client.got_end or not data
        self._advance(client)

    def _advance(self, client: Client) -> None:
        """Goes on until a handler works, the answer must be taken first, more must come, the connection ends, or it is
        the others' turn."""
        for _ in range(REQUESTS_AT_ONCE):
            if not self._is_open(client) or client.busy or client.closing or client.out:
                break
            found = client.http.next()
            if found is None:
                self._await_more(client)
                break
            client.began = 0.0
            self._rests(client, False)
            if isinstance(found, Response):
                self.tally.refuse("cut_short" if client.got_end else BY_STATUS[found.status])
                self._answer(client, found)
            else:
                self._take(client, found)
        else:
            client.queued = self._is_open(client) and not (client.busy or client.closing or client.out)
            if client.queued:
                self._queued[client.is_internal].append(client)
        self._hold(client)
        self._watch(client)

    def _take(self, client: Client, found: Request | Upgrade) -> None:
        """A whole request: it is answered, or a handler has it."""
        request = found.request if isinstance(found, Upgrade) else found
        self.tally.requests += 1
        client.requests += 1
        client.route = self._router.route(request.path)
        client.whole_at = time.monotonic()
        instant = self._instant(request) if request is found else None
        if instant is not None:
            self._answer(client, instant)
        elif not self._admission.ask(request.address, is_internal=client.is_internal):
            self.tally.refuse("client_full")
            message = "too many requests of one client are waiting"
            self._answer(client, error_response(429, "RateLimitExceeded", message, _TRY_AGAIN))
        else:
            client.asked = request.address
            client.busy = True
            if isinstance(found, Upgrade):
                self._leave(client)  # first: a handler may be done with the socket before `_submit` returns
            if not self._submit(client, found):
                self._take_back(client)
                self.tally.refuse("handlers_full")
                message = "too many requests are waiting"
                self._answer(client, error_response(503, "ServiceUnavailable", message, _TRY_AGAIN))

    def _await_more(self, client: Client) -> None:
        if client.http.wants_continue:
            self._send(client, client.http.continue_bytes())
        elif client.got_end:
            client.closing = True
            self._flush(client)
        if not client.began:
            in_request = client.http.in_request
            self._rests(client, not in_request)
            if in_request:
                client.began = time.monotonic()
                client.deadline = client.began + REQUEST_DEADLINE_S

    def _rests(self, client: Client, yes: bool) -> None:
        if not yes:
            self._resting[client.is_internal].pop(client, None)
        elif self._is_open(client):
            self._resting[client.is_internal].setdefault(client, time.monotonic())

    def _instant(self, request: Request) -> Response | None:
        try:
            return self._router.instant(request)
        except Exception as exc:  # noqa: BLE001 - a handler's fault is no fault of this thread
            return failure(exc, request.path)

    def _go_on(self, client: Client, response: Response) -> None:
        self._answer(client, response)
        self._advance(client)

    def _answer(self, client: Client, response: Response) -> None:
        self._count_answer(client, response.status)
        data = client.http.answer(response)
        client.closing = not client.http.keep_alive
        client.deadline = time.monotonic() + WRITE_DEADLINE_S
        self._send(client, data)
        if not client.out and not client.closing:
            client.deadline = time.monotonic() + IDLE_DEADLINE_S

    def _count_answer(self, client: Client, status: int) -> None:
        if client.route is not None:
            self.tally.answered(client.route, status, time.monotonic() - client.whole_at)
            client.route = None

    def _send(self, client: Client, data: bytes) -> None:
        client.out += data
        self._flush(client)

    def _flush(self, client: Client) -> None:
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

    def _count_unsent(self, client: Client) -> None:
        for one in self._unsent.set(client, len(client.out)):
            self._let_go(one, "unsent_full")

    def _hold(self, client: Client) -> None:
        """Of clients that handlers work for, as many as may wait, what has come already is not counted."""
        counts = self._is_open(client) and not client.busy and not client.closing
        for one in self._held.set(client, client.http.held_bytes if counts else 0):
            self._let_go(one, "halves_full")

    def _watch(self, client: Client) -> None:
        """Asks epoll for what the connection can use now."""
        if not self._is_open(client):
            return
        if client.out:
            interest = select.EPOLLOUT
        else:
            interest = 0 if client.busy or client.queued else select.EPOLLIN
        if client.interest < 0:
            self._epolls[client.is_internal].register(client.fd, interest)
        elif interest != client.interest:
            self._epolls[client.is_internal].modify(client.fd, interest)
        client.interest = interest

    def _unregister(self, client: Client) -> None:
        if client.interest >= 0:
            client.interest = -1
            self._epolls[client.is_internal].unregister(client.fd)

    def _end_overdue(self, client: Client) -> None:
        if client.out:
            self._let_go(client, "slow_reader")
        elif client.closing:
            self._close(client)
        elif client.http.in_request:
            self.tally.refuse("slow_request")
            self._answer(client, client.http.refuse(408, "the request has taken too long"))
            self._hold(client)
        else:
            self._let_go(client, "idle" if client.requests else "silent")

    def _leave(self, client: Client) -> None:
        """A handler gets the socket, and may give it to a consumer: from here on its descriptor may be another's."""
        bound_unsent(client.sock, None)
        self._unregister(client)
        del self._clients[client.fd]
        self._leaving.add(client)

    def _take_back(self, client: Client) -> None:
        """No handler works for it any more, or none did."""
        client.busy = False
        self._end_asking(client)
        if client in self._leaving:
            self._leaving.discard(client)
            self._clients[client.fd] = client
            bound_unsent(client.sock, MAX_KERNEL_UNSENT_BYTES)

    def _end_asking(self, client: Client) -> None:
        if client.asked is not None:
            self._admission.answered(client.asked, is_internal=client.is_internal)
            client.asked = None

    def _let_go(self, client: Client, reason: str) -> None:
        if self._is_open(client):
            self.tally.refuse(reason)
            self._close(client)

    def _close(self, client: Client) -> None:
        if not self._is_open(client):
            return
        self._unregister(client)
        del self._clients[client.fd]
        self._rests(client, False)
        self._unsent.set(client, 0)
        self._held.set(client, 0)
        self._admission.leave(client.peer, is_internal=client.is_internal)
        client.sock.close()
