"""DRISL (strict DAG-CBOR): a cursor with typed readers, and the check of any item (C11, C12). Any thread.

Every reader returns a Reason. On R_OK the cursor stands after the item; otherwise it stands anywhere inside it. An item
of another type than asked for is R_FIELD_TYPE when its encoding is fine, else what is wrong with its encoding; what is
read is then empty.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from zlay._fast.verdicts cimport (
    R_CBOR_INDEFINITE, R_CBOR_INT_RANGE, R_CBOR_KEY_ORDER, R_CBOR_KEY_TYPE, R_CBOR_LIMIT, R_CBOR_NOT_SHORTEST,
    R_CBOR_SIMPLE, R_CBOR_TRUNCATED, R_CBOR_UTF8, R_OK
)

cdef enum:
    MAJOR_UINT = 0
    MAJOR_NEGATIVE = 1
    MAJOR_BYTES = 2
    MAJOR_TEXT = 3
    MAJOR_ARRAY = 4
    MAJOR_MAP = 5
    MAJOR_TAG = 6
    MAJOR_SIMPLE = 7
    CBOR_FALSE = 0xF4
    CBOR_TRUE = 0xF5
    CBOR_NULL = 0xF6
    MAX_DEPTH = 64               # containers around an item; C13 suggests 32, honest records stay below 20
    MAX_MAP_ENTRIES = 8192       # of a map in a message, a commit or a tree node (design 14)
    MAX_ARRAY_ENTRIES = 131072   # of any array, and of a map in a record (C13)
    MAX_KEY_BYTES = 8192         # of a map key (C13)
    MAX_CID_BYTES = 100          # of a link's byte string, 00 included (C13; common Go consumers read no longer one)
    MAX_DIGEST_BYTES = 64        # of a CID in a message: what common Rust and Python consumers read at most (design 14)
    CID_SIZE = 36                # of a blessed CID (C11)
    MAX_HEAD_BYTES = 9

cdef enum DrislMode:             # where an item stands: what is allowed besides the rules for all
    DRISL_DATA                   # known fields, commits, tree nodes: no floats (C12)
    DRISL_UNKNOWN                # fields of a message that zlay does not know: float64 but those of design 14
    DRISL_RECORD                 # records: any finite float64; maps of up to MAX_ARRAY_ENTRIES

cdef struct Cursor:              # a view; owns nothing
    const uint8_t *p
    const uint8_t *end

cdef struct MapWalk:             # a map being read: read_map, then map_next and one reader per entry until left is 0
    uint32_t left
    uint32_t previous_n
    const uint8_t *previous      # the key before, for the order

# Checks one item of any kind and steps over it. `depth` = containers already around it.
cdef int drisl_skip(Cursor *c, int mode, int depth) noexcept nogil
# The reason why an item is not what its reader wants.
cdef int drisl_mismatch(Cursor *c) noexcept nogil
# Checks that n bytes are exactly one map (C12, C14), under the rules of the mode.
cdef int drisl_map_block(const uint8_t *p, uint32_t n, int mode) noexcept nogil
# A record's block: R_OK, R_BLOCK_SIZE or R_RECORD_NOT_MAP (B9, C14).
cdef int record_check(const uint8_t *p, uint32_t n) noexcept nogil
cdef bint utf8_valid(const uint8_t *p, uint32_t n) noexcept nogil


cdef inline uint32_t cbor_put_head(uint8_t *out, int major, uint64_t v) noexcept nogil:
    """Writes the shortest head of a major type with its argument; returns its length, at most MAX_HEAD_BYTES."""
    cdef uint8_t m = <uint8_t>(major << 5)
    cdef int size, i
    if v < 24:
        out[0] = m | <uint8_t>v
        return 1
    if v <= 0xFF:
        out[0] = m | 24
        size = 1
    elif v <= 0xFFFF:
        out[0] = m | 25
        size = 2
    elif v >> 32 == 0:
        out[0] = m | 26
        size = 4
    else:
        out[0] = m | 27
        size = 8
    for i in range(size):
        out[size - i] = <uint8_t>(v >> (8 * i))
    return size + 1


cdef inline uint32_t cbor_put_uint(uint8_t *out, uint64_t v) noexcept nogil:
    """Writes v as a shortest-form unsigned integer; returns its length, at most MAX_HEAD_BYTES."""
    return cbor_put_head(out, MAJOR_UINT, v)


cdef inline int cbor_head(Cursor *c, uint8_t *major, uint64_t *arg) noexcept nogil:
    """The head of the next item, shortest form only. For major 7 arg is the additional information itself."""
    cdef const uint8_t *p = c.p
    cdef size_t room = c.end - p
    cdef uint8_t info
    if room == 0:
        return R_CBOR_TRUNCATED
    info = p[0] & 31
    major[0] = p[0] >> 5
    if info < 24 or major[0] == MAJOR_SIMPLE:
        arg[0] = info
        c.p = p + 1
        return R_OK
    if info == 24:
        if room < 2:
            return R_CBOR_TRUNCATED
        arg[0] = p[1]
        c.p = p + 2
        return R_OK if p[1] >= 24 else R_CBOR_NOT_SHORTEST
    if info == 25:
        if room < 3:
            return R_CBOR_TRUNCATED
        arg[0] = (<uint64_t>p[1] << 8) | p[2]
        c.p = p + 3
        return R_OK if arg[0] > 0xFF else R_CBOR_NOT_SHORTEST
    if info == 26:
        if room < 5:
            return R_CBOR_TRUNCATED
        arg[0] = (<uint64_t>p[1] << 24) | (<uint64_t>p[2] << 16) | (<uint64_t>p[3] << 8) | p[4]
        c.p = p + 5
        return R_OK if arg[0] > 0xFFFF else R_CBOR_NOT_SHORTEST
    if info == 27:
        if room < 9:
            return R_CBOR_TRUNCATED
        arg[0] = (
            (<uint64_t>p[1] << 56) | (<uint64_t>p[2] << 48) | (<uint64_t>p[3] << 40) | (<uint64_t>p[4] << 32)
            | (<uint64_t>p[5] << 24) | (<uint64_t>p[6] << 16) | (<uint64_t>p[7] << 8) | p[8]
        )
        c.p = p + 9
        return R_OK if arg[0] >> 32 != 0 else R_CBOR_NOT_SHORTEST
    return R_CBOR_INDEFINITE if info == 31 else R_CBOR_SIMPLE


cdef inline bint text_valid(const uint8_t *p, uint32_t n) noexcept nogil:
    """UTF-8, with the short way for ASCII, which nearly all text on the path is."""
    cdef uint64_t word
    cdef uint64_t seen = 0
    cdef uint32_t i = 0
    while i + 8 <= n:
        memcpy(&word, p + i, 8)
        seen |= word
        i += 8
    if n >= 8:
        memcpy(&word, p + n - 8, 8)      # the tail, overlapping what was seen
        seen |= word
    else:
        while i < n:
            seen |= p[i]
            i += 1
    return (seen & 0x8080808080808080ULL) == 0 or utf8_valid(p, n)


cdef inline int read_uint(Cursor *c, uint64_t *out) noexcept nogil:
    """An integer from 0 to 2**63 - 1."""
    cdef const uint8_t *start = c.p
    cdef uint8_t major
    cdef int r = cbor_head(c, &major, out)
    if r != R_OK:
        return r
    if major != MAJOR_UINT:
        c.p = start
        return drisl_mismatch(c)
    return R_OK if out[0] <= <uint64_t>INT64_MAX else R_CBOR_INT_RANGE


cdef inline int _read_string(Cursor *c, uint8_t wanted, const uint8_t **p, uint32_t *n) noexcept nogil:
    """A string of major type `wanted`; p points into the cursor's bytes."""
    cdef const uint8_t *start = c.p
    cdef uint8_t major
    cdef uint64_t length
    cdef int r = cbor_head(c, &major, &length)
    p[0] = NULL
    n[0] = 0
    if r != R_OK:
        return r
    if major != wanted:
        c.p = start
        return drisl_mismatch(c)
    if length > <uint64_t>(c.end - c.p):
        return R_CBOR_TRUNCATED
    p[0] = c.p
    n[0] = <uint32_t>length
    c.p += length
    return R_OK


