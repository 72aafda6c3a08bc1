"""Asks a PDS whether an account that we hold for inactive is active again (protocol E5).

A worker asks before it drops the account's commits, at most now and then for one account; its frames wait meanwhile.
Every request gets one answer: a status, or NO_ANSWER where the host gives none. Threads: `threads()` lists what is to
be run, each supervised.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from zlay import logs
from zlay.errors import HttpFault
from zlay.hosts.lanes import HostLanes
from zlay.hosts.questions import HostAsker

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from zlay.hosts.registry import Registry

__all__ = ["StatusChecker"]

THREADS = 4
PAUSE_S = 0.05  # between two questions to one host: at most 20 a second
REQUEST_WAIT_S = 0.25
NO_ANSWER = -1  # zlay._fast.pipeline.post_status: the account stays as it is

log = logs.get("accounts")


class StatusChecker:
    """See the module's head."""

    def __init__(
        self,
        registry: Registry,
        *,
        next_request: Callable[[float], tuple[str, int] | None],
        post_status: Callable[[str, int], None],
        allow_private: bool,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`next_request(timeout_s)` waits for (did, host id); `post_status` takes a verdicts.Status or NO_ANSWER."""
        self._registry = registry
        self._next_request = next_request
        self._post_status = post_status
        self._allow_private = allow_private
        self._context = context
        self._lanes: HostLanes[str] = HostLanes(PAUSE_S)
        self._stop = threading.Event()

    def threads(self) -> list[tuple[str, Callable[[], None]]]:
        """(name, target) of every thread this part needs."""
        askers = [(f"status-{n}", self._run_asker) for n in range(THREADS)]
        return [("status-requests", self._run_requests), *askers]

    def stop(self) -> None:
        """Asks all threads to end; requests not answered by then stay unanswered."""
        self._stop.set()
        self._lanes.close()

    def _run_requests(self) -> None:
        while not self._stop.is_set():
            request = self._next_request(REQUEST_WAIT_S)
            if request is not None and not self._lanes.put(request[1], request[0]):
                self._post_status(request[0], NO_ANSWER)

    def _run_asker(self) -> None:
        asker = HostAsker(allow_private=self._allow_private, context=self._context)
        try:
            while not self._stop.is_set():
                taken = self._lanes.take(REQUEST_WAIT_S)
                if taken is not None:
                    self._answer(asker, *taken)
        finally:
            asker.close()

    def _answer(self, asker: HostAsker, host_id: int, did: str) -> None:
        status = NO_ANSWER
        try:
            host = self._registry.get(host_id)
            if host is not None and not host.banned:
                answer = asker.repo_status(host.hostname, did, no_tls=host.no_tls)
                status = NO_ANSWER if answer is None else answer
        except HttpFault as exc:
            log.warn_rate(f"status-{host_id}", "host gives no account status", host_id=host_id, error=str(exc))
        finally:
            self._lanes.done(host_id)
            self._post_status(did, status)
