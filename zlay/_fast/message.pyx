"""One firehose message: what a reader needs of it at a glance, and its strict decoding (protocol A3 to A8, B).

Promises: message_decode says R_OK only for a frame every byte of which was checked: two DRISL items, unknown fields
included, every known field present and of its type and syntax, within the limits of protocol B9 and design 14. Then
message_peek said the same account and seq, so that a frame is always in the shard of its account.
Assumes: the frame's bytes stay where they are as long as the Message is used; the scratch is reset per frame.
Threads: message_peek any (readers); message_decode one per Scratch (workers). One pass, no copy, no recursion.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from zlay._fast.drisl cimport (
    cbor_head, Cursor, DRISL_DATA, DRISL_UNKNOWN, drisl_skip, MAJOR_ARRAY, MAJOR_BYTES, MAJOR_MAP, MAJOR_NEGATIVE,
    MAJOR_SIMPLE, MAJOR_TAG, MAJOR_TEXT, MAJOR_UINT, map_next, MapWalk, read_array, read_bool, read_bytes, read_link,
    read_map, read_text, read_uint, take_null
)
from zlay._fast.fields cimport (
    F_ACTIVE, F_BLOBS, F_BLOCKS, F_COMMIT, F_DID, F_OPS, F_PREV_DATA, F_REBASE, F_REV, F_SEQ, F_SINCE, F_STATUS,
    F_TIME, F_TOO_BIG, F_TYPE, F_UNKNOWN, field_of, kind_of, MAX_UNKNOWN_FIELDS, required_fields, text_is
)
from zlay._fast.mem cimport zl_copy_bytes, zl_free
from zlay._fast.ops cimport ops_read
from zlay._fast.scratch cimport Scratch, scratch_free, scratch_init
from zlay._fast.syntax cimport account_did_valid, datetime_valid, handle_valid, tid_parse
from zlay._fast.verdicts cimport (
    K_ACCOUNT, K_COMMIT, K_ERROR, K_INFO, K_OBSOLETE, K_UNKNOWN, R_CBOR_INDEFINITE, R_CBOR_LIMIT, R_CBOR_NOT_SHORTEST,
    R_CBOR_TRAILING, R_CBOR_TRUNCATED, R_FIELD_BLOCKS_SIZE, R_FIELD_DID, R_FIELD_HANDLE, R_FIELD_MISSING,
    R_FIELD_REBASE, R_FIELD_REV, R_FIELD_SEQ, R_FIELD_TIME, R_FIELD_TOO_BIG, R_FIELD_TYPE, R_FRAME_HEADER,
    R_FRAME_INFO, R_FRAME_NO_ACCOUNT, R_FRAME_OBSOLETE, R_FRAME_OP, R_FRAME_PAYLOAD, R_FRAME_TOO_LARGE, R_OK,
    S_ACTIVE, S_DEACTIVATED, S_DELETED, S_DESYNCHRONIZED, S_INACTIVE, S_SUSPENDED, S_TAKENDOWN, S_THROTTLED
)

from zlay._fast.verdicts import KINDS, REASONS, STATUSES

cdef enum:
    MAX_TEXT_BYTES = 8192        # of t and status, the texts without a syntax: common Go consumers read no more
    MAX_BLOBS = 8192             # of the deprecated list, which common Go consumers still read, up to so many
    DID_MAX = 2048               # B12
    PAYLOAD_DEPTH = 1            # containers around a field of the payload
    PEEK_KEY_MAX = 4             # repo, the longest key that message_peek looks for
    TOOL_SCRATCH_BYTES = 1024 * 1024
    CACHE_LINE = 64
    TAIL_LINES = 3               # commit, rebase, tooBig and prevData with their keys take 120 bytes

cdef extern from *:
    """
    #define ZL_SEQ_MAX ((UINT64_C(1) << 53) - 1)
    #define zl_prefetch(p) __builtin_prefetch(p)
    """
    void _prefetch "zl_prefetch"(const void *p) nogil
    const uint64_t ZL_SEQ_MAX            # A11


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
        elif text_is(key, n, b"op", 2):
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
    # A fragment only: some consumers take a whole NSID for the same message, and would believe one unverified.
    if op == 0 or (op == 1 and (m.type_name.n < 2 or m.type_name.p[0] != c'#')):
        return R_FRAME_HEADER
    m.kind = K_ERROR if op == -1 else kind_of(m.type_name.p, m.type_name.n)
    return R_OK


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
    cdef uint32_t _i, n
    cdef int r = read_array(c, &n)
    if r != R_OK:
        return r
    if n > MAX_BLOBS:
        return R_CBOR_LIMIT
    for _i in range(n):
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
    if text_is(text, n, b"deactivated", 11):
        m.status = S_DEACTIVATED
    elif text_is(text, n, b"suspended", 9):
        m.status = S_SUSPENDED
    elif text_is(text, n, b"takendown", 9):
        m.status = S_TAKENDOWN
    elif text_is(text, n, b"deleted", 7):
        m.status = S_DELETED
    elif text_is(text, n, b"desynchronized", 14):
        m.status = S_DESYNCHRONIZED
    elif text_is(text, n, b"throttled", 9):
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
        return ops_read(c, s, &m.ops, &m.n_ops)
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
        bit = field_of(m.kind, key, n)
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
    missing = required_fields(m.kind) & ~seen
    if missing == 0:
        return R_OK
    if missing & F_DID and m.kind == K_UNKNOWN:
        return R_FRAME_NO_ACCOUNT
    return R_FIELD_SEQ if missing & F_SEQ else R_FIELD_MISSING


cdef int message_decode(Scratch *s, const uint8_t *p, uint32_t n, Message *m) noexcept nogil:
    """Decodes one frame strictly. A Reason; kind is set as soon as the header is read, the rest only counts on R_OK."""
    cdef Cursor c
    cdef int r
    cdef uint32_t line
    memset(m, 0, sizeof(Message))
    if n > MAX_FRAME_BYTES - MAX_SPLICE_BYTES:
        return R_FRAME_TOO_LARGE
    # What follows `blocks` is far from what comes before it, and would be waited for.
    for line in range(1, TAIL_LINES + 1):
        _prefetch(p + n - min(n, line * CACHE_LINE))
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
        if key.p != NULL and text_is(key.p, key.n, b"t", 1):
            r = _loose_text(c, &t)
        elif key.p != NULL and text_is(key.p, key.n, b"op", 2):
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
        out.kind = kind_of(t.p, t.n)
    return R_OK


cdef int _peek_notice(Cursor *c, uint64_t left, Peek *out) noexcept nogil:
    """The payload of an error or #info: what it is called, and its message (A6, B7)."""
    cdef const char *name = b"error" if out.is_error else b"name"
    cdef uint32_t name_n = 5 if out.is_error else 4
    cdef Slice key
    cdef int r = R_OK
    while r == R_OK and left > 0:
        left -= 1
        r = _loose_text(c, &key)
        if r != R_OK:
            return r
        if key.p != NULL and text_is(key.p, key.n, name, name_n):
            r = _loose_text(c, &out.error_name)
        elif key.p != NULL and text_is(key.p, key.n, b"message", 7):
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
        bit = field_of(K_UNKNOWN if out.kind == K_OBSOLETE else out.kind, key.p, key.n)
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


