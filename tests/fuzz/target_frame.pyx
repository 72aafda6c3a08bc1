"""A whole frame, from its bytes to the verdict, as a worker gives it (design 5).

An input is CONTROL_BYTES that choose what is known of the account, then the frame. Signatures are looked at for their
form, and then always hold but for one pattern: nobody can be expected to fuzz a valid one.

What the decoding of the message refuses is run, but not kept to be changed further: it has a target of its own, and
here inputs are wanted that get to the blocks.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from tests.fuzz.fuzzer cimport LLVMFuzzerMutate, zl_promise
from tests.fuzz.mutator cimport frame_cross, frame_mutate
from zlay._fast.accounts cimport (
    A_ELSEWHERE, A_KNOWN, A_LOADED, A_STALE, ID_NO_KEY, ID_NO_PDS, ID_NOT_FOUND, ID_OK, ID_TOMBSTONED, ID_UNKNOWN,
    Account, Table, account_find, account_insert, account_set_key, table_init
)
from zlay._fast.crypto cimport KEY_K256, KEY_P256, KeyCache, SigningKey, key_cache_init, key_parse
from zlay._fast.host cimport Host, host_new
from zlay._fast.judge cimport Judgement, judge_event, judge_message
from zlay._fast.message cimport Message, Peek, message_is_whole, message_peek
from zlay._fast.pool cimport Frame
from zlay._fast.scratch cimport Scratch, scratch_init, scratch_reset
from zlay._fast.verdicts cimport K_COMMIT, R_COUNT, R_OK, S_ACTIVE, S_DEACTIVATED, S_TAKENDOWN

cdef enum:
    CONTROL_BYTES = 2
    SCRATCH_BYTES = 64 * 1024 * 1024     # a worker's
    ENTRIES = 8                          # of the account table: every few inputs one is evicted
    HOST_ID = 7
    NOW_S = 4102444800                   # the year 2100: recordings are not from the future

cdef enum Control:
    C_IDENTITY = 0x07                    # of the first byte: 0..5, see IDENTITIES
    C_STALE = 0x08
    C_NOT_LOADED = 0x10
    C_ELSEWHERE = 0x20
    C_TAKEN_DOWN = 0x40
    C_KEY_GONE = 0x80
    C_STATE = 0x03                       # of the second byte: a State
    C_DEACTIVATED = 0x04
    C_P256 = 0x08
    C_RETRIED = 0x10
    C_OLD = 0x20                         # what is known of the identity is days old
    C_BANNED = 0x40
    C_DUPLICATE = 0x80

cdef enum State:                         # what is stored of the repository
    STATE_NONE
    STATE_BEFORE                         # what the commit says was before it
    STATE_SAME                           # its own rev
    STATE_OTHER                          # another tree

cdef uint8_t *K256_POINT = (
    b"\x02\x79\xbe\x66\x7e\xf9\xdc\xbb\xac\x55\xa0\x62\x95\xce\x87\x0b\x07"
    b"\x02\x9b\xfc\xdb\x2d\xce\x28\xd9\x59\xf2\x81\x5b\x16\xf8\x17\x98"
)
cdef uint8_t *P256_POINT = (
    b"\x03\x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2"
    b"\x77\x03\x7d\x81\x2d\xeb\x33\xa0\xf4\xa1\x39\x45\xd8\x98\xc2\x96"
)

cdef Table table
cdef Scratch scratch
cdef KeyCache keys
cdef SigningKey k256
cdef SigningKey p256
cdef Host *host
cdef uint64_t[3] logged                  # upstream seqs that are in the log already
cdef uint8_t[6] IDENTITIES

IDENTITIES[:] = [ID_OK, ID_UNKNOWN, ID_NOT_FOUND, ID_TOMBSTONED, ID_NO_KEY, ID_NO_PDS]
logged[:] = [1, 1000, 1 << 40]


cdef int _prepare() except -1:
    """What a worker has when its first frame comes."""
    global host
    host = host_new(HOST_ID, b"fuzz.example", 1 << 30)
    if host == NULL or table_init(&table, ENTRIES, ENTRIES) or scratch_init(&scratch, SCRATCH_BYTES):
        raise MemoryError
    if key_cache_init(&keys):
        raise MemoryError
    if key_parse(KEY_K256, K256_POINT, 33, &k256) or key_parse(KEY_P256, P256_POINT, 33, &p256):
        raise ValueError("the curves' generators are keys")
    host.dedup = logged
    host.dedup_n = 3
    return 0

_prepare()


# --- in place of the libraries' own, in this program only ------------------------------------------------------------

cdef inline int _holds(const uint8_t *digest) noexcept nogil:
    return digest[0] != 0xA5             # one in 256 is forged


cdef public int __wrap_secp256k1_ecdsa_verify(
    const void *context, const void *sig, const uint8_t *digest, const void *key
) noexcept nogil:
    return _holds(digest)


cdef public int __wrap_ECDSA_do_verify(const uint8_t *digest, int n, const void *sig, void *key) noexcept nogil:
    return _holds(digest)


# --- one input -------------------------------------------------------------------------------------------------------

cdef uint64_t _hash(const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint64_t h = 14695981039346656037ULL
    cdef uint32_t i
    for i in range(n):
        h = (h ^ p[i]) * 1099511628211ULL
    return h | 1


cdef void _remember(Account *a, const Message *m, uint8_t first, uint8_t second) noexcept nogil:
    """Makes the account's entry what the control bytes say."""
    a.flags = A_LOADED | A_KNOWN
    if first & C_STALE:
        a.flags |= A_STALE
    if first & C_NOT_LOADED:
        a.flags &= ~<unsigned short>A_LOADED
    if first & C_ELSEWHERE:
        a.flags |= A_ELSEWHERE
    a.identity = IDENTITIES[(first & C_IDENTITY) % 6]
    a.identity_s = NOW_S - 60 if not second & C_OLD else NOW_S - 3 * 86400
    a.host_id = HOST_ID
    a.local_status = S_TAKENDOWN if first & C_TAKEN_DOWN else S_ACTIVE
    a.upstream_status = S_DEACTIVATED if second & C_DEACTIVATED else S_ACTIVE
    a.status_s = 0
    a.rev = 0
    memset(a.data, 0, sizeof(a.data))
    if second & C_STATE != STATE_NONE:
        a.rev = m.rev if second & C_STATE == STATE_SAME else m.since
        if m.kind == K_COMMIT and m.prev_data != NULL and second & C_STATE != STATE_OTHER:
            memcpy(a.data, m.prev_data + 4, 32)
    account_set_key(&table, a, &p256 if second & C_P256 else &k256)
    if first & C_KEY_GONE:
        account_set_key(&table, a, NULL)


