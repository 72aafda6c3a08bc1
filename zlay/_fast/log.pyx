"""The event log: one writer behind the sequencer, and the three ends appended, synced, published (design 4).

Promises: what published_end covers is on disk (or, with durability `os`, written); a group whose sync failed is
written again from memory, same bytes and numbers, into a new segment; no event is given up while the process lives.
Assumes: one log per process; zlay.eventlog has recovered the directory and filled the segment table.

Threads:
- the writer, a C thread: takes what has been appended, completes index entries (checksums), writes both files, syncs,
  moves the ends. While it syncs, the next group gathers. It alone creates segments.
- the syncer, a C thread, only with durability `os`: syncs every second, or when half of the buffer waits for it.
`_sync_lock` guards `_segment` and everything from an fdatasync to the record of its result, so that no failure is
overlooked: the kernel reports it once. `_wake_lock` guards the call of `_wake`. The order: `_sync_lock`, then one of
`_wake_lock` and the sequencer's.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from atomics cimport (zl_add32, zl_bump64, zl_futex_wait, zl_futex_wake, zl_load32, zl_load64, zl_load64_relaxed,
                      zl_monotonic_us, zl_store32, zl_store64)
from crash_points cimport zl_crash_point, zl_crash_torn
from fileio cimport EIO
from hashes cimport zl_crc32c, zl_siphash24
from threads cimport pthread_join, pthread_t, zl_lock, zl_mutex, zl_thread_start, zl_unlock

from zlay._fast.published cimport published_note
from zlay._fast.segments cimport (SEG_ENTRY_BYTES, SEG_HEADER_BYTES, IndexEntry, Segment, entry_checksum,
                                  segment_acquire, segment_create, segment_release, segments_oldest, segments_retain,
                                  write_all)
from zlay._fast.sequencer cimport (Chunk, LogEvent, log_append, log_appended_end, sequencer_buffered, sequencer_close,
                                   sequencer_free, sequencer_is_open, sequencer_limit, sequencer_locate,
                                   sequencer_look, sequencer_open, sequencer_pause, sequencer_release,
                                   sequencer_sleep, sequencer_trim, sequencer_waits, sequencer_wake_writer)
from zlay._fast.writeback cimport begin_early, disk_is_full, sync_counters_reset, sync_pair
from zlay._fast.writeback import counters as sync_counters

__all__ = ["FAULTS", "append", "ends", "hash_did", "retain", "set_did_key", "set_keep_from", "set_retention", "start",
           "status", "stop", "wait_published", "wait_synced"]

cdef enum:
    EVERYBODY = 0x7FFFFFFF       # of a futex's waiters
    WRITER_STACK = 256 << 10
    OS_SYNC_MS = 1000            # durability `os`: how much a power loss may cost
    RETRY_FIRST_MS = 100         # after a failure: doubled up to the next
    RETRY_MOST_MS = 1000

cdef enum Durability:
    DURABLE_FSYNC
    DURABLE_OS

cdef enum Fault:                 # what the writer is retrying
    FAULT_NONE
    FAULT_CREATE
    FAULT_WRITE
    FAULT_SYNC

# --- under _sync_lock ---
cdef zl_mutex _sync_lock
cdef Segment *_segment = NULL    # held once; NULL = the next group begins one
cdef uint32_t _rewind = 0        # atomic; the active segment is not to be trusted: write again from synced_end

# --- under _wake_lock ---
cdef zl_mutex _wake_lock
cdef log_wake_fn _wake = NULL

# --- the writer's own ---
cdef uint64_t _segment_first_us = 0

# --- atomics ---
cdef uint64_t _written = 0
cdef uint64_t _synced = 0
cdef uint64_t _published = 0
cdef uint64_t _newest_us = 0
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
# counters, written by one thread each
cdef uint64_t _groups = 0
cdef uint64_t _group_events = 0
cdef uint64_t _group_bytes = 0
cdef uint64_t _faults = 0

# --- settings; constant while the writer runs ---
cdef Durability _durability = DURABLE_FSYNC
cdef uint64_t _segment_bytes = 0
cdef uint64_t _segment_entries = 0
cdef uint64_t _segment_span_us = 0
cdef uint64_t _first_own = 0     # the first seq this process gives out
cdef uint64_t _previous_last = 0  # the highest seq in the log before it
cdef uint64_t _key0 = 0
cdef uint64_t _key1 = 0
cdef pthread_t _writer
cdef pthread_t _syncer
cdef bint _running = False


cdef uint64_t did_hash(const uint8_t *did, uint32_t n) noexcept nogil:
    cdef uint64_t h = zl_siphash24(_key0, _key1, did, n)
    return h if h else 1


cdef uint64_t log_synced_end() noexcept nogil:
    return zl_load64(&_synced)


cdef uint64_t log_published_end() noexcept nogil:
    return zl_load64(&_published)


cdef void log_set_wake(log_wake_fn fn) noexcept nogil:
    """When it returns, the function before is not running and will not be called again: what it uses may go."""
    global _wake
    zl_lock(&_wake_lock)
    _wake = fn
    zl_unlock(&_wake_lock)


# --- after a sync: ends, credit, chunks -------------------------------------------------------------------------

cdef void _tell_ends() noexcept nogil:
    zl_add32(&_ends_word, 1)
    if zl_load32(&_ends_waiters):
        zl_futex_wake(&_ends_word, EVERYBODY)


cdef void _publish(uint64_t seq) noexcept nogil:
    """published_end never goes back, also while a group is written again."""
    if seq > zl_load64(&_published):
        zl_store64(&_published, seq)
        zl_lock(&_wake_lock)
        if _wake != NULL:
            _wake()
        zl_unlock(&_wake_lock)
        published_note(seq)
        zl_crash_point(b"publish.after")


cdef void _synced_to(uint64_t seq) noexcept nogil:
    """Requires `_sync_lock`. Everything up to seq is on disk."""
    zl_store64(&_synced, seq)
    if _durability == DURABLE_FSYNC:
        _publish(seq)
    _tell_ends()
    sequencer_release(seq)


cdef int _sync_written() noexcept nogil:
    """Requires `_sync_lock`. Syncs what the writer has written; 0, or an errno and `_rewind` is set."""
    cdef uint64_t target = zl_load64(&_written)
    cdef int error
    if zl_load32(&_rewind):
        return EIO
    if target == zl_load64(&_synced):
        return 0
    error = sync_pair(_segment.frames_fd, _segment.index_fd)
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
    sequencer_pause(True)


cdef void _clear_fault() noexcept nogil:
    if zl_load32(&_fault) != FAULT_NONE:
        zl_store32(&_fault, FAULT_NONE)
        sequencer_pause(False)


cdef uint64_t _retain() noexcept nogil:
    return segments_retain(zl_load64(&_retain_age_us), zl_load64(&_retain_bytes), zl_load64(&_retain_free_percent),
                           zl_load64(&_keep_from), zl_load64(&_newest_us))


cdef inline bint _full(uint64_t frames_bytes, uint64_t n, uint64_t recv_us) noexcept nogil:
    """Whether the next event begins a new segment: by size, by entries, by the time it spans."""
    return n and (frames_bytes >= _segment_bytes or n >= _segment_entries
                  or (recv_us > _segment_first_us and recv_us - _segment_first_us >= _segment_span_us))


cdef bint _segment_full(uint64_t recv_us) noexcept nogil:
    return _full(zl_load64(&_segment.frames_bytes), zl_load64(&_written) + 1 - _segment.first_seq, recv_us)


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
    cdef uint64_t newest = 0, index_at
    cdef uint32_t start = c.pending[i].start, k = i
    cdef size_t frames_bytes, index_bytes
    cdef IndexEntry *e
    cdef int error
    while k < n:
        e = &c.entries[k]
        e.offset = at + (c.pending[k].start - start)
        if k > i and _full(e.offset, seq + (k - i) - _segment.first_seq, e.recv_us):
            break
        e.synced_end = synced
        e.frame_crc = zl_crc32c(0, c.data + c.pending[k].start, e.length)
        e.entry_crc = entry_checksum(seq + (k - i), e)
        if e.recv_us > newest:
            newest = e.recv_us
        k += 1
    e = &c.entries[k - 1]
    frames_bytes = c.pending[k - 1].start + e.length - start
    index_bytes = (k - i) * SEG_ENTRY_BYTES
    index_at = SEG_HEADER_BYTES + (seq - _segment.first_seq) * SEG_ENTRY_BYTES
    zl_crash_point(b"write.before")
    zl_crash_torn(b"write.frames.torn", _segment.frames_fd, c.data + start, frames_bytes, at)
    error = write_all(_segment.frames_fd, c.data + start, frames_bytes, at)
    if error == 0:
        error = begin_early(_segment.frames_fd, at, frames_bytes)
    if error:
        return error
    zl_crash_point(b"write.between")
    zl_crash_torn(b"write.index.torn", _segment.index_fd, &c.entries[i], index_bytes, index_at)
    error = write_all(_segment.index_fd, &c.entries[i], index_bytes, index_at)
    if error:
        return error
    zl_crash_point(b"write.after")
    zl_store64(&_segment.frames_bytes, e.offset + e.length)
    if newest > zl_load64(&_segment.newest_us):
        zl_store64(&_segment.newest_us, newest)
    if newest > zl_load64(&_newest_us):
        zl_store64(&_newest_us, newest)
    zl_bump64(&_group_bytes, e.offset + e.length - at)
    done[0] = k - i
    return 0


cdef bint _is_right_segment(uint64_t end) noexcept nogil:
    """Whether the active segment is one to be trusted and has room. Needs no lock: the writer alone changes it."""
    cdef uint64_t seq = zl_load64(&_written) + 1
    cdef uint32_t n
    cdef Chunk *c
    if zl_load32(&_rewind) or _segment == NULL:
        return False
    if seq > end:
        return True
    c = sequencer_locate(seq, &n)
    return not _segment_full(c.entries[seq - c.first_seq].recv_us)


cdef int _right_segment(int *what) noexcept nogil:
    """Requires `_sync_lock`. Begins a segment in the place of one that is not right. 0, or an errno and what failed."""
    cdef int error
    what[0] = FAULT_CREATE
    if zl_load32(&_rewind) or _segment == NULL:
        return _new_segment()
    error = _sync_written()
    if error:
        what[0] = FAULT_SYNC
        return error
    zl_crash_point(b"rotate.before")
    error = _new_segment()
    zl_crash_point(b"rotate.after")
    return error


cdef int _write_group(uint64_t end, int *what) noexcept nogil:
    """What fits of (written, end] into one segment and half of the buffer; then, unless durability is `os`, its sync.
    0, or an errno and what failed.

    Half, because the other half fills meanwhile: where one group took nearly all, the next would find next to nothing.
    """
    global _segment_first_us
    cdef uint64_t seq, done = 0, recv_us, begun = zl_load64_relaxed(&_group_bytes)
    cdef uint32_t n
    cdef Chunk *c
    cdef int error
    if not _is_right_segment(end):                   # no waiting for a sync under way (durability `os`) if it is
        zl_lock(&_sync_lock)
        error = _right_segment(what)
        zl_unlock(&_sync_lock)
        if error:
            return error
    seq = zl_load64(&_written) + 1
    what[0] = FAULT_WRITE
    while seq <= end and zl_load64_relaxed(&_group_bytes) - begun < sequencer_limit() // 2:
        c = sequencer_locate(seq, &n)
        recv_us = c.entries[seq - c.first_seq].recv_us
        if _segment_first_us == 0:
            _segment_first_us = recv_us
        elif _segment_full(recv_us):
            break
        error = _write_part(c, <uint32_t> (seq - c.first_seq), n, &done)
        if error:
            if not disk_is_full(error):
                zl_store32(&_rewind, 1)
            return error
        seq += done
        zl_store64(&_written, seq - 1)
        zl_bump64(&_group_events, done)
    zl_bump64(&_groups, 1)
    if _durability == DURABLE_OS:
        _publish(zl_load64(&_written))
        _tell_ends()
        if sequencer_buffered() > sequencer_limit() // 2:
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
    cdef uint64_t end
    cdef uint32_t word
    cdef int error, what = FAULT_NONE
    cdef int64_t pause = RETRY_FIRST_MS
    cdef bint nothing, is_open
    while not zl_load32(&_give_up):
        is_open = sequencer_look(zl_load64(&_written), not zl_load32(&_rewind), &end, &word)
        nothing = end == zl_load64(&_written) and not zl_load32(&_rewind)
        sequencer_trim()
        if nothing and is_open:
            sequencer_sleep(word, OS_SYNC_MS)
            continue
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
        if disk_is_full(error):
            _retain()
        sequencer_sleep(word, pause)
        pause = min(pause * 2, <int64_t> RETRY_MOST_MS)
    zl_store32(&_writer_done, 1)
    zl_futex_wake(&_writer_done, 1)
    return NULL


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
            sequencer_wake_writer()
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
    global _segment, _durability, _segment_bytes, _segment_entries, _segment_span_us, _first_own, _previous_last
    global _running, _segment_first_us
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
    _first_own = next_seq
    _previous_last = previous_last
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
    sequencer_open(next_seq, buffer_chunks)
    error = zl_thread_start(&_writer, WRITER_STACK, b"zlay-log", _writer_main, NULL)
    if error == 0 and os_durability:
        error = zl_thread_start(&_syncer, WRITER_STACK, b"zlay-log-sync", _syncer_main, NULL)
        if error:
            zl_store32(&_give_up, 1)
            sequencer_wake_writer()
            pthread_join(_writer, NULL)
    if error:
        _let_go()
        raise OSError(error, "cannot start the log's threads")
    _running = True


cdef void _reset_counters() noexcept:
    global _groups, _group_events, _group_bytes, _faults, _keep_from
    global _retain_age_us, _retain_bytes, _retain_free_percent
    _groups = _group_events = _group_bytes = _faults = 0
    _keep_from = _retain_age_us = _retain_bytes = _retain_free_percent = 0
    sync_counters_reset()


cdef void _let_go() noexcept:
    """Frees chunks and the active segment; the threads have ended."""
    global _segment
    if _segment != NULL:
        segment_release(_segment)
        _segment = NULL
    sequencer_free()


def seal():
    """Appenders get 0 from now on, those that wait for room too; what was appended is still written and synced."""
    if _running:
        with nogil:
            sequencer_close()


def stop(double deadline_s=10.0):
    """Close: appenders get 0 from now on, what was appended is written and synced. True = all of it is on disk.

    While the disk fails it is tried again until the deadline; what is lost then was never published (or, with
    durability `os`, had been written). Appenders have left log_append when their threads are joined: before that.
    """
    global _running
    cdef uint64_t deadline = zl_monotonic_us() + <uint64_t> (deadline_s * 1e6), now
    cdef bint complete
    if not _running:
        return True
    with nogil:
        sequencer_close()
        while not zl_load32(&_writer_done):
            now = zl_monotonic_us()
            if now >= deadline:
                break
            zl_futex_wait(&_writer_done, 0, <int64_t> ((deadline - now) // 1000 + 1))
        zl_store32(&_give_up, 1)
        sequencer_wake_writer()
        pthread_join(_writer, NULL)
        if _durability == DURABLE_OS:
            zl_store32(&_syncer_stop, 1)
            zl_add32(&_sync_word, 1)
            zl_futex_wake(&_sync_word, 1)
            pthread_join(_syncer, NULL)
    complete = zl_load64(&_synced) == log_appended_end()
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
    return log_appended_end(), zl_load64(&_synced), zl_load64(&_published)


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
    # In this order: while there is no segment, nothing has been synced, and the first one begins after synced.
    synced = zl_load64(&_synced)
    oldest = segments_oldest() or synced + 1
    return {
        "open": sequencer_is_open(),
        "durability": "os" if _durability == DURABLE_OS else "fsync",
        "appended_end": log_appended_end(), "synced_end": synced,
        "published_end": zl_load64(&_published), "oldest_seq": oldest,
        "newest_us": zl_load64(&_newest_us), "keep_from": zl_load64(&_keep_from),
        "fault": FAULTS[fault], "fault_errno": zl_load32(&_fault_errno) if fault else 0,
        "fault_s": (zl_monotonic_us() - zl_load64(&_fault_since_us)) / 1e6 if fault else 0.0,
        "faults": zl_load64_relaxed(&_faults),
        "buffered_bytes": sequencer_buffered(), "buffer_limit": sequencer_limit(),
        "waited": sequencer_waits(), "groups": zl_load64_relaxed(&_groups),
        "events": zl_load64_relaxed(&_group_events), "bytes": zl_load64_relaxed(&_group_bytes),
    } | sync_counters()
