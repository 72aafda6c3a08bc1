"""The sequencer: one mutex gives each event its number, splices it in, and copies the event once into the log's buffer.

Promises: seq goes up by exactly one, in the order of the bytes; a number given out is never taken back while the
process lives. When all chunks are full, or while the disk fails, appenders sleep on `_room_word`: readers then run out
of credit and TCP pushes back.

Threads: appenders are workers and, for local events, Python. The log's writer looks, sleeps and locates; whoever has
synced (the writer, or the syncer of durability `os`, under the log's `_sync_lock`) releases. `_lock` guards the chunk
lists, `_next_seq` and the flags; it is held for one copy at most and is a leaf.

Memory: chunks are allocated when first needed and kept until the log closes; an event's bytes stay in its chunk until
it is synced, so that a failed group can be written again. Spare chunks that were not needed for a second give their
pages back.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from atomics cimport (zl_add32, zl_bump64, zl_futex_wait, zl_futex_wake, zl_load32, zl_load64, zl_load64_relaxed,
                      zl_monotonic_us, zl_store64)
from crash_points cimport zl_crash_point
from fileio cimport MADV_DONTNEED, madvise
from threads cimport zl_lock, zl_lock_short, zl_mutex, zl_unlock

from zlay._fast.host cimport Host, host_give_credit
from zlay._fast.mem cimport MEM_LOG, zl_free, zl_malloc
from zlay._fast.segments cimport SEG_MAX_FRAME_BYTES, IndexEntry

__all__ = []

cdef enum:
    PAGE = 4096
    EVERYBODY = 0x7FFFFFFF       # of a futex's waiters
    LOOK_AGAIN_MS = 1000         # an appender that waits looks by itself, too
    TRIM_US = 1000000            # spare chunks keep their pages for as long; under load they are wanted back at once

# --- under _lock ---
cdef zl_mutex _lock
cdef Chunk *_head = NULL         # oldest chunk with bytes not yet synced
cdef Chunk *_tail = NULL         # where appenders write
cdef Chunk *_spare = NULL        # the one used last comes first: its pages are warm
cdef uint32_t _in_use = 0        # chunks from _head to _tail
cdef uint32_t _most_in_use = 0   # ... since the last trim
cdef uint32_t _chunks = 0        # allocated
cdef uint32_t _max_chunks = 0
cdef uint64_t _next_seq = 1
cdef bint _open = False
cdef bint _paused = False
cdef bint _writer_idle = False
cdef uint32_t _room_waiters = 0

# --- the writer's own ---
cdef uint64_t _trimmed_us = 0

# --- atomics ---
cdef uint64_t _appended = 0
cdef uint64_t _buffered = 0      # changed under _lock
cdef uint64_t _waited = 0        # changed under _lock
cdef uint32_t _room_word = 0
cdef uint32_t _work_word = 0


cdef uint64_t log_appended_end() noexcept nogil:
    return zl_load64(&_appended)


cdef inline uint32_t _seq_bytes(uint64_t seq) noexcept nogil:
    """Length of seq as a shortest-form CBOR integer."""
    if seq >> 32:
        return 9
    return 1 if seq < 24 else 2 if seq < 256 else 3 if seq < 65536 else 5


cdef inline uint8_t *_put_big_endian(uint8_t *p, uint64_t v, int n) noexcept nogil:
    while n:
        n -= 1
        p[n] = <uint8_t> (v & 0xFF)
        v >>= 8
    return p


cdef inline uint8_t *_put_seq(uint8_t *p, uint64_t seq) noexcept nogil:
    cdef uint32_t n = _seq_bytes(seq)
    if n == 1:
        p[0] = <uint8_t> seq
    else:
        p[0] = 0x18 if n == 2 else 0x19 if n == 3 else 0x1A if n == 5 else 0x1B
        _put_big_endian(p + 1, seq, <int> n - 1)
    return p + n


cdef inline uint8_t *_put_ws_header(uint8_t *p, uint32_t n) noexcept nogil:
    """Header of an unmasked, unfragmented binary message of n bytes (RFC 6455 5.2)."""
    p[0] = 0x82
    if n < 126:
        p[1] = <uint8_t> n
        return p + 2
    if n < 65536:
        p[1] = 126
        _put_big_endian(p + 2, n, 2)
        return p + 4
    p[1] = 127
    _put_big_endian(p + 2, n, 8)
    return p + 10


cdef Chunk *_new_chunk() noexcept nogil:
    """Requires `_lock`. One allocation, whose pages the kernel gives as they are first used."""
    cdef size_t entries = CHUNK_EVENTS * sizeof(IndexEntry), pending = CHUNK_EVENTS * sizeof(Pending)
    cdef uint8_t *block = <uint8_t *> zl_malloc(MEM_LOG, sizeof(Chunk) + entries + pending + CHUNK_BYTES)
    cdef Chunk *c = <Chunk *> block
    if block == NULL:
        return NULL
    c.entries = <IndexEntry *> (block + sizeof(Chunk))
    c.pending = <Pending *> (block + sizeof(Chunk) + entries)
    c.data = block + sizeof(Chunk) + entries + pending
    return c


cdef Chunk *_append_chunk(uint32_t need) noexcept nogil:
    """Requires `_lock`. A chunk with room for one more event of `need` bytes, or NULL: wait."""
    global _tail, _head, _spare, _chunks, _in_use, _most_in_use
    cdef Chunk *c = _tail
    if c != NULL and c.n < CHUNK_EVENTS and CHUNK_BYTES - c.used >= need:
        return c
    if _spare != NULL:
        c = _spare
        _spare = c.next
    elif _chunks < _max_chunks:
        c = _new_chunk()
        if c == NULL:
            return NULL
        _chunks += 1
    else:
        return NULL
    c.next = NULL
    c.first_seq = _next_seq
    c.used = c.n = c.done = 0
    c.cold = False
    if _tail == NULL:
        _head = c
    else:
        _tail.next = c
    _tail = c
    _in_use += 1
    _most_in_use = max(_most_in_use, _in_use)
    return c


cdef uint64_t log_append(const LogEvent *e) noexcept nogil:
    global _next_seq, _room_waiters, _writer_idle, _buffered
    cdef uint64_t seq
    cdef uint32_t n, need, word
    cdef Chunk *c
    cdef uint8_t *p
    cdef IndexEntry *entry
    cdef bint wake
    if e.seq_off > e.n or e.seq_len > e.n - e.seq_off or e.n > SEG_MAX_FRAME_BYTES:
        return 0
    zl_lock_short(&_lock)
    while True:
        if not _open:
            zl_unlock(&_lock)
            return 0
        n = e.n - e.seq_len + _seq_bytes(_next_seq)
        need = n + (2 if n < 126 else 4 if n < 65536 else 10)
        if need > SEG_MAX_FRAME_BYTES:               # the reader's limit is lower by what splicing can add
            zl_unlock(&_lock)
            return 0
        c = NULL
        if not _paused:
            c = _append_chunk(need)
            if c != NULL:
                break
        zl_bump64(&_waited, 1)
        _room_waiters += 1
        word = zl_load32(&_room_word)
        zl_unlock(&_lock)
        zl_futex_wait(&_room_word, word, LOOK_AGAIN_MS)
        zl_lock_short(&_lock)
        _room_waiters -= 1
    seq = _next_seq
    _next_seq += 1
    p = _put_ws_header(c.data + c.used, n)
    memcpy(p, e.data, e.seq_off)
    p = _put_seq(p + e.seq_off, seq)
    memcpy(p, e.data + e.seq_off + e.seq_len, e.n - e.seq_off - e.seq_len)
    entry = &c.entries[c.n]
    entry.length = need
    entry.kind = e.kind
    entry.flags = e.flags
    entry.upstream_status = e.upstream_status
    entry.effective_status = e.effective_status
    entry.host_id = e.host_id
    entry.host_epoch = e.host_epoch
    entry.upstream_seq = e.upstream_seq
    entry.recv_us = e.recv_us
    entry.did_hash = e.did_hash
    c.pending[c.n].host = e.host
    c.pending[c.n].cost = e.cost
    c.pending[c.n].start = c.used
    c.used += need
    c.n += 1
    zl_store64(&_buffered, _buffered + need)
    zl_store64(&_appended, seq)
    wake = _writer_idle
    if wake:
        _writer_idle = False
        zl_add32(&_work_word, 1)
    zl_unlock(&_lock)
    if wake:
        zl_futex_wake(&_work_word, 1)
    zl_crash_point(b"append.after")
    return seq


cdef void _give_credit(Chunk *c, uint32_t upto) noexcept nogil:
    """Runs of one host's events give back at once."""
    cdef Host *host = NULL
    cdef uint64_t cost = 0
    cdef Pending *p
    while c.done < upto:
        p = &c.pending[c.done]
        if p.host != host:
            if host != NULL:
                host_give_credit(host, cost)
            host = p.host
            cost = 0
        cost += p.cost
        c.done += 1
    if host != NULL:
        host_give_credit(host, cost)


