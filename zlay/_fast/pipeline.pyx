"""The workers as Python sees them: started, told, asked and stopped. One pipeline per process.

Promises: every function may be called from any Python thread once `start` has returned and until `close`; none of them
touches a frame. What is told to a worker arrives as a message in the order told by one thread.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zlay._fast.accounts cimport ID_NO_KEY, ID_NO_PDS, ID_NOT_FOUND, ID_OK, ID_TOMBSTONED, ID_UNKNOWN, MAX_DID
from zlay._fast.crypto cimport KEY_NONE, POINT_BYTES
from zlay._fast.dirty cimport DirtyRows, dirty_collect, dirty_delta
from zlay._fast.includes.atomics cimport (
    zl_add32, zl_futex_wait, zl_futex_wake, zl_load32, zl_load64, zl_load64_relaxed, zl_monotonic_us, zl_store32,
)
from zlay._fast.includes.threads cimport pthread_join, zl_lock, zl_mutex, zl_unlock
from zlay._fast.log cimport did_hash, log_synced_end
from zlay._fast.mem cimport MEM_QUEUE, zl_calloc, zl_free
from zlay._fast.message cimport CID_BYTES
from zlay._fast.queue cimport MAX_WORKERS, inlet, inlet_put_message, pipeline_submit, set_worker_count
from zlay._fast.reader cimport reader_set_sink
from zlay._fast.syntax cimport tid_parse
from zlay._fast.takedown cimport LOCAL_CLOSED, LocalChange, local_new, local_release, local_wait
from zlay._fast.worker cimport (
    M_ACCOUNT, M_COLLECT, M_IDENTITY, M_LOCAL, M_RESYNC, M_STATUS, Message_, Worker, applied, set_applied,
    set_clock_offset, set_down, set_hold_times, worker_abandon, worker_free, worker_init, worker_start,
)

from zlay._fast import requests, takedown

cdef enum:
    COLLECT_MS = 250           # how long one wait for a worker's answer lasts before it is looked for again
    NEVER_STARTED = 2          # of Worker.stopping

cdef Worker _workers[MAX_WORKERS]
cdef zl_mutex _end_lock        # guards Worker.ended: no collection is asked of a worker that answers no more
cdef uint32_t _count = 0       # atomic: worker structs that stand
cdef uint32_t _running = 0     # atomic flag: workers take messages


RETRY_S = 1.0                  # a question without a conclusive answer is put again after this
UNANSWERED_S = 20.0            # ... and one without any answer: who took it has failed, for a look-up may take 12 s


def start(
    uint32_t workers, uint64_t entries, uint64_t keys, double hold_s, uint64_t applied_seq,
    double retry_s=RETRY_S, double unanswered_s=UNANSWERED_S,
):
    """Starts `workers` threads that share `entries` account entries and `keys` parsed keys between them.

    `hold_s`: how long frames wait for a DID that nobody knows. `applied_seq`: events up to it are in SQL. The log must
    be open. Raises MemoryError, OSError, ValueError.
    """
    cdef uint32_t i
    cdef int error
    if zl_load32(&_running):
        raise RuntimeError("the pipeline runs already")
    if not 0 < workers <= MAX_WORKERS:
        raise ValueError(f"workers: 1 to {MAX_WORKERS}")
    set_worker_count(workers)
    set_hold_times(<uint64_t>(hold_s * 1e6), <uint64_t>(retry_s * 1e6), <uint64_t>(unanswered_s * 1e6))
    set_applied(applied_seq)
    set_down(False, False, False)
    set_clock_offset(0)
    reader_set_sink(pipeline_submit, log_synced_end, did_hash)
    requests.open_lists()
    for i in range(workers):
        if worker_init(&_workers[i], i, <uint32_t>max(64, entries // workers), <uint32_t>max(64, keys // workers)) != 0:
            while True:
                worker_free(&_workers[i])
                if i == 0:
                    break
                i -= 1
            raise MemoryError("no memory for the account table")
    zl_store32(&_count, workers)
    zl_store32(&_running, 1)
    for i in range(workers):
        error = worker_start(&_workers[i])
        if error:
            for j in range(i, workers):
                _workers[j].stopping = NEVER_STARTED
            stop()
            raise OSError(error, "a worker thread cannot be started")


def drain(double timeout_s):
    """Waits until no frame is queued, at most `timeout_s`. True when drained. Held frames are not waited for."""
    cdef uint64_t until = zl_monotonic_us() + <uint64_t>(timeout_s * 1e6)
    cdef uint32_t never = 0
    while queued()[0]:
        if zl_monotonic_us() > until:
            return False
        with nogil:
            zl_futex_wait(&never, 0, 5)
    return True


def stop():
    """Ends the workers: frames queued or held are let go, their hosts' cursors stay below them. Joins the threads."""
    cdef uint32_t i, count = zl_load32(&_count)
    if not zl_load32(&_running):
        return
    zl_store32(&_running, 0)
    for i in range(count):                   # all at once: each may be in the middle of something
        if zl_load32(&_workers[i].stopping) != NEVER_STARTED:
            zl_store32(&_workers[i].stopping, 1)
    for i in range(count):
        if zl_load32(&_workers[i].stopping) == NEVER_STARTED:
            _workers[i].ended = 1
        else:
            with nogil:
                _end(i)


