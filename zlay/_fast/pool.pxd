"""Frames in slabs of one bounded pool (R1, R5). Any thread may take and give; the pool's own lock is a leaf."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from zlay._fast.host cimport Host, Slot

cdef struct Frame:               # one complete message; owner = the thread or list that holds it
    Frame *next                  # link of the queue or hold list that owns it
    uint8_t *data
    uint32_t n                   # bytes of the message
    uint32_t cap
    uint32_t cost                # bytes charged to host's credit; given back by whoever ends the frame's life (drop: worker; pass: log writer at sync)
    uint32_t did_off             # from message_peek; 0 = none
    uint32_t did_n
    uint32_t epoch
    Host *host
    Slot *slot
    uint64_t upstream_seq
    uint64_t recv_us             # CLOCK_REALTIME when the message was complete
    uint64_t did_hash            # keyed hash of the DID; chooses worker and is written to the log's index
    uint64_t held_since_us       # CLOCK_MONOTONIC; 0 = never held
    uint8_t retried              # bit set: which refreshes this frame has already caused
    uint8_t size_class           # pool's own

cdef Frame *pool_take(uint32_t cap) noexcept nogil               # NULL = pool exhausted now: wait for credit word and try again
cdef Frame *pool_grow(Frame *f, uint32_t cap) noexcept nogil     # moves the bytes; old frame is gone on success, untouched on NULL
cdef void pool_give(Frame *f) noexcept nogil
cdef uint64_t pool_used_bytes() noexcept nogil
cdef uint64_t pool_total_bytes() noexcept nogil
