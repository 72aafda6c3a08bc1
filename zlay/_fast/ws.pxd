"""Cutting what a WebSocket server sends into messages (RFC 6455, client side). No I/O, no memory of its own."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    WS_CONTROL_BYTES = 125       # RFC 6455 5.5
    WS_OUT_BYTES = 131           # a masked control frame: 2 + 4 + 125
    WS_SKIP_BYTES = 64000000     # most that is read past of one message that is too large, before the connection ends

cdef enum WsEvent:
    WS_MORE                      # all bytes used
    WS_DATA                      # chunk, chunk_n: payload of a binary message; message_end = it is complete
    WS_SKIP                      # the message has become too large: forget what came of it, it is read past
    WS_SKIPPED                   # its end
    WS_PING                      # control, control_n
    WS_PONG
    WS_CLOSE                     # close_code (1005 = none given), reason = control + 2; nothing after it is looked at
    WS_FAIL                      # close_code says what to answer, fail_text why; nothing after it is looked at

cdef enum WsOpcode:
    WS_OP_CONTINUATION = 0
    WS_OP_TEXT = 1
    WS_OP_BINARY = 2
    WS_OP_CLOSE = 8
    WS_OP_PING = 9
    WS_OP_PONG = 10

cdef struct Cutter:              # of one connection, used by its reader alone
    uint64_t limit               # largest message kept
    uint64_t remaining           # payload bytes of the current frame still to come
    uint64_t message_n           # bytes of the current message announced so far, skipped ones included
    const uint8_t *chunk         # WS_DATA: points into what was fed
    size_t chunk_n
    const char *fail_text
    uint32_t close_code
    uint8_t state
    uint8_t opcode               # of the current frame
    bint fin
    bint in_message              # a fragmented message is open
    bint skipping
    bint message_end
    uint8_t header_n
    uint8_t header[10]
    uint8_t control_n
    uint8_t control[125]

cdef void ws_init(Cutter *c, uint64_t limit) noexcept nogil
# Takes bytes until something is to be told: a WsEvent; used = how many it took. Call again with the rest.
cdef int ws_step(Cutter *c, const uint8_t *p, size_t n, size_t *used) noexcept nogil
# Payload bytes that may be received straight to where the message lies, without ws_step seeing them; 0 = none now
cdef uint64_t ws_direct_room(const Cutter *c) noexcept nogil
# That many were; True = the message is complete
cdef bint ws_direct(Cutter *c, uint64_t n) noexcept nogil
# A masked control frame (n at most WS_CONTROL_BYTES) written to out (WS_OUT_BYTES); its length
cdef size_t ws_control(uint8_t *out, int opcode, const uint8_t *payload, size_t n, uint32_t mask) noexcept nogil
# A close frame with a code and a text that is cut to fit
cdef size_t ws_close(uint8_t *out, uint32_t code, const char *text, uint32_t mask) noexcept nogil
