"""One firehose message: what a reader needs of it at a glance, and its strict decoding (protocol A3 to A8, B).

Promises: message_decode says R_OK only for a frame every byte of which was checked: two DRISL items, unknown fields
included, every known field present and of its type and syntax, within the limits of protocol B9 and design 14. Then
message_peek said the same account and seq, so that a frame is always in the shard of its account.
Assumes: the frame's bytes stay where they are as long as the Message is used; the scratch is reset per frame.
Threads: message_peek any (readers); message_decode one per Scratch (workers). One pass, no copy, no recursion.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from zlay._fast.drisl cimport (
    cbor_head, Cursor, DRISL_DATA, DRISL_UNKNOWN, drisl_skip, MAJOR_ARRAY, MAJOR_BYTES, MAJOR_MAP, MAJOR_NEGATIVE, MAJOR_SIMPLE,
    MAJOR_TAG, MAJOR_TEXT, MAJOR_UINT, map_next, MapWalk, read_array, read_bool, read_bytes, read_link, read_map,
    read_text, read_uint, take_null
)
from zlay._fast.scratch cimport Scratch, scratch_alloc, scratch_free, scratch_init
from zlay._fast.syntax cimport account_did_valid, datetime_valid, handle_valid, path_collection, tid_parse
from zlay._fast.verdicts cimport (
    K_ACCOUNT, K_COMMIT, K_ERROR, K_IDENTITY, K_INFO, K_OBSOLETE, K_SYNC, K_UNKNOWN, R_CBOR_INDEFINITE,
    R_CBOR_LIMIT, R_CBOR_NOT_SHORTEST, R_CBOR_TRAILING, R_CBOR_TRUNCATED, R_FIELD_BLOCKS_SIZE,
    R_FIELD_DID, R_FIELD_HANDLE, R_FIELD_MISSING, R_FIELD_REBASE, R_FIELD_REV, R_FIELD_SEQ, R_FIELD_TIME,
    R_FIELD_TOO_BIG, R_FIELD_TYPE, R_FRAME_HEADER, R_FRAME_INFO, R_FRAME_NO_ACCOUNT, R_FRAME_OBSOLETE, R_FRAME_OP,
    R_FRAME_PAYLOAD, R_FRAME_TOO_LARGE, R_OK, R_OP_DUPLICATE_PATH, R_OP_PATH, R_OP_SHAPE, R_OPS_TOO_MANY,
    R_WORK_LIMIT, S_ACTIVE, S_DEACTIVATED, S_DELETED, S_DESYNCHRONIZED, S_INACTIVE, S_SUSPENDED, S_TAKENDOWN,
    S_THROTTLED
)

from zlay._fast.verdicts import KINDS, REASONS, STATUSES

cdef enum:
    MAX_UNKNOWN_FIELDS = 64      # per map of the message (design 14)
    MAX_TEXT_BYTES = 8192        # of t and status, the texts without a syntax: common Go consumers read no more
    MAX_BLOBS = 8192             # of the deprecated list, which common Go consumers still read, up to so many
    DID_MAX = 2048               # B12
    PATH_SLOTS = 512             # hash slots for at most MAX_OPS paths
    PAYLOAD_DEPTH = 1            # containers around a field of the payload
    PEEK_KEY_MAX = 4             # repo, the longest key that message_peek looks for
    TOOL_SCRATCH_BYTES = 1024 * 1024
    OP_DEPTH = 3                 # around a field of an op: payload, ops, the op

cdef extern from *:
    """
    #define ZL_SEQ_MAX ((UINT64_C(1) << 53) - 1)
    #define ZL_PATH_HASH_FACTOR UINT64_C(0x9E3779B97F4A7C15)
    """
    const uint64_t ZL_SEQ_MAX            # A11
    const uint64_t ZL_PATH_HASH_FACTOR

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

# Fields of ops, as bits.
cdef enum:
    OP_ACTION = 1
    OP_PATH = 2
    OP_CID = 4
    OP_PREV = 8


cdef inline uint32_t _required(int kind) noexcept nogil:
    """The fields that this kind of message must have."""
    if kind == K_COMMIT:
        return REQUIRED_COMMIT
    if kind == K_SYNC:
        return REQUIRED_SYNC
    if kind == K_IDENTITY:
        return REQUIRED_IDENTITY
    return REQUIRED_ACCOUNT if kind == K_ACCOUNT else REQUIRED_UNKNOWN


cdef inline uint32_t _optional(int kind) noexcept nogil:
    """The fields that it may have besides."""
    if kind == K_COMMIT:
        return F_PREV_DATA
    if kind == K_IDENTITY:
        return F_HANDLE
    return F_STATUS if kind == K_ACCOUNT else 0


cdef inline bint _is(const uint8_t *p, uint32_t n, const char *text, uint32_t text_n) noexcept nogil:
    return n == text_n and memcmp(p, text, n) == 0


cdef int _kind(const uint8_t *t, uint32_t n) noexcept nogil:
    """The kind of message that t names (B1, B8)."""
    if _is(t, n, b"#commit", 7):
        return K_COMMIT
    if _is(t, n, b"#identity", 9):
        return K_IDENTITY
    if _is(t, n, b"#account", 8):
        return K_ACCOUNT
    if _is(t, n, b"#sync", 5):
        return K_SYNC
    if _is(t, n, b"#info", 5):
        return K_INFO
    if _is(t, n, b"#handle", 7) or _is(t, n, b"#tombstone", 10) or _is(t, n, b"#migrate", 8):
        return K_OBSOLETE
    return K_UNKNOWN


cdef uint32_t _field(int kind, const uint8_t *key, uint32_t n) noexcept nogil:
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
    return bit & (_required(kind) | _optional(kind))


# --- the header ---

cdef int _read_header(Cursor *c, Message *m) noexcept nogil:
    """Map of op and t (A4); sets kind and type_name."""
    cdef MapWalk w
    cdef const uint8_t *key
    cdef const uint8_t *start
    cdef uint32_t n, unknown = 0
    cdef int op = 0
    cdef int r
    if c.p < c.end and c.p[0] >> 5 != MAJOR_MAP:
        r = drisl_skip(c, DRISL_DATA, 0)
        return r if r != R_OK else R_FRAME_HEADER
    r = read_map(c, &w)
    while r == R_OK and w.left > 0:
        r = map_next(c, &w, &key, &n)
        if r != R_OK:
            return r
        if n == 1 and key[0] == c't':
            r = read_text(c, &m.type_name.p, &m.type_name.n)
            if r == R_FIELD_TYPE:
                return R_FRAME_HEADER
            if r == R_OK and m.type_name.n > MAX_TEXT_BYTES:
                return R_CBOR_LIMIT
        elif _is(key, n, b"op", 2):
            start = c.p
            r = drisl_skip(c, DRISL_DATA, PAYLOAD_DEPTH)
            if r == R_OK:
                if start[0] >> 5 > MAJOR_NEGATIVE:
                    return R_FRAME_HEADER
                if start[0] == 0x01:
                    op = 1
                elif start[0] == 0x20:
                    op = -1
                else:
                    return R_FRAME_OP
        else:
            unknown += 1
            if unknown > MAX_UNKNOWN_FIELDS:
                return R_CBOR_LIMIT
            r = drisl_skip(c, DRISL_UNKNOWN, PAYLOAD_DEPTH)
    if r != R_OK:
        return r
    if op == 0 or (op == 1 and m.type_name.n == 0):
        return R_FRAME_HEADER
    m.kind = K_ERROR if op == -1 else _kind(m.type_name.p, m.type_name.n)
    return R_OK


# --- ops ---

cdef inline uint64_t _path_hash(const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint64_t h = n
    cdef uint64_t word
    while n >= 8:
        memcpy(&word, p, 8)
        h = (h ^ word) * ZL_PATH_HASH_FACTOR
        h ^= h >> 32
        p += 8
        n -= 8
    word = 0
    memcpy(&word, p, n)
    h = (h ^ word) * ZL_PATH_HASH_FACTOR
    return h ^ (h >> 32)


cdef bint _paths_differ(const RepoOp *ops, uint32_t n_ops) noexcept nogil:
    """No path stands twice (B3). At worst, all hashes alike, n_ops squared / 2 comparisons: 20,000."""
    cdef uint16_t[PATH_SLOTS] slots      # op index + 1; 0 = empty
    cdef uint32_t i, at
    cdef const RepoOp *other
    memset(slots, 0, sizeof(slots))
    for i in range(n_ops):
        at = <uint32_t>(_path_hash(ops[i].path.p, ops[i].path.n) % PATH_SLOTS)
        while slots[at] != 0:
            other = &ops[slots[at] - 1]
            if other.path.n == ops[i].path.n and memcmp(other.path.p, ops[i].path.p, other.path.n) == 0:
                return False
            at = (at + 1) % PATH_SLOTS
        slots[at] = <uint16_t>(i + 1)
    return True


cdef int _read_action(Cursor *c, RepoOp *op) noexcept nogil:
    cdef const uint8_t *text
    cdef uint32_t n
    cdef int r = read_text(c, &text, &n)
    if r != R_OK:
        return r
    if _is(text, n, b"create", 6):
        op.action = OP_CREATE
    elif _is(text, n, b"update", 6):
        op.action = OP_UPDATE
    elif _is(text, n, b"delete", 6):
        op.action = OP_DELETE
    else:
        return R_OP_SHAPE
    return R_OK


cdef int _read_op(Cursor *c, RepoOp *op) noexcept nogil:
    """One op (B3): its fields, their types, and that action, cid and prev fit together."""
    cdef MapWalk w
    cdef const uint8_t *key
    cdef uint32_t n, seen = 0, unknown = 0
    cdef int r = read_map(c, &w)
    op.cid = op.prev = NULL
    while r == R_OK and w.left > 0:
        r = map_next(c, &w, &key, &n)
        if r != R_OK:
            return r
        if _is(key, n, b"cid", 3):
            seen |= OP_CID
            if not take_null(c):
                r = read_link(c, &op.cid)
        elif _is(key, n, b"path", 4):
            seen |= OP_PATH
            r = read_text(c, &op.path.p, &op.path.n)
            if r == R_OK:
                op.collection_n = path_collection(op.path.p, op.path.n)
                if op.collection_n == 0:
                    return R_OP_PATH
        elif _is(key, n, b"prev", 4):
            r = read_link(c, &op.prev)
        elif _is(key, n, b"action", 6):
            seen |= OP_ACTION
            r = _read_action(c, op)
        else:
            unknown += 1
            if unknown > MAX_UNKNOWN_FIELDS:
                return R_CBOR_LIMIT
            r = drisl_skip(c, DRISL_UNKNOWN, OP_DEPTH)
    if r != R_OK:
        return r
    if seen != OP_ACTION | OP_PATH | OP_CID:
        return R_FIELD_MISSING
    if (op.cid != NULL) != (op.action != OP_DELETE) or (op.prev != NULL) != (op.action != OP_CREATE):
        return R_OP_SHAPE
    return R_OK


cdef int _read_ops(Cursor *c, Scratch *s, Message *m) noexcept nogil:
    cdef uint32_t i
    cdef int r = read_array(c, &m.n_ops)
    if r != R_OK or m.n_ops == 0:
        return r
    if m.n_ops > MAX_OPS:
        return R_OPS_TOO_MANY
    m.ops = <RepoOp *>scratch_alloc(s, m.n_ops * sizeof(RepoOp))      # the scratch's, until its reset
    if m.ops == NULL:
        return R_WORK_LIMIT
    for i in range(m.n_ops):
        r = _read_op(c, &m.ops[i])
        if r != R_OK:
            return r
    return R_OK if _paths_differ(m.ops, m.n_ops) else R_OP_DUPLICATE_PATH


# --- payload fields, each after its key ---

cdef int _read_seq(Cursor *c, const uint8_t *frame, Message *m) noexcept nogil:
    cdef const uint8_t *start = c.p
    cdef int r = read_uint(c, &m.seq)
    if r == R_FIELD_TYPE:
        return R_FIELD_SEQ
    if r != R_OK:
        return r
    m.seq_off = <uint32_t>(start - frame)
    m.seq_len = <uint32_t>(c.p - start)
    return R_OK if 1 <= m.seq <= ZL_SEQ_MAX else R_FIELD_SEQ


cdef int _read_tid(Cursor *c, uint64_t *tid) noexcept nogil:
    cdef const uint8_t *text
    cdef uint32_t n
    cdef int r = read_text(c, &text, &n)
    if r != R_OK:
        return r
    return R_OK if tid_parse(text, n, tid) else R_FIELD_REV


cdef int _read_blobs(Cursor *c) noexcept nogil:
    """Deprecated and ignored (B2), but links, or typed consumers stop at it."""
    cdef uint32_t i, n
    cdef int r = read_array(c, &n)
    if r != R_OK:
        return r
    if n > MAX_BLOBS:
        return R_CBOR_LIMIT
    for i in range(n):
        if c.p == c.end:
            return R_CBOR_TRUNCATED
        if c.p[0] >> 5 != MAJOR_TAG:
            r = drisl_skip(c, DRISL_DATA, PAYLOAD_DEPTH + 1)
            return r if r != R_OK else R_FIELD_TYPE
        r = drisl_skip(c, DRISL_DATA, PAYLOAD_DEPTH + 1)
        if r != R_OK:
            return r
    return R_OK


cdef int _read_status(Cursor *c, Message *m) noexcept nogil:
    """status as sent (B6); what it means beside `active` is settled when both are known."""
    cdef const uint8_t *text
    cdef uint32_t n
    cdef int r = read_text(c, &text, &n)
    if r != R_OK:
        return r
    if n > MAX_TEXT_BYTES:
        return R_CBOR_LIMIT
    if _is(text, n, b"deactivated", 11):
        m.status = S_DEACTIVATED
    elif _is(text, n, b"suspended", 9):
        m.status = S_SUSPENDED
    elif _is(text, n, b"takendown", 9):
        m.status = S_TAKENDOWN
    elif _is(text, n, b"deleted", 7):
        m.status = S_DELETED
    elif _is(text, n, b"desynchronized", 14):
        m.status = S_DESYNCHRONIZED
    elif _is(text, n, b"throttled", 9):
        m.status = S_THROTTLED
    else:
        m.status = S_INACTIVE        # an open set (B6)
    return R_OK


cdef void _settle_status(Message *m) noexcept nogil:
    """`active` decides: true leaves only the two statuses that go with it, false only those that do not (B6, E8)."""
    cdef bint may_be_active = m.status == S_DESYNCHRONIZED or m.status == S_THROTTLED
    if m.active and not may_be_active:
        m.status = S_ACTIVE
    elif not m.active and (may_be_active or m.status == S_ACTIVE):
        m.status = S_INACTIVE


cdef int _read_field(Cursor *c, const uint8_t *frame, Scratch *s, Message *m, uint32_t bit) noexcept nogil:
    """The value of a known field: its type, size and syntax."""
    cdef int r
    cdef uint8_t flag
    if bit == F_SEQ:
        return _read_seq(c, frame, m)
    if bit == F_DID:
        r = read_text(c, &m.did.p, &m.did.n)
        return R_FIELD_DID if r == R_OK and not account_did_valid(m.did.p, m.did.n) else r
    if bit == F_TIME:
        r = read_text(c, &m.time.p, &m.time.n)
        return R_FIELD_TIME if r == R_OK and not datetime_valid(m.time.p, m.time.n) else r
    if bit == F_REV:
        r = _read_tid(c, &m.rev)
        return R_FIELD_REV if r == R_OK and m.rev == 0 else r      # 0 = no rev yet: newer than nothing
    if bit == F_OPS:
        return _read_ops(c, s, m)
    if bit == F_BLOCKS:
        r = read_bytes(c, &m.blocks.p, &m.blocks.n)
        if r == R_OK and m.blocks.n > (MAX_COMMIT_BLOCKS_BYTES if m.kind == K_COMMIT else MAX_SYNC_BLOCKS_BYTES):
            return R_FIELD_BLOCKS_SIZE
        return r
    if bit == F_COMMIT:
        return read_link(c, &m.commit_cid)
    if bit == F_PREV_DATA:
        return read_link(c, &m.prev_data)
    if bit == F_SINCE:
        m.has_since = not take_null(c)
        return _read_tid(c, &m.since) if m.has_since else R_OK
    if bit == F_BLOBS:
        return _read_blobs(c)
    if bit == F_REBASE or bit == F_TOO_BIG:
        r = read_bool(c, &flag)
        if r == R_OK and flag:
            return R_FIELD_REBASE if bit == F_REBASE else R_FIELD_TOO_BIG
        return r
    if bit == F_ACTIVE:
        return read_bool(c, &m.active)
    if bit == F_STATUS:
        return _read_status(c, m)
    r = read_text(c, &m.handle.p, &m.handle.n)
    return R_FIELD_HANDLE if r == R_OK and not handle_valid(m.handle.p, m.handle.n) else r


cdef int _read_payload(Cursor *c, const uint8_t *frame, Scratch *s, Message *m) noexcept nogil:
    """The payload's map, for kinds that are passed on (B2 to B6, and any unknown kind)."""
    cdef MapWalk w
    cdef const uint8_t *key
    cdef uint32_t n, bit, missing, seen = 0, unknown = 0
    cdef int r = read_map(c, &w)
    while r == R_OK and w.left > 0:
        r = map_next(c, &w, &key, &n)
        if r != R_OK:
            return r
        bit = _field(m.kind, key, n)
        if bit == F_TYPE:
            return R_FRAME_PAYLOAD
        if bit & seen:                   # repo after did, in an unknown kind: did names the account
            bit = F_UNKNOWN
        if bit != F_UNKNOWN:
            seen |= bit
            r = _read_field(c, frame, s, m, bit)
        else:
            unknown += 1
            if unknown > MAX_UNKNOWN_FIELDS and m.kind != K_UNKNOWN:
                return R_CBOR_LIMIT
            r = drisl_skip(c, DRISL_UNKNOWN, PAYLOAD_DEPTH)
    if r != R_OK:
        return r
    missing = _required(m.kind) & ~seen
    if missing == 0:
        return R_OK
    if missing & F_DID and m.kind == K_UNKNOWN:
        return R_FRAME_NO_ACCOUNT
    return R_FIELD_SEQ if missing & F_SEQ else R_FIELD_MISSING


