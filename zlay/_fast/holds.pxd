"""Frames of a worker's accounts that wait for an account, a key or a status, and the clock by which they grow old."""

from libc.stdint cimport uint64_t

from zlay._fast.accounts cimport Account, Hold
from zlay._fast.pool cimport Frame
from zlay._fast.requests cimport Ticket

cdef struct Hold:              # frames of one DID that wait; owned by Holds; reused through a free list
    Frame *first
    Frame *last
    Account *account
    Hold *newer                # list of all holds, oldest first
    Hold *older
    uint64_t retry_us          # monotonic: not run again before, unless an answer comes
    uint64_t asked_us          # hold clock: when somebody took the question that it waits for, as far as known
    uint64_t failing_us        # hold clock when its DID first got no answer though others did; 0 = it has not
    Ticket ticket              # of the question that it waits for

cdef struct Holds:             # one thread's, but for `frames` and `bytes`
    Hold *oldest
    Hold *newest
    Hold *spare
    uint64_t clock_us          # runs only while directory and database answer (design 5); never 0
    uint64_t ticked_us         # monotonic time of the last tick
    uint64_t frames            # that thread writes, any thread reads: frames held now
    uint64_t bytes             # and their cost

cdef void holds_init(Holds *holds) noexcept nogil
cdef void holds_free(Holds *holds) noexcept nogil
cdef void holds_tick(Holds *holds, uint64_t now, bint runs) noexcept nogil
cdef Hold *hold_of(Holds *holds, Account *a) noexcept nogil
cdef void hold_append(Holds *holds, Hold *h, Frame *f) noexcept nogil
cdef Frame *hold_end(Holds *holds, Hold *h) noexcept nogil
cdef Frame *hold_next(Holds *holds, Frame **frames) noexcept nogil
cdef bint hold_is_unanswered(Holds *holds, Hold *h, uint64_t unanswered_us) noexcept nogil


cdef inline bint hold_is_over(const Holds *holds, uint64_t failing_us, const Frame *f, uint64_t hold_us) noexcept nogil:
    """Whether the frame has waited for longer than `hold_us` since its DID first got no answer."""
    return failing_us != 0 and holds.clock_us - max(f.held_since_us, failing_us) > hold_us
