"""Any bytes as one DRISL item, and as a record's block (C11, C12, C14).

The first byte chooses the mode and how deep the item stands.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tests.fuzz.fuzzer cimport zl_promise
from zlay._fast.drisl cimport (
    DRISL_DATA, DRISL_RECORD, DRISL_UNKNOWN, MAJOR_MAP, MAX_DEPTH, MAX_HEAD_BYTES, Cursor, MapWalk, cbor_head,
    cbor_put_head, drisl_map_block, drisl_skip, map_next, read_array, read_bool, read_bytes, read_link, read_map,
    read_text, read_uint, record_check, text_valid, utf8_valid
)
from zlay._fast.verdicts cimport R_COUNT, R_OK


cdef int _skip(const uint8_t *p, size_t n, int mode, int depth, size_t *used) noexcept nogil:
    cdef Cursor c
    cdef int r
    c.p = p
    c.end = p + n
    r = drisl_skip(&c, mode, depth)
    zl_promise(0 <= r < R_COUNT and p <= c.p <= c.end)
    used[0] = c.p - p
    return r


cdef void _readers(const uint8_t *p, size_t n) noexcept nogil:
    """Each typed reader on the same item: what it accepts, drisl_skip accepts, and they end at the same place."""
    cdef Cursor c
    cdef MapWalk w
    cdef const uint8_t *at
    cdef uint64_t number
    cdef uint32_t count
    cdef uint8_t flag
    cdef int what, r = R_OK
    cdef size_t used
    for what in range(7):
        c.p = p
        c.end = p + n
        if what == 0:
            r = read_uint(&c, &number)
        elif what == 1:
            r = read_text(&c, &at, &count)
        elif what == 2:
            r = read_bytes(&c, &at, &count)
        elif what == 3:
            r = read_link(&c, &at)
        elif what == 4:
            r = read_bool(&c, &flag)
        elif what == 5:
            r = read_array(&c, &count)
        else:
            r = read_map(&c, &w)
            while r == R_OK and w.left > 0:
                r = map_next(&c, &w, &at, &count)
                if r == R_OK:
                    r = drisl_skip(&c, DRISL_DATA, 1)
        zl_promise(0 <= r < R_COUNT and p <= c.p <= c.end)
        if r == R_OK and what != 5:
            zl_promise(_skip(p, n, DRISL_DATA, 0, &used) == R_OK and p + used == c.p)


cdef void _head(const uint8_t *p, size_t n) noexcept nogil:
    """What cbor_put_head writes, cbor_head reads."""
    cdef uint8_t out[MAX_HEAD_BYTES]
    cdef Cursor c
    cdef uint64_t number, back
    cdef uint8_t major
    if n < 9:
        return
    memcpy(&number, p + 1, 8)
    number >>= p[0] >> 2 & 63
    c.p = out
    c.end = out + cbor_put_head(out, p[0] % 7, number)
    zl_promise(cbor_head(&c, &major, &back) == R_OK and c.p == c.end and major == p[0] % 7 and back == number)


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) noexcept nogil:
    cdef size_t used = 0, other = 0
    cdef int depth, r, record
    cdef bint whole
    if n < 1:
        return -1
    depth = data[0] % (MAX_DEPTH + 1) if data[0] & 0x80 else 0
    data += 1
    n -= 1
    r = _skip(data, n, DRISL_DATA, depth, &used)
    if r == R_OK:
        # Stricter modes accept less, and an item does not depend on what follows it.
        zl_promise(_skip(data, n, DRISL_UNKNOWN, depth, &other) == R_OK and other == used)
        zl_promise(_skip(data, used, DRISL_DATA, depth, &other) == R_OK and other == used)
        zl_promise(used > 0 and _skip(data, used - 1, DRISL_DATA, depth, &other) != R_OK)
    if _skip(data, n, DRISL_UNKNOWN, depth, &used) == R_OK:
        zl_promise(_skip(data, n, DRISL_RECORD, depth, &other) == R_OK and other == used)
    whole = _skip(data, n, DRISL_RECORD, 0, &used) == R_OK and used == n and data[0] >> 5 == MAJOR_MAP
    record = record_check(data, <uint32_t>n)
    zl_promise((record == R_OK) == whole)
    zl_promise((drisl_map_block(data, <uint32_t>n, DRISL_RECORD) == R_OK) == whole)
    zl_promise(text_valid(data, <uint32_t>n) == utf8_valid(data, <uint32_t>n))
    _readers(data, n)
    _head(data, n)
    return 0
