"""The event log: one sequencer, one writer, and the three ends appended <= written, synced, published (design 4).

Promises: seq goes up by exactly one; what published_end covers is on disk (or, with durability `os`, written); a group
whose sync failed is written again from memory, same bytes and numbers, into a new segment; no event is given up while
the process lives. Assumes: one log per process; zlay.eventlog has recovered the directory and filled the segment table.

Threads and locks:
- appenders (workers, Python): `log_append`, under `_lock`: number, splice, copy. When all chunks are full, or while the
  disk fails, they sleep on `_room_word`: readers then run out of credit and TCP pushes back.
- the writer, a C thread: takes what has been appended, completes index entries (checksums), writes both files, syncs,
  moves the ends. While it syncs, the next group gathers. It alone creates segments.
- the syncer, a C thread, only with durability `os`: syncs every second, or when half of the buffer waits for it.
`_lock` guards the chunk lists, `_next_seq` and the flags below it; it is held for one copy at most. `_sync_lock` guards
`_segment` and everything from an fdatasync to the record of its result, so that no failure is overlooked: the kernel
reports it once. Order: `_sync_lock` before `_lock`.

Memory: chunks are allocated when first needed and kept; bytes of an event stay in its chunk until they are synced. A
chunk that is not needed gives its pages back.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from atomics cimport (zl_add32, zl_bump64, zl_futex_wait, zl_futex_wake, zl_load32, zl_load64, zl_load64_relaxed,
                      zl_monotonic_us, zl_store32, zl_store64)
from fileio cimport EDQUOT, EIO, ENOSPC, MADV_DONTNEED, errno, fdatasync, madvise
from hashes cimport zl_crc32c, zl_siphash24
from threads cimport pthread_join, pthread_t, zl_lock, zl_mutex, zl_thread_start, zl_unlock

from zlay._fast.host cimport Host, host_give_credit
from zlay._fast.mem cimport MEM_LOG, zl_free, zl_malloc
from zlay._fast.segments cimport (SEG_ENTRY_BYTES, SEG_HEADER_BYTES, SEG_MAX_FRAME_BYTES, IndexEntry, Segment,
                                  entry_checksum, segment_acquire, segment_create, segment_release, segments_oldest,
                                  segments_retain, write_all)

__all__ = ["append", "ends", "hash_did", "set_did_key", "retain", "set_keep_from", "set_retention", "start", "status", "stop",
           "wait_published", "wait_synced"]

cdef enum:
    CHUNK_BYTES = 8 << 20        # holds one largest frame and more; most of a group is one write
    CHUNK_EVENTS = 16384         # index entries of a chunk: 1 MiB
    PAGE = 4096
    EVERYBODY = 0x7FFFFFFF       # of a futex's waiters
    WRITER_STACK = 256 << 10
    OS_SYNC_MS = 1000            # durability `os`: how much a power loss may cost
    RETRY_FIRST_MS = 100         # after a failure: doubled up to the next
    RETRY_MOST_MS = 1000
    SYNC_BUCKETS = 24            # histogram of sync times, bucket b: below 2**b microseconds

cdef enum Durability:
    DURABLE_FSYNC
    DURABLE_OS

cdef enum Fault:                 # what the writer is retrying
    FAULT_NONE
    FAULT_CREATE
    FAULT_WRITE
    FAULT_SYNC

cdef struct Pending:             # what an event needs besides its index entry until it is synced
    Host *host
    uint32_t cost
    uint32_t start               # of its WebSocket header in the chunk

cdef struct Chunk:               # owner: this module; `used`, `n`, `next` under _lock, bytes below them never change
    Chunk *next
    uint8_t *data
    IndexEntry *entries
    Pending *pending
    uint64_t first_seq           # of entries[0]
    uint32_t used
    uint32_t n
    uint32_t done                # events synced, credit given back; the syncing thread's (_sync_lock)

# --- under _lock ---
cdef zl_mutex _lock
cdef Chunk *_head = NULL         # oldest chunk with bytes not yet synced
cdef Chunk *_tail = NULL         # where appenders write
cdef Chunk *_spare = NULL
cdef uint32_t _chunks = 0        # allocated
cdef uint32_t _max_chunks = 0
cdef uint64_t _next_seq = 0
cdef bint _open = False          # appending is allowed
cdef bint _closing = False       # the writer ends when everything is written
cdef bint _writer_idle = False
cdef uint32_t _room_waiters = 0

# --- under _sync_lock ---
cdef zl_mutex _sync_lock
cdef Segment *_segment = NULL    # held once; NULL = the next group begins one
cdef uint32_t _rewind = 0        # atomic; the active segment is not to be trusted: write again from synced_end

# --- the writer's own ---
cdef uint64_t _segment_first_us = 0

# --- atomics ---
cdef uint64_t _appended = 0
cdef uint64_t _written = 0
cdef uint64_t _synced = 0
cdef uint64_t _published = 0
cdef uint64_t _newest_us = 0
cdef uint64_t _buffered = 0      # bytes appended and not yet synced; changed under _lock
cdef uint32_t _room_word = 0
cdef uint32_t _work_word = 0
cdef uint32_t _sync_word = 0
cdef uint32_t _ends_word = 0
cdef uint32_t _ends_waiters = 0
cdef uint32_t _writer_done = 0
cdef uint32_t _give_up = 0      # stop() has run out of patience
cdef uint32_t _syncer_stop = 0
cdef uint32_t _fault = FAULT_NONE
cdef uint32_t _fault_errno = 0
cdef uint64_t _fault_since_us = 0
cdef uint64_t _keep_from = 0     # nothing at or above it is retired; 0 = nothing is retired
cdef uint64_t _retain_age_us = 0
cdef uint64_t _retain_bytes = 0
cdef uint64_t _retain_free_percent = 0
# counters: appenders' under _lock, the others written by one thread each
cdef uint64_t _waited = 0
cdef uint64_t _groups = 0
cdef uint64_t _group_events = 0
cdef uint64_t _group_bytes = 0
cdef uint64_t _faults = 0
cdef uint64_t _syncs = 0
cdef uint64_t _sync_us = 0
cdef uint64_t _sync_worst_us = 0
cdef uint64_t _sync_histogram[SYNC_BUCKETS]

# --- settings; constant while the writer runs ---
cdef Durability _durability = DURABLE_FSYNC
cdef uint64_t _segment_bytes = 0
cdef uint64_t _segment_entries = 0
cdef uint64_t _segment_span_us = 0
cdef uint64_t _first_own = 0     # the first seq this process gives out
cdef uint64_t _previous_last = 0 # the highest seq in the log before it
cdef uint64_t _key0 = 0
cdef uint64_t _key1 = 0
cdef log_wake_fn _wake = NULL
cdef pthread_t _writer
cdef pthread_t _syncer
cdef bint _running = False


cdef uint64_t did_hash(const uint8_t *did, uint32_t n) noexcept nogil:
    cdef uint64_t h = zl_siphash24(_key0, _key1, did, n)
    return h if h else 1


cdef uint64_t log_appended_end() noexcept nogil:
    return zl_load64(&_appended)


cdef uint64_t log_synced_end() noexcept nogil:
    return zl_load64(&_synced)


cdef uint64_t log_published_end() noexcept nogil:
    return zl_load64(&_published)


cdef void log_set_wake(log_wake_fn fn) noexcept nogil:
    global _wake
    _wake = fn


# --- the sequencer -----------------------------------------------------------------------------------------------

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
    global _tail, _head, _spare, _chunks
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
    if _tail == NULL:
        _head = c
    else:
        _tail.next = c
    _tail = c
    return c


cdef uint64_t log_append(const LogEvent *e) noexcept nogil:
    global _next_seq, _room_waiters, _writer_idle, _buffered, _waited
    cdef uint64_t seq
    cdef uint32_t n, need, word
    cdef Chunk *c
    cdef uint8_t *p
    cdef IndexEntry *entry
    cdef bint wake
    if e.seq_off > e.n or e.seq_len > e.n - e.seq_off or e.n > SEG_MAX_FRAME_BYTES:
        return 0
    zl_lock(&_lock)
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
        if zl_load32(&_fault) == FAULT_NONE:
            c = _append_chunk(need)
            if c != NULL:
                break
        _waited += 1
        _room_waiters += 1
        word = zl_load32(&_room_word)
        zl_unlock(&_lock)
        zl_futex_wait(&_room_word, word, RETRY_MOST_MS)
        zl_lock(&_lock)
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
    return seq


# --- after a sync: ends, credit, chunks -------------------------------------------------------------------------

cdef void _tell_ends() noexcept nogil:
    zl_add32(&_ends_word, 1)
    if zl_load32(&_ends_waiters):
        zl_futex_wake(&_ends_word, EVERYBODY)


cdef void _publish(uint64_t seq) noexcept nogil:
    """published_end never goes back, also while a group is written again."""
    if seq > zl_load64(&_published):
        zl_store64(&_published, seq)
        if _wake != NULL:
            _wake()


cdef void _give_credit(Chunk *c, uint32_t upto) noexcept nogil:
    """Requires `_sync_lock`. Runs of one host's events give back at once."""
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


