"""The workers as Python sees them: started, told, asked and stopped. One pipeline per process.

Promises: every function may be called from any Python thread once `start` has returned and until `close`; none of them
touches a frame. What is told to a worker arrives as a message in the order told by one thread.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from zlay._fast.accounts cimport ID_NO_KEY, ID_NO_PDS, ID_NOT_FOUND, ID_OK, ID_TOMBSTONED, ID_UNKNOWN, MAX_DID
from zlay._fast.crypto cimport KEY_NONE, key_parse
from zlay._fast.includes.atomics cimport (
    zl_add32, zl_futex_wait, zl_futex_wake, zl_load32, zl_load64, zl_load64_relaxed, zl_monotonic_us, zl_store32,
)
from zlay._fast.includes.threads cimport pthread_join
from zlay._fast.log cimport did_hash, log_synced_end
from zlay._fast.mem cimport MEM_QUEUE, zl_calloc, zl_free
from zlay._fast.queue cimport MAX_WORKERS, inlet, inlet_put_message, pipeline_submit, set_worker_count
from zlay._fast.reader cimport reader_set_sink
from zlay._fast.syntax cimport tid_format, tid_parse
from zlay._fast.worker cimport (
    M_ACCOUNT, M_COLLECT, M_IDENTITY, M_RESYNC, M_STATUS, DirtyRow, DirtyRows, Message_, Worker, applied, set_applied,
    set_down, set_hold_time, worker_abandon, worker_collect, worker_free, worker_init, worker_start,
)

from zlay._fast import requests
from zlay.pipeline.types import AccountDelta

cdef enum:
    COLLECT_MS = 250           # how long one wait for a worker's answer lasts before its end is looked for again

cdef Worker _workers[MAX_WORKERS]
cdef uint32_t _count = 0
cdef bint _running = False

_CID_PREFIX = b"\x01\x71\x12\x20"   # CIDv1, dag-cbor, sha-256, 32 bytes (C11)




def start(uint32_t workers, uint64_t entries, uint64_t keys, double hold_s, uint64_t applied_seq):
    """Starts `workers` threads that share `entries` account entries and `keys` parsed keys between them.

    `applied_seq`: events up to it are in SQL. The log must be open. Raises MemoryError, OSError, ValueError.
    """
    global _count, _running
    cdef uint32_t i
    cdef int error
    if _running:
        raise RuntimeError("the pipeline runs already")
    if not 0 < workers <= MAX_WORKERS:
        raise ValueError(f"workers: 1 to {MAX_WORKERS}")
    set_worker_count(workers)
    set_hold_time(<uint64_t>(hold_s * 1e6))
    set_applied(applied_seq)
    set_down(False, False, False)
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
    _count = workers
    _running = True
    for i in range(workers):
        error = worker_start(&_workers[i])
        if error:
            for j in range(i, workers):
                _workers[j].stopping = 2
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
    global _running
    cdef uint32_t i
    cdef uint32_t was
    if not _running:
        return
    for i in range(_count):
        was = zl_load32(&_workers[i].stopping)
        zl_store32(&_workers[i].stopping, 1)
        with nogil:
            if was != 2:
                while not _woken_end(i):
                    pass
    _running = False


cdef bint _woken_end(uint32_t i) noexcept nogil:
    """Wakes worker i out of its sleep and joins it."""
    zl_add32(&inlet(i).bell, 1)
    zl_futex_wake(&inlet(i).bell, 1)
    pthread_join(_workers[i].thread, NULL)
    worker_abandon(&_workers[i])      # what came in while it ended
    return True


def close():
    """After stop: gives all memory back. The requests' waiting threads are woken for good."""
    global _count
    cdef uint32_t i
    requests.close_lists()
    for i in range(_count):
        worker_free(&_workers[i])
    _count = 0


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


cdef int _send(Message_ *m) except -1:
    if not _running:
        zl_free(m)
        return 0
    inlet_put_message(<uint32_t>(m.hash % _count), &m.node)
    return 0


