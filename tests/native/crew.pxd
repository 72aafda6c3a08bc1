"""The threads of a stress: started and joined by one, told to stop by anybody."""

from libc.stdint cimport uint32_t, uint64_t

from zlay._fast.includes.atomics cimport zl_add32, zl_load32, zl_store32
from zlay._fast.includes.threads cimport pthread_join, pthread_t, zl_thread_fn, zl_thread_start

cdef enum:
    CREW_MOST = 64
    CREW_STACK = 1 << 20

cdef struct Crew:
    pthread_t threads[CREW_MOST]
    uint32_t n
    uint32_t stop              # atomic
    uint32_t left              # atomic: threads still at work
    uint32_t faults            # atomic: things that must not be

# 0 or an errno.
cdef inline int crew_start(Crew *c, zl_thread_fn fn, void *arg) noexcept nogil:
    cdef int error
    zl_add32(&c.left, 1)
    error = zl_thread_start(&c.threads[c.n], CREW_STACK, b"stress", fn, arg)
    if error:
        zl_add32(&c.left, <uint32_t> -1)
    else:
        c.n += 1
    return error


# The last act of a thread of the crew.
cdef inline void crew_leave(Crew *c) noexcept nogil:
    zl_add32(&c.left, <uint32_t> -1)


cdef inline void crew_fault(Crew *c, bint wrong) noexcept nogil:
    if wrong:
        zl_add32(&c.faults, 1)


cdef inline bint crew_stopped(const Crew *c) noexcept nogil:
    return zl_load32(&c.stop) != 0


cdef inline void crew_stop(Crew *c) noexcept nogil:
    zl_store32(&c.stop, 1)


cdef inline void crew_join(Crew *c) noexcept nogil:
    while c.n:
        c.n -= 1
        pthread_join(c.threads[c.n], NULL)


# Xorshift: the same numbers for the same start, which is not 0.
cdef inline uint32_t random_below(uint64_t *state, uint32_t n) noexcept nogil:
    cdef uint64_t x = state[0]
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    state[0] = x
    return <uint32_t> ((x >> 32) * n >> 32)