cdef void _set_aside(Chunk *c) noexcept nogil:
    """Requires `_lock`. One spare chunk keeps its pages, the others give them back."""
    global _spare
    cdef uint64_t first = (<uint64_t> c.entries + PAGE - 1) & ~<uint64_t> (PAGE - 1)
    cdef uint64_t end = (<uint64_t> c.data + CHUNK_BYTES) & ~<uint64_t> (PAGE - 1)
    if _spare != NULL:
        madvise(<void *> first, end - first, MADV_DONTNEED)
    c.next = _spare
    _spare = c


cdef void _synced_to(uint64_t seq) noexcept nogil:
    """Requires `_sync_lock`. Everything up to seq is on disk."""
    global _head, _tail, _buffered
    cdef Chunk *c
    cdef uint64_t freed = 0, upto
    cdef uint32_t before, waiters
    zl_store64(&_synced, seq)
    if _durability == DURABLE_FSYNC:
        _publish(seq)
    _tell_ends()
    zl_lock(&_lock)
    c = _head
    while c != NULL and c.first_seq <= seq:
        upto = seq - c.first_seq + 1
        if upto > c.n:
            upto = c.n
        before = c.done
        if upto > before:
            freed += c.pending[upto - 1].start + c.entries[upto - 1].length - c.pending[before].start
        zl_unlock(&_lock)
        _give_credit(c, <uint32_t> upto)
        zl_lock(&_lock)
        if c.done < c.n:
            break
        if c == _tail:                               # nothing waits: begin again on the same warm pages
            c.used = c.n = c.done = 0
            c.first_seq = _next_seq
            break
        _head = c.next
        _set_aside(c)
        c = _head
    zl_store64(&_buffered, _buffered - freed)
    waiters = _room_waiters
    if waiters:
        zl_add32(&_room_word, 1)
    zl_unlock(&_lock)
    if waiters:
        zl_futex_wake(&_room_word, EVERYBODY)


