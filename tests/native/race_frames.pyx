"""Readers, workers and a log writer in miniature, over the real connections, pool, credit, shares, slots and inboxes.

Producers give messages to connections as readers do; takers empty the workers' inboxes, drop one frame in three and
hand the others to a syncer, which gives credit and slabs back; senders put messages into the same inboxes. Checked:
every frame comes once, in its host's order, with the bytes it had; every message once, in its sender's order; in the
end nothing is charged and nothing kept. The test's own thread collects, scrapes and trims meanwhile.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from tests.native.crew cimport (
    Crew, crew_fault, crew_join, crew_leave, crew_start, crew_stop, crew_stopped, random_below,
)
from zlay._fast.connection cimport Connection, Io, connection_init, connection_message, connection_set_sink
from zlay._fast.host cimport Host, host_at, host_drop_slot, host_give_credit, host_give_share, host_interrupt
from zlay._fast.includes.atomics cimport (
    zl_add64, zl_futex_wait, zl_load32, zl_load64, zl_store32, zl_store64, zl_sub64,
)
from zlay._fast.mem cimport MEM_CONNECTION, MEM_MISC, zl_calloc, zl_free, zl_malloc
from zlay._fast.pool cimport Frame, pool_give
from zlay._fast.queue cimport Inlet, Node, inlet, inlet_put_message, inlet_take, inlet_wait, pipeline_submit
from zlay._fast.queue cimport set_worker_count
from zlay._fast.verdicts cimport R_REV_STALE

cdef enum:
    MOST_PRODUCERS = 16
    TAKERS = 3
    SENDERS = 2
    SYNCER_INLET = 9              # an inbox beyond the takers'
    TEMPLATES = 24                # frames that a producer sends in turn: sizes and accounts
    CHECK_BYTES = 8
    WAIT_MS = 20
    # In every template `did` comes first, then `seq` as 1a and four bytes, then a string of bytes to the frame's end.
    SEQ_BYTES = 4
    SEQ_AFTER_DID = 5             # 63 's' 'e' 'q' 1a
    CHECK_AFTER_DID = 20          # ... the seq, a key of six bytes, 5a and a length of four

cdef struct Template:
    uint8_t *data
    uint32_t n
    uint32_t did_end

cdef struct Producer:
    Connection *connection
    uint32_t number
    uint64_t rng
    uint64_t sent
    uint64_t last                 # the last seq
    Template templates[TEMPLATES]

cdef struct Taker:
    uint32_t number
    uint64_t rng
    uint64_t taken
    uint64_t dropped
    uint64_t messages
    uint64_t last_seq[MOST_PRODUCERS]
    uint64_t last_message[SENDERS]

cdef struct Note:                 # a message to a taker
    Node node
    uint32_t sender
    uint64_t number

cdef struct Sender:
    uint32_t number
    uint64_t rng
    uint64_t sent
    uint64_t next[TAKERS]

cdef Crew _producing              # producers and senders
cdef Crew _taking
cdef Crew _syncing
cdef Producer _producers[MOST_PRODUCERS]
cdef Taker _takers[TAKERS]
cdef Sender _senders[SENDERS]
cdef uint32_t _first_host         # index of the first producer's host
cdef uint64_t _synced             # atomic


cdef uint64_t _hash(const uint8_t *did, uint32_t n) noexcept nogil:
    cdef uint64_t h = 14695981039346656037ULL
    cdef uint32_t i
    for i in range(n):
        h = (h ^ did[i]) * 1099511628211ULL
    return h


cdef uint64_t _synced_end() noexcept nogil:
    return zl_load64(&_synced)


cdef inline uint64_t _check_of(uint32_t producer, uint64_t seq) noexcept nogil:
    return (seq << 8 | producer) * 0x9E3779B97F4A7C15ULL


# --- producers -------------------------------------------------------------------------------------------------------

cdef void _stamp(Template *t, uint32_t producer, uint64_t seq) noexcept nogil:
    cdef uint64_t check = _check_of(producer, seq)
    cdef int i
    for i in range(SEQ_BYTES):
        t.data[t.did_end + SEQ_AFTER_DID + i] = <uint8_t> (seq >> (8 * (SEQ_BYTES - 1 - i)))
    memcpy(t.data + t.did_end + CHECK_AFTER_DID, &check, CHECK_BYTES)
    memcpy(t.data + t.n - CHECK_BYTES, &check, CHECK_BYTES)


cdef void *_produce(void *arg) noexcept nogil:
    cdef Producer *p = <Producer *> arg
    cdef Template *t
    while not crew_stopped(&_producing):
        t = &p.templates[random_below(&p.rng, TEMPLATES)]
        _stamp(t, p.number, p.last + 1)
        if not connection_message(p.connection, t.data, t.n):
            crew_fault(&_producing, not crew_stopped(&_producing))
            break
        p.last += 1
        p.sent += 1
    crew_leave(&_producing)
    return NULL


cdef void *_send(void *arg) noexcept nogil:
    cdef Sender *s = <Sender *> arg
    cdef Note *note
    cdef uint32_t to, never = 0
    while not crew_stopped(&_producing):
        note = <Note *> zl_malloc(MEM_MISC, sizeof(Note))
        to = random_below(&s.rng, TAKERS)
        note.sender = s.number
        s.next[to] += 1
        note.number = s.next[to]
        inlet_put_message(to, &note.node)
        s.sent += 1
        if s.sent % 256 == 0:     # the list of messages has no bound of its own: its senders have
            zl_futex_wait(&never, 0, 1)
    crew_leave(&_producing)
    return NULL


# --- takers and the syncer -------------------------------------------------------------------------------------------

cdef void _judge(Taker *w, Frame *f) noexcept nogil:
    cdef uint32_t producer = f.host.index - _first_host
    cdef uint64_t check = _check_of(producer, f.upstream_seq)
    cdef uint64_t first, last
    memcpy(&last, f.data + f.n - CHECK_BYTES, CHECK_BYTES)
    memcpy(&first, f.data + f.did_off + f.did_n + CHECK_AFTER_DID, CHECK_BYTES)
    crew_fault(&_taking, first != check or last != check or f.n > f.cap or f.cost < f.n)
    crew_fault(&_taking, f.upstream_seq <= w.last_seq[producer] or f.did_hash % TAKERS != w.number)
    w.last_seq[producer] = f.upstream_seq
    w.taken += 1


cdef void _take_frames(Taker *w, Inlet *i) noexcept nogil:
    cdef Frame *f = <Frame *> inlet_take(&i.frames)
    cdef Frame *after
    cdef Host *h
    cdef uint32_t cost
    while f != NULL:
        after = f.next
        f.next = NULL
        h = f.host
        cost = f.cost
        _judge(w, f)
        zl_sub64(&i.queued, 1)
        zl_sub64(&i.queued_bytes, cost)
        if random_below(&w.rng, 3) == 0:
            w.dropped += 1
            host_drop_slot(h, f.slot, R_REV_STALE)
            host_give_credit(h, cost)
            pool_give(f)
        else:
            inlet_put_message(SYNCER_INLET, <Node *> f)
        host_give_share(h, cost)
        f = after


cdef void _take_messages(Taker *w, Inlet *i) noexcept nogil:
    cdef Note *note = <Note *> inlet_take(&i.messages)
    cdef Note *after
    while note != NULL:
        after = <Note *> note.node.next
        crew_fault(&_taking, note.number != w.last_message[note.sender] + 1)
        w.last_message[note.sender] = note.number
        w.messages += 1
        zl_free(note)
        note = after


cdef void *_take(void *arg) noexcept nogil:
    cdef Taker *w = <Taker *> arg
    cdef Inlet *i = inlet(w.number)
    cdef bint last = False
    while True:
        last = crew_stopped(&_taking)     # looked at first: what was put before that is taken below
        _take_frames(w, i)
        _take_messages(w, i)
        if last:
            break
        inlet_wait(i, WAIT_MS, True)
    crew_leave(&_taking)
    return NULL


cdef void *_sync(void *arg) noexcept nogil:
    cdef Frame *f
    cdef Frame *after
    cdef Host *h
    cdef uint32_t cost
    cdef bint last = False
    while True:
        last = crew_stopped(&_syncing)
        f = <Frame *> inlet_take(&inlet(SYNCER_INLET).messages)
        while f != NULL:
            after = f.next
            h = f.host
            cost = f.cost
            zl_store64(&f.slot.verdict, zl_load64(&_synced) + 1)
            zl_add64(&_synced, 1)
            pool_give(f)
            host_give_credit(h, cost)
            f = after
        if last:
            break
        inlet_wait(inlet(SYNCER_INLET), WAIT_MS, True)
    crew_leave(&_syncing)
    return NULL


# --- for the test ----------------------------------------------------------------------------------------------------

def start(hosts, templates):
    """Starts all threads. `hosts`: indexes, one after the other; `templates`: TEMPLATES of (frame, end of did)."""
    global _first_host, _synced
    cdef Producer *p
    cdef Template *t
    cdef uint32_t i, k
    cdef Io io
    cdef bytes frame
    memset(&io, 0, sizeof(io))
    memset(_producers, 0, sizeof(_producers))
    memset(_takers, 0, sizeof(_takers))
    memset(_senders, 0, sizeof(_senders))
    memset(&_producing, 0, sizeof(Crew))
    memset(&_taking, 0, sizeof(Crew))
    memset(&_syncing, 0, sizeof(Crew))
    if not 0 < len(hosts) <= MOST_PRODUCERS or len(templates) != TEMPLATES:
        raise ValueError("hosts or templates")
    set_worker_count(TAKERS)
    connection_set_sink(pipeline_submit, _synced_end, _hash)
    _first_host = hosts[0]
    zl_store64(&_synced, 0)
    for i in range(<uint32_t> len(hosts)):
        p = &_producers[i]
        p.number = i
        p.rng = i + 1
        p.last = 1 << 20
        for k in range(TEMPLATES):
            frame, did_end = templates[k]
            t = &p.templates[k]
            t.n = <uint32_t> len(frame)
            t.did_end = did_end
            t.data = <uint8_t *> zl_malloc(MEM_MISC, t.n)
            memcpy(t.data, <const uint8_t *> frame, t.n)
        p.connection = <Connection *> zl_calloc(MEM_CONNECTION, sizeof(Connection))
        connection_init(p.connection, host_at(_first_host + i), -1, io, p.last)
    _begin_all(<uint32_t> len(hosts))


cdef int _begin_all(uint32_t hosts) except -1:
    cdef uint32_t i
    cdef int error = crew_start(&_syncing, _sync, NULL)
    for i in range(TAKERS):
        _takers[i].number = i
        _takers[i].rng = 1000 + i
        error = error or crew_start(&_taking, _take, &_takers[i])
    for i in range(SENDERS):
        _senders[i].number = i
        _senders[i].rng = 2000 + i
        error = error or crew_start(&_producing, _send, &_senders[i])
    for i in range(hosts):
        error = error or crew_start(&_producing, _produce, &_producers[i])
    if error:
        raise OSError(error, "a thread cannot be started")
    return 0


def stop_producing():
    """Tells producers and senders to end; call `producing` until it is 0, and let anchors be saved meanwhile."""
    cdef uint32_t i
    crew_stop(&_producing)
    for i in range(MOST_PRODUCERS):
        if _producers[i].connection != NULL:
            zl_store32(&_producers[i].connection.stop, 1)
            host_interrupt(_producers[i].connection.host)


def producing():
    """How many producers and senders are still at work."""
    return zl_load32(&_producing.left)


def synced_end():
    """What the syncer has synced."""
    return _synced_end()


def finish():
    """Joins all threads, in the order in which frames flow; what happened, as a dict."""
    cdef uint32_t i, k
    with nogil:
        crew_join(&_producing)
        crew_stop(&_taking)
        crew_join(&_taking)
        crew_stop(&_syncing)
        crew_join(&_syncing)
    for i in range(MOST_PRODUCERS):
        if _producers[i].connection != NULL:
            for k in range(TEMPLATES):
                zl_free(_producers[i].templates[k].data)
            zl_free(_producers[i].connection)
            _producers[i].connection = NULL
    return {
        "faults": _producing.faults + _taking.faults + _syncing.faults,
        "sent": sum(_producers[i].sent for i in range(MOST_PRODUCERS)),
        "last": [_producers[i].last for i in range(MOST_PRODUCERS)],
        "taken": sum(_takers[i].taken for i in range(TAKERS)),
        "dropped": sum(_takers[i].dropped for i in range(TAKERS)),
        "synced": _synced_end(),
        "messages_sent": sum(_senders[i].sent for i in range(SENDERS)),
        "messages_taken": sum(_takers[i].messages for i in range(TAKERS)),
        "queued": sum(zl_load64(&inlet(i).queued) for i in range(TAKERS)),
    }
