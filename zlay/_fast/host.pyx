"""The C side of each host: credit (R5), share of the queues, anchor, progress slots (design 4 and 7), counters.

Promises: a Host's address stays valid for the life of the process; one host's credit and share make only that host's
reader wait; the cursor never passes a frame without a verdict, or one whose event is not synced; no frame with a seq
is handed on before a cursor below it has been saved, so that a kill at any moment lets the host send it again.

Credit is dynamic (Choudhury and Hahne's threshold): beside its own limit a host may use at most a quarter of what is
free in the pool, so the more hosts are busy the less each gets, and a few hosts cannot take the room of the others. One
frame of a host that has nothing else charged is always let through to the pool, whatever its size.

Threads. Each field of Host says who writes it. The host array is append-only: `_count` is published after the pointer,
so readers need no lock. `_array_lock` guards appending; `_progress_lock` guards a collection against a change of epoch
and against the anchor, which a reader sets with the first frame.
Slots are a queue of chunks with one producer (the host's one reader) and one consumer (the collector).
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, strlen
from zlay._fast.host cimport (
    CREDIT_HOST_LIMIT, CREDIT_OK, CREDIT_POOL_LIMIT, Host, MAX_HOSTS, NO_ANCHOR, QUEUE_SHARE_BYTES,
    SLOT_DROPPED, SLOT_PENDING, SLOTS_PER_CHUNK, Slot, SlotChunk, WAIT_CREDIT, WAIT_LIMIT, WAIT_NOTHING, WAIT_SHARE,
)
from zlay._fast.includes.atomics cimport (
    zl_add32, zl_add64, zl_add64_relaxed, zl_bump64, zl_fence, zl_futex_wait, zl_futex_wake, zl_load32, zl_load64,
    zl_load64_relaxed, zl_loadp, zl_monotonic_us, zl_store32, zl_store64, zl_storep, zl_sub64, zl_swap32, zl_swapp,
)
from zlay._fast.includes.crash_points cimport zl_crash_point
from zlay._fast.includes.threads cimport zl_lock, zl_mutex, zl_unlock
from zlay._fast.mem cimport MEM_HOST, zl_calloc, zl_free, zl_malloc
from zlay._fast.pool cimport pool_total_bytes, pool_used_bytes
from zlay._fast.verdicts cimport R_CBOR_TRUNCATED, R_FRAME_PAYLOAD

cdef enum:
    POOL_SHARE = 4               # a host may use at most free pool bytes / POOL_SHARE (alpha = 1/4)

cdef zl_mutex _array_lock
cdef zl_mutex _progress_lock
cdef Host *_hosts[65536]         # MAX_HOSTS; entries below _count never change
cdef uint32_t _count = 0         # atomic
cdef uint32_t _unsaved = 0       # atomic, written under _progress_lock: hosts with an anchor that is not saved

MAX_SEQ = (1 << 53) - 1          # A11
WAITS = ("nothing", "credit", "share", "anchor", "limit")


# --- the array ---

cdef Host *host_new(uint32_t id, const char *name, uint64_t credit_limit) noexcept nogil:
    cdef Host *h = <Host *>zl_calloc(MEM_HOST, sizeof(Host))  # lives as long as the process
    cdef size_t n = strlen(name)
    if h == NULL:
        return NULL
    h.id = id
    h.epoch = 1
    h.credit_limit = credit_limit
    h.anchor = NO_ANCHOR
    memcpy(h.name, name, min(n, sizeof(h.name) - 1))
    zl_lock(&_array_lock)
    if _count == MAX_HOSTS:
        zl_unlock(&_array_lock)
        zl_free(h)
        return NULL
    h.index = _count
    _hosts[_count] = h
    zl_store32(&_count, _count + 1)
    zl_unlock(&_array_lock)
    return h


cdef Host *host_at(uint32_t index) noexcept nogil:
    return _hosts[index] if index < zl_load32(&_count) else NULL


cdef uint32_t host_count() noexcept nogil:
    return zl_load32(&_count)


# --- credit ---

cdef int host_take_credit(Host *h, uint64_t n, uint64_t own) noexcept nogil:
    # Only the reader adds, so what was read can only have become less when it is added to.
    cdef uint64_t used = zl_load64(&h.credit_used)
    cdef uint64_t total, taken
    if used > own:
        if used + n > zl_load64_relaxed(&h.credit_limit):
            return CREDIT_HOST_LIMIT
        total = pool_total_bytes()
        taken = pool_used_bytes()
        if taken >= total or used + n > (total - taken) // POOL_SHARE:
            return CREDIT_POOL_LIMIT
    zl_add64(&h.credit_used, n)
    return CREDIT_OK


cdef void host_give_credit(Host *h, uint64_t n) noexcept nogil:
    zl_sub64(&h.credit_used, n)
    zl_fence()  # pairs with host_wait_ticket: either we see the reader waiting, or it sees the credit
    if zl_load32(&h.waits_for) == WAIT_CREDIT:
        host_interrupt(h)


# --- the share of the queues ---

cdef bint host_take_share(Host *h, uint64_t n) noexcept nogil:
    cdef uint64_t queued = zl_load64(&h.queued_bytes)  # only the reader adds
    if queued != 0 and queued + n > QUEUE_SHARE_BYTES:
        return False
    zl_add64(&h.queued_bytes, n)
    return True


cdef void host_give_share(Host *h, uint64_t n) noexcept nogil:
    zl_sub64(&h.queued_bytes, n)
    zl_fence()  # as above
    # Not for every frame: half of the share is enough to be busy with while the reader wakes.
    if zl_load32(&h.waits_for) == WAIT_SHARE and zl_load64(&h.queued_bytes) <= QUEUE_SHARE_BYTES // 2:
        host_interrupt(h)


# --- the anchor ---

cdef void host_connected(Host *h) noexcept nogil:
    zl_lock(&_progress_lock)
    if not h.has_cursor:
        zl_store64(&h.cursor, 0)
        zl_store32(&h.has_cursor, 1)
    zl_unlock(&_progress_lock)


cdef bint host_anchored(Host *h, uint64_t seq) noexcept nogil:
    if zl_load32(&h.anchored) == zl_load32(&h.epoch):
        return True
    zl_lock(&_progress_lock)
    if h.anchor == NO_ANCHOR:
        h.anchor = seq - 1
        if h.cursor < h.anchor:
            zl_store64(&h.cursor, h.anchor)
        zl_store32(&h.has_cursor, 1)
        zl_store32(&_unsaved, _unsaved + 1)
    zl_unlock(&_progress_lock)
    return False


cdef void _forget_anchor(Host *h) noexcept nogil:
    """Needs _progress_lock."""
    if h.anchor != NO_ANCHOR:
        h.anchor = NO_ANCHOR
        zl_store32(&_unsaved, _unsaved - 1)


# --- waiting ---

cdef void host_interrupt(Host *h) noexcept nogil:
    zl_swap32(&h.waits_for, WAIT_NOTHING)
    zl_add32(&h.wait_word, 1)
    zl_futex_wake(&h.wait_word, 1)


cdef uint32_t host_wait_ticket(Host *h, uint32_t what) noexcept nogil:
    cdef uint32_t word = zl_load32(&h.wait_word)
    zl_store32(&h.waits_for, what)
    zl_fence()
    return word


cdef void host_wait(Host *h, uint32_t ticket, uint32_t timeout_ms) noexcept nogil:
    if timeout_ms != 0:
        zl_futex_wait(&h.wait_word, ticket, timeout_ms)
    zl_store32(&h.waits_for, WAIT_NOTHING)


# --- progress ---

cdef SlotChunk *_new_chunk(Host *h) noexcept nogil:
    cdef SlotChunk *chunk = <SlotChunk *>zl_swapp(<void **>&h.spare, NULL)
    if chunk == NULL:
        # Owned by the queue: the collector recycles or frees it.
        chunk = <SlotChunk *>zl_malloc(MEM_HOST, sizeof(SlotChunk))
    if chunk != NULL:
        chunk.next = NULL
    return chunk


cdef Slot *host_push_slot(Host *h, uint64_t upstream_seq, uint64_t synced_end) noexcept nogil:
    cdef SlotChunk *chunk = h.tail
    cdef Slot *slot
    if chunk == NULL or h.tail_used == SLOTS_PER_CHUNK:
        chunk = _new_chunk(h)
        if chunk == NULL:
            return NULL
        if h.tail == NULL:
            zl_storep(<void **>&h.head, chunk)
        else:
            zl_storep(<void **>&h.tail.next, chunk)
        h.tail = chunk
        h.tail_used = 0
    slot = &chunk.slots[h.tail_used]
    slot.upstream_seq = upstream_seq
    slot.synced_at_arrival = synced_end
    slot.epoch = zl_load32(&h.epoch)
    zl_store64(&slot.verdict, SLOT_PENDING)
    h.tail_used += 1
    zl_add64(&h.pushed, 1)  # publishes the slot
    zl_crash_point(b"receive.after")
    return slot


cdef void host_drop_slot(Host *h, Slot *slot, int reason) noexcept nogil:
    zl_add64_relaxed(&h.by_reason[reason], 1)
    if R_CBOR_TRUNCATED <= reason <= R_FRAME_PAYLOAD:  # encoding: what design 14 counts in a row
        zl_add32(&h.bad_run, 1)
    else:
        zl_store32(&h.bad_run, 0)
    if slot != NULL:
        zl_store64(&slot.verdict, SLOT_DROPPED)


cdef bint _next_chunk(Host *h) noexcept nogil:
    """The collector has read its chunk to the end: on to the next; False when the reader has not begun it."""
    cdef SlotChunk *done = h.head
    cdef SlotChunk *following = <SlotChunk *>zl_loadp(<void **>&done.next)
    if following == NULL:
        return False
    h.head = following
    h.head_used = 0
    done = <SlotChunk *>zl_swapp(<void **>&h.spare, done)
    if done != NULL:
        zl_free(done)
    return True


cdef uint64_t host_collect(Host *h, uint64_t synced_end, uint64_t *oldest_pending) noexcept nogil:
    """Needs _progress_lock."""
    cdef uint64_t pushed = zl_load64(&h.pushed)
    cdef uint64_t cursor = zl_load64(&h.cursor)
    cdef uint32_t epoch = zl_load32(&h.epoch)
    cdef uint64_t verdict
    cdef Slot *slot
    oldest_pending[0] = <uint64_t>-1
    while h.popped < pushed:
        if h.head_used == SLOTS_PER_CHUNK and not _next_chunk(h):
            break
        slot = &h.head.slots[h.head_used]
        verdict = zl_load64(&slot.verdict)
        if verdict == SLOT_PENDING or (verdict != SLOT_DROPPED and verdict > synced_end):
            oldest_pending[0] = slot.synced_at_arrival
            break
        if slot.epoch == epoch and slot.upstream_seq > cursor:
            cursor = slot.upstream_seq
            zl_store32(&h.has_cursor, 1)
        h.head_used += 1
        zl_bump64(&h.popped, 1)
    zl_store64(&h.cursor, cursor)
    return cursor


cdef bint host_is_duplicate(const Host *h, uint32_t epoch, uint64_t upstream_seq) noexcept nogil:
    cdef uint32_t low = 0
    cdef uint32_t high = h.dedup_n
    cdef uint32_t middle
    if high == 0 or epoch != h.dedup_epoch or upstream_seq == 0:
        return False
    if upstream_seq > h.dedup[high - 1]:
        return False
    while low < high:
        middle = low + (high - low) // 2
        if h.dedup[middle] < upstream_seq:
            low = middle + 1
        else:
            high = middle
    return low < h.dedup_n and h.dedup[low] == upstream_seq


# --- for Python: the registry and the applier ---

cdef Host *_host(index) except NULL:
    cdef Host *h = NULL
    if 0 <= index < MAX_HOSTS:
        h = host_at(index)
    if h == NULL:
        raise IndexError(f"no host at index {index}")
    return h


def new(host_id, name, credit_limit=8 << 20):
    """Makes the C side of the host with row id `host_id` (1 or more) and returns its index. Any thread.

    `name` is the host name as in the registry; `credit_limit` is HOST_CREDIT_BYTES. Raises ValueError for a bad id or
    name, MemoryError when MAX_HOSTS stand already or memory is out. Epoch is 1, cursor none: see `set_epoch`.
    """
    cdef Host *h
    encoded = name.encode()
    if not 0 < host_id < 1 << 32:
        raise ValueError(f"host id {host_id}")
    if not 0 < len(encoded) < 256 or b"\0" in encoded:
        raise ValueError(f"host name {name!r}")
    h = host_new(host_id, encoded, credit_limit)
    if h == NULL:
        raise MemoryError(f"no room for another host ({host_count()} stand)")
    return h.index


def count():
    """How many hosts stand; indexes run from 0 to count - 1. Any thread."""
    return host_count()


def set_epoch(index, epoch, cursor=None):
    """Sets the epoch of the host's numbering and its saved cursor (None = none, dial live). Any thread.

    The host must have no open connection. Frames of the earlier epoch that still wait for a verdict move no cursor.
    """
    cdef Host *h = _host(index)
    cdef uint64_t seq = 0 if cursor is None else cursor
    zl_lock(&_progress_lock)
    zl_store32(&h.epoch, epoch)
    zl_store64(&h.cursor, seq)
    zl_store32(&h.has_cursor, cursor is not None)
    zl_store32(&h.anchored, epoch if cursor is not None else 0)
    _forget_anchor(h)
    zl_store64(&h.last_seq, 0)
    zl_unlock(&_progress_lock)


cdef object _cursor(Host *h):
    return zl_load64(&h.cursor) if zl_load32(&h.has_cursor) else None


def resume_seq(index):
    """Upstream seq after which a dial goes on: the last one received, else the cursor, else None = live.

    The cursor of a host that was connected and has sent no event yet is 0: what it keeps is all that can be known not
    to have been missed since.
    """
    cdef Host *h = _host(index)
    return zl_load64(&h.last_seq) or _cursor(h)


def anchors():
    """Cursors that must be saved before their hosts' first frames are handed on: [(host id, epoch, cursor)].

    Listed until `set_saved` says that they are. Any thread; costs nothing while nobody waits.
    """
    cdef Host *h
    cdef uint32_t index, epoch
    cdef uint64_t anchor
    rows = []
    if zl_load32(&_unsaved) == 0:
        return rows
    for index in range(host_count()):
        h = _hosts[index]
        zl_lock(&_progress_lock)
        anchor = h.anchor
        epoch = h.epoch
        zl_unlock(&_progress_lock)
        if anchor != NO_ANCHOR:
            rows.append((h.id, epoch, anchor))
    return rows


def set_saved(index, epoch, cursor):
    """The host's cursor has been saved: if it is the anchor that its reader waits for, that goes on. Any thread."""
    cdef Host *h = _host(index)
    cdef uint32_t of_epoch = epoch
    cdef uint64_t seq = cursor
    cdef bint waited
    zl_lock(&_progress_lock)
    waited = h.anchor != NO_ANCHOR and h.epoch == of_epoch and seq >= h.anchor
    if waited:
        _forget_anchor(h)
        zl_store32(&h.anchored, of_epoch)
    zl_unlock(&_progress_lock)
    if waited:
        zl_fence()
        host_interrupt(h)


