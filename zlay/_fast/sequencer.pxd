"""The sequencer: numbers, splicing, the buffer of what is not yet on disk. See sequencer.pyx for threads and locks."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from zlay._fast.host cimport Host
from zlay._fast.segments cimport IndexEntry

cdef enum:
    LOG_LOCAL = 1                # flags: made here, not by a host
    LOG_TAKEN_DOWN = 2           # the account is taken down by this relay, after the event
    CHUNK_BYTES = 8 << 20        # holds one largest frame and more; most of a group is one write
    CHUNK_EVENTS = 16384         # index entries of a chunk: 1 MiB

cdef struct LogEvent:            # what a worker hands to the sequencer; bytes are copied, nothing is kept
    const uint8_t *data          # the frame as received
    uint32_t n
    uint32_t seq_off             # encoded seq value in data: replaced by ours
    uint32_t seq_len
    uint8_t kind
    uint8_t flags                # LOG_LOCAL, LOG_TAKEN_DOWN
    uint8_t upstream_status
    uint8_t effective_status
    uint32_t host_id             # 0 = local
    uint32_t host_epoch
    uint64_t upstream_seq
    uint64_t recv_us
    uint64_t did_hash
    Host *host                   # whose credit `cost` goes back to when the event is synced; NULL = nobody's
    uint32_t cost

cdef struct Pending:             # what an event needs besides its index entry until it is synced
    Host *host
    uint32_t cost
    uint32_t start               # of its WebSocket header in the chunk

cdef struct Chunk:               # the sequencer's; `used`, `n`, `next` under its lock, what lies below them is still
    Chunk *next
    uint8_t *data
    IndexEntry *entries          # complete but for offset, checksums and synced_end, which are the writer's
    Pending *pending
    uint64_t first_seq           # of entries[0]
    uint32_t used
    uint32_t n
    uint32_t done                # events synced, credit given back; whoever calls sequencer_release
    bint cold                    # a spare one that has given its pages back; whoever calls sequencer_trim

# --- appenders; exported again by log.pxd ---
# The event's seq; waits while the buffer is full or the disk fails; 0 = the log is closed, or the frame too large.
cdef uint64_t log_append(const LogEvent *e) noexcept nogil
cdef uint64_t log_appended_end() noexcept nogil           # highest seq given out

# --- the log's own threads ---
cdef void sequencer_open(uint64_t next_seq, uint32_t max_chunks) noexcept nogil
cdef void sequencer_close() noexcept nogil                # appenders get 0 from now on
cdef bint sequencer_is_open() noexcept nogil
cdef void sequencer_free() noexcept nogil                 # appenders and writer have ended
cdef void sequencer_pause(bint pause) noexcept nogil      # while the disk fails nothing is appended
# Whether the log is open; with false, *end is final. *end = the highest seq appended, *word is for sequencer_sleep.
# idle = the writer has nothing to do until something comes after `written`.
cdef bint sequencer_look(uint64_t written, bint idle, uint64_t *end, uint32_t *word) noexcept nogil
cdef void sequencer_sleep(uint32_t word, int64_t timeout_ms) noexcept nogil
cdef void sequencer_wake_writer() noexcept nogil
cdef Chunk *sequencer_locate(uint64_t seq, uint32_t *n) noexcept nogil  # the chunk of seq, and how many events it holds
cdef void sequencer_release(uint64_t seq) noexcept nogil  # everything up to seq is synced; one caller at a time
cdef void sequencer_trim() noexcept nogil                 # pages of idle chunks, once a second; the writer
cdef uint64_t sequencer_buffered() noexcept nogil         # bytes appended and not yet released
cdef uint64_t sequencer_limit() noexcept nogil            # ... at most
cdef uint64_t sequencer_waits() noexcept nogil            # times an appender had to wait
