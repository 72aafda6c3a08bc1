"""The WebSocket frame cutter: any bytes, whole and in pieces (RFC 6455, client side).

The first byte chooses the limit of a message, the second how the bytes are cut.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from tests.fuzz.fuzzer cimport zl_promise
from zlay._fast.ws cimport (
    WS_CONTROL_BYTES, WS_DATA, WS_FAIL, WS_MORE, WS_OUT_BYTES, WS_PING, WS_PONG, WS_SKIP, WS_SKIPPED, Cutter,
    ws_close, ws_control, ws_direct, ws_direct_room, ws_init, ws_step
)

cdef enum:
    LIMITS = 4

cdef uint64_t[LIMITS] limits

limits[:] = [0, 100, 5000, 5000000]


cdef inline uint64_t _note(uint64_t trace, uint64_t value) noexcept nogil:
    return (trace ^ value) * 1099511628211ULL


cdef uint64_t _note_bytes(uint64_t trace, const uint8_t *p, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        trace = _note(trace, p[i])
    return trace


cdef struct Trace:
    uint64_t events              # kinds, order and control payloads
    uint64_t bytes               # of messages kept
    uint64_t kept                # bytes of the message that has begun
    bint over


cdef void _tell(Cutter *c, int event, Trace *t, uint64_t limit) noexcept nogil:
    """What is the same however the bytes come: events but for WS_DATA inside a message, and all bytes."""
    cdef uint8_t out[WS_OUT_BYTES]
    if event == WS_DATA:
        t.bytes = _note_bytes(t.bytes, c.chunk, c.chunk_n)
        t.kept += c.chunk_n
        zl_promise(t.kept <= limit)
        if c.message_end:
            t.events = _note(t.events, event)
            t.bytes = _note(t.bytes, t.kept + 1000)
            t.kept = 0
        return
    t.events = _note(t.events, event)
    if event == WS_SKIP or event == WS_SKIPPED:
        t.kept = 0
    elif event == WS_PING or event == WS_PONG:
        zl_promise(c.control_n <= WS_CONTROL_BYTES)
        t.events = _note_bytes(t.events, c.control, c.control_n)
        zl_promise(ws_control(out, 10, c.control, c.control_n, 0x01020304) <= WS_OUT_BYTES)
    else:
        t.events = _note(t.events, c.close_code)
        t.over = True
        if event == WS_FAIL:
            zl_promise(ws_close(out, c.close_code, c.fail_text, 0) <= WS_OUT_BYTES)


cdef Trace _run(const uint8_t *p, size_t n, uint64_t limit, uint32_t cuts) noexcept nogil:
    """One connection; cuts != 0: in pieces, some of them received straight to where a large message lies."""
    cdef Cutter c
    cdef Trace t
    cdef uint64_t random = cuts, room
    cdef size_t piece, used, left
    cdef const uint8_t *at
    cdef int event
    t.events = t.bytes = 14695981039346656037ULL
    t.kept = 0
    t.over = False
    ws_init(&c, limit)
    while n > 0:
        piece = n
        if cuts:
            random = random * 6364136223846793005ULL + 1442695040888963407ULL
            piece = min(n, <size_t>(1 + (random >> 33) % (64 if random >> 62 else 5000)))
        room = ws_direct_room(&c)
        if cuts and room and random >> 61 & 1:
            piece = min(piece, <size_t>room)
            t.bytes = _note_bytes(t.bytes, p, piece)
            t.kept += piece
            zl_promise(t.kept <= limit)
            if ws_direct(&c, piece):
                t.events = _note(t.events, WS_DATA)
                t.bytes = _note(t.bytes, t.kept + 1000)
                t.kept = 0
        else:
            at = p
            left = piece
            event = WS_DATA
            while event != WS_MORE:
                event = ws_step(&c, at, left, &used)
                zl_promise(used <= left)
                at += used
                left -= used
                if event != WS_MORE:
                    _tell(&c, event, &t, limit)
            zl_promise(left == 0)
        p += piece
        n -= piece
    return t


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) noexcept nogil:
    cdef Trace whole, cut
    cdef uint64_t limit
    if n < 2:
        return -1
    limit = limits[data[0] % LIMITS]
    whole = _run(data + 2, n - 2, limit, 0)
    cut = _run(data + 2, n - 2, limit, 1 + data[1])
    zl_promise(whole.events == cut.events and whole.bytes == cut.bytes and whole.over == cut.over)
    return 0