def set_credit_limit(index, credit_limit):
    """Changes the bytes the host may have in flight. Any thread."""
    zl_store64(&_host(index).credit_limit, credit_limit)


def set_dedup(index, epoch, seqs):
    """Upstream seqs of `epoch` that are in the log already, above the persisted cursor (design 4: exactly once).

    Once per host, before it is dialled; raises RuntimeError the second time, as workers read the set without a lock.
    """
    cdef Host *h = _host(index)
    cdef uint64_t *array
    cdef uint32_t n, i
    ordered = sorted(set(seqs))
    if h.dedup != NULL:
        raise RuntimeError(f"host {h.id} has its set already")
    n = <uint32_t>len(ordered)
    if n == 0:
        return
    array = <uint64_t *>zl_malloc(MEM_HOST, n * sizeof(uint64_t))  # owned by the host, as long as the process
    if array == NULL:
        raise MemoryError
    for i in range(n):
        array[i] = ordered[i]
    h.dedup = array
    h.dedup_epoch = epoch
    h.dedup_n = n


def ban(index, banned=True):
    """Marks the host banned, or not: workers drop what it still has in flight. Any thread."""
    zl_store32(&_host(index).banned, 1 if banned else 0)


def collect(index, synced_end):
    """Moves the host's cursor over all frames done and synced; (cursor or None, oldest pending or None).

    `oldest pending` is the log's synced_end when the oldest frame without a (synced) verdict arrived: what the
    deduplication after a restart must begin at. One thread, the applier's.
    """
    cdef Host *h = _host(index)
    cdef uint64_t oldest = 0
    cdef uint64_t end = synced_end
    with nogil:
        zl_lock(&_progress_lock)
        host_collect(h, end, &oldest)
        zl_unlock(&_progress_lock)
    return _cursor(h), None if oldest == <uint64_t>-1 else oldest


