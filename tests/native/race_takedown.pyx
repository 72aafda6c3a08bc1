"""Readers of the log against takedowns: ranges, index entries, the table of hidden accounts.

Authors append messages of some accounts; orders hide and show some of these, one account is hidden all the while;
readers read any part of the log, also while retention takes it away. Checked: no reader is shown what is hidden all the
while; what a reader is not shown is never of an account that nobody hides; messages are whole, each under its own
number. The test's own thread hides and shows, too, makes new entries, and counts in the end.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from tests.native.crew cimport (
    Crew, crew_fault, crew_join, crew_leave, crew_start, crew_stop, crew_stopped, random_below,
)
from zlay._fast.hidden cimport HIDE_ALL, Hidden, hidden_entry, hidden_set
from zlay._fast.includes.atomics cimport zl_bump64, zl_futex_wait, zl_load64
from zlay._fast.log cimport LogEvent, did_hash, log_append, log_appended_end, log_published_end
from zlay._fast.mem cimport MEM_MISC, zl_free, zl_malloc
from zlay._fast.message cimport Peek, message_peek
from zlay._fast.ranges cimport RANGE_READY, Range, range_free, range_next
from zlay._fast.segments cimport (
    SEG_FOUND, IndexEntry, Segment, entry_valid, read_all, segment_acquire, segment_entries, segment_release,
    segments_oldest, ws_header_bytes,
)

cdef enum:
    MOST_ACCOUNTS = 16
    AUTHORS = 2
    ORDERS = 2
    READERS = 3
    BUFFER_BYTES = 2 << 20
    RANGES_AT_ONCE = 50
    KIND = 4                      # 3 would stay visible

cpdef enum:
    FREE                          # nobody hides it
    SOMETIMES
    ALWAYS

cdef struct Voice:                # an account; constant but for what `hidden` points to
    const uint8_t *message        # of the bytes object that start() was given
    uint32_t message_n
    uint32_t seq_off
    const uint8_t *did            # in message
    uint32_t did_n
    uint64_t hash
    int role
    Hidden *hidden

cdef struct Worker:               # one thread's own
    uint64_t rng
    uint64_t done                 # atomic, this thread writes
    uint64_t skipped
    uint8_t *buffer

cdef Crew _authors
cdef Crew _orders
cdef Crew _readers
cdef Voice _voices[MOST_ACCOUNTS]
cdef uint32_t _n_voices = 0
cdef Worker _workers[AUTHORS + ORDERS + READERS]
cdef object _keep = None          # what the voices point into


cdef void *_write(void *arg) noexcept nogil:
    cdef Worker *w = <Worker *> arg
    cdef Voice *v
    cdef LogEvent e
    memset(&e, 0, sizeof(e))
    while not crew_stopped(&_authors):
        v = &_voices[random_below(&w.rng, _n_voices)]
        e.data = v.message
        e.n = v.message_n
        e.seq_off = v.seq_off
        e.seq_len = 1
        e.kind = KIND
        e.host_id = 1
        e.upstream_seq = w.done + 1
        e.did_hash = v.hash
        e.recv_us = 1000000 + w.done
        if log_append(&e) == 0:
            crew_fault(&_authors, True)
            break
        zl_bump64(&w.done, 1)
    crew_leave(&_authors)
    return NULL


cdef void *_order(void *arg) noexcept nogil:
    """As workers do: a takedown, and its end, up to which events stay hidden."""
    cdef Worker *w = <Worker *> arg
    cdef Voice *v
    cdef uint32_t never = 0, turn
    while not crew_stopped(&_orders):
        v = &_voices[random_below(&w.rng, _n_voices)]
        if v.role != SOMETIMES:
            continue
        turn = random_below(&w.rng, 3)
        hidden_set(v.hidden, HIDE_ALL if turn == 0 else log_appended_end() if turn == 1 else 0)
        zl_bump64(&w.done, 1)
        if random_below(&w.rng, 8) == 0:
            zl_futex_wait(&never, 0, 1)
    crew_leave(&_orders)
    return NULL


cdef int _role_of_hash(uint64_t hash) noexcept nogil:
    cdef uint32_t i
    for i in range(_n_voices):
        if _voices[i].hash == hash:
            return _voices[i].role
    return FREE


cdef int _role_of_did(const uint8_t *did, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(_n_voices):
        if _voices[i].did_n == n and memcmp(_voices[i].did, did, n) == 0:
            return _voices[i].role
    return -1


cdef void _check_skipped(Worker *w, uint64_t from_seq, uint64_t to_seq) noexcept nogil:
    """What a reader was not shown, as far as it is still there."""
    cdef Segment *s
    cdef IndexEntry e
    cdef uint64_t seq = from_seq, at
    while seq < to_seq and segment_acquire(seq, &s, &at) == SEG_FOUND:
        if at == seq:
            w.skipped += 1
            if segment_entries(s, seq, 1, &e) != 1 or not entry_valid(seq, &e) or _role_of_hash(e.did_hash) == FREE:
                crew_fault(&_readers, True)
        segment_release(s)
        seq += 1


cdef void _check_shown(Worker *w, const Range *r, uint64_t seq) noexcept nogil:
    """What a reader was shown: whole messages, from this seq on, of accounts that it may see."""
    cdef uint64_t n = <uint64_t> (r.end - r.start)
    cdef uint64_t at = 0, size
    cdef uint32_t i, head
    cdef int role
    cdef Peek peek
    if read_all(r.segment.frames_fd, w.buffer, n, <uint64_t> r.start) != 0:
        crew_fault(&_readers, True)
        return
    for i in range(r.n):
        size = r.ends[i] - at
        head = ws_header_bytes(<uint32_t> size)
        if message_peek(w.buffer + at + head, <uint32_t> size - head, &peek) != 0 or peek.seq != seq + i:
            crew_fault(&_readers, True)
            return
        role = _role_of_did(w.buffer + at + head + peek.did_off, peek.did_n)
        crew_fault(&_readers, role != FREE and role != SOMETIMES)
        at += size
    zl_bump64(&w.done, r.n)


cdef void *_read(void *arg) noexcept nogil:
    cdef Worker *w = <Worker *> arg
    cdef Range range_
    cdef uint64_t oldest, next_seq, before
    cdef uint32_t never = 0, _i
    while not crew_stopped(&_readers):
        memset(&range_, 0, sizeof(range_))
        oldest = max(segments_oldest(), <uint64_t> 1)
        next_seq = oldest + random_below(&w.rng, <uint32_t> (log_published_end() - oldest + 2))
        for _i in range(RANGES_AT_ONCE):
            before = next_seq
            if range_next(&range_, &next_seq) != RANGE_READY:
                break
            _check_skipped(w, before, next_seq)
            _check_shown(w, &range_, next_seq)
            next_seq += range_.n
            range_.offset = range_.end
        range_free(&range_)
        zl_futex_wait(&never, 0, 1)
    crew_leave(&_readers)
    return NULL


# --- for the test ----------------------------------------------------------------------------------------------------

def start(list voices):
    """Starts all threads. Each voice: (DID, message, where its one-byte seq stands, where its DID stands, role)."""
    global _n_voices, _keep
    cdef uint32_t i
    cdef int error = 0
    if not 0 < len(voices) <= MOST_ACCOUNTS:
        raise ValueError("voices")
    _keep = voices
    _n_voices = <uint32_t> len(voices)
    for i in range(_n_voices):
        did, message, seq_off, did_off, role = voices[i]
        _voices[i].message = <const uint8_t *> PyBytes_AS_STRING(message)
        _voices[i].message_n = <uint32_t> len(message)
        _voices[i].seq_off = seq_off
        _voices[i].did = _voices[i].message + <uint32_t> did_off
        _voices[i].did_n = <uint32_t> len(did)
        _voices[i].hash = did_hash(_voices[i].did, _voices[i].did_n)
        _voices[i].role = role
        _voices[i].hidden = hidden_entry(did) if role != FREE else NULL
        if role == ALWAYS:
            hidden_set(_voices[i].hidden, HIDE_ALL)
    memset(_workers, 0, sizeof(_workers))
    memset(&_authors, 0, sizeof(Crew))
    memset(&_orders, 0, sizeof(Crew))
    memset(&_readers, 0, sizeof(Crew))
    for i in range(AUTHORS + ORDERS + READERS):
        _workers[i].rng = 100 + i
    for i in range(AUTHORS):
        error = error or crew_start(&_authors, _write, &_workers[i])
    for i in range(AUTHORS, AUTHORS + ORDERS):
        error = error or crew_start(&_orders, _order, &_workers[i])
    for i in range(AUTHORS + ORDERS, AUTHORS + ORDERS + READERS):
        _workers[i].buffer = <uint8_t *> zl_malloc(MEM_MISC, BUFFER_BYTES)
        error = error or crew_start(&_readers, _read, &_workers[i])
    if error:
        raise OSError(error, "a thread cannot be started")


def finish():
    """Ends all threads; what happened, as a dict."""
    cdef uint32_t i
    crew_stop(&_authors)
    crew_stop(&_orders)
    crew_stop(&_readers)
    with nogil:
        crew_join(&_authors)
        crew_join(&_orders)
        crew_join(&_readers)
    for i in range(AUTHORS + ORDERS + READERS):
        zl_free(_workers[i].buffer)
    done = [zl_load64(&_workers[i].done) for i in range(AUTHORS + ORDERS + READERS)]
    return {
        "faults": _authors.faults + _readers.faults,
        "appended": sum(done[:AUTHORS]),
        "orders": sum(done[AUTHORS:AUTHORS + ORDERS]),
        "shown": sum(done[AUTHORS + ORDERS:]),
        "skipped": sum(_workers[i].skipped for i in range(AUTHORS + ORDERS, AUTHORS + ORDERS + READERS)),
    }


def visible(uint64_t from_seq):
    """Seqs that a reader from there on is shown now. Nobody writes."""
    cdef Range range_
    cdef uint64_t next_seq = from_seq
    seqs = []
    memset(&range_, 0, sizeof(range_))
    while range_next(&range_, &next_seq) == RANGE_READY:
        seqs.extend(range(next_seq, next_seq + range_.n))
        next_seq += range_.n
        range_.offset = range_.end
    range_free(&range_)
    return seqs
