"""Requests from workers to Python threads.

Promises: putting is short (one mutex per kind, held for a pointer's change) and wakes one waiting thread; taking blocks
without holding the interpreter. What frames wait for is taken before what nobody waits for, and of that one of each
host's in turn: whoever asks for ten thousand accounts at once keeps nobody else waiting. Nodes are reused, so a busy
system allocates none.
Bounds: what frames wait for (loads, resolutions, status checks) lies here once per account, and those frames lie within
their hosts' credit; of the rest MAX_IDLE lie on a list, more are refused.
Any thread puts and takes. Nobody holds two of these mutexes.
"""

from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from zlay._fast.accounts cimport MAX_DID
from zlay._fast.includes.atomics cimport (
    zl_add32, zl_futex_wait, zl_futex_wake, zl_load32, zl_load64, zl_monotonic_us, zl_store32, zl_store64,
)
from zlay._fast.includes.threads cimport zl_lock, zl_mutex, zl_unlock
from zlay._fast.mem cimport MEM_QUEUE, zl_free, zl_malloc

cdef enum:
    MAX_IDLE = 20000           # of a list: renewals, rechecks, resyncs; some 6 MB
    MAX_SPARE = 1024           # nodes kept for reuse by each list
    LANES = 256                # of each list: hosts take turns, where they do not share a lane by chance


cdef struct Request:
    Request *next
    uint32_t host_id
    uint32_t n
    uint8_t force              # of a resolution: ask the directory itself
    uint8_t did[261]


cdef struct Fifo:
    Request *first
    Request *last
    uint64_t n


cdef struct Lane:              # of some hosts; in the order put
    Request *first
    Request *last
    uint64_t put               # ever
    uint64_t taken             # ever; atomic: workers read it without the mutex


cdef struct RequestList:
    uint32_t bell              # futex: rung at each request, and at closing
    uint32_t closed            # atomic
    zl_mutex mutex             # guards all below
    Lane lanes[LANES]          # frames wait for the answer
    uint8_t ring[LANES]        # lanes that hold something, each once, in the order of their turns
    uint32_t ring_first
    uint32_t ring_n
    uint64_t urgent            # requests in lanes
    Fifo idle                  # nobody does
    Request *spare             # nodes to reuse
    uint32_t spares
    uint64_t asked             # ever
    uint64_t refused           # ever: MAX_IDLE lay there


cdef RequestList _lists[REQUEST_KINDS]


cdef inline int _list_of(int kind, const uint8_t *did, uint32_t n) noexcept nogil:
    if kind != REQUEST_RESOLVE and kind < REQUEST_KINDS:
        return kind
    return REQUEST_WEB if n > 8 and memcmp(did, b"did:web:", 8) == 0 else REQUEST_RESOLVE


cdef inline bint _is_idle(int kind) noexcept nogil:
    return kind == REQUEST_RENEW or kind == REQUEST_RECHECK or kind == REQUEST_RESYNC


cdef Request *_node(RequestList *q) noexcept nogil:
    """A spare node, or a new one. Requires the mutex."""
    cdef Request *r = q.spare
    if r == NULL:
        return <Request *>zl_malloc(MEM_QUEUE, sizeof(Request))
    q.spare = r.next
    q.spares -= 1
    return r


cdef void _give_back(RequestList *q, Request *r) noexcept nogil:
    """Spares a node, or frees it. Requires the mutex."""
    if q.spares >= MAX_SPARE:
        zl_free(r)
        return
    r.next = q.spare
    q.spare = r
    q.spares += 1


cdef void _append_idle(Fifo *fifo, Request *r) noexcept nogil:
    """Requires the mutex."""
    if fifo.last != NULL:
        fifo.last.next = r
    else:
        fifo.first = r
    fifo.last = r
    fifo.n += 1


cdef void _append_urgent(RequestList *q, Request *r, Ticket *ticket) noexcept nogil:
    """Requires the mutex."""
    cdef uint32_t number = r.host_id % LANES
    cdef Lane *lane = &q.lanes[number]
    if lane.last != NULL:
        lane.last.next = r
    else:
        lane.first = r
        q.ring[(q.ring_first + q.ring_n) % LANES] = <uint8_t>number
        q.ring_n += 1
    lane.last = r
    lane.put += 1
    q.urgent += 1
    if ticket != NULL:
        ticket.lane = <uint8_t>number
        ticket.number = lane.put


cdef int request_put(int kind, const uint8_t *did, uint32_t n, uint32_t host_id, Ticket *ticket) noexcept nogil:
    cdef int which = _list_of(kind, did, n)
    cdef RequestList *q = &_lists[which]
    cdef bint idle = _is_idle(kind)
    cdef Request *r
    if n > MAX_DID:
        return -1
    zl_lock(&q.mutex)
    if idle and q.idle.n >= MAX_IDLE:
        q.refused += 1
        zl_unlock(&q.mutex)
        return -1
    r = _node(q)
    if r == NULL:
        zl_unlock(&q.mutex)
        return -1
    r.next = NULL
    r.host_id = host_id
    r.n = n
    r.force = kind >= REQUEST_KINDS
    memcpy(r.did, did, n)
    q.asked += 1
    if idle:
        _append_idle(&q.idle, r)
    else:
        _append_urgent(q, r, ticket)
        if ticket != NULL:
            ticket.list = <uint8_t>which
    zl_unlock(&q.mutex)
    zl_add32(&q.bell, 1)
    zl_futex_wake(&q.bell, 1)
    return 0


cdef bint request_is_taken(const Ticket *t) noexcept nogil:
    return zl_load64(&_lists[t.list].lanes[t.lane].taken) >= t.number


