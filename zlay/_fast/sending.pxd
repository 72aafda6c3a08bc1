"""What goes out to a consumer. Its own thread calls what takes a Consumer."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zlay._fast.consumer cimport Consumer

cdef enum:
    CLOSE_PROTOCOL = 1002
    CLOSE_POLICY = 1008

cdef enum Flush:
    FLUSH_IDLE                   # everything published has been sent
    FLUSH_BLOCKED                # the socket takes nothing
    FLUSH_MORE                   # go on
    FLUSH_FAILED                 # the connection is gone

# Before the first consumer, and after the last one
cdef int sending_open(bytes too_slow, bytes outdated, uint64_t ping_us, uint64_t error_us) except -1
cdef void sending_close() noexcept nogil
# One write, of whatever comes next: a Flush
cdef int sending_flush(Consumer *c, uint64_t now) noexcept nogil
# Nothing after the frame being sent
cdef void sending_cut(Consumer *c) noexcept nogil
# An end in order: the frame being sent, then lead, a close frame, and the consumer's own until the deadline
cdef void sending_finish(Consumer *c, int reason, uint16_t code, const char *text, uint8_t *lead, uint32_t lead_n,
                         uint64_t deadline_us) noexcept nogil
# The same with the ConsumerTooSlow error frame
cdef void sending_too_slow(Consumer *c, int reason, uint64_t now) noexcept nogil
# Totals over all consumers, and settings: any thread
cdef uint64_t sending_events() noexcept nogil
cdef uint64_t sending_bytes() noexcept nogil
cdef uint64_t sending_ping_us() noexcept nogil
cdef uint64_t sending_error_us() noexcept nogil
