"""WebSocket frames from a consumer: judged, and thrown away but for pings and closes. No I/O, no allocation."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

cdef enum:
    MAX_CONTROL_BYTES = 125      # RFC 6455 5.5

cdef enum ClientEvent:
    CLIENT_MORE                  # all bytes used, nothing to do
    CLIENT_PING                  # control, control_n: its payload
    CLIENT_CLOSE                 # close_code: what to answer with, 0 = none was given
    CLIENT_BAD                   # breaks RFC 6455: close with 1002

cdef struct ClientParser:        # zeroed memory is a fresh one; one thread
    uint8_t head[14]
    uint8_t head_n
    uint8_t opcode
    uint8_t mask[4]
    uint8_t control[125]
    uint8_t control_n
    uint8_t mask_at
    bint in_payload
    bint in_message              # a fragmented message has begun
    uint64_t left                # bytes of payload still to come
    uint16_t close_code

# Takes bytes up to the next event; used = how many. Call again with the rest.
cdef int client_feed(ClientParser *c, const uint8_t *p, size_t n, size_t *used) noexcept nogil
