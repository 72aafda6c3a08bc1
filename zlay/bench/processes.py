"""What benchmarks want to know of processes. Any thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from zlay.errors import LocalFault

if TYPE_CHECKING:
    from zlay.sim.process import SimProcess

__all__ = ["cpu_s", "wait_subscribed"]

CONNECT_S = 60.0
POLL_S = 0.05
_CPUCLOCK_SCHED = 2  # of clockid_t: the processor time of a process, by its id (posix-timers.h)


def cpu_s(pid: int) -> float:
    """User and system time of a process, its threads included; to the nanosecond, where /proc has hundredths."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def wait_subscribed(sim: SimProcess, hosts: int) -> None:
    """Until a relay reads so many of the network's hosts. LocalFault."""
    deadline = time.monotonic() + CONNECT_S
    while sim.stats()["subscribed_hosts"] < hosts:
        if time.monotonic() > deadline:
            raise LocalFault(f"the relay did not connect to {hosts} hosts")
        time.sleep(POLL_S)