cdef void _end(uint32_t i) noexcept nogil:
    """Wakes worker i out of its sleep, joins it, and answers what came in while it ended."""
    cdef Worker *w = &_workers[i]
    zl_add32(&w.inlet.bell, 1)
    zl_futex_wake(&w.inlet.bell, 1)
    pthread_join(w.thread, NULL)
    zl_lock(&_end_lock)
    worker_abandon(w)
    w.ended = 1
    zl_unlock(&_end_lock)


def close():
    """After stop: gives all memory back. The requests' waiting threads are woken for good."""
    cdef uint32_t i
    requests.close_lists()
    for i in range(zl_load32(&_count)):
        worker_abandon(&_workers[i])          # answers that came since
        worker_free(&_workers[i])
    zl_store32(&_count, 0)


# --- answers ---

cdef Message_ *_message(int kind, str did) except NULL:
    cdef bytes raw = did.encode("ascii")
    cdef Message_ *m
    if not 0 < len(raw) <= MAX_DID:
        raise ValueError("a DID of 1 to 261 characters")
    m = <Message_ *>zl_calloc(MEM_QUEUE, sizeof(Message_))
    if m == NULL:
        raise MemoryError
    m.kind = <uint8_t>kind
    m.did_n = <uint32_t>len(raw)
    memcpy(m.did, <const uint8_t *>raw, len(raw))
    m.hash = did_hash(m.did, m.did_n)
    return m


cdef void _send(Message_ *m) noexcept:
    """Hands the message to the worker of its DID; after `stop` nobody waits for it."""
    cdef uint32_t count = zl_load32(&_count)
    if not zl_load32(&_running) or count == 0:
        zl_free(m)
        return
    inlet_put_message(<uint32_t>(m.hash % count), &m.node)


cdef int _fill_identity(Message_ *m, object identity, uint32_t host_id) except -1:
    """An Identity in the message's terms. Its worker parses the key, where that is not the one it has."""
    cdef bytes key = identity.key
    m.identity_us = <uint64_t>identity.resolved_us
    m.own_failure = identity.outcome == "failed" and identity.is_own
    if identity.outcome == "not_found":
        m.outcome = ID_NOT_FOUND
    elif identity.outcome == "tombstoned":
        m.outcome = ID_TOMBSTONED
    elif identity.outcome != "ok":
        m.outcome = ID_UNKNOWN
    elif identity.pds is None:
        m.outcome = ID_NO_PDS
    elif identity.key_type == KEY_NONE or len(key) > POINT_BYTES:
        m.outcome = ID_NO_KEY
    else:
        m.outcome = ID_OK
        m.key_type = identity.key_type
        m.point_n = <uint8_t>len(key)
        memcpy(m.point, <const uint8_t *>key, len(key))
    m.host_id = host_id
    return 0


