"""A connection to a host from its first byte to its end: cutter, frames of the pool, credit, slots, the judge's look.

The first byte chooses how the bytes come and what writing does, the second the cursor that was asked for.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from tests.fuzz.fuzzer cimport zl_promise
from zlay._fast import host, pool
from zlay._fast.connection cimport (
    END_COUNT, IO_EOF, IO_ERROR, IO_WANT_READ, IO_WANT_WRITE, OUT_BYTES, Connection, Io, connection_init,
    connection_run, connection_set_sink, connection_set_times
)
from zlay._fast.host cimport Host, host_at, host_collect, host_drop_slot, host_give_credit, host_give_share
from zlay._fast.judge cimport Judgement, judge_message
from zlay._fast.pool cimport Frame, pool_give, pool_used_bytes
from zlay._fast.scratch cimport Scratch, scratch_init, scratch_reset
from zlay._fast.verdicts cimport R_FRAME_PAYLOAD, R_OK

cdef enum:
    SCRATCH_BYTES = 1 << 20
    POOL_BYTES = 64 << 20
    FAR = 1 << 30                # milliseconds, or microseconds: nothing of time happens

cdef enum Way:
    IN_PIECES = 1
    WRITES_WAIT = 2
    WRITES_FAIL = 4
    READ_FAILS = 8               # at the end, in place of the other side's close
    READ_WAITS = 16              # now and then there is nothing

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    /* Always ready to be read and written, so that no poll ever waits. */
    static int zl_fuzz_ready(void) { return open("/dev/zero", O_RDWR | O_CLOEXEC); }
    static void zl_fuzz_errno(int e) { errno = e; }
    """
    int zl_fuzz_ready() nogil
    void zl_fuzz_errno(int e) nogil

cdef struct Wire:                # where reads come from
    const uint8_t *p
    size_t n
    uint64_t random
    uint8_t way

cdef Scratch scratch
cdef Host *peer
cdef int ready = zl_fuzz_ready()

pool.init(POOL_BYTES, "malloc")  # one allocation per frame: the sanitizer sees where it ends
index = host.new(1, "fuzz.example", POOL_BYTES)
host.set_epoch(index, 1, 0)
peer = host_at(index)
if ready < 0 or scratch_init(&scratch, SCRATCH_BYTES):
    raise MemoryError


cdef uint32_t _any(Wire *w, uint32_t n) noexcept nogil:
    w.random = w.random * 6364136223846793005ULL + 1442695040888963407ULL
    return <uint32_t>((w.random >> 33) % n)


cdef int64_t _read(void *context, int fd, uint8_t *p, size_t n) noexcept nogil:
    cdef Wire *w = <Wire *>context
    if w.way & READ_WAITS and _any(w, 4) == 0:
        return IO_WANT_WRITE if _any(w, 2) else IO_WANT_READ
    if w.n == 0:
        zl_fuzz_errno(104)
        return IO_ERROR if w.way & READ_FAILS else IO_EOF
    n = min(n, w.n)
    if w.way & IN_PIECES:
        n = min(n, <size_t>(1 + _any(w, 40 if _any(w, 2) else 20000)))
    memcpy(p, w.p, n)
    w.p += n
    w.n -= n
    return <int64_t>n


cdef int64_t _write(void *context, int fd, const uint8_t *p, size_t n) noexcept nogil:
    cdef Wire *w = <Wire *>context
    zl_promise(n <= OUT_BYTES)
    if w.way & WRITES_FAIL:
        zl_fuzz_errno(32)
        return IO_ERROR
    if w.way & WRITES_WAIT and _any(w, 2):
        return IO_WANT_WRITE
    return <int64_t>(1 + _any(w, <uint32_t>n)) if n else 0


cdef void _submit(Frame *f) noexcept nogil:
    """What a worker does with a frame that it drops."""
    cdef Judgement j
    cdef int reason
    host_give_share(f.host, f.cost)
    scratch_reset(&scratch)
    reason = judge_message(&scratch, f, &j)
    host_drop_slot(f.host, f.slot, reason if reason != R_OK else R_FRAME_PAYLOAD)
    host_give_credit(f.host, f.cost)
    pool_give(f)


cdef uint64_t _synced() noexcept nogil:
    return 1


cdef uint64_t _hash(const uint8_t *did, uint32_t n) noexcept nogil:
    return n


connection_set_sink(_submit, _synced, _hash)
connection_set_times(FAR, FAR, FAR)


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) noexcept nogil:
    cdef Connection c
    cdef Wire wire
    cdef Io io
    cdef uint64_t oldest
    if n < 2:
        return -1
    wire.way = data[0]
    wire.random = data[0] * 257 + data[1]
    wire.p = data + 2
    wire.n = n - 2
    memset(&io, 0, sizeof(io))
    io.read = _read
    io.write = _write
    io.ctx = &wire
    io.short_read_is_all = (wire.way & 32) != 0
    memset(&c, 0, sizeof(c))
    connection_init(&c, peer, ready, io, data[1])
    connection_run(&c)
    zl_promise(c.cause < END_COUNT and c.frame == NULL and c.leftover == NULL)
    host_collect(peer, <uint64_t>1 << 62, &oldest)
    zl_promise(pool_used_bytes() == 0 and peer.credit_used == 0 and peer.queued_bytes == 0)
    return 0
