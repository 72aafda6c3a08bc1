"""Ranges of the log for one reader: which bytes of which segment come next (design 8). See ranges.pyx."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from zlay._fast.segments cimport Segment

cdef enum:
    RANGE_ENTRIES = 448          # events of one sendfile at most: of 2.4 KB, as much as
    RANGE_BYTES = 1 << 20        # ... bytes, one frame at least; each sendfile more costs the reader a wake-up

cdef enum RangeOutcome:
    RANGE_READY
    RANGE_NONE                   # everything published has been read
    RANGE_RETIRED                # the position has fallen out of the window
    RANGE_FAILED                 # the log cannot be read

cdef struct Range:               # zeroed memory is an empty one; its reader's own
    Segment *segment             # held, or NULL
    int64_t offset               # in .frames: [offset, end) is still to be sent; sendfile moves it
    int64_t end
    int64_t start
    uint32_t n                   # events from start to end
    uint32_t generation          # of what is hidden, when they were judged
    uint32_t ends[448]           # where each of them ends, from start on

# A RangeOutcome. Replaces a range that has been sent by the next events from *next_seq on that stand in one piece;
# *next_seq moves over what is missing or damaged.
cdef int range_next(Range *r, uint64_t *next_seq) noexcept nogil
cdef void range_cut(Range *r) noexcept nogil             # nothing after the frame being sent
# Whether what is still to be sent was judged before the last takedown.
cdef bint range_is_stale(const Range *r) noexcept nogil
cdef void range_free(Range *r) noexcept nogil            # lets go of the segment
# Whether the segment has been out of the window for longer than a reader may hold it: its bytes are still on the disk.
cdef bint range_overdue(const Range *r) noexcept nogil
cdef void range_set_grace(uint64_t grace_us) noexcept nogil  # how long that is; before anybody reads
