"""Recovery of the log's last segment: what of it is kept, and the mending of its end (design 4, docs/eventlog.md).

Pages reach the disk in any order, so a good entry says nothing about those before it; the `synced_end` in it does. The
largest one in any valid entry is the floor: everything up to it was on disk. The files are cut at the first bad entry
above the floor; a bad one at or below it is damage, reported and left in place.

Threads: the one that opens the log, before any other uses it. Only the frames above the floor are read, at most what
the log's buffer held, so that a start does not read half a gigabyte.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memset

from crash_points cimport zl_crash_point
from fileio cimport (O_CLOEXEC, O_RDONLY, O_RDWR, close, errno, fdatasync, fstat, ftruncate, openat, stat_s)
from hashes cimport zl_crc32c

from zlay._fast.mem cimport MEM_LOG, zl_free, zl_malloc
from zlay._fast.segments cimport (SEG_ENTRY_BYTES, SEG_HEADER_BYTES, SEG_MAX_FRAME_BYTES, IndexEntry, entry_inside,
                                  entry_valid, read_all, write_all)

__all__ = ["repair_tail"]

cdef enum:
    BLOCK_ENTRIES = 4096         # entries of one read: 256 KiB


cdef int tail_init(Tail *t, uint64_t first_seq, uint64_t floor) noexcept nogil:
    memset(t, 0, sizeof(Tail))
    t.frames_fd = t.index_fd = -1
    t.first_seq = first_seq
    t.floor = floor
    t.block = <IndexEntry *> zl_malloc(MEM_LOG, BLOCK_ENTRIES * sizeof(IndexEntry))
    t.frame = <uint8_t *> zl_malloc(MEM_LOG, SEG_MAX_FRAME_BYTES)
    return 0 if t.block != NULL and t.frame != NULL else -1


cdef void tail_free(Tail *t) noexcept nogil:
    zl_free(t.block)
    zl_free(t.frame)


cdef int _load(Tail *t, uint64_t position, uint64_t *n) noexcept nogil:
    n[0] = min(t.entries - position, <uint64_t> BLOCK_ENTRIES)
    return read_all(t.index_fd, t.block, n[0] * SEG_ENTRY_BYTES, SEG_HEADER_BYTES + position * SEG_ENTRY_BYTES)


cdef int _find_floor(Tail *t) noexcept nogil:
    """One pass over the index. 0 or an errno."""
    cdef uint64_t position = 0, n, i
    cdef IndexEntry *e
    cdef int error
    while position < t.entries:
        error = _load(t, position, &n)
        if error:
            return error
        for i in range(n):
            e = &t.block[i]
            if entry_valid(t.first_seq + position + i, e):
                if e.synced_end > t.floor:
                    t.floor = e.synced_end
                if e.recv_us > t.newest_us:
                    t.newest_us = e.recv_us
        position += n
    return 0


cdef void _report(Tail *t, uint64_t seq) noexcept nogil:
    t.damaged += 1
    if t.ranges and t.to_seq[t.ranges - 1] + 1 == seq:
        t.to_seq[t.ranges - 1] = seq
    elif t.ranges < MOST_REPORTED:
        t.from_seq[t.ranges] = t.to_seq[t.ranges] = seq
        t.ranges += 1


cdef bint _frame_good(Tail *t, const IndexEntry *e) noexcept nogil:
    return (read_all(t.frames_fd, t.frame, e.length, e.offset) == 0
            and zl_crc32c(0, t.frame, e.length) == e.frame_crc)


cdef int _find_cut(Tail *t) noexcept nogil:
    """Second pass: damage up to the floor, and above it the first entry that is not to be kept. 0 or an errno."""
    cdef uint64_t position = 0, n, i, seq
    cdef IndexEntry *e
    cdef int error
    t.last_seq = t.first_seq - 1
    t.frames_end = SEG_HEADER_BYTES
    while position < t.entries:
        error = _load(t, position, &n)
        if error:
            return error
        for i in range(n):
            e = &t.block[i]
            seq = t.first_seq + position + i
            if not (entry_valid(seq, e) and entry_inside(t.frames_bytes, e)):
                if seq > t.floor:
                    return 0
                _report(t, seq)
                t.frames_end = 0
            else:
                if seq > t.floor and ((t.frames_end and e.offset != t.frames_end) or not _frame_good(t, e)):
                    return 0
                t.frames_end = e.offset + e.length
            t.last_seq = seq
        position += n
    while t.last_seq < t.floor:                      # the index is shorter than what was synced
        t.last_seq += 1
        _report(t, t.last_seq)
        t.frames_end = 0
    return 0


cdef int _mend(Tail *t) noexcept nogil:
    """Cuts both files, writes what is kept above the floor once more, and syncs. 0 or an errno.

    Written once more, because after a failed sync in an earlier process these pages may be clean in the page cache
    and absent from the disk; a sync alone would not write them.
    """
    cdef uint64_t position = t.floor + 1 - t.first_seq, kept = t.last_seq + 1 - t.first_seq, n, i
    cdef IndexEntry *e
    cdef int error
    if kept < t.entries and ftruncate(t.index_fd, <int64_t> (SEG_HEADER_BYTES + kept * SEG_ENTRY_BYTES)) != 0:
        return errno
    zl_crash_point(b"recover.cut")
    if t.frames_end and t.frames_end < t.frames_bytes and ftruncate(t.frames_fd, <int64_t> t.frames_end) != 0:
        return errno
    t.entries = min(t.entries, kept)
    while position < t.entries:
        error = _load(t, position, &n)
        for i in range(n):
            e = &t.block[i]
            if error == 0:
                error = read_all(t.frames_fd, t.frame, e.length, e.offset)
            if error == 0:
                error = write_all(t.frames_fd, t.frame, e.length, e.offset)
        zl_crash_point(b"recover.rewrite")
        if error == 0:
            error = write_all(t.index_fd, t.block, n * SEG_ENTRY_BYTES, SEG_HEADER_BYTES + position * SEG_ENTRY_BYTES)
        if error:
            return error
        position += n
        t.rewritten += n
    zl_crash_point(b"recover.sync")
    if fdatasync(t.frames_fd) != 0 or fdatasync(t.index_fd) != 0:
        return errno
    zl_crash_point(b"recover.after")
    return 0


cdef int _open_tail(Tail *t, int dir_fd, const char *frames, const char *index, bint repair) noexcept nogil:
    cdef stat_s st
    t.frames_fd = openat(dir_fd, frames, (O_RDWR if repair else O_RDONLY) | O_CLOEXEC)
    if t.frames_fd < 0:
        return errno
    t.index_fd = openat(dir_fd, index, (O_RDWR if repair else O_RDONLY) | O_CLOEXEC)
    if t.index_fd < 0 or fstat(t.index_fd, &st) != 0:
        return errno
    t.entries = <uint64_t> (st.st_size - SEG_HEADER_BYTES) // SEG_ENTRY_BYTES if st.st_size > SEG_HEADER_BYTES else 0
    if fstat(t.frames_fd, &st) != 0:
        return errno
    t.frames_bytes = <uint64_t> st.st_size
    return 0


cdef int tail_recover(Tail *t, int dir_fd, const char *frames, const char *index, bint repair) noexcept nogil:
    cdef uint64_t entries = 0
    cdef int error = _open_tail(t, dir_fd, frames, index, repair)
    if error == 0:
        entries = t.entries
        error = _find_floor(t)
    if error == 0:
        error = _find_cut(t)
    if error == 0 and repair:
        error = _mend(t)
    t.entries = entries
    if t.frames_fd >= 0:
        close(t.frames_fd)
    if t.index_fd >= 0:
        close(t.index_fd)
    t.frames_fd = t.index_fd = -1
    return error


def repair_tail(int dir_fd, uint64_t first_seq, uint64_t floor, bint repair):
    """Examine the last segment and, with repair, cut and sync it. Raises OSError, MemoryError.

    floor is what is known to have been on disk, at least first_seq - 1. Returns a dict: floor; last_seq, first_seq - 1
    when nothing is kept; frames_end, 0 when it cannot be said and the segment is not to be written on; frames_bytes and
    entries, as found; damaged, the number, and damage, the first hundred ranges; newest_us; rewritten.
    """
    cdef Tail t
    cdef int error
    cdef bytes frames = b"%020d.frames" % first_seq, index = b"%020d.index" % first_seq
    cdef const char *frames_name = frames
    cdef const char *index_name = index
    if first_seq == 0 or floor < first_seq - 1:
        raise ValueError("the floor is at least first_seq - 1")
    try:
        if tail_init(&t, first_seq, floor) != 0:
            raise MemoryError
        with nogil:
            error = tail_recover(&t, dir_fd, frames_name, index_name, repair)
        if error:
            raise OSError(error, f"the log's last segment, {frames.decode()}, cannot be recovered")
    finally:
        tail_free(&t)
    return {"floor": t.floor, "last_seq": t.last_seq, "frames_end": t.frames_end, "frames_bytes": t.frames_bytes,
            "entries": t.entries, "damaged": t.damaged, "newest_us": t.newest_us, "rewritten": t.rewritten,
            "damage": [(t.from_seq[i], t.to_seq[i]) for i in range(t.ranges)]}