cdef int _sync_files(Segment *s) noexcept nogil:
    """fdatasync of both files, timed. 0 or an errno."""
    cdef uint64_t begin = zl_monotonic_us(), took
    cdef int bucket = 0
    if fdatasync(s.frames_fd) != 0 or fdatasync(s.index_fd) != 0:
        return errno if errno else EIO
    took = zl_monotonic_us() - begin
    zl_bump64(&_syncs, 1)
    zl_bump64(&_sync_us, took)
    if took > zl_load64_relaxed(&_sync_worst_us):
        zl_store64(&_sync_worst_us, took)
    while bucket < SYNC_BUCKETS - 1 and took >= (<uint64_t> 1 << bucket):
        bucket += 1
    zl_bump64(&_sync_histogram[bucket], 1)
    return 0


cdef int _sync_written() noexcept nogil:
    """Requires `_sync_lock`. Syncs what the writer has written; 0, or an errno and `_rewind` is set."""
    cdef uint64_t target = zl_load64(&_written)
    cdef int error
    if zl_load32(&_rewind):
        return EIO
    if target == zl_load64(&_synced):
        return 0
    error = _sync_files(_segment)
    if error:
        zl_store32(&_rewind, 1)
        return error
    _synced_to(target)
    return 0


# --- the writer -------------------------------------------------------------------------------------------------

