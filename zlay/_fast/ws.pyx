"""The WebSocket frame cutter: bytes of any cut in, messages and control frames out.

Promises: the same events whatever the pieces the bytes come in; strict where RFC 6455 is (reserved bits, opcodes,
shortest lengths, control frames, order of fragments, close codes), with the codes wsproto gives, which is its oracle in
tests. A text message is refused with 1003: the event stream is binary (A3). A message over the limit is read past, not
kept, and costs nothing but itself (R6), as long as it announces at most WS_SKIP_BYTES: beyond, 1009.

Assumes: no extension was negotiated, so every reserved bit is an error.

The payload is not touched: events point into what was fed, and `ws_direct` lets the reader receive a large message
straight to its place. One Cutter belongs to one connection's thread; there is nothing shared.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen
from zlay._fast.message cimport MAX_FRAME_BYTES, MAX_SPLICE_BYTES

cdef enum State:
    AT_HEADER
    AT_CONTROL
    AT_PAYLOAD
    AT_END                       # closed or failed

cdef enum:                       # RFC 6455 7.4.1
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    INVALID_PAYLOAD = 1007
    TOO_BIG = 1009

cdef enum:
    FIN = 0x80
    RESERVED = 0x70
    OPCODE = 0x0F
    MASKED = 0x80
    LENGTH = 0x7F
    LENGTH_2 = 126
    LENGTH_8 = 127


cdef void ws_init(Cutter *c, uint64_t limit) noexcept nogil:
    memset(c, 0, sizeof(Cutter))
    c.limit = limit


cdef int _fail(Cutter *c, uint32_t code, const char *text) noexcept nogil:
    c.state = AT_END
    c.close_code = code
    c.fail_text = text
    return WS_FAIL


cdef int ws_step(Cutter *c, const uint8_t *p, size_t n, size_t *used) noexcept nogil:
    cdef size_t at = 0
    cdef int event = WS_MORE
    while event == WS_MORE and at < n:
        if c.state == AT_HEADER:
            c.header[c.header_n] = p[at]
            c.header_n += 1
            at += 1
            event = _header(c)
        elif c.state == AT_PAYLOAD:
            event = _payload(c, p + at, n - at)
            at += c.chunk_n
        elif c.state == AT_CONTROL:
            c.control[c.control_n] = p[at]
            c.control_n += 1
            at += 1
            c.remaining -= 1
            if c.remaining == 0:
                event = _control(c)
        else:
            at = n
    used[0] = at
    return event


cdef int _header(Cutter *c) noexcept nogil:
    """One more byte of a header has come."""
    cdef uint32_t short_length
    cdef uint64_t length = 0
    cdef int i, need = 2
    if c.header_n < 2:
        return WS_MORE
    short_length = c.header[1] & LENGTH
    if short_length == LENGTH_2:
        need = 4
    elif short_length == LENGTH_8:
        need = 10
    if c.header_n == 2:
        c.fin = (c.header[0] & FIN) != 0
        c.opcode = c.header[0] & OPCODE
        if c.header[0] & RESERVED:
            return _fail(c, PROTOCOL_ERROR, b"reserved bit set")
        if c.opcode > WS_OP_PONG or WS_OP_BINARY < c.opcode < WS_OP_CLOSE:
            return _fail(c, PROTOCOL_ERROR, b"unknown opcode")
        if c.header[1] & MASKED:
            return _fail(c, PROTOCOL_ERROR, b"masked frame from a server")
        if c.opcode >= WS_OP_CLOSE and not c.fin:
            return _fail(c, PROTOCOL_ERROR, b"fragmented control frame")
        if c.opcode >= WS_OP_CLOSE and short_length > WS_CONTROL_BYTES:
            return _fail(c, PROTOCOL_ERROR, b"control frame over 125 bytes")
    if c.header_n < need:
        return WS_MORE
    if need == 2:
        length = short_length
    for i in range(2, need):
        length = length << 8 | c.header[i]
    if (need == 4 and length < LENGTH_2) or (need == 10 and length <= 0xFFFF):
        return _fail(c, PROTOCOL_ERROR, b"length not in its shortest form")
    if length >> 63:
        return _fail(c, PROTOCOL_ERROR, b"length over 63 bits")
    c.header_n = 0
    c.remaining = length
    if c.opcode >= WS_OP_CLOSE:
        c.control_n = 0
        c.state = AT_CONTROL
        return WS_MORE if length else _control(c)
    return _data_frame(c, length)


cdef int _data_frame(Cutter *c, uint64_t length) noexcept nogil:
    """The header of a data frame is complete."""
    cdef bint was_skipping
    if c.opcode == WS_OP_CONTINUATION and not c.in_message:
        return _fail(c, PROTOCOL_ERROR, b"continuation of nothing")
    if c.opcode != WS_OP_CONTINUATION and c.in_message:
        return _fail(c, PROTOCOL_ERROR, b"new message inside a fragmented one")
    if c.opcode == WS_OP_TEXT:
        return _fail(c, UNSUPPORTED_DATA, b"text message")
    if not c.in_message:
        c.message_n = 0
        c.skipping = False
    c.in_message = not c.fin
    c.message_n += length
    c.state = AT_PAYLOAD
    was_skipping = c.skipping
    if c.message_n > c.limit:
        c.skipping = True
        if c.message_n > <uint64_t>WS_SKIP_BYTES:
            return _fail(c, TOO_BIG, b"message far over the limit")
        if not was_skipping:
            return WS_SKIP
    if length == 0:
        c.state = AT_HEADER
        if c.fin:
            return _end_of_message(c)
    return WS_MORE


cdef int _end_of_message(Cutter *c) noexcept nogil:
    c.chunk = NULL
    c.chunk_n = 0
    if c.skipping:
        return WS_SKIPPED
    c.message_end = True
    return WS_DATA


cdef int _payload(Cutter *c, const uint8_t *p, size_t n) noexcept nogil:
    """Takes chunk_n bytes."""
    cdef uint64_t take = n if n < c.remaining else c.remaining
    c.chunk = p
    c.chunk_n = take
    c.remaining -= take
    c.message_end = False
    if c.remaining == 0:
        c.state = AT_HEADER
        c.message_end = c.fin
        if c.skipping and c.fin:
            return WS_SKIPPED
    return WS_MORE if c.skipping else WS_DATA


cdef uint64_t ws_direct_room(const Cutter *c) noexcept nogil:
    return c.remaining if c.state == AT_PAYLOAD and not c.skipping else 0


cdef bint ws_direct(Cutter *c, uint64_t n) noexcept nogil:
    c.remaining -= n
    if c.remaining != 0:
        return False
    c.state = AT_HEADER
    return c.fin


cdef int _control(Cutter *c) noexcept nogil:
    """A control frame is complete."""
    c.state = AT_HEADER
    if c.opcode == WS_OP_PING:
        return WS_PING
    if c.opcode == WS_OP_PONG:
        return WS_PONG
    c.close_code = NO_STATUS
    if c.control_n == 1:
        return _fail(c, PROTOCOL_ERROR, b"close frame with half a code")
    if c.control_n >= 2:
        c.close_code = <uint32_t>c.control[0] << 8 | c.control[1]
        if not _may_be_sent(c.close_code):
            return _fail(c, PROTOCOL_ERROR, b"close code that may not be sent")
        if not _is_utf8(c.control + 2, c.control_n - 2):
            return _fail(c, INVALID_PAYLOAD, b"close reason is not UTF-8")
    c.state = AT_END
    return WS_CLOSE


cdef inline bint _may_be_sent(uint32_t code) noexcept nogil:
    """RFC 6455 7.4 and the registered codes up to 1013; 1004 to 1006 and 1015 are never on the wire."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1013 or 3000 <= code <= 4999


