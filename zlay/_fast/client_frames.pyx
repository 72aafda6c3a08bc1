"""WebSocket frames from a consumer (RFC 6455 5).

Consumers have nothing to say on a one-way stream (A3): text and binary messages are read past, whatever their size;
pings and closes are handed up; what breaks the protocol (no mask, reserved bits, unknown opcodes, long or fragmented
control frames, stray continuations, lengths not in their shortest form) is bad.

Promises: no buffer beyond one control frame. Assumes: one thread per parser; bytes may be cut anywhere.
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

__all__ = ["Parser"]

cdef enum:
    OP_CONTINUATION = 0
    OP_BINARY = 2
    OP_CLOSE = 8
    OP_PING = 9
    OP_PONG = 10
    FIN = 0x80
    RESERVED_BITS = 0x70
    MASKED = 0x80


cdef inline bint _close_code_valid(uint16_t code) noexcept nogil:
    """What may stand in a close frame (7.4): not the codes reserved for reporting, nothing unassigned."""
    return (1000 <= code <= 1003) or (1007 <= code <= 1014) or (3000 <= code <= 4999)


cdef int _judge_first(ClientParser *c) noexcept nogil:
    """Bytes the header needs, by its first two; 0 = bad."""
    cdef uint8_t first = c.head[0], second = c.head[1]
    cdef uint8_t opcode = first & 0x0F, length = second & 0x7F
    if first & RESERVED_BITS or not second & MASKED:
        return 0
    if opcode >= OP_CLOSE:
        if opcode > OP_PONG or not first & FIN or length > MAX_CONTROL_BYTES:
            return 0
    elif opcode > OP_BINARY or c.in_message != (opcode == OP_CONTINUATION):
        return 0
    return 6 + (2 if length == 126 else 8 if length == 127 else 0)


cdef bint _begin_payload(ClientParser *c) noexcept nogil:
    """The header is whole. False = bad."""
    cdef uint64_t length = c.head[1] & 0x7F
    cdef int i, wide = 2 if length == 126 else 8 if length == 127 else 0
    if wide:
        length = 0
        for i in range(wide):
            length = length << 8 | c.head[2 + i]
        if length < (126 if wide == 2 else 65536) or length >> 63:
            return False
    memcpy(c.mask, &c.head[2 + wide], 4)
    c.opcode = c.head[0] & 0x0F
    if c.opcode < OP_CLOSE:
        c.in_message = not c.head[0] & FIN
    c.left = length
    c.in_payload = True
    c.control_n = c.mask_at = 0
    return True


cdef int _end_control(ClientParser *c) noexcept nogil:
    if c.opcode == OP_PING:
        return CLIENT_PING
    if c.opcode != OP_CLOSE:
        return CLIENT_MORE
    c.close_code = 0
    if c.control_n == 1:
        return CLIENT_BAD
    if c.control_n:
        c.close_code = <uint16_t> (c.control[0] << 8 | c.control[1])
        if not _close_code_valid(c.close_code):
            return CLIENT_BAD
    return CLIENT_CLOSE


cdef int client_feed(ClientParser *c, const uint8_t *p, size_t n, size_t *used) noexcept nogil:
    cdef size_t i = 0, take
    cdef int need, event
    while True:
        if not c.in_payload:
            need = 2
            if c.head_n >= 2:
                need = _judge_first(c)
                if need == 0:
                    used[0] = i
                    return CLIENT_BAD
            if c.head_n < need:
                if i == n:
                    break
                c.head[c.head_n] = p[i]
                c.head_n += 1
                i += 1
                continue
            c.head_n = 0
            if not _begin_payload(c):
                used[0] = i
                return CLIENT_BAD
        if c.left:
            take = n - i
            if take > c.left:
                take = <size_t> c.left
            if take == 0:
                break
            c.left -= take
            if c.opcode < OP_CLOSE:
                i += take
                continue
            while take:
                c.control[c.control_n] = p[i] ^ c.mask[c.mask_at & 3]
                c.control_n += 1
                c.mask_at += 1
                i += 1
                take -= 1
            continue
        c.in_payload = False
        event = _end_control(c)
        if event != CLIENT_MORE:
            used[0] = i
            return event
    used[0] = i
    return CLIENT_MORE


# --- for tests and tools ---

cdef class Parser:
    """A parser of its own; one thread."""

    cdef ClientParser _parser

    def __cinit__(self):
        memset(&self._parser, 0, sizeof(ClientParser))

    def feed(self, bytes data):
        """What data brings: ("ping", payload), ("close", code) and ("bad", None), after which nothing is fed."""
        cdef const uint8_t *p = data
        cdef size_t n = len(data), used = 0
        cdef int event
        events = []
        while True:
            event = client_feed(&self._parser, p, n, &used)
            p += used
            n -= used
            if event == CLIENT_MORE:
                return events
            if event == CLIENT_PING:
                events.append(("ping", (<const char *> self._parser.control)[:self._parser.control_n]))
            elif event == CLIENT_CLOSE:
                events.append(("close", self._parser.close_code))
            else:
                events.append(("bad", None))
                return events
