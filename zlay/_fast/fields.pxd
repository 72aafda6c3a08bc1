"""Which kinds of message there are and which fields each has (protocol B1 to B8): tables as inline functions.

Threads: any; there is no state.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp

from zlay._fast.verdicts cimport K_ACCOUNT, K_COMMIT, K_IDENTITY, K_INFO, K_OBSOLETE, K_SYNC, K_UNKNOWN

cdef enum:
    MAX_UNKNOWN_FIELDS = 64      # per map of the message (design 14)

# Fields of payloads, as bits.
cdef enum:
    F_UNKNOWN = 0
    F_SEQ = 1 << 0
    F_DID = 1 << 1               # named did or repo
    F_TIME = 1 << 2
    F_REV = 1 << 3
    F_OPS = 1 << 4
    F_BLOBS = 1 << 5
    F_SINCE = 1 << 6
    F_BLOCKS = 1 << 7
    F_COMMIT = 1 << 8
    F_REBASE = 1 << 9
    F_TOO_BIG = 1 << 10
    F_PREV_DATA = 1 << 11
    F_HANDLE = 1 << 12
    F_ACTIVE = 1 << 13
    F_STATUS = 1 << 14
    F_TYPE = 1 << 15             # $type, which no payload may have (A5)

    REQUIRED_COMMIT = (
        F_SEQ | F_DID | F_TIME | F_REV | F_OPS | F_BLOBS | F_SINCE | F_BLOCKS | F_COMMIT | F_REBASE | F_TOO_BIG
    )
    REQUIRED_SYNC = F_SEQ | F_DID | F_TIME | F_REV | F_BLOCKS
    REQUIRED_IDENTITY = F_SEQ | F_DID | F_TIME
    REQUIRED_ACCOUNT = F_SEQ | F_DID | F_TIME | F_ACTIVE
    REQUIRED_UNKNOWN = F_SEQ | F_DID     # what sharding and sequencing need


cdef inline bint text_is(const uint8_t *p, uint32_t n, const char *text, uint32_t text_n) noexcept nogil:
    return n == text_n and memcmp(p, text, n) == 0


cdef inline uint32_t required_fields(int kind) noexcept nogil:
    """The fields that this kind of message must have."""
    if kind == K_COMMIT:
        return REQUIRED_COMMIT
    if kind == K_SYNC:
        return REQUIRED_SYNC
    if kind == K_IDENTITY:
        return REQUIRED_IDENTITY
    return REQUIRED_ACCOUNT if kind == K_ACCOUNT else REQUIRED_UNKNOWN


cdef inline uint32_t optional_fields(int kind) noexcept nogil:
    """The fields that it may have besides."""
    if kind == K_COMMIT:
        return F_PREV_DATA
    if kind == K_IDENTITY:
        return F_HANDLE
    return F_STATUS if kind == K_ACCOUNT else 0


cdef inline int kind_of(const uint8_t *t, uint32_t n) noexcept nogil:
    """The kind of message that t names (B1, B8)."""
    if text_is(t, n, b"#commit", 7):
        return K_COMMIT
    if text_is(t, n, b"#identity", 9):
        return K_IDENTITY
    if text_is(t, n, b"#account", 8):
        return K_ACCOUNT
    if text_is(t, n, b"#sync", 5):
        return K_SYNC
    if text_is(t, n, b"#info", 5):
        return K_INFO
    if text_is(t, n, b"#handle", 7) or text_is(t, n, b"#tombstone", 10) or text_is(t, n, b"#migrate", 8):
        return K_OBSOLETE
    return K_UNKNOWN


cdef inline uint32_t field_of(int kind, const uint8_t *key, uint32_t n) noexcept nogil:
    """The bit of a payload's field as this kind of message knows it; F_UNKNOWN = it does not."""
    cdef uint32_t bit = F_UNKNOWN
    if n == 3:
        if memcmp(key, b"seq", 3) == 0:
            bit = F_SEQ
        elif memcmp(key, b"did", 3) == 0:
            bit = F_DID if kind != K_COMMIT else F_UNKNOWN
        elif memcmp(key, b"rev", 3) == 0:
            bit = F_REV
        elif memcmp(key, b"ops", 3) == 0:
            bit = F_OPS
    elif n == 4:
        if memcmp(key, b"repo", 4) == 0:
            bit = F_DID if kind == K_COMMIT or kind == K_UNKNOWN else F_UNKNOWN
        elif memcmp(key, b"time", 4) == 0:
            bit = F_TIME
    elif n == 5:
        if memcmp(key, b"since", 5) == 0:
            bit = F_SINCE
        elif memcmp(key, b"blobs", 5) == 0:
            bit = F_BLOBS
        elif memcmp(key, b"$type", 5) == 0:
            return F_TYPE
    elif n == 6:
        if memcmp(key, b"blocks", 6) == 0:
            bit = F_BLOCKS
        elif memcmp(key, b"commit", 6) == 0:
            bit = F_COMMIT
        elif memcmp(key, b"rebase", 6) == 0:
            bit = F_REBASE
        elif memcmp(key, b"tooBig", 6) == 0:
            bit = F_TOO_BIG
        elif memcmp(key, b"active", 6) == 0:
            bit = F_ACTIVE
        elif memcmp(key, b"handle", 6) == 0:
            bit = F_HANDLE
        elif memcmp(key, b"status", 6) == 0:
            bit = F_STATUS
    elif n == 8 and memcmp(key, b"prevData", 8) == 0:
        bit = F_PREV_DATA
    return bit & (required_fields(kind) | optional_fields(kind))
