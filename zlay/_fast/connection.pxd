"""A connection to a host: its state, its loop, how its bytes come and go (`Io`: the seam for TLS)."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from zlay._fast.host cimport Host
from zlay._fast.pool cimport Frame
from zlay._fast.ws cimport Cutter

cdef enum:
    BUFFER_BYTES = 16384         # received at once, unless straight into a large message
    OUT_BYTES = 524              # four control frames wait at most; a pong without room is left out (RFC 6455 5.5.3)
    TEXT_BYTES = 160
    ERROR_NAME_BYTES = 64

cdef enum:                       # what Io.read and Io.write return beside a count
    IO_EOF = 0
    IO_WANT_READ = -1
    IO_WANT_WRITE = -2
    IO_ERROR = -3                # errno is set
    IO_AGAIN = -4                # nothing for us in what has come; there may be more
    IO_FAILED = -5               # Io.why tells

cdef struct Io:                  # how a connection's bytes come and go; called by its reader thread alone
    int64_t (*read)(void *ctx, int fd, uint8_t *p, size_t n) noexcept nogil
    int64_t (*write)(void *ctx, int fd, const uint8_t *p, size_t n) noexcept nogil
    void (*finish)(void *ctx) noexcept nogil       # the last words of what lies under the stream; NULL = none
    const char *(*why)(void *ctx) noexcept nogil   # after IO_FAILED
    void (*close)(void *ctx, int fd) noexcept nogil
    void *ctx                    # NULL for plain sockets
    bint short_read_is_all       # a read of less than asked means that poll will tell of more

cdef enum EndCause:
    END_STOPPED                  # by us
    END_EOF                      # closed without a close frame
    END_CLOSED                   # close frame; code, text
    END_PROTOCOL                 # RFC 6455 violated; code = what we answered
    END_ERROR_FRAME              # op -1; error name and message
    END_DECODE                   # BAD_RUN_LIMIT frames in a row that cannot be decoded
    END_SILENT                   # pings unanswered
    END_STALLED                  # a message was not completed in time
    END_IO                       # code = errno
    END_TLS                      # text
    END_MEMORY
    END_POOL                     # no room in the pool for a message already begun
    END_SEQ_RESET                # the first event lies below the cursor we asked for: numbering has started again
    END_INTERNAL
    END_COUNT

cdef struct Connection:          # owned by its thread; after the end record is pushed, by take_ends
    Connection *next             # link of the end list
    Host *host
    Io io
    int fd
    uint32_t stop                # atomic
    bint want_write              # the last read waits for room to write (TLS)
    Frame *frame                 # message not complete yet
    uint64_t cursor              # asked for when dialling; 0 = live, or all that the host keeps
    uint64_t last_seq
    bint good                    # an event above the cursor has come
    uint32_t bad_run             # frames in a row that the reader itself could not look into
    uint64_t published           # the host's counter when last looked at: an event published ends a bad run
    uint32_t unanswered          # pings
    uint64_t next_ping_us
    uint64_t message_since_us    # 0 = no message begun
    uint64_t started_us
    uint64_t ended_us
    uint64_t frames
    uint64_t bytes
    uint32_t cause
    int code
    char text[160]
    char error_name[64]
    uint32_t out_n
    uint32_t out_off
    uint8_t out[524]
    uint8_t *leftover            # received with the upgrade; freed once fed
    uint32_t leftover_n
    Cutter cutter
    uint8_t buffer[16384]

ctypedef void (*SubmitFn)(Frame *f) noexcept nogil       # later, once: host_give_share of its cost
ctypedef uint64_t (*SyncedFn)() noexcept nogil
ctypedef uint64_t (*HashFn)(const uint8_t *did, uint32_t n) noexcept nogil

# Where complete frames go, the log's synced_end, the keyed hash of DIDs. Before the first connection.
cdef void connection_set_sink(SubmitFn submit, SyncedFn synced, HashFn hash) noexcept nogil
cdef bint connection_has_sink() noexcept nogil
cdef void connection_set_times(uint64_t ping_us, uint64_t message_us, uint64_t pool_us) noexcept nogil
cdef uint32_t connections_waiting_for_pool() noexcept nogil
# Zeroed memory in; the host's connection is about to begin
cdef void connection_init(Connection *c, Host *h, int fd, Io io, uint64_t cursor) noexcept nogil
# The whole life in this thread; the socket is left open, the cause noted
cdef void connection_run(Connection *c) noexcept nogil
# One complete message that somebody else cut; False = the connection has ended
cdef bint connection_message(Connection *c, const uint8_t *p, size_t n) noexcept nogil
# A message over the limit was read past
cdef void connection_too_large(Connection *c) noexcept nogil
# Gives back a message not complete
cdef void connection_drop_partial(Connection *c) noexcept nogil
# Notes the end, the first cause stands; False
cdef bint connection_end(Connection *c, uint32_t cause, int code, const char *text) noexcept nogil