cdef int _judge(Frame *f, Judgement *j, uint8_t first, uint8_t second) noexcept nogil:
    """A Reason; what reader and worker do with a frame, in their order. j.account is set when its message is good."""
    cdef Peek peek
    cdef const uint8_t *did
    cdef int reason
    message_peek(f.data, f.n, &peek)
    f.upstream_seq = peek.seq
    f.did_off = peek.did_off
    f.did_n = peek.did_n
    f.did_hash = _hash(f.data + peek.did_off, peek.did_n) if peek.did_off else 0
    reason = judge_message(&scratch, f, j)
    if reason != R_OK:
        return reason
    zl_promise(message_is_whole(f.data, f.n))
    did = f.data + f.did_off
    j.account = account_find(&table, f.did_hash, did, f.did_n)
    if j.account == NULL:
        j.account = account_insert(&table, f.did_hash, did, f.did_n, 1)
    zl_promise(j.account != NULL)
    _remember(j.account, &j.message, first, second)
    return judge_event(&table, &scratch, &keys, f, <uint64_t>NOW_S * 1000000, j)


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) noexcept nogil:
    cdef Frame f
    cdef Judgement j
    cdef int reason
    if n < CONTROL_BYTES:
        return -1
    memset(&f, 0, sizeof(f))
    memset(&j, 0, sizeof(j))
    f.data = <uint8_t *>data + CONTROL_BYTES
    f.n = f.cap = <uint32_t>(n - CONTROL_BYTES)
    f.host = host
    f.epoch = 1
    f.recv_us = <uint64_t>(NOW_S - 30) * 1000000
    f.retried = 0xFF if data[1] & C_RETRIED else 0
    host.banned = (data[1] & C_BANNED) != 0
    host.dedup_epoch = 1 if data[1] & C_DUPLICATE else 0
    host.refresh_due_us = 0
    scratch_reset(&scratch)
    reason = _judge(&f, &j, data[0], data[1])
    zl_promise(0 <= reason < R_COUNT)
    zl_promise(not (j.hold and reason == R_OK))
    return 0 if j.account != NULL else -1


# --- mutations -------------------------------------------------------------------------------------------------------

cdef public size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t most, unsigned int seed) noexcept nogil:
    if n <= CONTROL_BYTES or seed % 16 == 0:
        if seed % 32 and n > CONTROL_BYTES:
            LLVMFuzzerMutate(data, CONTROL_BYTES, CONTROL_BYTES)
            return n
        return LLVMFuzzerMutate(data, n, most)
    return CONTROL_BYTES + frame_mutate(data + CONTROL_BYTES, n - CONTROL_BYTES, most - CONTROL_BYTES, seed)


cdef public size_t LLVMFuzzerCustomCrossOver(
    const uint8_t *a, size_t a_n, const uint8_t *b, size_t b_n, uint8_t *out, size_t most, unsigned int seed
) noexcept nogil:
    cdef size_t n
    if a_n <= CONTROL_BYTES or b_n <= CONTROL_BYTES or most <= CONTROL_BYTES:
        return 0
    memcpy(out, a, CONTROL_BYTES)
    n = frame_cross(
        a + CONTROL_BYTES, a_n - CONTROL_BYTES, b + CONTROL_BYTES, b_n - CONTROL_BYTES,
        out + CONTROL_BYTES, most - CONTROL_BYTES, seed
    )
    return CONTROL_BYTES + n if n else 0