cdef int message_decode(Scratch *s, const uint8_t *p, uint32_t n, Message *m) noexcept nogil:
    """Decodes one frame strictly. A Reason; kind is set as soon as the header is read, the rest only counts on R_OK."""
    cdef Cursor c
    cdef int r
    memset(m, 0, sizeof(Message))
    if n > MAX_FRAME_BYTES - MAX_SPLICE_BYTES:
        return R_FRAME_TOO_LARGE
    c.p = p
    c.end = p + n
    r = _read_header(&c, m)
    if r != R_OK:
        return r
    if c.p == c.end:
        return R_CBOR_TRUNCATED
    if c.p[0] >> 5 != MAJOR_MAP:
        r = drisl_skip(&c, DRISL_UNKNOWN, 0)
        return r if r != R_OK else R_FRAME_PAYLOAD
    if m.kind == K_ERROR or m.kind == K_INFO or m.kind == K_OBSOLETE:
        r = drisl_skip(&c, DRISL_UNKNOWN, 0)
        if r == R_OK:
            r = R_FRAME_OBSOLETE if m.kind == K_OBSOLETE else R_FRAME_INFO
    else:
        r = _read_payload(&c, p, s, m)
        if m.kind == K_ACCOUNT:
            _settle_status(m)
    if c.p != c.end and (r == R_OK or r == R_FRAME_OBSOLETE or r == R_FRAME_INFO):
        return R_CBOR_TRAILING
    return r


