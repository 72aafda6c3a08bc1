"""The way of the log's files to the disk: begun early, synced as a pair, timed. See writeback.pyx."""

from libc.stdint cimport uint64_t

cdef bint disk_is_full(int error) noexcept nogil
# 0 or an errno. Written bytes [at, at + n) begin their way to the disk; what is less than worth it waits for the sync.
cdef int begin_early(int fd, uint64_t at, uint64_t n) noexcept nogil
cdef int sync_pair(int frames_fd, int index_fd) noexcept nogil  # 0 or an errno; one caller at a time
cdef void sync_counters_reset() noexcept nogil                 # when nobody syncs
