"""Recovery of the log's last segment: its work on two files. The thread that opens the log."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zlay._fast.segments cimport IndexEntry

cdef enum:
    MOST_REPORTED = 100          # damaged ranges that a report lists; all are counted

cdef struct Tail:                # the work of one call; first_seq and floor are the caller's
    int frames_fd
    int index_fd
    uint64_t first_seq
    uint64_t entries             # whole entries in .index, as found
    uint64_t frames_bytes        # size of .frames
    uint64_t floor               # everything up to it was on disk; at least first_seq - 1
    uint64_t last_seq            # last one kept; first_seq - 1 = none
    uint64_t frames_end          # where the last one kept ends; 0 = cannot be said
    uint64_t damaged
    uint64_t newest_us
    uint64_t rewritten
    uint32_t ranges
    uint64_t from_seq[100]       # MOST_REPORTED
    uint64_t to_seq[100]
    IndexEntry *block            # both the caller's: tail_free
    uint8_t *frame

# 0, or -1 when out of memory; tail_free in any case
cdef int tail_init(Tail *t, uint64_t first_seq, uint64_t floor) noexcept nogil
cdef void tail_free(Tail *t) noexcept nogil
# Examines the two files and, with repair, cuts and syncs them. 0 or an errno.
cdef int tail_recover(Tail *t, int dir_fd, const char *frames, const char *index, bint repair) noexcept nogil
