"""The event log: sequencer, group commit, the three ends (design 4). See log.pyx for threads and locks."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zlay._fast.sequencer cimport LOG_LOCAL, LOG_TAKEN_DOWN, LogEvent, log_append, log_appended_end

cdef uint64_t log_synced_end() noexcept nogil
cdef uint64_t log_published_end() noexcept nogil
cdef uint64_t did_hash(const uint8_t *did, uint32_t n) noexcept nogil  # SipHash-2-4, the store's key; never 0

ctypedef void (*log_wake_fn)() noexcept nogil
# Called after published_end has moved; NULL = nobody. When it returns, the function before runs no more.
cdef void log_set_wake(log_wake_fn fn) noexcept nogil
