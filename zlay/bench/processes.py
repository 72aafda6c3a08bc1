"""What benchmarks want to know of processes. Any thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from zlay.errors import LocalFault

if TYPE_CHECKING:
    from zlay.sim.process import SimProcess

__all__ = ["POLL_S", "cpu_s", "pause", "wait_subscribed"]

CONNECT_S = 60.0
POLL_S = 0.05
_CPUCLOCK_SCHED = 2  # of clockid_t: the processor time of a process, by its id (posix-timers.h)


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