# --- the reader's glance: finds what message_decode would, judges nothing ---

cdef inline int _loose_head(Cursor *c, uint8_t *major, uint64_t *arg) noexcept nogil:
    """A head in any definite form; a longer form than needed is message_decode's to refuse."""
    cdef int r = cbor_head(c, major, arg)
    return R_OK if r == R_CBOR_NOT_SHORTEST else r


cdef int _loose_skip(Cursor *c) noexcept nogil:
    """Steps over one item. Linear in its bytes: each step takes one at least."""
    cdef uint64_t pending = 1
    cdef uint64_t arg, extra
    cdef uint8_t major
    cdef int r
    while pending > 0:
        pending -= 1
        r = _loose_head(c, &major, &arg)
        if r != R_OK:
            return r
        extra = 0
        if major == MAJOR_BYTES or major == MAJOR_TEXT:
            extra = arg
        elif major == MAJOR_ARRAY or major == MAJOR_MAP:
            if arg > <uint64_t>(c.end - c.p):
                return R_CBOR_TRUNCATED
            pending += arg if major == MAJOR_ARRAY else 2 * arg
        elif major == MAJOR_TAG:
            pending += 1
        elif major == MAJOR_SIMPLE and arg >= 24:
            if arg > 27:
                return R_CBOR_INDEFINITE
            extra = <uint64_t>1 << (arg - 24)
        if extra > <uint64_t>(c.end - c.p):
            return R_CBOR_TRUNCATED
        c.p += extra
    return R_OK


