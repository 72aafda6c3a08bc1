"""Workers that ask, allocations that change hands, and a race on purpose.

Askers put requests as workers do, while Python threads take them. Movers allocate and leave their memory to the next
mover. `plant` makes a data race, which a run under ThreadSanitizer must report.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memset

from tests.native.crew cimport (
    Crew, crew_fault, crew_join, crew_leave, crew_start, crew_stop, crew_stopped, random_below,
)
from zlay._fast.includes.atomics cimport zl_futex_wait, zl_load32, zl_swapp
from zlay._fast.mem cimport MEM_MISC, MEM_QUEUE, zl_calloc, zl_free, zl_malloc, zl_realloc
from zlay._fast.requests cimport REQUEST_KINDS, REQUEST_RENEW, REQUEST_WEB, Ticket, request_is_taken, request_put

cdef enum:
    ASKERS = 3
    MOVERS = 3
    PER_PAUSE = 64                # requests between two short pauses
    SHELVES = 64
    KINDS = REQUEST_RENEW + 1

cdef struct Asker:
    uint32_t number
    uint64_t rng
    uint64_t put[KINDS]           # by kind
    uint64_t refused

cdef struct Mover:
    uint32_t number
    uint64_t rng
    uint64_t moved

cdef Crew _crew
cdef Asker _askers[ASKERS]
cdef Mover _movers[MOVERS]
cdef void *_shelves[SHELVES]      # atomic: memory that anybody may take
cdef uint64_t _planted


cdef void *_ask(void *arg) noexcept nogil:
    cdef Asker *a = <Asker *> arg
    cdef char did[64]
    cdef int n, kind
    cdef uint32_t never = 0
    cdef Ticket ticket
    memset(&ticket, 0, sizeof(ticket))
    while not crew_stopped(&_crew):
        kind = <int> random_below(&a.rng, KINDS)
        if kind == REQUEST_WEB:       # a list that the DID chooses
            continue
        n = snprintf(did, sizeof(did), b"did:%s:%u.%u.%llu", b"web" if a.put[kind] & 1 else b"plc", a.number, kind,
                     <unsigned long long> a.put[kind])
        request_is_taken(&ticket)
        if request_put(kind, <const uint8_t *> did, <uint32_t> n, a.number, &ticket) == 0:
            a.put[kind] += 1
        else:
            a.refused += 1
        if random_below(&a.rng, PER_PAUSE) == 0:
            zl_futex_wait(&never, 0, 1)
    crew_leave(&_crew)
    return NULL


cdef void *_move(void *arg) noexcept nogil:
    cdef Mover *m = <Mover *> arg
    cdef uint32_t n
    cdef uint8_t *p
    while not crew_stopped(&_crew):
        n = 1 + random_below(&m.rng, 2000)
        p = <uint8_t *> (zl_malloc(MEM_QUEUE, n) if n & 1 else zl_calloc(MEM_QUEUE, n))
        memset(p, <int> m.number, n)
        p = <uint8_t *> zl_swapp(&_shelves[random_below(&m.rng, SHELVES)], p)
        if p != NULL:
            crew_fault(&_crew, p[0] >= MOVERS)
            if n & 2:
                p = <uint8_t *> zl_realloc(MEM_MISC, p, n)
            zl_free(p)
        m.moved += 1
    crew_leave(&_crew)
    return NULL


cdef void *_plant(void *arg) noexcept nogil:
    global _planted
    cdef uint32_t never = 0
    while not crew_stopped(&_crew):
        _planted += 1             # the race: two threads, no atomic, no lock
        zl_futex_wait(&never, 0, 1)
    crew_leave(&_crew)
    return NULL


cdef int _begin() except -1:
    memset(&_crew, 0, sizeof(_crew))
    memset(_askers, 0, sizeof(_askers))
    memset(_movers, 0, sizeof(_movers))
    memset(_shelves, 0, sizeof(_shelves))
    return 0


cdef int _check(int error) except -1:
    if error:
        raise OSError(error, "a thread cannot be started")
    return 0


def start():
    """Starts askers and movers."""
    cdef uint32_t i
    _begin()
    for i in range(ASKERS):
        _askers[i].number = i
        _askers[i].rng = 10 + i
        _check(crew_start(&_crew, _ask, &_askers[i]))
    for i in range(MOVERS):
        _movers[i].number = i
        _movers[i].rng = 20 + i
        _check(crew_start(&_crew, _move, &_movers[i]))


def plant():
    """Starts two threads that race."""
    _begin()
    _check(crew_start(&_crew, _plant, NULL))
    _check(crew_start(&_crew, _plant, NULL))


def finish():
    """Ends and joins all; what happened, as a dict. "put": by asker, how many requests of each kind."""
    cdef uint32_t i
    crew_stop(&_crew)
    with nogil:
        crew_join(&_crew)
        for i in range(SHELVES):
            zl_free(_shelves[i])
    return {
        "faults": zl_load32(&_crew.faults),
        "put": [[_askers[i].put[kind] for kind in range(KINDS)] for i in range(ASKERS)],
        "refused": sum(_askers[i].refused for i in range(ASKERS)),
        "moved": sum(_movers[i].moved for i in range(MOVERS)),
        "kinds": REQUEST_KINDS,
    }
