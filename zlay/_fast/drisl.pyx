"""DRISL (strict DAG-CBOR, protocol C11 and C12): one pass over bytes in place, no copy, no allocation, no recursion.

Promises: drisl_skip accepts exactly the canonical encodings, within the limits named in drisl.pxd, and its time is
linear in the bytes. Nothing is trusted: a declared length is held against the bytes that are there before it is used.
Assumes: an item stands in fewer than 2**32 bytes.
Threads: any; there is no state.

Records (C14 leaves it open how strict to be). A record block must be one DRISL map: shortest forms, key order, tag 42
with a CID, UTF-8. That is what `@atproto/repo`'s decoder and the Go and Rust ones need to read a record at all, and a
record that is not canonical could not have been made by any of them. Three things are let through that a message may
not have. Finite float64: not atproto data, but canonical DAG-CBOR, which every consumer's decoder reads, and a
judgement on content, which a relay does not make. Maps up to the guide's 131,072 entries, and digests of any length
in CIDs, which may name any codec and hash (C11) but are version 1 and well-formed: consumers that cannot read a
record lose that record, not their connection.
"""

from libc.stdint cimport INT64_MAX, uint8_t, uint32_t, uint64_t

from zlay._fast.mem cimport zl_copy_bytes, zl_free
from zlay._fast.message cimport MAX_RECORD_BYTES
from zlay._fast.verdicts cimport (
    R_BLOCK_SIZE, R_CBOR_CID, R_CBOR_DEPTH, R_CBOR_FLOAT, R_CBOR_INDEFINITE, R_CBOR_INT_RANGE,
    R_CBOR_LIMIT, R_CBOR_SIMPLE, R_CBOR_TAG, R_CBOR_TRAILING, R_CBOR_TRUNCATED, R_CBOR_UTF8,
    R_FIELD_TYPE, R_OK, R_RECORD_NOT_MAP
)

from zlay._fast.verdicts import REASONS

cdef enum:
    TAG_CID = 42
    CID_VERSION = 1
    MAX_VARINT_BYTES = 9         # 63 bits: what multiformats' varints may have
    INFO_FALSE = 20
    INFO_NULL = 22
    INFO_HALF = 25
    INFO_SINGLE = 26
    INFO_DOUBLE = 27
    INFO_INDEFINITE = 31
    DOUBLE_EXPONENT = 0x7FF      # all ones: NaN or infinity

cdef struct Level:               # a container that is open
    MapWalk walk                 # of an array only `left` is used
    bint is_map


cdef inline bint _continues(uint8_t b) noexcept nogil:
    return (b & 0xC0) == 0x80


cdef bint utf8_valid(const uint8_t *p, uint32_t n) noexcept nogil:
    """Well-formed UTF-8: no overlong form, no surrogate, nothing above U+10FFFF."""
    cdef const uint8_t *end = p + n
    cdef size_t room
    cdef uint8_t b
    while p < end:
        b = p[0]
        room = end - p
        if b < 0x80:
            p += 1
        elif b < 0xC2:                       # a continuation byte, or an overlong form of ASCII
            return False
        elif b < 0xE0:
            if room < 2 or not _continues(p[1]):
                return False
            p += 2
        elif b < 0xF0:
            if room < 3 or not _continues(p[1]) or not _continues(p[2]):
                return False
            if (b == 0xE0 and p[1] < 0xA0) or (b == 0xED and p[1] >= 0xA0):
                return False                 # overlong; surrogates U+D800 to U+DFFF
            p += 3
        elif b < 0xF5:
            if room < 4 or not _continues(p[1]) or not _continues(p[2]) or not _continues(p[3]):
                return False
            if (b == 0xF0 and p[1] < 0x90) or (b == 0xF4 and p[1] >= 0x90):
                return False                 # overlong; above U+10FFFF
            p += 4
        else:
            return False
    return True


cdef inline bint _varint(const uint8_t **p, const uint8_t *end, uint64_t *out) noexcept nogil:
    """An unsigned LEB128 number in its shortest form."""
    cdef int i
    cdef uint8_t b
    out[0] = 0
    for i in range(MAX_VARINT_BYTES):
        if p[0] == end:
            return False
        b = p[0][0]
        p[0] += 1
        out[0] |= <uint64_t>(b & 0x7F) << (7 * i)
        if b < 0x80:
            return b != 0 or i == 0
    return False