cdef inline int _loose_text(Cursor *c, Slice *out) noexcept nogil:
    """The next item as text; p = NULL when it is something else, which is stepped over."""
    cdef const uint8_t *start = c.p
    cdef uint8_t major
    cdef uint64_t n
    cdef int r = _loose_head(c, &major, &n)
    out.p = NULL
    out.n = 0
    if r != R_OK:
        return r
    if major != MAJOR_TEXT:
        c.p = start
        return _loose_skip(c)
    if n > <uint64_t>(c.end - c.p):
        return R_CBOR_TRUNCATED
    out.p = c.p
    out.n = <uint32_t>n
    c.p += n
    return R_OK


cdef int _peek_header(Cursor *c, Peek *out) noexcept nogil:
    cdef uint8_t major
    cdef uint64_t left
    cdef Slice key, t
    cdef const uint8_t *start
    cdef int r = _loose_head(c, &major, &left)
    t.p = NULL
    t.n = 0
    if r != R_OK:
        return r
    if major != MAJOR_MAP:
        return R_FRAME_HEADER
    while left > 0:
        left -= 1
        r = _loose_text(c, &key)
        if r != R_OK:
            return r
        if key.p != NULL and _is(key.p, key.n, b"t", 1):
            r = _loose_text(c, &t)
        elif key.p != NULL and _is(key.p, key.n, b"op", 2):
            start = c.p
            r = _loose_skip(c)
            out.is_error = r == R_OK and start[0] == 0x20
        else:
            r = _loose_skip(c)
        if r != R_OK:
            return r
    if out.is_error:
        out.kind = K_ERROR
    elif t.p == NULL:
        return R_FRAME_HEADER
    else:
        out.kind = _kind(t.p, t.n)
    return R_OK


