"""WebSocket frames from a consumer: any bytes, whole and cut where the first byte says (RFC 6455 5)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from tests.fuzz.fuzzer cimport zl_promise
from zlay._fast.client_frames cimport (
    CLIENT_BAD, CLIENT_CLOSE, CLIENT_MORE, CLIENT_PING, MAX_CONTROL_BYTES, ClientParser, client_feed
)


cdef uint64_t _run(const uint8_t *p, size_t n, size_t step) noexcept nogil:
    """The events of one connection as a number; step: bytes that come at a time."""
    cdef ClientParser c
    cdef uint64_t trace = 14695981039346656037ULL
    cdef size_t piece, used
    cdef uint32_t i
    cdef int event
    memset(&c, 0, sizeof(c))
    while n > 0:
        piece = min(n, step)
        event = client_feed(&c, p, piece, &used)
        zl_promise(used <= piece and c.control_n <= MAX_CONTROL_BYTES and (event != CLIENT_MORE or used == piece))
        p += used
        n -= used
        if event == CLIENT_MORE:
            continue
        trace = (trace ^ <uint64_t>event) * 1099511628211ULL
        if event == CLIENT_PING:
            for i in range(c.control_n):
                trace = (trace ^ c.control[i]) * 1099511628211ULL
        elif event == CLIENT_CLOSE or event == CLIENT_BAD:
            return trace ^ (c.close_code if event == CLIENT_CLOSE else 0)
    return trace


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) noexcept nogil:
    if n < 1:
        return -1
    zl_promise(_run(data + 1, n - 1, n) == _run(data + 1, n - 1, 1 + data[0] % 7))
    return 0
