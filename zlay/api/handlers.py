"""The threads that answer requests: a fixed number of them behind a bounded queue.

Promises: a handler that raises costs its request alone; a full queue refuses at once. `submit` and `finished` belong to
the server's epoll thread, `run` to each of the pool's own threads, `stop` to any.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Protocol

from zlay import logs
from zlay.api.compression import compressed
from zlay.api.connection import Upgrade
from zlay.api.message import Request, Response, XrpcError, error_response
from zlay.latency import answer_soon

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["HandlerPool", "Router", "failure"]

log = logs.get("http")


class Router(Protocol):
    """What answers. Any of these may raise XrpcError."""

    def instant(self, request: Request) -> Response | None:
        """An answer from counters alone, in the epoll thread; None = not such a request."""

    def handle(self, request: Request) -> Response:
        """Any other answer, in a handler thread."""

    def route(self, path: str) -> str:
        """What requests for this path are counted as: one of a fixed number of names. In the epoll thread."""

    def subscribe(self, upgrade: Upgrade, sock: socket.socket) -> Response | None:
        """Takes over the socket of a firehose consumer, or refuses with a Response (the socket stays the server's).

        In a handler thread. The socket is non-blocking and nothing has been sent on it for this request.
        """


def failure(exc: Exception, path: str) -> Response:
    """The answer to a request whose handler raised: the error it meant, or 500 and a line in the log."""
    if isinstance(exc, XrpcError):
        return error_response(exc.status, exc.error, exc.message, exc.headers)
    log.warn_rate(f"failed {path[:100]}", "a request failed", path=path, error=f"{type(exc).__name__}: {exc}")
    return error_response(500, "InternalServerError", "the request failed; the log says why")


class HandlerPool[Client]:
    """See the module's head. A client is whatever the server knows it by."""

    def __init__(
        self,
        router: Router,
        name: str,
        *,
        threads: int,
        most_waiting: int,
        socket_of: Callable[[Client], socket.socket],
        done: Callable[[Client, Response | None], None],
    ) -> None:
        """`done(client, response)` is called in a handler thread; None = the socket is gone with a consumer."""
        self._router = router
        self._name = name
        self._count = threads
        self._most_waiting = most_waiting
        self._socket_of = socket_of
        self._report = done
        self._work: queue.SimpleQueue[tuple[Client, Request | Upgrade] | None] = queue.SimpleQueue()
        self.waiting = 0  # requests submitted and not finished; written by the epoll thread

    def threads(self) -> list[tuple[str, Callable[[], None]]]:
        """(name, target) of each."""
        return [(f"{self._name}-{n}", self.run) for n in range(self._count)]

    def submit(self, client: Client, request: Request | Upgrade) -> bool:
        """Whether the pool takes the request; False = too many wait."""
        if self.waiting >= self._most_waiting:
            return False
        self.waiting += 1
        self._work.put((client, request))
        return True

    def finished(self) -> None:
        """One request's answer has been taken from `done`."""
        self.waiting -= 1

    def stop(self) -> None:
        """Ends each thread as soon as what is queued before this has been answered."""
        for _ in range(self._count):
            self._work.put(None)

    def run(self) -> None:
        """Answers until `stop`."""
        answer_soon()
        while (item := self._work.get()) is not None:
            client, request = item
            self._report(client, self._answer(client, request))

    def _answer(self, client: Client, request: Request | Upgrade) -> Response | None:
        try:
            if isinstance(request, Upgrade):
                return self._router.subscribe(request, self._socket_of(client))
            return compressed(request, self._router.handle(request))
        except Exception as exc:  # noqa: BLE001 - one request must not end a handler
            return failure(exc, request.request.path if isinstance(request, Upgrade) else request.path)
