"""A growing byte buffer and the DAG-CBOR, CAR and WebSocket heads the simulation writes into it.

Promises: what is written here is canonical DRISL (C12) as long as the caller writes map keys in order. Written from
the specification only: nothing of `zlay/_fast` is used, so that relay and simulation cannot share a mistake.
Assumes: each Buf is used by one thread at a time. Memory: `p` is owned by the Buf, taken from the interpreter's raw
allocator (the simulation is a process of its own, outside the relay's memory ledger), freed by `buf_free`.
"""

from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport abort
from libc.string cimport memcpy

cdef struct Buf:
    uint8_t *p
    size_t n
    size_t cap

cdef enum:
    MAJOR_UINT = 0x00
    MAJOR_BYTES = 0x40
    MAJOR_TEXT = 0x60
    MAJOR_ARRAY = 0x80
    MAJOR_MAP = 0xA0
    CBOR_FALSE = 0xF4
    CBOR_TRUE = 0xF5
    CBOR_NULL = 0xF6
    CODEC_DRISL = 0x71
    DIGEST_SIZE = 32
    CID_SIZE = 36

cdef inline void buf_free(Buf *b) noexcept nogil:
    PyMem_RawFree(b.p)
    b.p = NULL
    b.n = 0
    b.cap = 0

cdef inline void buf_reserve(Buf *b, size_t more) noexcept nogil:
    """Room for `more` bytes after `n`. Out of memory ends the process: a simulation has nothing better to do."""
    cdef size_t cap = b.cap
    if b.n + more <= cap:
        return
    if cap == 0:
        cap = 512
    while cap < b.n + more:
        cap *= 2
    b.p = <uint8_t *> PyMem_RawRealloc(b.p, cap)
    if b.p == NULL:
        abort()
    b.cap = cap

cdef inline void put_byte(Buf *b, uint8_t value) noexcept nogil:
    buf_reserve(b, 1)
    b.p[b.n] = value
    b.n += 1

cdef inline void put_bytes(Buf *b, const void *p, size_t n) noexcept nogil:
    buf_reserve(b, n)
    if n:
        memcpy(b.p + b.n, p, n)
    b.n += n

cdef inline void put_big_endian(Buf *b, uint64_t value, int size) noexcept nogil:
    cdef int i
    buf_reserve(b, size)
    for i in range(size):
        b.p[b.n + i] = <uint8_t> (value >> (8 * (size - 1 - i)))
    b.n += size

cdef inline void put_head(Buf *b, uint8_t major, uint64_t value) noexcept nogil:
    """Initial byte and argument of one CBOR item, shortest form."""
    if value < 24:
        put_byte(b, major | <uint8_t> value)
    elif value < 0x100:
        put_byte(b, major | 24)
        put_big_endian(b, value, 1)
    elif value < 0x10000:
        put_byte(b, major | 25)
        put_big_endian(b, value, 2)
    elif (value >> 32) == 0:
        put_byte(b, major | 26)
        put_big_endian(b, value, 4)
    else:
        put_byte(b, major | 27)
        put_big_endian(b, value, 8)

cdef inline void put_text(Buf *b, const char *p, size_t n) noexcept nogil:
    put_head(b, MAJOR_TEXT, n)
    put_bytes(b, p, n)

cdef inline void put_link(Buf *b, const uint8_t *digest) noexcept nogil:
    """A CBOR link (tag 42) to the DRISL block with this SHA-256 (C11)."""
    put_bytes(b, b"\xd8\x2a\x58\x25\x00\x01\x71\x12\x20", 9)
    put_bytes(b, digest, DIGEST_SIZE)

cdef inline void put_uvarint(Buf *b, uint64_t value) noexcept nogil:
    while value >= 0x80:
        put_byte(b, <uint8_t> (value & 0x7F) | 0x80)
        value >>= 7
    put_byte(b, <uint8_t> value)

cdef inline void put_block_head(Buf *b, const uint8_t *digest, size_t n) noexcept nogil:
    """Head of one CAR block of `n` bytes: length of CID and data, then the CID (C10)."""
    put_uvarint(b, CID_SIZE + n)
    put_bytes(b, b"\x01\x71\x12\x20", 4)
    put_bytes(b, digest, DIGEST_SIZE)

cdef inline void put_ws_head(Buf *b, size_t n) noexcept nogil:
    """Head of one unmasked, unfragmented binary WebSocket message of `n` bytes."""
    put_byte(b, 0x82)
    if n < 126:
        put_byte(b, <uint8_t> n)
    elif n < 0x10000:
        put_byte(b, 126)
        put_big_endian(b, n, 2)
    else:
        put_byte(b, 127)
        put_big_endian(b, n, 8)
