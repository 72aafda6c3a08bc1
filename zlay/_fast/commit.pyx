"""The signed commit (C2, C3, D1).

Promises: R_OK of commit_open means that the CAR is whole, every block is what its CID says, the commit stands in it,
has the shape of C2 and says what its message says; c.digest is then what the signature is held against.
Assumes: the message was decoded from the same frame, which stays where it is.
Threads: none of its own; a worker's, on its own scratch.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from zlay._fast.car cimport CarBlock, car_find, car_parse
from zlay._fast.crypto cimport (
    SIGNATURE_SIZE, KeyCache, SigningKey, key_cache_free, key_cache_init, key_parse, sha256_parts, signature_verify
)
from zlay._fast.drisl cimport (
    CID_SIZE, Cursor, DRISL_DATA, MAJOR_MAP, MAX_HEAD_BYTES, MapWalk, cbor_put_head, drisl_skip, map_next, read_bytes,
    read_link, read_map, read_text, read_uint, take_null
)
from zlay._fast.mem cimport zl_copy_bytes, zl_free
from zlay._fast.message cimport Message, message_decode
from zlay._fast.scratch cimport Scratch, scratch_free, scratch_init
from zlay._fast.syntax cimport TID_CHARS, tid_format, tid_parse
from zlay._fast.verdicts cimport (
    K_COMMIT, K_SYNC, R_CBOR_TRAILING, R_COMMIT_DID, R_COMMIT_MISSING, R_COMMIT_PREV, R_COMMIT_REV, R_COMMIT_SHAPE,
    R_COMMIT_VERSION, R_FIELD_TYPE, R_OK, R_ROOT_MISMATCH, R_SIG_FORM
)

from zlay._fast import verdicts

cdef enum:
    REPO_VERSION = 3                     # C2: 2 is legacy, 1 is dead
    CODEC_DRISL = 0x71                   # second byte of a CID of the repository's own blocks (C11)
    SCRATCH_BYTES = 64 * 1024 * 1024     # for the functions at the end only

cdef enum Field:                         # which fields of C2 have been seen
    F_DID = 1
    F_REV = 2
    F_SIG = 4
    F_DATA = 8
    F_PREV = 16
    F_VERSION = 32
    F_ALL = 63

cdef struct Fields:                      # the commit block as read; pointers lead into it
    int seen
    const uint8_t *did
    uint32_t did_n
    const uint8_t *rev
    uint32_t rev_n
    const uint8_t *sig
    uint32_t sig_n
    const uint8_t *data
    uint64_t version
    bint prev_is_good                    # null or a blessed link
    uint32_t entries                     # of the map
    const uint8_t *body                  # its first entry
    const uint8_t *sig_start             # the entry of sig: the key's head
    const uint8_t *sig_end


cdef inline bint _is(const uint8_t *key, uint32_t n, const char *name, uint32_t name_n) noexcept nogil:
    return n == name_n and memcmp(key, name, n) == 0


cdef int _field(Cursor *c, Fields *f, const uint8_t *start, const uint8_t *key, uint32_t n) noexcept nogil:
    """Reads the value of one entry, known or not. A Reason."""
    cdef int reason
    cdef const uint8_t *link
    if _is(key, n, "did", 3):
        f.seen |= F_DID
        return read_text(c, &f.did, &f.did_n)
    if _is(key, n, "rev", 3):
        f.seen |= F_REV
        return read_text(c, &f.rev, &f.rev_n)
    if _is(key, n, "sig", 3):
        f.seen |= F_SIG
        f.sig_start = start
        reason = read_bytes(c, &f.sig, &f.sig_n)
        f.sig_end = c.p
        return reason
    if _is(key, n, "data", 4):
        f.seen |= F_DATA
        return read_link(c, &f.data)
    if _is(key, n, "prev", 4):
        f.seen |= F_PREV
        f.prev_is_good = True
        if take_null(c):
            return R_OK
        reason = read_link(c, &link)
        if reason == R_FIELD_TYPE:       # well encoded, but no blessed link: judged by its own reason
            f.prev_is_good = False
            c.p = key + n
            return drisl_skip(c, DRISL_DATA, 1)
        return reason
    if _is(key, n, "version", 7):
        f.seen |= F_VERSION
        return read_uint(c, &f.version)
    return drisl_skip(c, DRISL_DATA, 1)


cdef int _read(const CarBlock *block, Fields *f) noexcept nogil:
    """Reads the whole commit block. A Reason: of its encoding, or R_COMMIT_SHAPE."""
    cdef Cursor c
    cdef MapWalk walk
    cdef const uint8_t *start
    cdef const uint8_t *key
    cdef uint32_t n
    cdef int reason
    c.p = block.data
    c.end = block.data + block.n
    f.seen = 0
    reason = read_map(&c, &walk)
    f.entries = walk.left
    f.body = c.p
    while reason == R_OK and walk.left > 0:
        start = c.p
        reason = map_next(&c, &walk, &key, &n)
        if reason == R_OK:
            reason = _field(&c, f, start, key, n)
    if reason == R_FIELD_TYPE:
        return R_COMMIT_SHAPE
    if reason != R_OK:
        return reason
    if c.p != c.end:
        return R_CBOR_TRAILING
    if f.seen != F_ALL or f.data[1] != CODEC_DRISL:
        return R_COMMIT_SHAPE
    return R_OK


cdef void _digest(const CarBlock *block, const Fields *f, uint8_t *out32) noexcept nogil:
    """SHA-256 of the block without the entry of sig, every other entry as it stands, unknown ones too (C3)."""
    cdef uint8_t head[MAX_HEAD_BYTES]
    cdef const uint8_t *parts[3]
    cdef size_t sizes[3]
    parts[0] = head
    sizes[0] = cbor_put_head(head, MAJOR_MAP, f.entries - 1)
    parts[1] = f.body
    sizes[1] = f.sig_start - f.body
    parts[2] = f.sig_end
    sizes[2] = block.data + block.n - f.sig_end
    sha256_parts(parts, sizes, 3, out32)


cdef int _open(Scratch *s, const Message *m, Commit *c, bint check_hashes) noexcept nogil:
    cdef const CarBlock *block
    cdef Fields f
    cdef int reason = car_parse(s, m.blocks, &c.car, check_hashes)
    if reason != R_OK:
        return reason
    c.cid = c.car.root
    if m.kind == K_COMMIT and memcmp(c.cid, m.commit_cid, CID_SIZE) != 0:
        return R_ROOT_MISMATCH
    block = car_find(&c.car, c.cid)
    if block is NULL:
        return R_COMMIT_MISSING
    if c.cid[1] != CODEC_DRISL:
        return R_COMMIT_SHAPE
    reason = _read(block, &f)
    if reason != R_OK:
        return reason
    if f.version != REPO_VERSION:
        return R_COMMIT_VERSION
    if not f.prev_is_good:
        return R_COMMIT_PREV
    if f.did_n != m.did.n or memcmp(f.did, m.did.p, f.did_n) != 0:
        return R_COMMIT_DID
    if not tid_parse(f.rev, f.rev_n, &c.rev) or c.rev != m.rev:
        return R_COMMIT_REV
    if f.sig_n != SIGNATURE_SIZE:
        return R_SIG_FORM
    c.data = f.data
    c.sig = f.sig
    _digest(block, &f, c.digest)
    return R_OK


cdef int commit_open(Scratch *s, const Message *m, Commit *c) noexcept nogil:
    """Opens the commit of a decoded #commit or #sync: CAR, CIDs, commit block, agreement with the message. A Reason."""
    return _open(s, m, c, True)


