"""What waits: frames of an account in the order they came, all holds of a worker in theirs, and the hold clock.

Promises: no frame is lost for time that passed while its question lay in our own queues, or while the directory was
slow, silenced us or was down: a frame is too old when its own DID got no answer though others did, and again
HOLD_SECONDS later by a clock that stands still in an outage (design 5).
Assumes: one thread per Holds, the worker's. No allocation per frame: Hold structs are reused.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from zlay._fast.includes.atomics cimport zl_bump64
from zlay._fast.mem cimport MEM_QUEUE, zl_free, zl_malloc
from zlay._fast.requests cimport request_is_taken

cdef enum:
    MOST_TICK_US = 1000000        # the hold clock makes no longer steps: what we slept through is nobody's fault


cdef void holds_init(Holds *holds) noexcept nogil:
    """An empty list; the clock begins."""
    memset(holds, 0, sizeof(Holds))
    holds.clock_us = 1


cdef void holds_free(Holds *holds) noexcept nogil:
    """Gives spare structs back. Nothing is held any more."""
    cdef Hold *h
    while holds.spare != NULL:
        h = holds.spare
        holds.spare = h.newer
        zl_free(h)


cdef void holds_tick(Holds *holds, uint64_t now, bint runs) noexcept nogil:
    """Moves the clock; `runs` = directory and database answer."""
    if runs:
        holds.clock_us += min(now - holds.ticked_us, <uint64_t>MOST_TICK_US)
    holds.ticked_us = now


cdef Hold *hold_of(Holds *holds, Account *a) noexcept nogil:
    """The account's hold, begun where it has none; NULL = no memory."""
    cdef Hold *h = a.hold
    if h != NULL:
        return h
    h = holds.spare
    if h != NULL:
        holds.spare = h.newer
    else:
        h = <Hold *>zl_malloc(MEM_QUEUE, sizeof(Hold))
        if h == NULL:
            return NULL
    memset(h, 0, sizeof(Hold))
    h.account = a
    h.older = holds.newest
    if holds.newest != NULL:
        holds.newest.newer = h
    else:
        holds.oldest = h
    holds.newest = h
    a.hold = h
    return h


cdef void hold_append(Holds *holds, Hold *h, Frame *f) noexcept nogil:
    """The frame waits behind what its account already waits with."""
    f.next = NULL
    if f.held_since_us == 0:
        f.held_since_us = holds.clock_us
    if h.last != NULL:
        h.last.next = f
    else:
        h.first = f
    h.last = f
    zl_bump64(&holds.frames, 1)
    zl_bump64(&holds.bytes, f.cost)


cdef Frame *hold_end(Holds *holds, Hold *h) noexcept nogil:
    """Takes the hold off its account and off the list; its frames, oldest first, are the caller's."""
    cdef Frame *frames = h.first
    if h.older != NULL:
        h.older.newer = h.newer
    else:
        holds.oldest = h.newer
    if h.newer != NULL:
        h.newer.older = h.older
    else:
        holds.newest = h.older
    h.account.hold = NULL
    h.newer = holds.spare
    holds.spare = h
    return frames


cdef Frame *hold_next(Holds *holds, Frame **frames) noexcept nogil:
    """Takes the first frame off a list that hold_end gave."""
    cdef Frame *f = frames[0]
    frames[0] = f.next
    f.next = NULL
    zl_bump64(&holds.frames, <uint64_t>-1)
    zl_bump64(&holds.bytes, -<uint64_t>f.cost)
    return f


cdef bint hold_is_unanswered(Holds *holds, Hold *h, uint64_t unanswered_us) noexcept nogil:
    """Whether who took its question must have failed. While it lies in our own queue nobody has."""
    if not request_is_taken(&h.ticket):
        h.asked_us = holds.clock_us
    return holds.clock_us >= h.asked_us + unanswered_us