cdef int _peek_notice(Cursor *c, uint64_t left, Peek *out) noexcept nogil:
    """The payload of an error or #info: what it is called, and its message (A6, B7)."""
    cdef Slice key
    cdef int r = R_OK
    while r == R_OK and left > 0:
        left -= 1
        r = _loose_text(c, &key)
        if r != R_OK:
            return r
        if key.p != NULL and (_is(key.p, key.n, b"error", 5) if out.is_error else _is(key.p, key.n, b"name", 4)):
            r = _loose_text(c, &out.error_name)
        elif key.p != NULL and _is(key.p, key.n, b"message", 7):
            r = _loose_text(c, &out.error_message)
        else:
            r = _loose_skip(c)
    return r


cdef int message_peek(const uint8_t *p, uint32_t n, Peek *out) noexcept nogil:
    """What a reader needs of a frame; 0, or a Reason when it cannot be cut.

    Where message_decode says R_OK, it finds the same account and seq: in such a frame keys come in order of their
    length, so all that is wanted stands before the first longer key.
    """
    cdef Cursor c
    cdef Slice key, did
    cdef uint8_t major
    cdef uint64_t left, number
    cdef uint32_t bit
    cdef const uint8_t *start
    cdef int r
    memset(out, 0, sizeof(Peek))
    c.p = p
    c.end = p + n
    r = _peek_header(&c, out)
    if r == R_OK:
        r = _loose_head(&c, &major, &left)
    if r != R_OK:
        return r
    if major != MAJOR_MAP:
        return R_FRAME_PAYLOAD
    if out.kind == K_ERROR or out.kind == K_INFO:
        return _peek_notice(&c, left, out)
    while left > 0 and (out.seq == 0 or out.did_n == 0):
        left -= 1
        r = _loose_text(&c, &key)
        if r != R_OK:
            return r
        if key.p == NULL or key.n > PEEK_KEY_MAX:
            return R_OK
        bit = _field(K_UNKNOWN if out.kind == K_OBSOLETE else out.kind, key.p, key.n)
        start = c.p
        if bit == F_SEQ:
            r = _loose_head(&c, &major, &number)
            if r == R_OK and major == MAJOR_UINT:
                out.seq = number if number <= ZL_SEQ_MAX else 0
            else:
                c.p = start
                r = _loose_skip(&c)
        elif bit == F_DID and out.did_n == 0:
            r = _loose_text(&c, &did)
            if r == R_OK and did.p != NULL and did.n <= DID_MAX:
                out.did_off = <uint32_t>(did.p - p)
                out.did_n = did.n
        else:
            r = _loose_skip(&c)
        if r != R_OK:
            return r
    return R_OK


