"""The event log: sequencer, group commit, the three ends (design 4). See log.pyx for threads and locks."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from zlay._fast.host cimport Host

cdef struct LogEvent:            # what a worker hands to the sequencer; bytes are copied, nothing is kept
    const uint8_t *data          # the frame as received
    uint32_t n
    uint32_t seq_off             # encoded seq value in data: replaced by ours
    uint32_t seq_len
    uint8_t kind
    uint8_t flags                # LOG_LOCAL...
    uint8_t upstream_status
    uint8_t effective_status
    uint32_t host_id             # 0 = local
    uint32_t host_epoch
    uint64_t upstream_seq
    uint64_t recv_us
    uint64_t did_hash
    Host *host                   # whose credit `cost` goes back to when the event is synced; NULL = nobody's
    uint32_t cost

cdef enum:
    LOG_LOCAL = 1                # flag: made here, not by a host

# The event's seq; waits while the buffer is full or the disk fails; 0 = the log is closed, or the frame too large.
cdef uint64_t log_append(const LogEvent *e) noexcept nogil
cdef uint64_t log_appended_end() noexcept nogil           # highest seq given out
cdef uint64_t log_synced_end() noexcept nogil
cdef uint64_t log_published_end() noexcept nogil
cdef uint64_t did_hash(const uint8_t *did, uint32_t n) noexcept nogil  # SipHash-2-4, the store's key; never 0

ctypedef void (*log_wake_fn)() noexcept nogil
cdef void log_set_wake(log_wake_fn fn) noexcept nogil     # called by the writer after published_end has moved; NULL = nobody