cdef int commit_verify(const Commit *c, const SigningKey *key, KeyCache *cache) noexcept nogil:
    """Holds the signature of an opened commit against a key (C3). A Reason."""
    return signature_verify(key, c.digest, c.sig, SIGNATURE_SIZE, cache)


# --- for tests and tools ---------------------------------------------------------------------------------------------

cdef int _open_bytes(Opened *o, bytes frame, bint check_hashes) except -1:
    memset(o, 0, sizeof(o[0]))
    # A copy of exactly its size: a sanitizer sees a read beyond it, which in Python's own heap it would not.
    o.frame = zl_copy_bytes(frame)
    if scratch_init(&o.scratch, SCRATCH_BYTES) != 0:
        raise MemoryError
    cdef int reason = message_decode(&o.scratch, <const uint8_t *>o.frame, <uint32_t>len(frame), &o.message)
    if reason == R_OK and o.message.kind != K_COMMIT and o.message.kind != K_SYNC:
        reason = R_FIELD_TYPE
    return reason if reason != R_OK else _open(&o.scratch, &o.message, &o.commit, check_hashes)


cdef int opened_init(Opened *o, bytes frame) except -1:
    """Decodes and opens a frame for a test or tool; the caller frees it, also after an exception. A Reason."""
    return _open_bytes(o, frame, True)


cdef void opened_free(Opened *o) noexcept:
    """Lets everything go that opened_init has taken."""
    scratch_free(&o.scratch)
    zl_free(o.frame)


def check(frame: bytes, key_type: int, point: bytes) -> str:
    """Label of the reason for which a #commit or #sync frame's commit fails, tree apart; "ok" when it is good.

    `key_type` and `point` as in crypto.verify. Any thread; makes a scratch per call, so not for the path of frames.
    ValueError: no usable key. MemoryError.
    """
    cdef Opened o
    cdef SigningKey key
    cdef KeyCache cache
    cdef int reason
    if key_parse(key_type, point, <uint32_t>len(point), &key) != 0:
        raise ValueError("not a public key of that curve")
    memset(&cache, 0, sizeof(cache))
    try:
        reason = opened_init(&o, frame)
        if key_cache_init(&cache) != 0:
            raise MemoryError
        if reason == R_OK:
            reason = commit_verify(&o.commit, &key, &cache)
    finally:
        key_cache_free(&cache)
        opened_free(&o)
    return verdicts.REASONS[reason].label


def facts(frame: bytes) -> tuple[str, str, bytes, bytes]:
    """(did, rev, head CID, data CID) of a #commit or #sync frame that was verified before: signature, hashes and tree
    are not looked at again. The CIDs have 36 bytes. Any thread; for recovery from the log.

    ValueError: not such a frame; its text is the reason's label. MemoryError.
    """
    cdef Opened o
    cdef uint8_t rev[TID_CHARS]
    cdef int reason
    try:
        reason = _open_bytes(&o, frame, False)
        if reason != R_OK:
            raise ValueError(verdicts.REASONS[reason].label)
        tid_format(o.commit.rev, rev)
        return (
            o.message.did.p[:o.message.did.n].decode(),
            rev[:TID_CHARS].decode(),
            o.commit.cid[:CID_SIZE],
            o.commit.data[:CID_SIZE],
        )
    finally:
        opened_free(&o)