cdef int _fill_identity(Message_ *m, object identity, uint32_t host_id) except -1:
    """An Identity in the message's terms. A key that does not parse is no key (R_NO_KEY)."""
    cdef bytes key = identity.key
    m.identity_s = <uint32_t>(identity.resolved_us // 1000000)
    if identity.outcome == "not_found":
        m.outcome = ID_NOT_FOUND
    elif identity.outcome == "tombstoned":
        m.outcome = ID_TOMBSTONED
    elif identity.outcome != "ok":
        m.outcome = ID_UNKNOWN
    elif identity.pds is None:
        m.outcome = ID_NO_PDS
    elif identity.key_type == KEY_NONE or key_parse(identity.key_type, key, <uint32_t>len(key), &m.key) != 0:
        m.outcome = ID_NO_KEY
    else:
        m.outcome = ID_OK
    m.host_id = host_id
    return 0


def post_identity(identity, uint32_t host_id):
    """What the directory says of a DID; `host_id` = the registered host its document names, 0 = none."""
    cdef Message_ *m = _message(M_IDENTITY, identity.did)
    _fill_identity(m, identity, host_id)
    _send(m)


def post_account(str did, row, uint32_t identity_host_id):
    """The loader's answer: an AccountRow, or None when SQL has neither account nor identity."""
    cdef Message_ *m = _message(M_ACCOUNT, did)
    if row is not None:
        m.known = row.host_id != 0
        m.host_id = row.host_id
        m.upstream_status = row.upstream_status
        m.local_status = row.local_status
        m.last_seq = row.last_seq
        if row.rev is not None:
            m.rev = _rev(row.rev)
            memcpy(m.data, <const uint8_t *><bytes>row.data + 4, 32)
            memcpy(m.head, <const uint8_t *><bytes>row.head + 4, 32)
        if row.identity is not None:
            _fill_identity(m, row.identity, identity_host_id)
            m.has_identity = True
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


def set_outages(bint directory, bint store, bint clock):
    """Who does not answer: the hold clock stands still; with `clock` (ours is wrong) nothing is judged at all."""
    set_down(directory, store, clock)


# --- the applier's side ---

def collect_dirty():
    """The newest state of every account changed since the last call, as AccountDelta. One caller at a time.

    Superset of what is dirty up to any seq that was given out before the call.
    """
    cdef DirtyRows rows
    cdef Message_ *m
    cdef uint32_t i, w
    out = []
    for w in range(_count):
        memset(&rows, 0, sizeof(rows))
        m = <Message_ *>zl_calloc(MEM_QUEUE, sizeof(Message_))
        if m == NULL:
            raise MemoryError
        m.kind = M_COLLECT
        m.rows = &rows
        if _running:
            inlet_put_message(w, &m.node)
            with nogil:
                while not zl_load32(&rows.done):
                    zl_futex_wait(&rows.done, 0, COLLECT_MS)
        else:
            zl_free(m)
            worker_collect(&_workers[w], &rows)
        for i in range(rows.n):
            out.append(_delta(&rows.rows[i]))
        zl_free(rows.rows)
    return out


cdef str _tid(uint64_t rev):
    cdef uint8_t out[13]
    tid_format(rev, out)
    return (<bytes>out[:13]).decode("ascii")


cdef object _delta(const DirtyRow *row):
    cdef bint known = row.rev != 0
    return AccountDelta(
        did=(<bytes>row.did[:row.did_n]).decode("ascii"),
        host_id=row.host_id,
        upstream_status=row.upstream_status,
        local_status=row.local_status,
        rev=_tid(row.rev) if known else None,
        data=_CID_PREFIX + <bytes>row.data[:32] if known else None,
        head=_CID_PREFIX + <bytes>row.head[:32] if known else None,
        last_seq=row.last_seq,
        desynchronized=row.desynchronized != 0,
    )


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
    for i in range(_count):
        frames += zl_load64(&inlet(i).queued)
        n_bytes += zl_load64(&inlet(i).queued_bytes)
    return frames, n_bytes


def stats():
    """Counters and gauges, one dict per worker. Torn-free, not of one moment."""
    cdef Worker *w
    cdef uint32_t i
    out = []
    for i in range(_count):
        w = &_workers[i]
        out.append({
            "queued": zl_load64(&w.inlet.queued),
            "queued_bytes": zl_load64(&w.inlet.queued_bytes),
            "judged": zl_load64_relaxed(&w.judged),
            "held": zl_load64_relaxed(&w.held),
            "held_bytes": zl_load64_relaxed(&w.held_bytes),
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
            "key_evictions": zl_load64_relaxed(&w.table.key_evictions),
        })
    return out