cdef void _give_pages(Chunk *c) noexcept nogil:
    cdef uint64_t first = (<uint64_t> c.entries + PAGE - 1) & ~<uint64_t> (PAGE - 1)
    cdef uint64_t end = (<uint64_t> c.data + CHUNK_BYTES) & ~<uint64_t> (PAGE - 1)
    madvise(<void *> first, end - first, MADV_DONTNEED)


cdef void _wake_appenders(uint32_t waiters) noexcept nogil:
    if waiters:
        zl_futex_wake(&_room_word, EVERYBODY)


cdef Chunk *_take_idle() noexcept nogil:
    """Requires `_lock`. Takes the spare chunks off that nobody has needed since the last call; a list, or NULL."""
    global _spare, _most_in_use
    cdef uint32_t keep = max(_most_in_use - _in_use, <uint32_t> 1)
    cdef Chunk **link = &_spare
    cdef Chunk *idle
    _most_in_use = _in_use
    while link[0] != NULL and keep:
        link = &link[0].next
        keep -= 1
    idle = link[0]
    link[0] = NULL
    return idle


cdef void sequencer_trim() noexcept nogil:
    global _trimmed_us
    cdef uint64_t now = zl_monotonic_us()
    cdef Chunk *idle
    cdef Chunk *c
    cdef Chunk **link = &_spare
    cdef uint32_t waiters
    if now - _trimmed_us < TRIM_US:
        return
    _trimmed_us = now
    zl_lock(&_lock)
    idle = _take_idle()
    zl_unlock(&_lock)
    if idle == NULL:
        return
    c = idle
    while c != NULL:
        if not c.cold:
            _give_pages(c)
            c.cold = True
        c = c.next
    zl_lock(&_lock)
    while link[0] != NULL:                           # at the end: those used meanwhile are warm
        link = &link[0].next
    link[0] = idle
    waiters = _room_waiters
    if waiters:
        zl_add32(&_room_word, 1)
    zl_unlock(&_lock)
    _wake_appenders(waiters)


