"""Ports for servers under test that must know theirs beforehand, because they are stopped and started again.

Any thread.
"""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

LOWEST = 10_000
TRIES = 1000
_random = random.SystemRandom()
_given: set[int] = set()  # only added to


def _given_out_by_the_system() -> int:
    """The lowest of the ports that connections get: whoever runs beside this test may have one of them at any time."""
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def free_ports(count: int = 1) -> int:
    """The first of `count` ports of 127.0.0.1 in a row that were free a moment ago; none is given out twice."""
    end = max(_given_out_by_the_system(), LOWEST + 2 * count)
    for _ in range(TRIES):
        first = _random.randrange(LOWEST, end - count)
        wanted = range(first, first + count)
        if not _given.isdisjoint(wanted):
            continue
        with contextlib.ExitStack() as stack:
            try:
                for port in wanted:
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
        _given.update(wanted)
        return first
    raise AssertionError("no ports are free")
