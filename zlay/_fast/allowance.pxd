"""How much a host may send: events and bytes, each per second, hour and day (protocol E18).

Six token buckets, each as the one moment up to which what has been sent is paid for: a window's whole allowance may
come at once after a quiet while, then as fast as it fills again. What is over is a debt that is waited for, not a drop.

Threads: `limit` is atomic and anybody's; `paid_until` belongs to the host's one reader.
"""

from libc.stdint cimport uint64_t
from zlay._fast.includes.atomics cimport zl_load64_relaxed

cdef enum:
    ALLOWANCES = 6               # events per second, hour, day; bytes per second, hour, day
    EVENT_ALLOWANCES = 3         # the first ones

cdef extern from *:
    """
    static const double ZL_PERIOD_US[6] = {1e6, 3.6e9, 8.64e10, 1e6, 3.6e9, 8.64e10};
    """
    const double *ZL_PERIOD_US

cdef struct Allowance:
    uint64_t[6] limit            # atomic; 0 = none
    double[6] paid_until         # us of the monotonic clock; the host's reader only

cdef inline void allowance_spend(Allowance *a, uint64_t now_us, uint64_t n) noexcept nogil:
    """One event of n bytes has come."""
    cdef double now = <double>now_us
    cdef double units
    cdef uint64_t limit
    cdef int i
    for i in range(ALLOWANCES):
        limit = zl_load64_relaxed(&a.limit[i])
        if limit:
            units = 1.0 if i < EVENT_ALLOWANCES else <double>n
            a.paid_until[i] = max(a.paid_until[i], now) + units * ZL_PERIOD_US[i] / <double>limit

cdef inline uint64_t allowance_wait_us(const Allowance *a, uint64_t now_us) noexcept nogil:
    """How long nothing more may be read; 0 = read on."""
    cdef double longest = 0.0
    cdef double ahead
    cdef int i
    for i in range(ALLOWANCES):
        if zl_load64_relaxed(&a.limit[i]):
            ahead = a.paid_until[i] - <double>now_us - ZL_PERIOD_US[i]
            if ahead > longest:
                longest = ahead
    return <uint64_t>longest + 1 if longest > 0.0 else 0
