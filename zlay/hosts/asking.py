"""What parts that put the workers' requests to hosts have in common: threads, lanes, an end.

One thread takes requests and puts them into lanes (zlay.hosts.lanes); some threads take from there and ask. A subclass
says what a request becomes and what is asked. `threads()` lists what is to be run, each supervised.
"""

from __future__ import annotations

import abc
import threading
from typing import TYPE_CHECKING

from zlay.hosts.lanes import HostLanes
from zlay.hosts.questions import HostAsker

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from zlay.hosts.registry import Registry

__all__ = ["HostQuestions"]

REQUEST_WAIT_S = 0.25


class HostQuestions[Q](abc.ABC):
    """See the module's head. Q: a question as it waits. `stop` may be called by any thread."""

    def __init__(
        self,
        registry: Registry,
        *,
        name: str,
        askers: int,
        pause_s: float,
        next_request: Callable[[float], tuple[str, int] | None],
        allow_private: bool,
        context: ssl.SSLContext | None,
    ) -> None:
        """`next_request(timeout_s)` waits for (did, host id); `pause_s` lies between two questions to one host."""
        self._registry = registry
        self._name = name
        self._askers = askers
        self._next_request = next_request
        self._allow_private = allow_private
        self._context = context
        self._lanes: HostLanes[Q] = HostLanes(pause_s)
        self._stop = threading.Event()

    def threads(self) -> list[tuple[str, Callable[[], None]]]:
        """(name, target) of every thread this part needs."""
        askers = [(f"{self._name}-{n}", self._run_asker) for n in range(self._askers)]
        return [(f"{self._name}-requests", self._run_requests), *askers]

    def stop(self) -> None:
        """Asks all threads to end; what waits is forgotten."""
        self._stop.set()
        self._lanes.close()

    def _run_requests(self) -> None:
        while not self._stop.is_set():
            request = self._next_request(REQUEST_WAIT_S)
            if request is not None:
                self._take(*request)

    def _run_asker(self) -> None:
        asker = HostAsker(allow_private=self._allow_private, context=self._context, stop=self._stop)
        try:
            while not self._stop.is_set():
                taken = self._lanes.take(REQUEST_WAIT_S)
                if taken is not None:
                    self._ask(asker, *taken)
        finally:
            asker.close()

    @abc.abstractmethod
    def _take(self, did: str, host_id: int) -> None:
        """Puts a request into its host's lane, or answers it. The thread of requests."""

    @abc.abstractmethod
    def _ask(self, asker: HostAsker, host_id: int, question: Q) -> None:
        """Asks the host, ends its turn in the lane, and passes on what it said. Any thread that asks."""