cdef bint _is_utf8(const uint8_t *p, size_t n) noexcept nogil:
    """For close reasons: at most 123 bytes."""
    cdef size_t i = 0
    cdef size_t more, k
    cdef uint32_t value
    while i < n:
        value = p[i]
        i += 1
        if value < 0x80:
            continue
        if 0xC2 <= value <= 0xDF:
            more = 1
            value &= 0x1F
        elif 0xE0 <= value <= 0xEF:
            more = 2
            value &= 0x0F
        elif 0xF0 <= value <= 0xF4:
            more = 3
            value &= 0x07
        else:
            return False
        if n - i < more:
            return False
        for k in range(more):
            if (p[i + k] & 0xC0) != 0x80:
                return False
            value = value << 6 | (p[i + k] & 0x3F)
        i += more
        if (more == 2 and value < 0x800) or (more == 3 and not 0x10000 <= value <= 0x10FFFF):
            return False
        if 0xD800 <= value <= 0xDFFF:
            return False
    return True


cdef size_t ws_control(uint8_t *out, int opcode, const uint8_t *payload, size_t n, uint32_t mask) noexcept nogil:
    cdef size_t i
    out[0] = <uint8_t>(FIN | opcode)
    out[1] = <uint8_t>(MASKED | n)
    memcpy(out + 2, &mask, 4)
    for i in range(n):
        out[6 + i] = payload[i] ^ out[2 + (i & 3)]
    return 6 + n


