"""Limits of hosts as Python sets and reads them. What they mean and how they are kept: allowance.pxd. Any thread."""

from libc.stdint cimport uint64_t
from zlay._fast.allowance cimport ALLOWANCES, Allowance, allowance_spend, allowance_wait_us
from zlay._fast.host cimport Host, MAX_HOSTS, WAIT_LIMIT, host_at, host_interrupt
from zlay._fast.includes.atomics cimport zl_load32, zl_load64_relaxed, zl_store64


cdef Host *_host(index) except NULL:
    cdef Host *h = host_at(index) if 0 <= index < MAX_HOSTS else NULL
    if h == NULL:
        raise IndexError(f"no host at index {index}")
    return h


def set_limits(index, limits):
    """Sets what the host may send: events per second, hour, day, then bytes; 0 = no limit. In force at once.

    What it has sent already stays counted. Raises ValueError for another number of limits.
    """
    cdef Host *h = _host(index)
    cdef int i
    cdef uint64_t[ALLOWANCES] values
    if len(limits) != ALLOWANCES:
        raise ValueError(f"{len(limits)} limits")
    for i in range(ALLOWANCES):
        values[i] = limits[i]
    for i in range(ALLOWANCES):
        zl_store64(&h.allowance.limit[i], values[i])
    if zl_load32(&h.waits_for) == WAIT_LIMIT:
        host_interrupt(h)  # it may wait for less than it thought


def limits(index):
    """What `set_limits` was given last; a new host has none."""
    cdef Host *h = _host(index)
    cdef int i
    return tuple(zl_load64_relaxed(&h.allowance.limit[i]) for i in range(ALLOWANCES))


def throttled(index):
    """Whether the host's reader waits now because the host is over its limits."""
    return zl_load32(&_host(index).waits_for) == WAIT_LIMIT


# --- for tests ---

def replay(limits, arrivals):
    """How long a reader would wait after each event of [(us, bytes)], for a host with these limits."""
    cdef Allowance a
    cdef int i
    for i in range(ALLOWANCES):
        a.limit[i] = limits[i]
        a.paid_until[i] = 0.0
    waits = []
    for now_us, n in arrivals:
        allowance_spend(&a, now_us, n)
        waits.append(allowance_wait_us(&a, now_us))
    return waits