def collect_all(synced_end):
    """`collect` for every host, with the epoch the cursor belongs to: [(host id, epoch, cursor, oldest pending)].

    Only hosts with a cursor or with a frame pending are listed. One thread, the applier's.
    """
    cdef Host *h
    cdef uint64_t oldest = 0
    cdef uint64_t cursor
    cdef uint64_t end = synced_end
    cdef uint32_t index, epoch, has_cursor
    rows = []
    for index in range(host_count()):
        h = _hosts[index]
        zl_lock(&_progress_lock)
        cursor = host_collect(h, end, &oldest)
        has_cursor = h.has_cursor
        epoch = h.epoch
        zl_unlock(&_progress_lock)
        if has_cursor or oldest != <uint64_t>-1:
            rows.append((h.id, epoch, cursor if has_cursor else None, None if oldest == <uint64_t>-1 else oldest))
    return rows


def stats(index):
    """What the host has sent and holds, now; `by_reason` maps a verdicts.Reason to its count. Any thread."""
    cdef Host *h = _host(index)
    cdef int i
    return {
        "id": h.id,
        "index": h.index,
        "name": h.name.decode(),
        "epoch": zl_load32(&h.epoch),
        "banned": bool(zl_load32(&h.banned)),
        "credit_used_bytes": zl_load64(&h.credit_used),
        "credit_limit_bytes": zl_load64(&h.credit_limit),
        "queued_bytes": zl_load64(&h.queued_bytes),
        "waiting": zl_load32(&h.waits_for) != WAIT_NOTHING,
        "waits_for": WAITS[zl_load32(&h.waits_for)],
        "pending": zl_load64(&h.pushed) - zl_load64(&h.popped),
        "cursor": _cursor(h),
        "last_seq": zl_load64(&h.last_seq) or None,
        "frames": zl_load64_relaxed(&h.frames),
        "bytes": zl_load64_relaxed(&h.bytes),
        "published": zl_load64_relaxed(&h.published),
        "waited_s": zl_load64_relaxed(&h.waited_us) / 1e6,
        "throttled_s": zl_load64_relaxed(&h.throttled_us) / 1e6,
        "lag_s": zl_load64_relaxed(&h.lag_us) / 1e6,
        "last_frame_us": zl_load64(&h.last_frame_us) or None,
        "outdated_cursors": zl_load64_relaxed(&h.outdated),
        "bad_run": zl_load32(&h.bad_run),
        "by_reason": {i: n for i in range(128) if (n := zl_load64_relaxed(&h.by_reason[i]))},
    }


