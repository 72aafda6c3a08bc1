"""Consumers of the firehose: one C thread each, a position in the log, sendfile to the socket (design 8)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zlay._fast.client_frames cimport ClientParser
from zlay._fast.ranges cimport Range

cdef enum:
    OUT_BYTES = 256              # a pong and a close together
    PEER_BYTES = 64              # an address with port

cdef enum EndReason:
    END_CLIENT_CLOSED            # close handshake begun by the consumer
    END_CLIENT_GONE              # connection ended or reset without one
    END_PROTOCOL                 # broke RFC 6455: closed with 1002
    END_TOO_SLOW                 # no progress while behind: ConsumerTooSlow
    END_RETENTION                # its position fell out of the window: ConsumerTooSlow
    END_FUTURE_CURSOR
    END_SHUTDOWN
    END_LOG                      # the log could not be read
    END_OPERATOR                 # somebody here had its connection ended
    END_COUNT

cdef enum ConsumerState:
    C_STREAMING
    C_FINISHING                  # only what `lead` and `out` hold is still sent
    C_CLOSING                    # our close is sent: waiting for the consumer's
    C_ENDED

cdef struct Consumer:            # made by accept(); its own thread's until C_ENDED, then take_ends() frees it
    # the list; under consumer.pyx's _lock
    Consumer *next
    Consumer *previous
    # constant
    uint64_t id
    uint64_t since_us            # CLOCK_REALTIME
    uint64_t first_seq           # position it began at
    int fd
    int epoll_fd
    char peer[64]
    # its thread writes, anybody reads (atomics)
    uint64_t next_seq            # the next event it gets
    uint64_t events
    uint64_t bytes               # of frames
    uint64_t blocked_us          # CLOCK_MONOTONIC since when its socket takes nothing; 0 = it does
    uint32_t state
    # anybody writes under consumer.pyx's _lock, its thread reads (atomic)
    uint32_t unwanted            # its connection has been ended by disconnect()
    # its thread only
    Range range                  # what is being sent
    uint8_t *lead                # info or error frame, sent at the next frame boundary
    uint32_t lead_n
    uint32_t lead_at
    bint lead_owned              # freed by this consumer
    bint told_outdated           # or it need not be told: it asked for whatever is kept
    uint8_t out[256]             # control frames, sent after lead
    uint32_t out_n
    uint32_t out_at
    bint pong_wanted             # only the latest ping is answered (RFC 6455 5.5.3): a flood costs one pong
    uint8_t pong[125]
    uint8_t pong_n
    bint close_wanted
    uint16_t close_code
    char close_reason[32]
    uint32_t reason              # EndReason
    uint64_t last_write_us
    uint64_t deadline_us         # of FINISHING and CLOSING
    bint stop_seen               # the order to stop has been taken in
    uint64_t input_window_us     # start of the second in which input_bytes came
    uint64_t input_bytes
    ClientParser parser
