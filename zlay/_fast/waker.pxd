"""Wake-ups of consumers: one eventfd of all, at most one write per tick while they are many. See waker.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef int waker_start(int64_t tick_us) noexcept nogil     # 0 or an errno; negative = a tick by the number of consumers
cdef void waker_stop() noexcept nogil                    # consumers have ended
cdef int waker_fd() noexcept nogil                       # what a consumer waits for, edge-triggered, never read
cdef void waker_count(int n) noexcept nogil              # so many consumers more, or fewer
cdef uint32_t waker_consumers() noexcept nogil
cdef void waker_now() noexcept nogil
cdef uint64_t waker_wakes() noexcept nogil
