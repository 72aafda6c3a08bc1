"""Segments: the files of the event log, their byte layout, and the table of those that are kept (design 4)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from hashes cimport zl_crc32c_entry

cdef enum:
    SEG_VERSION = 1              # docs/eventlog.md; frozen by the first release
    SEG_HEADER_BYTES = 64        # both files; the size of an entry, so that entry i stands at 64 * (i + 1)
    SEG_ENTRY_BYTES = 64
    SEG_MAX_FRAME_BYTES = 5000000  # A8: WebSocket header and message
    SEG_MIN_FRAME_BYTES = 3      # a WebSocket header and something
    SEG_READ_ENTRIES = 128       # entries of one read: 8 KiB, about 700 KB of ordinary frames

cdef extern from *:
    """
    #define SEG_OPEN_END UINT64_MAX
    """
    const uint64_t SEG_OPEN_END  # last_seq of the segment that is being written

cdef struct SegHeader:           # as on disk, little endian
    char magic[8]
    uint32_t version
    uint32_t header_bytes
    uint8_t store_id[16]
    uint64_t first_seq
    uint64_t previous_last       # highest seq given out before first_seq; 0 = none
    uint64_t created_us
    uint32_t reserved
    uint32_t crc                 # CRC-32C of the 60 bytes before it

cdef struct IndexEntry:          # as on disk, little endian
    uint64_t offset              # of the WebSocket header in .frames
    uint32_t length              # WebSocket header and message
    uint32_t frame_crc           # CRC-32C of those bytes
    uint8_t kind
    uint8_t flags
    uint8_t upstream_status
    uint8_t effective_status
    uint32_t host_id
    uint32_t host_epoch
    uint32_t entry_crc           # entry_checksum()
    uint64_t upstream_seq
    uint64_t recv_us
    uint64_t did_hash
    uint64_t synced_end          # everything up to this seq was on disk when the entry was written

cdef struct Segment:             # owner: the table; freed when it has left the table and nobody holds it
    uint64_t first_seq           # never changes
    uint64_t last_seq            # atomic; SEG_OPEN_END while it is being written
    uint64_t previous_last       # never changes once opened
    uint64_t frames_bytes        # atomic; size of .frames up to the last whole frame written
    uint64_t newest_us           # atomic; receive time of its last event, 0 = not read yet
    uint64_t retired_us          # atomic; CLOCK_MONOTONIC when it left the table, 0 = in it
    uint32_t refs                # table's lock
    bint foreign                 # table's lock; its header says that it is not of this store: never read
    int frames_fd                # table's lock; -1 while nobody holds it; constant for whoever does
    int index_fd

cdef enum SegFind:
    SEG_FOUND
    SEG_NONE                     # nothing kept at or after that seq
    SEG_LOST                     # there is one, but it is not there any more or not ours; *out_seq = where to go on
    SEG_BUSY                     # it does not open just now (too many files, no memory, I/O error)

# The 64 bytes without the checksum itself, bound to the seq the entry stands for: one at a wrong place is a bad one.
cdef inline uint32_t entry_checksum(uint64_t seq, const IndexEntry *e) noexcept nogil:
    return zl_crc32c_entry(seq, e)

# Bytes of the WebSocket header of a frame of `length` bytes, header included.
cdef inline uint32_t ws_header_bytes(uint32_t length) noexcept nogil:
    return 2 if length <= 2 + 125 else 4 if length <= 4 + 65535 else 10

# An entry that can be trusted: checksum, and what no writer ever writes.
cdef inline bint entry_valid(uint64_t seq, const IndexEntry *e) noexcept nogil:
    return (e.entry_crc == entry_checksum(seq, e) and e.synced_end < seq and e.offset >= SEG_HEADER_BYTES
            and SEG_MIN_FRAME_BYTES <= e.length <= SEG_MAX_FRAME_BYTES)

cdef inline bint entry_inside(uint64_t frames_bytes, const IndexEntry *e) noexcept nogil:
    return e.offset <= frames_bytes and e.length <= frames_bytes - e.offset

# --- any thread ---
# A SegFind. *out, held once: the segment of seq, or the next one after a gap; *out_seq: the first seq at or after seq.
cdef int segment_acquire(uint64_t seq, Segment **out, uint64_t *out_seq) noexcept nogil
cdef void segment_release(Segment *s) noexcept nogil
# Whole entries read, unchecked; 0 = none there; negative = -errno.
cdef int segment_entries(Segment *s, uint64_t seq, uint32_t want, IndexEntry *out) noexcept nogil
cdef uint64_t segments_oldest() noexcept nogil               # first seq kept; 0 = no segments
cdef void segments_count_damage(uint64_t n) noexcept nogil   # entries a reader had to skip
# Bytes retired; a bound of 0 is none.
cdef uint64_t segments_retain(uint64_t max_age_us, uint64_t max_bytes, uint64_t free_percent, uint64_t keep_from,
                              uint64_t newest_us) noexcept nogil
cdef int write_all(int fd, const void *data, size_t n, uint64_t offset) noexcept nogil  # 0 or an errno
cdef int read_all(int fd, void *data, size_t n, uint64_t offset) noexcept nogil  # 0 or an errno; EIO = file too short

# --- the log's writer only ---
# 0 or an errno. Ends the segment before at previous_last; files and directory are synced. *out is held once.
cdef int segment_create(uint64_t first_seq, uint64_t previous_last, Segment **out) noexcept nogil
cdef Segment *segments_active() noexcept nogil               # the last one; NULL = none