cdef bint _cid_well_formed(const uint8_t *p, uint32_t n, uint32_t most_digest) noexcept nogil:
    """A CID of version 1 with any codec and hash: varints in shortest form, digest as long as declared."""
    cdef const uint8_t *end = p + n
    cdef uint64_t version, codec, hash_code, digest_n
    if n == CID_SIZE and p[0] == CID_VERSION and (p[1] == 0x71 or p[1] == 0x55) and p[2] == 0x12 and p[3] == 0x20:
        return True                          # blessed: nearly every CID there is
    if not _varint(&p, end, &version) or version != CID_VERSION:
        return False
    if not _varint(&p, end, &codec) or not _varint(&p, end, &hash_code) or not _varint(&p, end, &digest_n):
        return False
    return digest_n == <uint64_t>(end - p) and digest_n <= most_digest


cdef inline int _skip_link(Cursor *c, int mode) noexcept nogil:
    """What follows the head of tag 42: a byte string of 00 and a CID."""
    cdef uint8_t major
    cdef uint64_t n
    cdef int r = cbor_head(c, &major, &n)
    if r != R_OK:
        return r
    if major != MAJOR_BYTES or n > MAX_CID_BYTES or n == 0:
        return R_CBOR_CID
    if n > <uint64_t>(c.end - c.p):
        return R_CBOR_TRUNCATED
    if c.p[0] != 0 or not _cid_well_formed(
        c.p + 1, <uint32_t>n - 1, MAX_CID_BYTES if mode == DRISL_RECORD else MAX_DIGEST_BYTES
    ):
        return R_CBOR_CID
    c.p += n
    return R_OK


cdef inline int _skip_simple(Cursor *c, uint64_t info, int mode) noexcept nogil:
    """What follows the initial byte of a major 7 item."""
    cdef int i
    cdef uint64_t bits = 0
    if INFO_FALSE <= info <= INFO_NULL:
        return R_OK
    if info == INFO_INDEFINITE:
        return R_CBOR_INDEFINITE
    if info == INFO_HALF or info == INFO_SINGLE:
        return R_CBOR_FLOAT
    if info != INFO_DOUBLE:
        return R_CBOR_SIMPLE
    if c.end - c.p < 8:
        return R_CBOR_TRUNCATED
    for i in range(8):
        bits = (bits << 8) | c.p[i]
    c.p += 8
    if mode == DRISL_DATA or ((bits >> 52) & DOUBLE_EXPONENT) == DOUBLE_EXPONENT:
        return R_CBOR_FLOAT
    if mode == DRISL_UNKNOWN and (bits >> 32) == 0:
        # Common Go consumers read the head of a float as that of an integer: a zero high half "is not canonical".
        return R_CBOR_FLOAT
    return R_OK


cdef int drisl_skip(Cursor *c, int mode, int depth) noexcept nogil:
    """Checks one item under the rules of the mode and steps over it; `depth` = containers already around it."""
    cdef Level levels[MAX_DEPTH]
    cdef Level *level = NULL                 # the innermost open container; NULL = none
    cdef int open_levels = 0
    cdef int most_levels = MAX_DEPTH - depth
    cdef uint64_t most_pairs = MAX_ARRAY_ENTRIES if mode == DRISL_RECORD else MAX_MAP_ENTRIES
    cdef uint64_t arg
    cdef uint8_t major
    cdef int r
    cdef const uint8_t *key
    cdef uint32_t key_n
    while True:
        r = cbor_head(c, &major, &arg)
        if r != R_OK:
            return r
        if major == MAJOR_TEXT or major == MAJOR_BYTES:
            if arg > <uint64_t>(c.end - c.p):
                return R_CBOR_TRUNCATED
            if major == MAJOR_TEXT and not text_valid(c.p, <uint32_t>arg):
                return R_CBOR_UTF8
            c.p += arg
        elif major == MAJOR_MAP or major == MAJOR_ARRAY:
            if arg > <uint64_t>(c.end - c.p) / (2 if major == MAJOR_MAP else 1):
                return R_CBOR_TRUNCATED
            if arg > (most_pairs if major == MAJOR_MAP else <uint64_t>MAX_ARRAY_ENTRIES):
                return R_CBOR_LIMIT
            if arg != 0:
                if open_levels >= most_levels:
                    return R_CBOR_DEPTH
                level = &levels[open_levels]
                open_levels += 1
                level.walk.left = <uint32_t>arg
                level.walk.previous = NULL
                level.walk.previous_n = 0
                level.is_map = major == MAJOR_MAP
        elif major == MAJOR_TAG:
            if arg != TAG_CID:
                return R_CBOR_TAG
            r = _skip_link(c, mode)
            if r != R_OK:
                return r
        elif major == MAJOR_SIMPLE:
            r = _skip_simple(c, arg, mode)
            if r != R_OK:
                return r
        elif arg > <uint64_t>INT64_MAX:      # both signs: -1 - arg is at least -2**63
            return R_CBOR_INT_RANGE
        while open_levels > 0 and level.walk.left == 0:
            open_levels -= 1
            level = &levels[open_levels - 1] if open_levels > 0 else NULL
        if open_levels == 0:
            return R_OK
        if level.is_map:
            r = map_next(c, &level.walk, &key, &key_n)
            if r != R_OK:
                return r
        else:
            level.walk.left -= 1


