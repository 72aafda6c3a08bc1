"""The set of accounts whose events are hidden when the log is read: what a takedown means for replay and live alike.

Promises: a reader that asks after a change has been made sees it; one that asked before notices by the generation.
Looking an event up costs one load while the set is empty, else a walk of a short list, without a lock. Assumes: few
accounts against HEADS; one that was ever hidden keeps its entry (some 300 bytes) until clear().

Threads: any may look. Entries are made under `_lock` by Python threads; `below` is changed by the worker of the account
(so that it goes with the account's own events, in their order), and by whoever finds that a change is on disk.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from atomics cimport zl_add32, zl_add64_relaxed, zl_cas64, zl_load32, zl_load64, zl_load64_relaxed, zl_loadp, zl_storep
from atomics cimport zl_store32, zl_store64, zl_sub64
from threads cimport zl_lock, zl_mutex, zl_unlock

from zlay._fast.accounts cimport MAX_DID
from zlay._fast.log cimport did_hash
from zlay._fast.mem cimport MEM_LOG, zl_calloc, zl_free

__all__ = ["below", "clear", "count", "events_hidden", "hide", "show"]

cdef enum:
    HEADS = 1 << 16              # lists: 512 KiB of address space, of which used ones take memory

cdef zl_mutex _lock              # guards the making of entries and of _heads
cdef Hidden **_heads = NULL      # atomic; so is each head
cdef uint64_t _hidden = 0        # atomic: entries with a `below`
cdef uint32_t _generation = 0    # atomic
cdef uint64_t _events = 0        # atomic: events that readers were not shown


cdef bint hidden_any() noexcept nogil:
    return zl_load64(&_hidden) != 0


cdef uint32_t hidden_generation() noexcept nogil:
    return zl_load32(&_generation)


cdef void hidden_count(uint64_t events) noexcept nogil:
    zl_add64_relaxed(&_events, events)


cdef inline Hidden *_first(uint64_t hash) noexcept nogil:
    cdef Hidden **heads = <Hidden **> zl_loadp(<void **> &_heads)
    return <Hidden *> zl_loadp(<void **> &heads[hash & (HEADS - 1)]) if heads != NULL else NULL


cdef bint hidden_maybe(uint64_t seq, uint64_t hash) noexcept nogil:
    cdef Hidden *h = _first(hash)
    while h != NULL:
        if h.hash == hash and seq < zl_load64(&h.below):
            return True
        h = h.next
    return False


cdef Hidden *_find(uint64_t hash, const uint8_t *did, uint32_t n) noexcept nogil:
    cdef Hidden *h = _first(hash)
    while h != NULL and not (h.hash == hash and h.did_n == n and memcmp(h.did, did, n) == 0):
        h = h.next
    return h


cdef bint hidden_is(uint64_t seq, uint64_t hash, const uint8_t *did, uint32_t n) noexcept nogil:
    cdef Hidden *h = _find(hash, did, n)
    return h != NULL and seq < zl_load64(&h.below)


cdef void hidden_set(Hidden *h, uint64_t below) noexcept nogil:
    cdef uint64_t before = zl_load64(&h.below)
    while not zl_cas64(&h.below, before, below):
        before = zl_load64(&h.below)
    _changed(before, below)


cdef void _changed(uint64_t before, uint64_t below) noexcept nogil:
    if before == 0 and below != 0:
        zl_add64_relaxed(&_hidden, 1)
    elif before != 0 and below == 0:
        zl_sub64(&_hidden, 1)
    zl_add32(&_generation, 1)


cdef Hidden *hidden_entry(bytes did) except NULL:
    """The entry of a DID, made where there is none. Raises MemoryError, ValueError."""
    global _heads
    cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(did)
    cdef uint32_t n = <uint32_t> len(did)
    cdef uint64_t hash
    cdef Hidden **heads
    cdef Hidden *h
    if not 0 < len(did) <= MAX_DID:
        raise ValueError("a DID of 1 to 261 bytes")
    hash = did_hash(p, n)
    zl_lock(&_lock)
    if _heads == NULL:
        zl_storep(<void **> &_heads, zl_calloc(MEM_LOG, HEADS * sizeof(Hidden *)))
    h = _find(hash, p, n)
    if h == NULL and _heads != NULL:
        h = <Hidden *> zl_calloc(MEM_LOG, sizeof(Hidden))
        if h != NULL:
            heads = _heads
            h.hash = hash
            h.did_n = n
            memcpy(h.did, p, n)
            h.next = heads[hash & (HEADS - 1)]
            zl_storep(<void **> &heads[hash & (HEADS - 1)], h)
    zl_unlock(&_lock)
    if h == NULL:
        raise MemoryError("no room for an account that is taken down")
    return h


# --- for zlay.firehose, tests and tools ---

def hide(bytes did):
    """Hide all events of an account, but for those that stay visible (see ranges.pyx). Any thread."""
    hidden_set(hidden_entry(did), HIDE_ALL)


def _set_below(bytes did, uint64_t seq):
    """What a worker does at the end of a takedown, for tests."""
    hidden_set(hidden_entry(did), seq)


def below(bytes did):
    """Events of the account with a seq below this are hidden: 0 = none are; 2**64 - 1 = all are. Any thread."""
    cdef uint32_t n = <uint32_t> len(did)
    cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(did)
    cdef Hidden *h = _find(did_hash(p, n), p, n)
    return zl_load64(&h.below) if h != NULL else 0


def show(bytes did, uint64_t expected):
    """Hide nothing of an account any more, if `below` is still what the caller has seen. Any thread."""
    cdef Hidden *h = hidden_entry(did)
    if expected and zl_cas64(&h.below, expected, 0):
        _changed(expected, 0)


def count():
    """Accounts with hidden events. Any thread."""
    return zl_load64_relaxed(&_hidden)


def events_hidden():
    """Events that readers were not shown, each time counted. Any thread."""
    return zl_load64_relaxed(&_events)


def clear():
    """Forget every account. Nobody reads the log, and no worker lives."""
    global _heads
    cdef Hidden *h
    cdef Hidden *following
    cdef uint32_t i
    if _heads != NULL:
        for i in range(HEADS):
            h = _heads[i]
            while h != NULL:
                following = h.next
                zl_free(h)
                h = following
        zl_free(_heads)
    _heads = NULL
    zl_store64(&_hidden, 0)
    zl_store64(&_events, 0)
    zl_store32(&_generation, 0)