cdef void sequencer_release(uint64_t seq) noexcept nogil:
    global _head, _buffered, _spare, _in_use
    cdef Chunk *c
    cdef uint64_t freed = 0, upto
    cdef uint32_t waiters
    zl_lock(&_lock)
    c = _head
    while c != NULL and c.first_seq <= seq:
        upto = min(seq - c.first_seq + 1, <uint64_t> c.n)
        if upto > c.done:
            freed += c.pending[upto - 1].start + c.entries[upto - 1].length - c.pending[c.done].start
        zl_unlock(&_lock)
        _give_credit(c, <uint32_t> upto)             # wakes readers: not under the sequencer's lock
        zl_lock(&_lock)
        if c.done < c.n:
            break
        if c == _tail:                               # nothing waits: begin again on the same warm pages
            c.used = c.n = c.done = 0
            c.first_seq = _next_seq
            break
        _head = c.next
        c.next = _spare
        _spare = c
        _in_use -= 1
        c = _head
    zl_store64(&_buffered, _buffered - freed)
    waiters = _room_waiters
    if waiters:
        zl_add32(&_room_word, 1)
    zl_unlock(&_lock)
    _wake_appenders(waiters)


cdef Chunk *sequencer_locate(uint64_t seq, uint32_t *n) noexcept nogil:
    cdef Chunk *c
    zl_lock(&_lock)
    c = _head
    while c.first_seq + c.n <= seq:
        c = c.next
    n[0] = c.n
    zl_unlock(&_lock)
    return c