cdef void _set_fault(int what, int error) noexcept nogil:
    if zl_load32(&_fault) == FAULT_NONE:
        zl_store64(&_fault_since_us, zl_monotonic_us())
        zl_bump64(&_faults, 1)
    zl_store32(&_fault_errno, <uint32_t> error)
    zl_store32(&_fault, <uint32_t> what)


cdef void _clear_fault() noexcept nogil:
    cdef uint32_t waiters
    if zl_load32(&_fault) == FAULT_NONE:
        return
    zl_lock(&_lock)
    zl_store32(&_fault, FAULT_NONE)
    waiters = _room_waiters
    if waiters:
        zl_add32(&_room_word, 1)
    zl_unlock(&_lock)
    if waiters:
        zl_futex_wake(&_room_word, EVERYBODY)


cdef inline bint _is_full(int error) noexcept nogil:
    return error == ENOSPC or error == EDQUOT


cdef uint64_t _retain() noexcept nogil:
    return segments_retain(zl_load64(&_retain_age_us), zl_load64(&_retain_bytes), zl_load64(&_retain_free_percent),
                           zl_load64(&_keep_from), zl_load64(&_newest_us))


cdef bint _segment_full(uint64_t recv_us) noexcept nogil:
    """Whether the next event begins a new segment: by size, by entries, by the time it spans."""
    cdef uint64_t n = zl_load64(&_written) + 1 - _segment.first_seq
    if n == 0:
        return False
    return (zl_load64(&_segment.frames_bytes) >= _segment_bytes or n >= _segment_entries
            or (recv_us > _segment_first_us and recv_us - _segment_first_us >= _segment_span_us))


cdef Chunk *_locate(uint64_t seq, uint32_t *n) noexcept nogil:
    """The chunk of seq, and how many events it holds by now."""
    cdef Chunk *c
    zl_lock(&_lock)
    c = _head
    while c.first_seq + c.n <= seq:
        c = c.next
    n[0] = c.n
    zl_unlock(&_lock)
    return c


cdef int _new_segment() noexcept nogil:
    """Requires `_sync_lock`. Everything before it is synced, or is written again into it."""
    global _segment, _segment_first_us
    cdef Segment *s
    cdef uint64_t last = zl_load64(&_synced)
    cdef int error = segment_create(last + 1, last if last >= _first_own else _previous_last, &s)
    if error:
        return error
    if _segment != NULL:
        segment_release(_segment)
    _segment = s
    _segment_first_us = 0
    zl_store32(&_rewind, 0)
    zl_store64(&_written, last)
    return 0


cdef int _write_part(Chunk *c, uint32_t i, uint32_t n, uint64_t *done) noexcept nogil:
    """Events i..n-1 of a chunk, as many as the segment takes, at its end. done = events written."""
    cdef uint64_t at = zl_load64(&_segment.frames_bytes), seq = c.first_seq + i, synced = zl_load64(&_synced)
    cdef uint64_t newest = 0
    cdef uint32_t start = c.pending[i].start, k = i
    cdef IndexEntry *e
    cdef int error
    while k < n:
        e = &c.entries[k]
        e.offset = at + (c.pending[k].start - start)
        if k > i and (e.offset >= _segment_bytes or seq + (k - i) - _segment.first_seq >= _segment_entries):
            break
        e.synced_end = synced
        e.frame_crc = zl_crc32c(0, c.data + c.pending[k].start, e.length)
        e.entry_crc = entry_checksum(seq + (k - i), e)
        if e.recv_us > newest:
            newest = e.recv_us
        k += 1
    e = &c.entries[k - 1]
    error = write_all(_segment.frames_fd, c.data + start, c.pending[k - 1].start + e.length - start, at)
    if error == 0:
        error = write_all(_segment.index_fd, &c.entries[i], <size_t> (k - i) * SEG_ENTRY_BYTES,
                          SEG_HEADER_BYTES + (seq - _segment.first_seq) * SEG_ENTRY_BYTES)
    if error:
        return error
    zl_store64(&_segment.frames_bytes, e.offset + e.length)
    if newest > zl_load64(&_segment.newest_us):
        zl_store64(&_segment.newest_us, newest)
    if newest > zl_load64(&_newest_us):
        zl_store64(&_newest_us, newest)
    zl_bump64(&_group_bytes, e.offset + e.length - at)
    done[0] = k - i
    return 0