cdef Request *_pop(RequestList *q) noexcept nogil:
    """The next node, urgent ones first; NULL = none. Requires the mutex."""
    cdef Request *r = q.idle.first
    if q.ring_n:
        return _pop_urgent(q)
    if r != NULL:
        q.idle.first = r.next
        q.idle.n -= 1
        if r.next == NULL:
            q.idle.last = NULL
    return r


cdef Request *_pop_urgent(RequestList *q) noexcept nogil:
    """Of the lane whose turn it is, which then goes behind the others. Requires the mutex, and that there is one."""
    cdef uint8_t number = q.ring[q.ring_first]
    cdef Lane *lane = &q.lanes[number]
    cdef Request *r = lane.first
    q.ring_first = (q.ring_first + 1) % LANES
    lane.first = r.next
    if r.next == NULL:
        lane.last = NULL
        q.ring_n -= 1
    else:
        q.ring[(q.ring_first + q.ring_n - 1) % LANES] = number
    q.urgent -= 1
    zl_store64(&lane.taken, lane.taken + 1)
    return r


cdef Request *_cut(RequestList *q, int most, int *n) noexcept nogil:
    """Takes up to `most` nodes off the list, as a list of their own; NULL = there is none."""
    cdef Request *taken = NULL
    cdef Request **end = &taken
    n[0] = 0
    zl_lock(&q.mutex)
    while n[0] < most:
        end[0] = _pop(q)
        if end[0] == NULL:
            break
        end = &end[0].next
        n[0] += 1
    end[0] = NULL
    zl_unlock(&q.mutex)
    return taken


cdef Request *_take(RequestList *q, int most, uint64_t timeout_us, int *n) noexcept nogil:
    """As _cut, after waiting for a first request."""
    cdef uint64_t until = zl_monotonic_us() + timeout_us
    cdef uint64_t now
    cdef uint32_t bell
    cdef Request *taken
    while True:
        bell = zl_load32(&q.bell)
        taken = _cut(q, most, n)
        now = zl_monotonic_us()
        if taken != NULL or zl_load32(&q.closed) or now >= until:
            return taken
        zl_futex_wait(&q.bell, bell, <int64_t>((until - now) // 1000 + 1))


cdef void _free_nodes(RequestList *q, Request *r) noexcept nogil:
    """Gives a list of nodes back."""
    cdef Request *after
    zl_lock(&q.mutex)
    while r != NULL:
        after = r.next
        _give_back(q, r)
        r = after
    zl_unlock(&q.mutex)


LOAD = REQUEST_LOAD
RESOLVE = REQUEST_RESOLVE
RECHECK = REQUEST_RECHECK
STATUS = REQUEST_STATUS
RESYNC = REQUEST_RESYNC
WEB = REQUEST_WEB
REFRESH = REQUEST_REFRESH
RENEW = REQUEST_RENEW


def take(int kind, int most, double timeout_s):
    """Up to `most` waiting requests of a kind, as (did, host_id, force) triples; [] after `timeout_s` or when closed.

    Any thread. The interpreter is released while waiting.
    """
    cdef RequestList *q
    cdef Request *r
    cdef Request *taken
    cdef int n
    cdef uint64_t timeout_us = <uint64_t>(timeout_s * 1e6)
    if not 0 <= kind < REQUEST_KINDS:
        raise ValueError(f"no list of kind {kind}")
    q = &_lists[kind]
    with nogil:
        taken = _take(q, most, timeout_us, &n)
    out = []
    try:
        r = taken
        while r != NULL:
            out.append(((<bytes>r.did[:r.n]).decode("ascii", "replace"), r.host_id, r.force != 0))
            r = r.next
    finally:
        with nogil:
            _free_nodes(q, taken)
    return out


def put(int kind, str did, uint32_t host_id=0):
    """Asks as a worker does, `kind` as in requests.pxd. Any thread. False when it was refused or memory is out."""
    cdef bytes raw = did.encode("ascii")
    return request_put(kind, raw, <uint32_t>len(raw), host_id, NULL) == 0


def waiting():
    """Requests waiting and asked so far, by kind. Any thread."""
    cdef uint64_t lie, asked
    cdef int k
    out = {}
    for k, name in enumerate(("load", "resolve", "recheck", "status", "resync", "resolve_web")):
        zl_lock(&_lists[k].mutex)
        lie, asked = _lists[k].urgent + _lists[k].idle.n, _lists[k].asked
        zl_unlock(&_lists[k].mutex)
        out[name] = (lie, asked)
    return out


def refused():
    """Requests that nobody waits for and that found their list full, so far. Any thread."""
    cdef uint64_t n = 0
    cdef int k
    for k in range(REQUEST_KINDS):
        zl_lock(&_lists[k].mutex)
        n += _lists[k].refused
        zl_unlock(&_lists[k].mutex)
    return n


def open_lists():
    """Lets requests flow (again). Before any worker runs."""
    cdef int k
    for k in range(REQUEST_KINDS):
        zl_lock(&_lists[k].mutex)
        zl_store32(&_lists[k].closed, 0)
        _lists[k].asked = 0
        _lists[k].refused = 0
        zl_unlock(&_lists[k].mutex)


def close_lists():
    """Wakes every waiting thread for good and frees the nodes. After the workers have ended."""
    cdef RequestList *q
    cdef Request *r
    cdef int k
    for k in range(REQUEST_KINDS):
        q = &_lists[k]
        zl_lock(&q.mutex)
        zl_store32(&q.closed, 1)
        r = _pop(q)
        while r != NULL:
            zl_free(r)
            r = _pop(q)
        while q.spares:
            zl_free(_node(q))
        zl_unlock(&q.mutex)
        zl_add32(&q.bell, 1)
        zl_futex_wake(&q.bell, INT_MAX)