cdef bint sequencer_look(uint64_t written, bint idle, uint64_t *end, uint32_t *word) noexcept nogil:
    global _writer_idle
    cdef bint is_open
    zl_lock(&_lock)
    is_open = _open
    end[0] = _next_seq - 1
    word[0] = zl_load32(&_work_word)
    _writer_idle = idle and end[0] == written and is_open
    zl_unlock(&_lock)
    return is_open


cdef void sequencer_sleep(uint32_t word, int64_t timeout_ms) noexcept nogil:
    zl_futex_wait(&_work_word, word, timeout_ms)


cdef void sequencer_wake_writer() noexcept nogil:
    global _writer_idle
    zl_lock(&_lock)
    _writer_idle = False
    zl_add32(&_work_word, 1)
    zl_unlock(&_lock)
    zl_futex_wake(&_work_word, 1)


cdef void sequencer_pause(bint pause) noexcept nogil:
    global _paused
    cdef uint32_t waiters
    zl_lock(&_lock)
    _paused = pause
    waiters = 0 if pause else _room_waiters
    if waiters:
        zl_add32(&_room_word, 1)
    zl_unlock(&_lock)
    _wake_appenders(waiters)


cdef void sequencer_open(uint64_t next_seq, uint32_t max_chunks) noexcept nogil:
    global _next_seq, _max_chunks, _open, _paused, _writer_idle
    zl_lock(&_lock)
    _next_seq = next_seq
    _max_chunks = max(max_chunks, <uint32_t> 2)      # one to write, one to gather
    zl_store64(&_appended, next_seq - 1)
    zl_store64(&_buffered, 0)
    _paused = _writer_idle = False
    zl_store64(&_waited, 0)
    _open = True
    zl_unlock(&_lock)


cdef void sequencer_close() noexcept nogil:
    global _open
    zl_lock(&_lock)
    _open = False
    zl_add32(&_room_word, 1)
    zl_unlock(&_lock)
    zl_futex_wake(&_room_word, EVERYBODY)
    sequencer_wake_writer()


cdef bint sequencer_is_open() noexcept nogil:
    cdef bint is_open
    zl_lock(&_lock)
    is_open = _open
    zl_unlock(&_lock)
    return is_open


cdef void _free_list(Chunk *c) noexcept nogil:
    cdef Chunk *following
    while c != NULL:
        following = c.next
        zl_free(c)
        c = following


cdef void sequencer_free() noexcept nogil:
    global _head, _tail, _spare, _chunks, _in_use, _most_in_use
    _free_list(_head)
    _free_list(_spare)
    _head = _tail = _spare = NULL
    _chunks = _in_use = _most_in_use = 0


cdef uint64_t sequencer_buffered() noexcept nogil:
    return zl_load64(&_buffered)


cdef uint64_t sequencer_limit() noexcept nogil:
    return <uint64_t> _max_chunks * CHUNK_BYTES


cdef uint64_t sequencer_waits() noexcept nogil:
    return zl_load64_relaxed(&_waited)