# --- for tests and tools ---

cdef bytes _bytes(const uint8_t *p, uint32_t n):
    return (<const char *>p)[:n] if p != NULL else None


cdef list _op_dicts(const Message *m):
    cdef uint32_t i
    cdef const RepoOp *op
    cdef list out = []
    for i in range(m.n_ops):
        op = &m.ops[i]
        out.append({
            "action": ("create", "update", "delete")[op.action],
            "collection": _bytes(op.path.p, op.collection_n).decode(),
            "record_key": _bytes(op.path.p + op.collection_n + 1, op.path.n - op.collection_n - 1).decode(),
            "cid": _bytes(op.cid, CID_BYTES),
            "prev": _bytes(op.prev, CID_BYTES),
        })
    return out


def decode(bytes frame):
    """What message_decode makes of a frame, as a dict; or the label of the reason it is refused for."""
    cdef Scratch s
    cdef Message m
    cdef const uint8_t *p = frame
    cdef uint32_t n = <uint32_t>len(frame)
    cdef int r
    if scratch_init(&s, TOOL_SCRATCH_BYTES) != 0:
        raise MemoryError
    try:
        with nogil:
            r = message_decode(&s, p, n, &m)
        if r != R_OK:
            return REASONS[r].label
        return {
            "kind": KINDS[m.kind],
            "type": _bytes(m.type_name.p, m.type_name.n).decode(),
            "seq": m.seq,
            "seq_off": m.seq_off,
            "seq_len": m.seq_len,
            "did": _bytes(m.did.p, m.did.n).decode(),
            "rev": m.rev,
            "since": m.since if m.has_since else None,
            "time": _bytes(m.time.p, m.time.n),
            "handle": _bytes(m.handle.p, m.handle.n),
            "active": bool(m.active),
            "status": STATUSES[m.status],
            "blocks": _bytes(m.blocks.p, m.blocks.n),
            "commit": _bytes(m.commit_cid, CID_BYTES),
            "prev_data": _bytes(m.prev_data, CID_BYTES),
            "ops": _op_dicts(&m),
        }
    finally:
        scratch_free(&s)


def peek(bytes frame):
    """What message_peek finds, as a dict; or the label of why the frame cannot be cut."""
    cdef Peek found
    cdef const uint8_t *p = frame
    cdef uint32_t n = <uint32_t>len(frame)
    cdef int r
    with nogil:
        r = message_peek(p, n, &found)
    if r != R_OK:
        return REASONS[r].label
    return {
        "kind": KINDS[found.kind],
        "seq": found.seq,
        "did": frame[found.did_off:found.did_off + found.did_n].decode("utf-8", "replace"),
        "is_error": bool(found.is_error),
        "error_name": _bytes(found.error_name.p, found.error_name.n),
        "error_message": _bytes(found.error_message.p, found.error_message.n),
    }