cdef bint message_is_whole(const uint8_t *p, uint32_t n) noexcept nogil:
    cdef Cursor c
    c.p = p
    c.end = p + n
    return (
        drisl_skip(&c, DRISL_UNKNOWN, 0) == R_OK and c.p != c.end
        and drisl_skip(&c, DRISL_UNKNOWN, 0) == R_OK and c.p == c.end
    )


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
    cdef uint32_t n = <uint32_t>len(frame)
    cdef void *copy = zl_copy_bytes(frame)
    cdef int r
    try:
        if scratch_init(&s, TOOL_SCRATCH_BYTES) != 0:
            raise MemoryError
        with nogil:
            r = message_decode(&s, <const uint8_t *>copy, n, &m)
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
        zl_free(copy)


def peek(bytes frame):
    """What message_peek finds, as a dict; or the label of why the frame cannot be cut."""
    cdef Peek found
    cdef uint32_t n = <uint32_t>len(frame)
    cdef void *copy = zl_copy_bytes(frame)
    cdef int r
    try:
        with nogil:
            r = message_peek(<const uint8_t *>copy, n, &found)
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
    finally:
        zl_free(copy)


def is_whole(bytes frame):
    """Whether a frame is two DRISL items and nothing else."""
    return bool(message_is_whole(<const uint8_t *>frame, <uint32_t>len(frame)))
