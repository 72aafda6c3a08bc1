"""Names to addresses on a few threads of their own, since the system's resolver blocks for as long as it likes.

A dial that waits for an answer has its own deadline; an answer that comes too late is thrown away by whoever asked.
`Resolver.ask` is for one thread (the dialer's); answers are delivered on the resolver threads, by the callback given.
"""

from __future__ import annotations

import queue
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zlay import logs

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Address", "Resolver"]

MAX_ADDRESSES = 8  # of one name


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect: family, what `connect` wants, and the address as text."""

    family: int
    sockaddr: tuple[str, int] | tuple[str, int, int, int]

    @property
    def text(self) -> str:
        """The address alone."""
        return self.sockaddr[0]


Answer = list[Address] | OSError

log = logs.get("hosts")


class Resolver:
    """A bounded number of threads that call getaddrinfo.

    What nobody waits for any more is not asked: where the system's resolver takes longer than dials do, the queue moves
    on all the same, and is bounded by the dials in flight and what was given up since. No thread ends before `stop`,
    whatever goes wrong in it.
    """

    def __init__(self, threads: int, deliver: Callable[[int, Answer], None], *, wanted: Callable[[int], bool]) -> None:
        """`wanted(token)` says, on a resolver thread, whether somebody still waits for that answer."""
        self._threads = threads
        self._deliver = deliver
        self._wanted = wanted
        self._questions: queue.SimpleQueue[tuple[int, str, int] | None] = queue.SimpleQueue()
        self._started = 0

    def start(self) -> None:
        """Starts the threads that do not run yet. RuntimeError when there are none to be had: may be called again."""
        while self._started < self._threads:
            threading.Thread(target=self._run, name=f"dns-{self._started}", daemon=True).start()
            self._started += 1

    def ask(self, token: int, name: str, port: int) -> None:
        """Asks for the addresses of `name`; `deliver(token, answer)` follows on another thread."""
        self._questions.put((token, name, port))

    def stop(self) -> None:
        """Lets the threads end after the question they are at; they are not waited for."""
        for _ in range(self._started):
            self._questions.put(None)

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            token, name, port = question
            if not self._wanted(token):
                continue
            try:
                answer = resolve(name, port)
            except Exception as exc:  # noqa: BLE001 - nobody else would miss this thread
                answer = OSError(f"{type(exc).__name__}: {exc}")
                log.warn_rate("dns", "a name cannot be asked for", name=name, error=str(answer))
            self._deliver(token, answer)


def resolve(name: str, port: int) -> Answer:
    """The addresses of `name`, IPv6 and IPv4 in turn, in the system's order of preference; or why there are none."""
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except OSError as exc:
        return exc
    except ValueError as exc:  # a name that cannot be encoded at all
        return OSError(str(exc))
    by_family: dict[int, list[Address]] = {}
    for family, _, _, _, sockaddr in found:
        if family in (socket.AF_INET, socket.AF_INET6):
            by_family.setdefault(family, []).append(Address(family, sockaddr))  # type: ignore[arg-type]
    ordered: list[Address] = []
    lists = list(by_family.values())
    while any(lists):
        ordered += [addresses.pop(0) for addresses in lists if addresses]
    return ordered[:MAX_ADDRESSES]
