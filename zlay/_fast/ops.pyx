"""The ops of a #commit: shape, path syntax, no path twice (protocol B3, C1).

Promises: one pass; after R_OK every op has what its action needs and nothing it may not have.
Threads: one per Scratch.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from zlay._fast.drisl cimport (
    Cursor, DRISL_UNKNOWN, drisl_skip, map_next, MapWalk, read_array, read_link, read_map, read_text, take_null
)
from zlay._fast.fields cimport MAX_UNKNOWN_FIELDS, text_is
from zlay._fast.message cimport MAX_OPS, OP_CREATE, OP_DELETE, OP_UPDATE, RepoOp
from zlay._fast.scratch cimport Scratch, scratch_alloc
from zlay._fast.syntax cimport path_collection
from zlay._fast.verdicts cimport (
    R_CBOR_LIMIT, R_FIELD_MISSING, R_OK, R_OP_DUPLICATE_PATH, R_OP_PATH, R_OP_SHAPE, R_OPS_TOO_MANY, R_WORK_LIMIT
)

cdef enum:
    PATH_SLOTS = 512             # hash slots for at most MAX_OPS paths
    OP_DEPTH = 3                 # containers around a field of an op: payload, ops, the op

cdef extern from *:
    """
    #define ZL_PATH_HASH_FACTOR UINT64_C(0x9E3779B97F4A7C15)
    """
    const uint64_t ZL_PATH_HASH_FACTOR

# Fields of ops, as bits.
cdef enum:
    OP_ACTION = 1
    OP_PATH = 2
    OP_CID = 4
    OP_PREV = 8


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
    if text_is(text, n, b"create", 6):
        op.action = OP_CREATE
    elif text_is(text, n, b"update", 6):
        op.action = OP_UPDATE
    elif text_is(text, n, b"delete", 6):
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
        if text_is(key, n, b"cid", 3):
            seen |= OP_CID
            if not take_null(c):
                r = read_link(c, &op.cid)
        elif text_is(key, n, b"path", 4):
            seen |= OP_PATH
            r = read_text(c, &op.path.p, &op.path.n)
            if r == R_OK:
                op.collection_n = path_collection(op.path.p, op.path.n)
                if op.collection_n == 0:
                    return R_OP_PATH
        elif text_is(key, n, b"prev", 4):
            r = read_link(c, &op.prev)
        elif text_is(key, n, b"action", 6):
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


cdef int ops_read(Cursor *c, Scratch *s, RepoOp **ops, uint32_t *n_ops) noexcept nogil:
    """The whole array: every op by itself, then that no path stands twice."""
    cdef uint32_t i
    cdef int r = read_array(c, n_ops)
    ops[0] = NULL
    if r != R_OK or n_ops[0] == 0:
        return r
    if n_ops[0] > MAX_OPS:
        return R_OPS_TOO_MANY
    ops[0] = <RepoOp *>scratch_alloc(s, n_ops[0] * sizeof(RepoOp))
    if ops[0] == NULL:
        return R_WORK_LIMIT
    for i in range(n_ops[0]):
        r = _read_op(c, &ops[0][i])
        if r != R_OK:
            return r
    return R_OK if _paths_differ(ops[0], n_ops[0]) else R_OP_DUPLICATE_PATH