def post_identity(identity, uint32_t host_id):
    """What the directory says of a DID; `host_id` = the registered host its document names, 0 = none."""
    cdef Message_ *m = _message(M_IDENTITY, identity.did)
    try:
        _fill_identity(m, identity, host_id)
    except BaseException:
        zl_free(m)
        raise
    _send(m)


cdef int _fill_account(Message_ *m, object row, uint32_t identity_host_id) except -1:
    """An AccountRow in the message's terms. ValueError."""
    m.known = row.host_id != 0
    m.account_host_id = row.host_id
    m.upstream_status = row.upstream_status
    m.local_status = row.local_status
    m.desynchronized = row.desynchronized
    if row.rev is not None:
        if len(row.data) != CID_BYTES or len(row.head) != CID_BYTES:
            raise ValueError(f"{row.did}: not CIDs of 36 bytes")
        m.rev = _rev(row.rev)
        memcpy(m.data, <const uint8_t *><bytes>row.data + CID_BYTES - 32, 32)
        memcpy(m.head, <const uint8_t *><bytes>row.head + CID_BYTES - 32, 32)
    if row.identity is not None:
        _fill_identity(m, row.identity, identity_host_id)
        m.has_identity = m.outcome != ID_UNKNOWN
    return 0


def post_account(str did, row, uint32_t identity_host_id):
    """The loader's answer: an AccountRow, or None when SQL has neither account nor identity. Raises ValueError."""
    cdef Message_ *m = _message(M_ACCOUNT, did)
    try:
        if row is not None:
            _fill_account(m, row, identity_host_id)
    except BaseException:
        zl_free(m)
        raise
    _send(m)


cdef uint64_t _rev(str text) except? 0:
    cdef bytes raw = text.encode("ascii")
    cdef uint64_t rev = 0
    if not tid_parse(raw, <uint32_t>len(raw), &rev):
        raise ValueError(f"not a TID: {text}")
    return rev


def post_status(str did, int status):
    """What a PDS says of its account: a verdicts.Status; -1 = no answer, the account stays as it is."""
    cdef Message_ *m = _message(M_STATUS, did)
    m.outcome = status >= 0
    m.upstream_status = <uint8_t>(status if status >= 0 else 0)
    _send(m)


def post_resync(str did, bint healed):
    """The end of a resync; unhealed accounts stay desynchronized until their next chain break."""
    cdef Message_ *m = _message(M_RESYNC, did)
    m.outcome = healed
    _send(m)


def set_local_status(
    str did, bytes message, uint32_t seq_off, uint32_t seq_len, int local_status, int told_upstream, double timeout_s
):
    """A status that this relay gives an account, logged by its worker as `message`, whose seq stands at seq_off.

    (outcome, seq, the account's status at its host): an outcome of takedown.OUTCOMES; pending = it may still be carried
    out later. Waits without the interpreter. Raises MemoryError, ValueError.
    """
    cdef Message_ *m = _message(M_LOCAL, did)
    cdef LocalChange *c = NULL
    cdef int outcome = LOCAL_CLOSED
    cdef bint taken = False
    cdef uint32_t w
    try:
        c = local_new(did.encode("ascii"), message, seq_off, seq_len, local_status, told_upstream)
    finally:
        if c == NULL:
            zl_free(m)
    m.change = c
    with nogil:
        zl_lock(&_end_lock)
        if _count:
            w = <uint32_t>(m.hash % _count)
            taken = not _workers[w].ended
            if taken:
                inlet_put_message(w, &m.node)
        zl_unlock(&_end_lock)
        if taken:
            outcome = local_wait(c, timeout_s)
    result = (takedown.OUTCOMES[outcome], c.seq, c.upstream_status) if outcome else (takedown.OUTCOMES[0], 0, 0)
    if not taken:
        zl_free(m)
        local_release(c)          # the worker's part
    local_release(c)
    return result


