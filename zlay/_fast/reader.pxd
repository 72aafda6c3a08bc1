"""The threads behind connections: started, stopped, collected."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from zlay._fast.connection cimport HashFn, Io, SubmitFn, SyncedFn
from zlay._fast.host cimport Host

# Where complete frames go, the log's synced_end, the keyed hash of DIDs. Before the first reader starts.
cdef void reader_set_sink(SubmitFn submit, SyncedFn synced, HashFn hash) noexcept nogil
# Starts a reader on an open socket, which it then owns; 0, or an errno (the socket stays the caller's).
cdef int reader_start(Host *h, int fd, Io io, const uint8_t *leftover, uint32_t n, uint64_t cursor) noexcept nogil