cdef int _right_segment(uint64_t end, int *what) noexcept nogil:
    """Sees to it that the active segment is one to be trusted and has room. 0, or an errno and what failed."""
    cdef uint64_t seq = zl_load64(&_written) + 1
    cdef uint32_t n
    cdef Chunk *c
    cdef int error
    what[0] = FAULT_CREATE
    if zl_load32(&_rewind) or _segment == NULL:
        return _new_segment()
    if seq > end:
        return 0
    c = _locate(seq, &n)
    if not _segment_full(c.entries[seq - c.first_seq].recv_us):
        return 0
    error = _sync_written()
    if error:
        what[0] = FAULT_SYNC
        return error
    return _new_segment()


cdef int _write_group(uint64_t end, int *what) noexcept nogil:
    """What fits of (written, end] into one segment; then, unless durability is `os`, its sync. 0, or an errno and what
    failed."""
    global _segment_first_us
    cdef uint64_t seq, done = 0, recv_us
    cdef uint32_t n
    cdef Chunk *c
    cdef int error
    zl_lock(&_sync_lock)
    error = _right_segment(end, what)
    zl_unlock(&_sync_lock)
    if error:
        return error
    seq = zl_load64(&_written) + 1
    what[0] = FAULT_WRITE
    while seq <= end:
        c = _locate(seq, &n)
        recv_us = c.entries[seq - c.first_seq].recv_us
        if _segment_first_us == 0:
            _segment_first_us = recv_us
        elif _segment_full(recv_us):
            break
        error = _write_part(c, <uint32_t> (seq - c.first_seq), n, &done)
        if error:
            if not _is_full(error):
                zl_store32(&_rewind, 1)
            return error
        seq += done
        zl_store64(&_written, seq - 1)
        zl_bump64(&_group_events, done)
    zl_bump64(&_groups, 1)
    if _durability == DURABLE_OS:
        _publish(zl_load64(&_written))
        _tell_ends()
        if zl_load64(&_buffered) > <uint64_t> _max_chunks * CHUNK_BYTES // 2:
            zl_add32(&_sync_word, 1)
            zl_futex_wake(&_sync_word, 1)
        return 0
    what[0] = FAULT_SYNC
    zl_lock(&_sync_lock)
    error = _sync_written()
    zl_unlock(&_sync_lock)
    return error


cdef int _final_sync() noexcept nogil:
    cdef int error
    zl_lock(&_sync_lock)
    error = _sync_written()
    zl_unlock(&_sync_lock)
    return error


