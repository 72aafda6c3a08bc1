"""Appenders, readers and drains around the real log: sequencer, writer, syncer, segments, ranges, consumers.

Appenders charge their host and append numbered events; drains read what consumer threads send to their sockets, from
the first event on; range readers read any part of the log, also while retention takes it away. Checked: every drain
gets every event once, each appender's in order; every range holds whole events in the order of their numbers; in the
end nothing is charged. The test's own thread scrapes, retires segments, and lets other consumers come and go meanwhile.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from tests.native.crew cimport (
    Crew, crew_fault, crew_join, crew_leave, crew_start, crew_stop, crew_stopped, random_below,
)
from zlay._fast.host cimport (
    CREDIT_OK, Host, WAIT_CREDIT, host_at, host_interrupt, host_take_credit, host_wait, host_wait_ticket,
)
from zlay._fast.includes.atomics cimport (
    zl_bump64, zl_futex_wait, zl_load32, zl_load64, zl_load64_relaxed, zl_store32,
)
from zlay._fast.log cimport LogEvent, log_append, log_published_end, log_set_wake
from zlay._fast.mem cimport MEM_MISC, zl_free, zl_malloc
from zlay._fast.ranges cimport RANGE_READY, Range, range_free, range_next
from zlay._fast.segments cimport read_all, segments_oldest

cdef extern from "sys/socket.h" nogil:
    ssize_t recv(int fd, void *p, size_t n, int flags)

cdef enum:
    MOST_APPENDERS = 8
    MOST_DRAINS = 8
    READERS = 2
    HEAD_BYTES = 12               # of an event: appender u32, number u64; then the seq's place, then filling
    MOST_EVENT_BYTES = 1 << 17
    DRAIN_BYTES = 1 << 19
    WAIT_MS = 20
    RANGES_AT_ONCE = 50
    SLOW_WAKE_MS = 100

cdef struct Appender:
    uint32_t number
    Host *host
    uint64_t rng
    uint64_t appended             # atomic, this thread writes
    uint8_t data[MOST_EVENT_BYTES]

cdef struct Drain:
    int fd
    bint slow
    uint64_t rng
    uint64_t events               # atomic, this thread writes
    uint64_t next[MOST_APPENDERS]
    uint8_t *buffer

cdef struct Reader:
    uint64_t rng
    uint64_t ranges
    uint64_t events
    uint8_t *buffer

cdef Crew _appending
cdef Crew _draining
cdef Crew _reading
cdef Appender _appenders[MOST_APPENDERS]
cdef Drain _drains[MOST_DRAINS]
cdef Reader _readers[READERS]


# --- appenders -------------------------------------------------------------------------------------------------------

cdef bint _charge(Host *h, uint32_t cost) noexcept nogil:
    """Takes credit as a reader does; False = told to stop."""
    cdef uint32_t ticket
    cdef bint taken = False
    while not taken and not crew_stopped(&_appending):
        ticket = host_wait_ticket(h, WAIT_CREDIT)
        taken = host_take_credit(h, cost, 0) == CREDIT_OK
        host_wait(h, ticket, 0 if taken else WAIT_MS)
    return taken


cdef void *_append(void *arg) noexcept nogil:
    cdef Appender *a = <Appender *> arg
    cdef LogEvent e
    cdef uint64_t number
    memset(&e, 0, sizeof(e))
    memset(a.data, <int> a.number, MOST_EVENT_BYTES)
    while True:
        e.n = HEAD_BYTES + 1 + random_below(&a.rng, MOST_EVENT_BYTES if random_below(&a.rng, 64) == 0 else 2000)
        e.n = min(e.n, <uint32_t> MOST_EVENT_BYTES)
        if not _charge(a.host, e.n):
            break
        number = zl_load64_relaxed(&a.appended) + 1
        memcpy(a.data, &a.number, 4)
        memcpy(a.data + 4, &number, 8)
        e.data = a.data
        e.seq_off = HEAD_BYTES
        e.seq_len = 1
        e.host = a.host
        e.host_id = a.host.id
        e.upstream_seq = number
        e.did_hash = number
        e.recv_us = 1000000 + number
        e.cost = e.n
        if log_append(&e) == 0:
            crew_fault(&_appending, True)
            break
        zl_bump64(&a.appended, 1)
    crew_leave(&_appending)
    return NULL


# --- what comes out --------------------------------------------------------------------------------------------------

cdef int64_t _frame(const uint8_t *p, int64_t n, const uint8_t **event) noexcept nogil:
    """Length of the whole WebSocket frame at p and where its event begins (NULL: a control frame); 0 = not whole."""
    cdef int64_t head = 2, size
    cdef int i
    if n < 2:
        return 0
    size = p[1] & 127
    if size >= 126:
        head = 4 if size == 126 else 10
        if n < head:
            return 0
        size = 0
        for i in range(2, <int> head):
            size = size << 8 | p[i]
    event[0] = p + head if p[0] == 0x82 else NULL
    return head + size if n >= head + size else 0


cdef void _take_event(Drain *d, const uint8_t *event) noexcept nogil:
    cdef uint32_t appender
    cdef uint64_t number
    memcpy(&appender, event, 4)
    memcpy(&number, event + 4, 8)
    if appender >= MOST_APPENDERS:
        crew_fault(&_draining, True)
        return
    crew_fault(&_draining, number != d.next[appender] + 1)
    d.next[appender] = number
    zl_bump64(&d.events, 1)


cdef void *_drain(void *arg) noexcept nogil:
    """Until the socket ends."""
    cdef Drain *d = <Drain *> arg
    cdef int64_t n = 0, at, size
    cdef ssize_t got
    cdef uint32_t never = 0
    cdef const uint8_t *event
    while True:
        got = recv(d.fd, d.buffer + n, <size_t> (DRAIN_BYTES - n), 0)
        if got <= 0:
            break
        n += got
        at = 0
        while True:
            size = _frame(d.buffer + at, n - at, &event)
            if size == 0:
                break
            if event != NULL:
                _take_event(d, event)
            at += size
        memmove(d.buffer, d.buffer + at, <size_t> (n - at))
        n -= at
        if d.slow and random_below(&d.rng, 4) == 0:
            zl_futex_wait(&never, 0, 1 + random_below(&d.rng, 5))
    crew_leave(&_draining)
    return NULL


cdef void _check_range(Reader *r, const Range *range_) noexcept nogil:
    """Whole frames, which end where the range says."""
    cdef int64_t n = range_.end - range_.start, at = 0, size
    cdef uint32_t i
    cdef const uint8_t *event
    if read_all(range_.segment.frames_fd, r.buffer, <size_t> n, <uint64_t> range_.start) != 0:
        crew_fault(&_reading, True)
        return
    for i in range(range_.n):
        size = _frame(r.buffer + at, n - at, &event)
        at += size
        crew_fault(&_reading, size == 0 or event == NULL or at != <int64_t> range_.ends[i])
    crew_fault(&_reading, at != n)
    r.events += range_.n
    r.ranges += 1


cdef void *_read(void *arg) noexcept nogil:
    cdef Reader *r = <Reader *> arg
    cdef Range range_
    cdef uint64_t oldest, next_seq, before
    cdef uint32_t never = 0, _i
    while not crew_stopped(&_reading):
        memset(&range_, 0, sizeof(range_))
        oldest = max(segments_oldest(), <uint64_t> 1)
        next_seq = oldest + random_below(&r.rng, <uint32_t> (log_published_end() - oldest + 2))
        for _i in range(RANGES_AT_ONCE):
            before = next_seq
            if range_next(&range_, &next_seq) != RANGE_READY:
                break
            crew_fault(&_reading, next_seq < before or range_.n == 0)
            _check_range(r, &range_)
            next_seq += range_.n
            range_.offset = range_.end
        range_free(&range_)
        zl_futex_wait(&never, 0, 1)
    crew_leave(&_reading)
    return NULL


# --- for the test ----------------------------------------------------------------------------------------------------

def start(hosts, drains):
    """Starts all threads. `hosts`: indexes; `drains`: sockets whose other end a consumer serves from seq 1."""
    cdef uint32_t i
    cdef int error = 0
    if not 0 < len(hosts) <= MOST_APPENDERS or len(drains) > MOST_DRAINS:
        raise ValueError("hosts or drains")
    memset(_appenders, 0, sizeof(_appenders))
    memset(_drains, 0, sizeof(_drains))
    memset(_readers, 0, sizeof(_readers))
    memset(&_appending, 0, sizeof(Crew))
    memset(&_draining, 0, sizeof(Crew))
    memset(&_reading, 0, sizeof(Crew))
    for i in range(<uint32_t> len(drains)):
        _drains[i].fd = drains[i]
        _drains[i].slow = i > 0
        _drains[i].rng = 100 + i
        _drains[i].buffer = <uint8_t *> zl_malloc(MEM_MISC, DRAIN_BYTES)
        error = error or crew_start(&_draining, _drain, &_drains[i])
    for i in range(READERS):
        _readers[i].rng = 200 + i
        _readers[i].buffer = <uint8_t *> zl_malloc(MEM_MISC, 2 << 20)
        error = error or crew_start(&_reading, _read, &_readers[i])
    for i in range(<uint32_t> len(hosts)):
        _appenders[i].number = i
        _appenders[i].host = host_at(hosts[i])
        _appenders[i].rng = 300 + i
        error = error or crew_start(&_appending, _append, &_appenders[i])
    if error:
        raise OSError(error, "a thread cannot be started")


def appended():
    """Events appended so far."""
    return sum(zl_load64(&_appenders[i].appended) for i in range(MOST_APPENDERS))


def drained():
    """Events that each drain has read so far."""
    return [zl_load64(&_drains[i].events) for i in range(MOST_DRAINS) if _drains[i].buffer != NULL]


def stop_appending():
    """Ends and joins appenders and range readers."""
    cdef uint32_t i
    crew_stop(&_appending)
    crew_stop(&_reading)
    for i in range(MOST_APPENDERS):
        if _appenders[i].host != NULL:
            host_interrupt(_appenders[i].host)
    with nogil:
        crew_join(&_appending)
        crew_join(&_reading)


def finish():
    """Joins the drains, whose sockets have ended; what happened, as a dict."""
    cdef uint32_t i
    with nogil:
        crew_join(&_draining)
    result = {
        "faults": _appending.faults + _draining.faults + _reading.faults,
        "appended": appended(),
        "drained": drained(),
        "ranges": sum(_readers[i].ranges for i in range(READERS)),
        "range_events": sum(_readers[i].events for i in range(READERS)),
    }
    for i in range(MOST_DRAINS):
        zl_free(_drains[i].buffer)
        _drains[i].buffer = NULL
    for i in range(READERS):
        zl_free(_readers[i].buffer)
    return result


# --- a wake-up in progress ---

cdef uint32_t _inside = 0         # atomic: the wake function is running


cdef void _slow_wake() noexcept nogil:
    cdef uint32_t never = 0
    zl_store32(&_inside, 1)
    zl_futex_wait(&never, 0, SLOW_WAKE_MS)
    zl_store32(&_inside, 0)


def wake_slowly():
    """From now on each group published takes SLOW_WAKE_MS in the wake function."""
    log_set_wake(_slow_wake)


def waking():
    """Whether the wake function is running."""
    return zl_load32(&_inside) != 0


def wake_no_more():
    """Takes the wake function away; whether it is still running when that is done."""
    with nogil:
        log_set_wake(NULL)
    return zl_load32(&_inside) != 0