cdef inline int read_text(Cursor *c, const uint8_t **p, uint32_t *n) noexcept nogil:
    """A text string, valid UTF-8; p points into the cursor's bytes."""
    cdef int r = _read_string(c, MAJOR_TEXT, p, n)
    if r != R_OK:
        return r
    return R_OK if text_valid(p[0], n[0]) else R_CBOR_UTF8


cdef inline int read_bytes(Cursor *c, const uint8_t **p, uint32_t *n) noexcept nogil:
    """A byte string; p points into the cursor's bytes."""
    return _read_string(c, MAJOR_BYTES, p, n)


cdef inline int read_link(Cursor *c, const uint8_t **cid) noexcept nogil:
    """A link to a blessed CID (C11), codec 71 or 55: cid points at its 36 bytes in the cursor's bytes."""
    cdef const uint8_t *p = c.p
    if (
        c.end - p >= CID_SIZE + 5
        and p[0] == 0xD8 and p[1] == 0x2A and p[2] == 0x58 and p[3] == 0x25 and p[4] == 0
        and p[5] == 1 and (p[6] == 0x71 or p[6] == 0x55) and p[7] == 0x12 and p[8] == 0x20
    ):
        cid[0] = p + 5
        c.p = p + 5 + CID_SIZE
        return R_OK
    cid[0] = NULL
    return drisl_mismatch(c)