cdef size_t ws_close(uint8_t *out, uint32_t code, const char *text, uint32_t mask) noexcept nogil:
    cdef uint8_t[WS_CONTROL_BYTES] payload
    cdef size_t n = min(strlen(text), <size_t>WS_CONTROL_BYTES - 2)
    payload[0] = <uint8_t>(code >> 8)
    payload[1] = <uint8_t>code
    memcpy(&payload[2], text, n)
    return ws_control(out, WS_OP_CLOSE, payload, n + 2, mask)


# --- for tests and tools ---

DEFAULT_LIMIT = MAX_FRAME_BYTES - MAX_SPLICE_BYTES


cdef class MessageCutter:
    """A Cutter for Python: `feed` returns what the bytes say, as tuples. One thread."""

    cdef Cutter _c
    cdef object _message

    def __cinit__(self, limit=DEFAULT_LIMIT):
        ws_init(&self._c, limit)
        self._message = bytearray()

    def feed(self, data):
        """("message", bytes), ("skip",), ("skipped",), ("ping" or "pong", bytes), ("close", code, reason),
        ("fail", code, text)."""
        cdef const uint8_t[::1] view = data
        cdef const uint8_t *p = &view[0] if view.shape[0] else NULL
        cdef size_t n = view.shape[0]
        cdef size_t used = 0
        cdef int event
        events = []
        while True:
            event = ws_step(&self._c, p, n, &used)
            p += used
            n -= used
            if event == WS_MORE:
                return events
            self._tell(event, events)

    cdef _tell(self, int event, list events):
        cdef Cutter *c = &self._c
        control = (<char *>c.control)[:c.control_n]
        if event == WS_DATA:
            self._message += (<char *>c.chunk)[:c.chunk_n] if c.chunk_n else b""
            if c.message_end:
                events.append(("message", bytes(self._message)))
                self._message.clear()
        elif event == WS_SKIP:
            self._message.clear()
            events.append(("skip",))
        elif event == WS_SKIPPED:
            events.append(("skipped",))
        elif event == WS_PING:
            events.append(("ping", control))
        elif event == WS_PONG:
            events.append(("pong", control))
        elif event == WS_CLOSE:
            events.append(("close", c.close_code, control[2:].decode()))
        elif event == WS_FAIL:
            events.append(("fail", c.close_code, c.fail_text.decode()))


def control_frame(opcode, payload=b"", mask=0):
    """A masked control frame as the reader sends it."""
    cdef uint8_t[WS_OUT_BYTES] out
    cdef const uint8_t[::1] view = payload
    n = ws_control(out, opcode, &view[0] if view.shape[0] else NULL, view.shape[0], mask)
    return (<char *>out)[:n]


def close_frame(code, text, mask=0):
    """A masked close frame as the reader sends it."""
    cdef uint8_t[WS_OUT_BYTES] out
    n = ws_close(out, code, text.encode(), mask)
    return (<char *>out)[:n]
