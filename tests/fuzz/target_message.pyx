"""Any bytes as a frame: what a reader sees at a glance, and the strict decoding (A3 to A8, B)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tests.fuzz.fuzzer cimport zl_promise
from zlay._fast.drisl cimport cbor_put_uint
from zlay._fast.message cimport (
    CID_BYTES, MAX_OPS, MAX_SPLICE_BYTES, Message, Peek, RepoOp, Slice, message_decode, message_is_whole, message_peek
)
from zlay._fast.scratch cimport Scratch, scratch_init, scratch_reset
from zlay._fast.verdicts cimport K_COMMIT, K_COUNT, K_SYNC, R_COUNT, R_OK, S_COUNT

cdef enum:
    SCRATCH_BYTES = 1 << 20
    ROOM = 1 << 17

cdef Scratch scratch
cdef uint8_t[ROOM] spliced

if scratch_init(&scratch, SCRATCH_BYTES):
    raise MemoryError


cdef void _inside(Slice s, const uint8_t *p, size_t n) noexcept nogil:
    zl_promise(s.p == NULL or (p <= s.p and s.p + s.n <= p + n))


cdef void _cid_inside(const uint8_t *cid, const uint8_t *p, size_t n) noexcept nogil:
    zl_promise(cid == NULL or (p <= cid and cid + CID_BYTES <= p + n))


cdef void _check(const Message *m, const uint8_t *p, size_t n) noexcept nogil:
    """What a decoded message points to lies in its frame, and what its kind needs is there."""
    cdef const RepoOp *op
    cdef uint32_t i
    cdef Peek peek
    _inside(m.did, p, n)
    _inside(m.type_name, p, n)
    _inside(m.blocks, p, n)
    _inside(m.time, p, n)
    _inside(m.handle, p, n)
    _cid_inside(m.commit_cid, p, n)
    _cid_inside(m.prev_data, p, n)
    zl_promise(m.kind < K_COUNT and m.status < S_COUNT and m.n_ops <= MAX_OPS)
    zl_promise(m.seq >= 1 and m.seq >> 53 == 0 and m.did.n > 0)
    zl_promise(m.seq_off > 0 and m.seq_off + m.seq_len <= n)
    zl_promise(m.kind != K_COMMIT or m.commit_cid != NULL)
    zl_promise((m.kind != K_COMMIT and m.kind != K_SYNC) or m.rev != 0)
    for i in range(m.n_ops):
        op = &m.ops[i]
        _inside(op.path, p, n)
        _cid_inside(op.cid, p, n)
        _cid_inside(op.prev, p, n)
        zl_promise(0 < op.collection_n < op.path.n and op.path.p[op.collection_n] == c'/')
    # The reader has seen the same account and number, so the frame was in its account's shard.
    zl_promise(message_peek(p, <uint32_t>n, &peek) == R_OK and not peek.is_error and peek.kind == m.kind)
    zl_promise(peek.seq == m.seq and p + peek.did_off == m.did.p and peek.did_n == m.did.n)
    zl_promise(message_is_whole(p, <uint32_t>n))


cdef void _splice(const Message *m, const uint8_t *p, size_t n) noexcept nogil:
    """The frame with a seq of ours in the place of its own is as good."""
    cdef Message again
    cdef uint64_t seq = m.seq >> 7 | (m.seq & 0x7F) << 46
    cdef uint8_t *out = spliced
    if n + MAX_SPLICE_BYTES > ROOM:
        return
    seq = seq if seq != 0 else 1
    memcpy(out, p, m.seq_off)
    out += m.seq_off
    out += cbor_put_uint(out, seq)
    memcpy(out, p + m.seq_off + m.seq_len, n - m.seq_off - m.seq_len)
    out += n - m.seq_off - m.seq_len
    scratch_reset(&scratch)
    zl_promise(message_decode(&scratch, spliced, <uint32_t>(out - spliced), &again) == R_OK)
    zl_promise(again.seq == seq and again.rev == m.rev and again.n_ops == m.n_ops and again.kind == m.kind)


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) noexcept nogil:
    cdef Message m
    cdef Peek peek
    cdef int r
    message_peek(data, <uint32_t>n, &peek)
    zl_promise(peek.kind < K_COUNT and <uint64_t>peek.did_off + peek.did_n <= n)
    _inside(peek.error_name, data, n)
    _inside(peek.error_message, data, n)
    scratch_reset(&scratch)
    r = message_decode(&scratch, data, <uint32_t>n, &m)
    zl_promise(0 <= r < R_COUNT)
    if r == R_OK:
        _check(&m, data, n)
        _splice(&m, data, n)
    return 0