def totals():
    """Sums over all hosts, for metrics; `waiting` counts hosts whose reader waits. Any thread."""
    cdef uint64_t frames = 0, bytes_ = 0, published = 0, credit = 0, pending = 0, waiting = 0, waited = 0, outdated = 0
    cdef uint64_t throttled = 0, throttled_us = 0
    cdef uint32_t index
    cdef Host *h
    with nogil:
        for index in range(host_count()):
            h = _hosts[index]
            frames += zl_load64_relaxed(&h.frames)
            bytes_ += zl_load64_relaxed(&h.bytes)
            published += zl_load64_relaxed(&h.published)
            credit += zl_load64_relaxed(&h.credit_used)
            pending += zl_load64_relaxed(&h.pushed) - zl_load64_relaxed(&h.popped)
            waiting += zl_load32(&h.waits_for) != WAIT_NOTHING
            waited += zl_load64_relaxed(&h.waited_us)
            throttled += zl_load32(&h.waits_for) == WAIT_LIMIT
            throttled_us += zl_load64_relaxed(&h.throttled_us)
            outdated += zl_load64_relaxed(&h.outdated)
    return {
        "hosts": host_count(),
        "frames": frames,
        "bytes": bytes_,
        "published": published,
        "credit_used_bytes": credit,
        "pending": pending,
        "waiting": waiting,
        "waited_s": waited / 1e6,
        "throttled": throttled,
        "throttled_s": throttled_us / 1e6,
        "outdated_cursors": outdated,
    }


