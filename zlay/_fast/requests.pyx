"""Requests from workers to Python threads.

Promises: putting is short (one mutex per kind, held for a pointer's change) and wakes one waiting thread; taking blocks
without holding the interpreter. Nodes are reused, so a busy system allocates none. The bound: a worker asks at most
once per account and kind until it is answered, so a list is never longer than the account tables.
Any thread puts and takes. Nobody holds two of these mutexes.
"""

from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from zlay._fast.accounts cimport MAX_DID
from zlay._fast.includes.atomics cimport zl_add32, zl_futex_wait, zl_futex_wake, zl_load32, zl_monotonic_us, zl_store32
from zlay._fast.includes.threads cimport zl_lock, zl_mutex, zl_unlock
from zlay._fast.mem cimport MEM_QUEUE, zl_free, zl_malloc


cdef struct Request:
    Request *next
    uint32_t host_id
    uint32_t n
    uint8_t force              # of a resolution: ask the directory itself
    uint8_t did[261]


cdef struct RequestList:
    uint32_t bell              # futex: rung at each request, and at closing
    zl_mutex mutex             # guards all below
    Request *first
    Request *last
    Request *spare             # nodes to reuse
    uint64_t waiting           # nodes on the list
    uint64_t asked             # ever
    uint32_t closed            # atomic


cdef RequestList _lists[REQUEST_KINDS]


cdef int request_put(int kind, const uint8_t *did, uint32_t n, uint32_t host_id) noexcept nogil:
    """Asks. The DID is copied. A refresh waits on the list of resolutions, with its mark. 0, or -1 when memory is out or the DID is longer than any can be."""
    cdef RequestList *q = &_lists[REQUEST_RESOLVE if kind == REQUEST_REFRESH else kind]
    cdef Request *r
    if n > MAX_DID:
        return -1
    zl_lock(&q.mutex)
    r = q.spare
    if r != NULL:
        q.spare = r.next
    else:
        r = <Request *>zl_malloc(MEM_QUEUE, sizeof(Request))
        if r == NULL:
            zl_unlock(&q.mutex)
            return -1
    r.next = NULL
    r.host_id = host_id
    r.n = n
    r.force = kind == REQUEST_REFRESH
    memcpy(r.did, did, n)
    if q.last != NULL:
        q.last.next = r
    else:
        q.first = r
    q.last = r
    q.waiting += 1
    q.asked += 1
    zl_unlock(&q.mutex)
    zl_add32(&q.bell, 1)
    zl_futex_wake(&q.bell, 1)
    return 0


cdef Request *_cut(RequestList *q, int most, int *n, Request **last) noexcept nogil:
    """Takes up to `most` nodes off the list, as a list of their own."""
    cdef Request *taken
    n[0] = 0
    last[0] = NULL
    zl_lock(&q.mutex)
    taken = q.first
    while q.first != NULL and n[0] < most:
        last[0] = q.first
        q.first = q.first.next
        n[0] += 1
    if last[0] != NULL:
        last[0].next = NULL
    if q.first == NULL:
        q.last = NULL
    q.waiting -= <uint64_t>n[0]
    zl_unlock(&q.mutex)
    return taken if n[0] else NULL


cdef Request *_take(RequestList *q, int most, uint64_t timeout_us, int *n, Request **last) noexcept nogil:
    """As _cut, after waiting for a first request."""
    cdef uint64_t until = zl_monotonic_us() + timeout_us
    cdef uint64_t now
    cdef uint32_t bell
    cdef Request *taken
    while True:
        bell = zl_load32(&q.bell)
        taken = _cut(q, most, n, last)
        now = zl_monotonic_us()
        if taken != NULL or zl_load32(&q.closed) or now >= until:
            return taken
        zl_futex_wait(&q.bell, bell, <int64_t>((until - now) // 1000 + 1))


LOAD = REQUEST_LOAD
RESOLVE = REQUEST_RESOLVE
RECHECK = REQUEST_RECHECK
STATUS = REQUEST_STATUS
RESYNC = REQUEST_RESYNC


def take(int kind, int most, double timeout_s):
    """Up to `most` waiting requests of a kind, as (did, host_id, force) triples; [] after `timeout_s` or when closed.

    Any thread. The interpreter is released while waiting.
    """
    cdef RequestList *q = &_lists[kind]
    cdef Request *r
    cdef Request *taken
    cdef Request *last
    cdef int n
    cdef uint64_t timeout_us = <uint64_t>(timeout_s * 1e6)
    with nogil:
        taken = _take(q, most, timeout_us, &n, &last)
    if n == 0:
        return []
    out = []
    r = taken
    while r != NULL:
        out.append(((<bytes>r.did[:r.n]).decode("ascii", "replace"), r.host_id, r.force != 0))
        r = r.next
    with nogil:
        zl_lock(&q.mutex)
        last.next = q.spare
        q.spare = taken
        zl_unlock(&q.mutex)
    return out


def put(int kind, str did, uint32_t host_id=0):
    """Asks from Python (a recheck whose time has come). Any thread."""
    cdef bytes raw = did.encode("ascii")
    if request_put(kind, raw, <uint32_t>len(raw), host_id) != 0:
        raise MemoryError("no room for a request")


def waiting():
    """Requests waiting and asked so far, by kind. Any thread."""
    cdef int k
    kinds = {"load": LOAD, "resolve": RESOLVE, "recheck": RECHECK, "status": STATUS, "resync": RESYNC}
    out = {}
    for name, number in kinds.items():
        k = number
        out[name] = (_lists[k].waiting, _lists[k].asked)
    return out


def open_lists():
    """Lets requests flow (again). Before any worker runs."""
    cdef int k
    for k in range(REQUEST_KINDS):
        zl_store32(&_lists[k].closed, 0)
        _lists[k].asked = 0


def close_lists():
    """Wakes every waiting thread for good and frees the nodes. After the workers have ended."""
    cdef Request *r
    cdef Request *after
    cdef int k
    for k in range(REQUEST_KINDS):
        zl_lock(&_lists[k].mutex)
        zl_store32(&_lists[k].closed, 1)
        for start in range(2):
            r = _lists[k].first if start == 0 else _lists[k].spare
            while r != NULL:
                after = r.next
                zl_free(r)
                r = after
        _lists[k].first = _lists[k].last = _lists[k].spare = NULL
        _lists[k].waiting = 0
        zl_unlock(&_lists[k].mutex)
        zl_add32(&_lists[k].bell, 1)
        zl_futex_wake(&_lists[k].bell, INT_MAX)