cdef void *_writer_main(void *arg) noexcept nogil:
    """The writer: ends when the log closes and all is written and synced, or when stop() has given up."""
    global _writer_idle
    cdef uint64_t end
    cdef uint32_t word
    cdef int error, what = FAULT_NONE
    cdef int64_t pause = RETRY_FIRST_MS
    cdef bint nothing
    while not zl_load32(&_give_up):
        zl_lock(&_lock)
        end = _next_seq - 1
        word = zl_load32(&_work_word)
        nothing = end == zl_load64(&_written) and not zl_load32(&_rewind)
        if nothing and not _closing:
            _writer_idle = True
            zl_unlock(&_lock)
            zl_futex_wait(&_work_word, word, OS_SYNC_MS)
            continue
        zl_unlock(&_lock)
        if nothing:
            what = FAULT_SYNC
            error = _final_sync()
            if error == 0:
                break
        else:
            error = _write_group(end, &what)
        if error == 0:
            pause = RETRY_FIRST_MS
            _clear_fault()
            continue
        _set_fault(what, error)
        if _is_full(error):
            _retain()
        zl_futex_wait(&_work_word, word, pause)
        pause = min(pause * 2, <int64_t> RETRY_MOST_MS)
    zl_store32(&_writer_done, 1)
    zl_futex_wake(&_writer_done, 1)
    return NULL


cdef void _wake_writer() noexcept nogil:
    global _writer_idle
    zl_lock(&_lock)
    _writer_idle = False
    zl_add32(&_work_word, 1)
    zl_unlock(&_lock)
    zl_futex_wake(&_work_word, 1)


cdef void *_syncer_main(void *arg) noexcept nogil:
    """The syncer of durability `os`: a failure is the writer's to mend. It ends when stop() says so."""
    cdef uint32_t word
    cdef int error
    while not zl_load32(&_syncer_stop):
        word = zl_load32(&_sync_word)
        if not zl_load32(&_syncer_stop):
            zl_futex_wait(&_sync_word, word, OS_SYNC_MS)
        zl_lock(&_sync_lock)
        error = 0 if zl_load32(&_rewind) else _sync_written()
        zl_unlock(&_sync_lock)
        if error:
            _set_fault(FAULT_SYNC, error)
            _wake_writer()
    return NULL


# --- for zlay.eventlog, tests and tools -------------------------------------------------------------------------

FAULTS = ("none", "create", "write", "sync")


def set_did_key(bytes key):
    """The store's key of did_hash, 16 bytes; before the first frame is read."""
    global _key0, _key1
    if len(key) != 16:
        raise ValueError("the key has 16 bytes")
    memcpy(&_key0, PyBytes_AS_STRING(key), 8)
    memcpy(&_key1, PyBytes_AS_STRING(key) + 8, 8)


def hash_did(bytes did):
    """did_hash of a DID."""
    return did_hash(<const uint8_t *> PyBytes_AS_STRING(did), <uint32_t> len(did))


def start(uint64_t next_seq, uint64_t previous_last, bint continue_last, *, bint os_durability=False,
          uint64_t segment_bytes=512 << 20, uint64_t segment_entries=1 << 20, uint64_t segment_span_us=3_600_000_000,
          uint64_t newest_us=0, uint32_t buffer_chunks=8):
    """Open the log for appending and start its threads. The segment table is filled.

    next_seq is the first number to give out; previous_last the highest one in the log. continue_last = the active
    segment of the table ends just before next_seq and is written on. buffer_chunks (8 MiB each, at least 2) bounds what
    may be appended and not yet synced. Raises OSError, RuntimeError. One thread.
    """
    global _open, _closing, _next_seq, _segment, _durability, _segment_bytes, _segment_entries, _segment_span_us
    global _max_chunks, _first_own, _previous_last, _running, _segment_first_us, _writer_idle
    cdef uint64_t at
    cdef int error
    if _running:
        raise RuntimeError("the log is open already")
    if next_seq == 0 or previous_last >= next_seq:
        raise ValueError("next_seq must be above what is in the log")
    if continue_last and segment_acquire(next_seq, &_segment, &at) != 0:
        raise OSError(EIO, "the active segment cannot be opened")
    _durability = DURABLE_OS if os_durability else DURABLE_FSYNC
    _segment_bytes = segment_bytes
    _segment_entries = segment_entries
    _segment_span_us = segment_span_us
    _segment_first_us = 0
    _max_chunks = max(buffer_chunks, <uint32_t> 2)
    _next_seq = _first_own = next_seq
    _previous_last = previous_last
    zl_store64(&_appended, next_seq - 1)
    zl_store64(&_written, next_seq - 1)
    zl_store64(&_synced, next_seq - 1)
    zl_store64(&_published, next_seq - 1)
    zl_store64(&_newest_us, newest_us)
    _reset_counters()
    zl_store32(&_rewind, 0)
    zl_store32(&_give_up, 0)
    zl_store32(&_syncer_stop, 0)
    zl_store32(&_writer_done, 0)
    zl_store32(&_fault, FAULT_NONE)
    _closing = _writer_idle = False
    error = zl_thread_start(&_writer, WRITER_STACK, b"zlay-log", _writer_main, NULL)
    if error == 0 and os_durability:
        error = zl_thread_start(&_syncer, WRITER_STACK, b"zlay-log-sync", _syncer_main, NULL)
        if error:
            zl_store32(&_give_up, 1)
            _wake_writer()
            pthread_join(_writer, NULL)
    if error:
        _let_go()
        raise OSError(error, "cannot start the log's threads")
    _running = _open = True