cdef inline int read_bool(Cursor *c, uint8_t *out) noexcept nogil:
    """False or true, as 0 or 1."""
    out[0] = 0
    if c.p < c.end and (c.p[0] == CBOR_FALSE or c.p[0] == CBOR_TRUE):
        out[0] = c.p[0] == CBOR_TRUE
        c.p += 1
        return R_OK
    return drisl_mismatch(c)


cdef inline bint take_null(Cursor *c) noexcept nogil:
    """True = the next item was null, and is passed. Anything else is left for its own reader."""
    if c.p < c.end and c.p[0] == CBOR_NULL:
        c.p += 1
        return True
    return False


cdef inline int read_array(Cursor *c, uint32_t *n) noexcept nogil:
    """The head of an array; n items follow, one byte each at least."""
    cdef const uint8_t *start = c.p
    cdef uint8_t major
    cdef uint64_t count
    cdef int r = cbor_head(c, &major, &count)
    n[0] = 0
    if r != R_OK:
        return r
    if major != MAJOR_ARRAY:
        c.p = start
        return drisl_mismatch(c)
    if count > <uint64_t>(c.end - c.p):
        return R_CBOR_TRUNCATED
    n[0] = <uint32_t>count
    return R_OK if count <= MAX_ARRAY_ENTRIES else R_CBOR_LIMIT


cdef inline int read_map(Cursor *c, MapWalk *w) noexcept nogil:
    """The head of a map of at most MAX_MAP_ENTRIES; its entries are read with map_next."""
    cdef const uint8_t *start = c.p
    cdef uint8_t major
    cdef uint64_t count
    cdef int r = cbor_head(c, &major, &count)
    w.left = 0
    w.previous = NULL
    w.previous_n = 0
    if r != R_OK:
        return r
    if major != MAJOR_MAP:
        c.p = start
        return drisl_mismatch(c)
    if count > <uint64_t>(c.end - c.p) / 2:
        return R_CBOR_TRUNCATED
    w.left = <uint32_t>count
    return R_OK if count <= MAX_MAP_ENTRIES else R_CBOR_LIMIT


cdef inline int map_next(Cursor *c, MapWalk *w, const uint8_t **key, uint32_t *key_n) noexcept nogil:
    """The next key of a map with entries left: text, above the one before by length, then bytes. The value follows."""
    cdef uint8_t major
    cdef uint64_t length
    cdef int r = cbor_head(c, &major, &length)
    if r != R_OK:
        return r
    if major != MAJOR_TEXT:
        return R_CBOR_KEY_TYPE
    if length > <uint64_t>(c.end - c.p):
        return R_CBOR_TRUNCATED
    if length > MAX_KEY_BYTES:
        return R_CBOR_LIMIT
    key[0] = c.p
    key_n[0] = <uint32_t>length
    c.p += length
    if not text_valid(key[0], key_n[0]):
        return R_CBOR_UTF8
    if w.previous != NULL and (
        key_n[0] < w.previous_n or (key_n[0] == w.previous_n and memcmp(key[0], w.previous, key_n[0]) <= 0)
    ):
        return R_CBOR_KEY_ORDER
    w.previous = key[0]
    w.previous_n = key_n[0]
    w.left -= 1
    return R_OK
