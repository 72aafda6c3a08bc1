"""Frames in slabs of one bounded pool (R1, R5). Any thread may take and give; the pool's own lock is a leaf."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from zlay._fast.host cimport Host, Slot

cdef struct Frame:               # one complete message; owner = the thread or list that holds it
    Frame *next                  # link of the queue or hold list that owns it
    uint8_t *data
    uint32_t n                   # bytes of the message
    uint32_t cap
    # Bytes charged to the host; given back by whoever ends the frame's life (drop: worker; pass: log writer at sync)
    uint32_t cost
    uint32_t did_off             # from message_peek; 0 = none
    uint32_t did_n
    uint32_t epoch
    Host *host
    Slot *slot
    uint64_t upstream_seq
    uint64_t recv_us             # CLOCK_REALTIME when the message was complete
    uint64_t did_hash            # keyed hash of the DID; chooses worker and is written to the log's index
    uint64_t held_since_us       # hold clock (holds.pxd); 0 = never held
    uint8_t retried              # bit set: which refreshes this frame has already caused
    uint8_t size_class           # pool's own
    uint32_t block               # pool's own
    void *chain                  # pool's own (arena mode)

# All fields zero but data and cap; NULL = exhausted now: wait and try again
cdef Frame *pool_take(uint32_t cap) noexcept nogil
# Moves bytes and fields; the old frame is gone on success, untouched on NULL
cdef Frame *pool_grow(Frame *f, uint32_t cap) noexcept nogil
cdef void pool_give(Frame *f) noexcept nogil
# Bytes a frame of that capacity takes out of the pool: what is charged as credit
cdef uint32_t pool_cost(uint32_t cap) noexcept nogil
cdef uint64_t pool_used_bytes() noexcept nogil
cdef uint64_t pool_total_bytes() noexcept nogil
# Announces a wait for room; then try again; then wait (timeout 0 withdraws). A wait may end early.
cdef uint32_t pool_ticket() noexcept nogil
cdef void pool_wait(uint32_t ticket, uint32_t timeout_ms) noexcept nogil