# --- for tests and tools ---

cdef inline Slot *_slot(slot) noexcept:
    return <Slot *><uint64_t>slot


def push_slot(index, upstream_seq, synced_end=0):
    """What the reader does per frame; the slot as an opaque number."""
    cdef Slot *slot = host_push_slot(_host(index), upstream_seq, synced_end)
    if slot == NULL:
        raise MemoryError
    return <uint64_t>slot


def finish_slot(index, slot, log_seq=None, reason=0):
    """What a worker does at a verdict: the event's log seq, or None = dropped for `reason`."""
    if log_seq is None:
        host_drop_slot(_host(index), _slot(slot), reason)
    else:
        zl_store64(&_slot(slot).verdict, log_seq)


def take_credit(index, n, own=0):
    """What the reader does before it keeps bytes: 0 taken, 1 the host's limit, 2 the pool's."""
    return host_take_credit(_host(index), n, own)


def give_credit(index, n):
    """What ends a frame's life does."""
    host_give_credit(_host(index), n)


def wait_credit(index, n, timeout_ms):
    """Takes `n` bytes of credit as a reader does, waiting at most `timeout_ms`; True when taken."""
    cdef Host *h = _host(index)
    cdef uint64_t bytes_ = n
    cdef uint64_t deadline = zl_monotonic_us() + <uint64_t>timeout_ms * 1000
    cdef uint64_t now
    cdef uint32_t ticket
    cdef bint taken
    with nogil:
        while True:
            ticket = host_wait_ticket(h, WAIT_CREDIT)
            taken = host_take_credit(h, bytes_, 0) == CREDIT_OK
            now = zl_monotonic_us()
            if taken or now >= deadline:
                host_wait(h, ticket, 0)
                break
            host_wait(h, ticket, <uint32_t>((deadline - now) // 1000 + 1))  # may return early
    return taken


def take_share(index, n):
    """What the reader does before it hands a frame on; False = it has to wait."""
    return host_take_share(_host(index), n)


def give_share(index, n):
    """What a worker does after it has looked at a frame."""
    host_give_share(_host(index), n)


def connected(index):
    """What the reader does when it begins."""
    host_connected(_host(index))


def anchored(index, seq):
    """What the reader does before it hands a frame with a seq on; False = it has to wait."""
    return host_anchored(_host(index), seq)


def is_duplicate(index, epoch, upstream_seq):
    """Whether the seq is in the set given by `set_dedup`."""
    return host_is_duplicate(_host(index), epoch, upstream_seq)