cdef int drisl_mismatch(Cursor *c) noexcept nogil:
    """Why the next item is not what its reader wants: what is wrong with its encoding, else R_FIELD_TYPE."""
    cdef int r = drisl_skip(c, DRISL_DATA, 0)
    return r if r != R_OK else R_FIELD_TYPE


cdef int drisl_map_block(const uint8_t *p, uint32_t n, int mode) noexcept nogil:
    """Checks that n bytes are exactly one map. R_FIELD_TYPE = a well-formed item, but no map."""
    cdef Cursor c
    cdef int r
    c.p = p
    c.end = p + n
    r = drisl_skip(&c, mode, 0)
    if r != R_OK:
        return r
    if p[0] >> 5 != MAJOR_MAP:
        return R_FIELD_TYPE
    return R_OK if c.p == c.end else R_CBOR_TRAILING


cdef int record_check(const uint8_t *p, uint32_t n) noexcept nogil:
    """A record's block: its size (B9), and that it is one DRISL map (C14; how strictly: see the head)."""
    if n > MAX_RECORD_BYTES:
        return R_BLOCK_SIZE
    return R_OK if drisl_map_block(p, n, DRISL_RECORD) == R_OK else R_RECORD_NOT_MAP


# --- for tests and tools ---

cdef dict _MODES = {"data": DRISL_DATA, "unknown": DRISL_UNKNOWN, "record": DRISL_RECORD}


def validate(bytes data, str mode="data"):
    """The label of what drisl_skip says to `data` as one whole item: "ok", or why not."""
    cdef Cursor c
    cdef int m = _MODES[mode]
    cdef int r
    cdef void *copy = zl_copy_bytes(data)
    c.p = <const uint8_t *>copy
    c.end = c.p + len(data)
    with nogil:
        r = drisl_skip(&c, m, 0)
        if r == R_OK and c.p != c.end:
            r = R_CBOR_TRAILING
        zl_free(copy)
    return REASONS[r].label


def check_record(bytes data):
    """The label of what record_check says."""
    cdef void *copy = zl_copy_bytes(data)
    cdef uint32_t n = <uint32_t>len(data)
    cdef int r
    with nogil:
        r = record_check(<const uint8_t *>copy, n)
        zl_free(copy)
    return REASONS[r].label


def is_utf8(bytes data):
    """What text strings must be."""
    cdef void *copy = zl_copy_bytes(data)
    cdef bint valid = text_valid(<const uint8_t *>copy, <uint32_t>len(data))
    zl_free(copy)
    return bool(valid)


def put_head(int major, uint64_t value):
    """The bytes that cbor_put_head writes."""
    cdef uint8_t out[MAX_HEAD_BYTES]
    cdef uint32_t n = cbor_put_head(out, major, value)
    return (<char *>out)[:n]


def put_uint(uint64_t value):
    """The bytes that cbor_put_uint writes."""
    cdef uint8_t out[MAX_HEAD_BYTES]
    cdef uint32_t n = cbor_put_uint(out, value)
    return (<char *>out)[:n]
