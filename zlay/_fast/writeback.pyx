"""The way of the log's files to the disk: begun early, synced as a pair, timed.

Threads: begin_early any; sync_pair one at a time (the log's `_sync_lock`); counters any.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from atomics cimport zl_bump64, zl_load64_relaxed, zl_monotonic_us, zl_store64
from crash_points cimport zl_crash_point
from fileio cimport EDQUOT, EIO, ENOSPC, SYNC_FILE_RANGE_WRITE, errno, fdatasync, sync_file_range

__all__ = ["counters", "sync"]

cdef enum:
    EARLY_BYTES = 1 << 20        # so much at once begins its way to the disk while more is prepared
    SYNC_BUCKETS = 24            # histogram of sync times, bucket b: below 2**b microseconds

# --- counters, written by who syncs ---
cdef uint64_t _syncs = 0
cdef uint64_t _sync_us = 0
cdef uint64_t _sync_worst_us = 0
cdef uint64_t _sync_histogram[SYNC_BUCKETS]


cdef bint disk_is_full(int error) noexcept nogil:
    return error == ENOSPC or error == EDQUOT


cdef int _begin(int fd, uint64_t at, uint64_t n) noexcept nogil:
    """n = 0: all from there. 0 or an errno.

    A failure to write counts at once: not every file system tells it again at the fdatasync. One that cannot begin
    early (ENOSYS, ...) is left to its fdatasync.
    """
    cdef int error = 0
    if sync_file_range(fd, <int64_t> at, <int64_t> n, SYNC_FILE_RANGE_WRITE) != 0:
        error = errno
    return error if error == EIO or disk_is_full(error) else 0


cdef int begin_early(int fd, uint64_t at, uint64_t n) noexcept nogil:
    return _begin(fd, at, n) if n >= EARLY_BYTES else 0


cdef void _note(uint64_t took) noexcept nogil:
    cdef int bucket = 0
    zl_bump64(&_syncs, 1)
    zl_bump64(&_sync_us, took)
    if took > zl_load64_relaxed(&_sync_worst_us):
        zl_store64(&_sync_worst_us, took)
    while bucket < SYNC_BUCKETS - 1 and took >= (<uint64_t> 1 << bucket):
        bucket += 1
    zl_bump64(&_sync_histogram[bucket], 1)


cdef int sync_pair(int frames_fd, int index_fd) noexcept nogil:
    cdef uint64_t begin = zl_monotonic_us()
    cdef int error
    zl_crash_point(b"sync.before")
    # The index is on its way before the frames' sync commits the file system's journal: its own sync then finds its
    # blocks committed, and a group costs one commit, not two.
    error = _begin(index_fd, 0, 0)
    if error:
        return error
    if fdatasync(frames_fd) != 0:
        return errno if errno else EIO
    zl_crash_point(b"sync.between")
    if fdatasync(index_fd) != 0:
        return errno if errno else EIO
    zl_crash_point(b"sync.after")
    _note(zl_monotonic_us() - begin)
    return 0


cdef void sync_counters_reset() noexcept nogil:
    global _syncs, _sync_us, _sync_worst_us
    _syncs = _sync_us = _sync_worst_us = 0
    memset(_sync_histogram, 0, sizeof(_sync_histogram))


def sync(int frames_fd, int index_fd):
    """Syncs two files as the log does its own; OSError. For benchmarks, where no log is open."""
    cdef int error
    with nogil:
        error = sync_pair(frames_fd, index_fd)
    if error:
        raise OSError(error, "the disk does not take it")


def counters():
    """Syncs since the log was opened: how many, seconds, the longest, by duration. Any thread."""
    return {
        "syncs": zl_load64_relaxed(&_syncs), "sync_s": zl_load64_relaxed(&_sync_us) / 1e6,
        "sync_worst_s": zl_load64_relaxed(&_sync_worst_us) / 1e6,
        "sync_histogram": [zl_load64_relaxed(&_sync_histogram[i]) for i in range(SYNC_BUCKETS)],
    }