cdef void _reset_counters() noexcept:
    global _waited, _groups, _group_events, _group_bytes, _faults, _syncs, _sync_us, _sync_worst_us, _keep_from
    global _retain_age_us, _retain_bytes, _retain_free_percent, _buffered
    _waited = _groups = _group_events = _group_bytes = _faults = _syncs = _sync_us = _sync_worst_us = 0
    _keep_from = _retain_age_us = _retain_bytes = _retain_free_percent = _buffered = 0
    memset(_sync_histogram, 0, sizeof(_sync_histogram))


cdef void _let_go() noexcept:
    """Frees chunks and the active segment; the threads have ended."""
    global _segment, _head, _tail, _spare, _chunks
    cdef Chunk *c
    if _segment != NULL:
        segment_release(_segment)
        _segment = NULL
    while _head != NULL:
        c = _head.next
        zl_free(_head)
        _head = c
    while _spare != NULL:
        c = _spare.next
        zl_free(_spare)
        _spare = c
    _tail = NULL
    _chunks = 0


def stop(double deadline_s=10.0):
    """Close: appenders get 0 from now on, what was appended is written and synced. True = all of it is on disk.

    While the disk fails it is tried again until the deadline; what is lost then was never published (or, with
    durability `os`, had been written). Appenders have left log_append when their threads are joined: before that.
    """
    global _open, _closing, _running
    cdef uint64_t deadline = zl_monotonic_us() + <uint64_t> (deadline_s * 1e6), now
    cdef bint complete
    if not _running:
        return True
    with nogil:
        zl_lock(&_lock)
        _open = False
        _closing = True
        zl_add32(&_room_word, 1)
        zl_unlock(&_lock)
        zl_futex_wake(&_room_word, EVERYBODY)
        _wake_writer()
        while not zl_load32(&_writer_done):
            now = zl_monotonic_us()
            if now >= deadline:
                break
            zl_futex_wait(&_writer_done, 0, <int64_t> ((deadline - now) // 1000 + 1))
        zl_store32(&_give_up, 1)
        _wake_writer()
        pthread_join(_writer, NULL)
        if _durability == DURABLE_OS:
            zl_store32(&_syncer_stop, 1)
            zl_add32(&_sync_word, 1)
            zl_futex_wake(&_sync_word, 1)
            pthread_join(_syncer, NULL)
    complete = zl_load64(&_synced) == zl_load64(&_appended)
    _let_go()
    _running = False
    return complete


def append(bytes frame, uint32_t seq_off, uint32_t seq_len, *, int kind=0, int flags=0, int upstream_status=0,
           int effective_status=0, uint32_t host_id=0, uint32_t host_epoch=0, uint64_t upstream_seq=0,
           uint64_t recv_us=0, uint64_t did_hash=0):
    """Append one message; its seq, or 0 when the log is closed or the message too large. Any thread; may wait."""
    cdef LogEvent e
    cdef uint64_t seq
    memset(&e, 0, sizeof(e))
    e.data = <const uint8_t *> PyBytes_AS_STRING(frame)
    e.n = <uint32_t> len(frame)
    e.seq_off = seq_off
    e.seq_len = seq_len
    e.kind = <uint8_t> kind
    e.flags = <uint8_t> flags
    e.upstream_status = <uint8_t> upstream_status
    e.effective_status = <uint8_t> effective_status
    e.host_id = host_id
    e.host_epoch = host_epoch
    e.upstream_seq = upstream_seq
    e.recv_us = recv_us
    e.did_hash = did_hash
    with nogil:
        seq = log_append(&e)
    return seq


def ends():
    """(appended_end, synced_end, published_end); any thread."""
    return zl_load64(&_appended), zl_load64(&_synced), zl_load64(&_published)


cdef bint _wait_for(const uint64_t *end, uint64_t seq, double timeout_s):
    cdef uint64_t deadline = zl_monotonic_us() + <uint64_t> (timeout_s * 1e6), now
    cdef uint32_t word
    with nogil:
        zl_add32(&_ends_waiters, 1)
        while True:
            word = zl_load32(&_ends_word)
            now = zl_monotonic_us()
            if zl_load64(end) >= seq or now >= deadline:
                break
            zl_futex_wait(&_ends_word, word, <int64_t> ((deadline - now) // 1000 + 1))
        zl_add32(&_ends_waiters, <uint32_t> 0xFFFFFFFF)
    return zl_load64(end) >= seq


def wait_synced(uint64_t seq, double timeout_s):
    """Wait until synced_end has reached seq; False at the time-out. Any thread."""
    return _wait_for(&_synced, seq, timeout_s)


def wait_published(uint64_t seq, double timeout_s):
    """Wait until published_end has reached seq; False at the time-out. Any thread."""
    return _wait_for(&_published, seq, timeout_s)


def set_keep_from(uint64_t seq):
    """Nothing at or above seq is retired (a view still needs it); 0, as at the start, = nothing at all. Any thread."""
    zl_store64(&_keep_from, seq)


def set_retention(uint64_t max_age_us, uint64_t max_bytes, uint64_t free_percent):
    """What retain() keeps to; 0 = no such bound. Any thread."""
    zl_store64(&_retain_age_us, max_age_us)
    zl_store64(&_retain_bytes, max_bytes)
    zl_store64(&_retain_free_percent, free_percent)


def retain():
    """Take segments away that are beyond retention and that no view needs; bytes taken. Any thread."""
    cdef uint64_t gone
    with nogil:
        gone = _retain()
    return gone


def status():
    """Counters and state, for metrics and readiness; any thread."""
    cdef uint32_t fault = zl_load32(&_fault)
    oldest = segments_oldest()
    return {
        "open": _open,
        "durability": "os" if _durability == DURABLE_OS else "fsync",
        "appended_end": zl_load64(&_appended), "synced_end": zl_load64(&_synced),
        "published_end": zl_load64(&_published), "oldest_seq": oldest if oldest else zl_load64(&_appended) + 1,
        "newest_us": zl_load64(&_newest_us), "keep_from": zl_load64(&_keep_from),
        "fault": FAULTS[fault], "fault_errno": zl_load32(&_fault_errno) if fault else 0,
        "fault_s": (zl_monotonic_us() - zl_load64(&_fault_since_us)) / 1e6 if fault else 0.0,
        "faults": zl_load64_relaxed(&_faults),
        "buffered_bytes": zl_load64(&_buffered), "buffer_limit": <uint64_t> _max_chunks * CHUNK_BYTES,
        "waited": zl_load64_relaxed(&_waited), "groups": zl_load64_relaxed(&_groups),
        "events": zl_load64_relaxed(&_group_events), "bytes": zl_load64_relaxed(&_group_bytes),
        "syncs": zl_load64_relaxed(&_syncs), "sync_s": zl_load64_relaxed(&_sync_us) / 1e6,
        "sync_worst_s": zl_load64_relaxed(&_sync_worst_us) / 1e6,
        "sync_histogram": [zl_load64_relaxed(&_sync_histogram[i]) for i in range(SYNC_BUCKETS)],
    }
