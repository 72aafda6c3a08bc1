"""The last segment of the log after a crash: any two files, examined, mended, examined again (design 4).

The first byte says what of the index is made to hold, so that damage behind checksums is reached; the second how many
entries the index has, the third where the floor is. Then the entries, then the frames. The files live in memory.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from tests.fuzz.fuzzer cimport zl_promise
from zlay._fast.includes.hashes cimport zl_crc32c
from zlay._fast.recovery cimport MOST_REPORTED, Tail, tail_init, tail_recover
from zlay._fast.segments cimport (
    SEG_ENTRY_BYTES, SEG_HEADER_BYTES, IndexEntry, entry_checksum, entry_inside, entry_valid
)

cdef enum:
    FIRST_SEQ = 1000
    MOST_ENTRIES = 64
    ROOM = 1 << 16

cdef enum Flag:
    MEND_ENTRIES = 1             # their checksums
    MEND_FRAMES = 2              # the checksums of frames that lie inside
    MEND_OFFSETS = 4             # each frame begins where the one before ends
    MEND_SYNCED = 8              # synced_end small
    ONLY_LOOK = 16
    HALF_ENTRY = 32              # the index ends within an entry

cdef extern from *:
    """
    #include <fcntl.h>
    #include <stdio.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <unistd.h>
    static int zl_fuzz_file(char *name, size_t n) {
        int fd = memfd_create("fuzz", MFD_CLOEXEC);
        (void)snprintf(name, n, "%d", fd);
        return fd;
    }
    static int zl_fuzz_folder(void) { return open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC); }
    static int zl_fuzz_fill(int fd, const void *data, size_t n, size_t at) {
        return ftruncate(fd, 0) || ftruncate(fd, (long)at) || pwrite(fd, data, n, (long)at) != (ssize_t)n;
    }
    static size_t zl_fuzz_size(int fd) { struct stat s; return fstat(fd, &s) ? 0 : (size_t)s.st_size; }
    """
    int zl_fuzz_file(char *name, size_t n) nogil
    int zl_fuzz_folder() nogil
    int zl_fuzz_fill(int fd, const void *data, size_t n, size_t at) nogil
    size_t zl_fuzz_size(int fd) nogil

cdef char frames_name[16]
cdef char index_name[16]
cdef int folder = zl_fuzz_folder()
cdef int frames_fd = zl_fuzz_file(frames_name, sizeof(frames_name))
cdef int index_fd = zl_fuzz_file(index_name, sizeof(index_name))
cdef IndexEntry entries[MOST_ENTRIES]
cdef Tail tail
cdef Tail again

if folder < 0 or frames_fd < 0 or index_fd < 0 or tail_init(&tail, FIRST_SEQ, 0) or tail_init(&again, FIRST_SEQ, 0):
    raise MemoryError


cdef void _mend(uint8_t flags, uint32_t n, const uint8_t *frames, size_t frames_n) noexcept nogil:
    cdef IndexEntry *e
    cdef uint64_t offset = SEG_HEADER_BYTES
    cdef uint32_t i
    for i in range(n):
        e = &entries[i]
        if flags & MEND_OFFSETS:
            e.offset = offset
            e.length = 3 + e.length % 200
            offset += e.length
        if flags & MEND_SYNCED:
            e.synced_end = FIRST_SEQ - 1 + e.synced_end % (i + 1)
        if flags & MEND_FRAMES and e.offset >= SEG_HEADER_BYTES and entry_inside(SEG_HEADER_BYTES + frames_n, e):
            e.frame_crc = zl_crc32c(0, frames + (e.offset - SEG_HEADER_BYTES), e.length)
        if flags & MEND_ENTRIES:
            e.entry_crc = entry_checksum(FIRST_SEQ + i, e)


cdef int _recover(Tail *t, uint64_t floor, bint repair) noexcept nogil:
    """Once more with the memory of an earlier call."""
    cdef Tail fresh
    memset(&fresh, 0, sizeof(fresh))
    fresh.frames_fd = fresh.index_fd = -1
    fresh.first_seq = FIRST_SEQ
    fresh.floor = floor
    fresh.block = t.block
    fresh.frame = t.frame
    t[0] = fresh
    return tail_recover(t, folder, frames_name, index_name, repair)


cdef void _check(const Tail *t, uint32_t n, uint64_t floor) noexcept nogil:
    cdef uint32_t i
    zl_promise(t.entries == n and t.floor >= floor and t.last_seq + 1 >= FIRST_SEQ)
    zl_promise(t.last_seq >= t.floor and t.ranges <= MOST_REPORTED and t.damaged <= t.last_seq + 1 - FIRST_SEQ)
    for i in range(t.ranges):
        zl_promise(t.from_seq[i] <= t.to_seq[i] and (i == 0 or t.from_seq[i] > t.to_seq[i - 1] + 1))
    for i in range(n):           # what was synced is never cut off, nor is anything bad kept above it
        if FIRST_SEQ + i > t.floor and FIRST_SEQ + i <= t.last_seq:
            zl_promise(entry_valid(FIRST_SEQ + i, &entries[i]))
    zl_promise(t.frames_end == 0 or SEG_HEADER_BYTES <= t.frames_end <= t.frames_bytes)


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) noexcept nogil:
    cdef uint32_t count
    cdef uint64_t floor
    cdef uint8_t flags
    cdef size_t index_n
    if n < 3:
        return -1
    flags = data[0]
    count = data[1] % (MOST_ENTRIES + 1)
    floor = FIRST_SEQ - 1 + data[2] % 16 if data[2] & 0x80 else FIRST_SEQ - 1
    data += 3
    n -= 3
    count = min(count, <uint32_t>(n // SEG_ENTRY_BYTES))
    memcpy(entries, data, count * SEG_ENTRY_BYTES)
    data += count * SEG_ENTRY_BYTES
    n -= count * SEG_ENTRY_BYTES
    _mend(flags, count, data, n)
    index_n = count * SEG_ENTRY_BYTES
    if count and flags & HALF_ENTRY:
        index_n -= SEG_ENTRY_BYTES // 2
        count -= 1
    if zl_fuzz_fill(frames_fd, data, n, SEG_HEADER_BYTES) or zl_fuzz_fill(index_fd, entries, index_n, SEG_HEADER_BYTES):
        return -1
    if _recover(&tail, floor, not flags & ONLY_LOOK) != 0:
        return 0
    _check(&tail, count, floor)
    if flags & ONLY_LOOK:
        zl_promise(index_n == 0 or zl_fuzz_size(index_fd) == SEG_HEADER_BYTES + index_n)
        return 0
    # What was mended is found whole.
    zl_promise(_recover(&again, tail.floor, True) == 0)
    zl_promise(again.last_seq == tail.last_seq and again.damaged == tail.damaged)
    zl_promise(again.frames_end == tail.frames_end and again.floor == tail.floor)
    return 0
