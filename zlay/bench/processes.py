"""Processes of benchmarks' own, and what they want to know of others. Any thread; a Child belongs to one."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

from zlay.errors import LocalFault

if TYPE_CHECKING:
    from types import TracebackType

    from zlay.sim.process import SimProcess

__all__ = ["POLL_S", "Child", "cpu_s", "pause", "wait_subscribed"]

CONNECT_S = 60.0
POLL_S = 0.05
_CPUCLOCK_SCHED = 2  # of clockid_t: the processor time of a process, by its id (posix-timers.h)


class Child:
    """`python -m MODULE WORDS`, spoken with in lines. A context manager, which ends it."""

    def __init__(self, module: str, *words: str) -> None:
        command = [sys.executable, "-m", module, *words]
        self._module = module
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def line(self, timeout_s: float) -> str:
        """What it says next, without its end. LocalFault where it says nothing."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            raise LocalFault(f"{self._module} says nothing; its words, if any, stand above")
        return line.rstrip("\n")

    def tell(self, line: str) -> None:
        """Says something."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def tell_no_more(self) -> None:
        """Ends its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()


def cpu_s(pid: int) -> float:
    """User and system time of a process, its threads included; to the nanosecond, where /proc has hundredths."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def pause(deadline: float, problem: str, pause_s: float = POLL_S) -> None:
    """Waits a little. LocalFault with the problem when the deadline (monotonic) has passed."""
    if time.monotonic() > deadline:
        raise LocalFault(f"{problem}, and there is no more time")
    time.sleep(pause_s)


def wait_subscribed(sim: SimProcess, hosts: int) -> None:
    """Until a relay reads so many of the network's hosts. LocalFault."""
    deadline = time.monotonic() + CONNECT_S
    while sim.stats()["subscribed_hosts"] < hosts:
        pause(deadline, f"the relay is not connected to {hosts} hosts")