def set_outages(bint directory, bint store, bint clock):
    """Who does not answer: the hold clock stands still; with `clock` (ours is wrong) nothing is judged at all."""
    set_down(directory, store, clock)


def set_clock(uint64_t offset_us):
    """By how much the wall clock should be ahead of the monotonic one; 0 = not known. No frame is judged by less."""
    set_clock_offset(offset_us)


# --- the applier's side ---

cdef int _fill(uint32_t w, DirtyRows *rows) except -1:
    """Lets worker w copy its dirty entries out, or does so in its place when it has ended."""
    cdef Message_ *m = <Message_ *>zl_calloc(MEM_QUEUE, sizeof(Message_))  # the worker frees it
    cdef bint ended
    if m == NULL:
        raise MemoryError
    m.kind = M_COLLECT
    m.rows = rows
    with nogil:
        zl_lock(&_end_lock)
        ended = _workers[w].ended != 0
        if ended:
            dirty_collect(&_workers[w].table, rows)
        else:
            inlet_put_message(w, &m.node)
        zl_unlock(&_end_lock)
        while not ended and not zl_load32(&rows.done):
            zl_futex_wait(&rows.done, 0, COLLECT_MS)
    if ended:
        zl_free(m)
    return 0


def collect_dirty():
    """The newest state of every account changed since the last call, as AccountDelta. One caller at a time.

    Superset of what is dirty up to any seq that was given out before the call. Raises MemoryError.
    """
    cdef DirtyRows rows
    cdef uint32_t i, w
    cdef bint again
    out = []
    for w in range(zl_load32(&_count)):
        again = True
        while again:
            memset(&rows, 0, sizeof(rows))
            _fill(w, &rows)
            try:
                for i in range(rows.n):
                    out.append(dirty_delta(&rows.rows[i]))
            finally:
                zl_free(rows.rows)
            if rows.failed and not rows.n:
                raise MemoryError("no room for changed accounts")
            again = rows.failed != 0
    return out


def set_applied_seq(uint64_t seq):
    """Events up to `seq` are in SQL."""
    set_applied(seq)


def applied_seq():
    """As set last."""
    return applied()


# --- figures ---

def queued():
    """Frames and bytes waiting for workers."""
    cdef uint64_t frames = 0
    cdef uint64_t n_bytes = 0
    cdef uint32_t i
    for i in range(zl_load32(&_count)):
        frames += zl_load64(&inlet(i).queued)
        n_bytes += zl_load64(&inlet(i).queued_bytes)
    return frames, n_bytes


def stats():
    """Counters and gauges, one dict per worker. Torn-free, not of one moment."""
    cdef Worker *w
    cdef uint32_t i
    out = []
    for i in range(zl_load32(&_count)):
        w = &_workers[i]
        out.append({
            "queued": zl_load64(&w.inlet.queued),
            "queued_bytes": zl_load64(&w.inlet.queued_bytes),
            "judged": zl_load64_relaxed(&w.judged),
            "held": zl_load64_relaxed(&w.holds.frames),
            "held_bytes": zl_load64_relaxed(&w.holds.bytes),
            "chain_breaks": zl_load64_relaxed(&w.chain_breaks),
            "inversions": zl_load64_relaxed(&w.inversions),
            "refreshes": zl_load64_relaxed(&w.refreshes),
            "moves": zl_load64_relaxed(&w.moves),
            "stalls": zl_load64_relaxed(&w.stalls),
            "busy_s": zl_load64_relaxed(&w.busy_us) / 1e6,
            "accounts": zl_load64_relaxed(&w.table.live),
            "accounts_dirty": zl_load64_relaxed(&w.table.dirty),
            "account_evictions": zl_load64_relaxed(&w.table.evictions),
            "keys": zl_load64_relaxed(&w.table.keys_live),
            "keys_parsed": zl_load64_relaxed(&w.keys_parsed),
            "p256_loads": zl_load64_relaxed(&w.keys.loads),
            "key_evictions": zl_load64_relaxed(&w.table.key_evictions),
        })
    return out
