"""Millions of operations on an account table, checked one by one against what must hold.

What must hold, whatever is evicted when: an entry that is found is as it was left; one that is changed and not applied
is found; a key that is found is the one set last; a dirty entry is given out once. The books are walked at the end.
One thread, but for `stats`, which any may call meanwhile.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memcpy, memset

from tests.native.crew cimport random_below
from zlay._fast.accounts cimport (
    A_DIRTY, MAX_DID, Account, Table, account_did, account_find, account_insert, account_key, account_pop_dirty,
    account_set_key, account_touch_dirty, table_free, table_init,
)
from zlay._fast.crypto cimport KEY_K256, SigningKey
from zlay._fast.includes.atomics cimport zl_load64_relaxed
from zlay._fast.includes.hashes cimport zl_siphash24
from zlay._fast.mem cimport MEM_MISC, zl_free, zl_malloc

cdef enum:
    COLLECT_EVERY = 20000         # operations between two collections of what is dirty
    LAG = 5000                    # seqs that the applier is behind
    PLC_CHARS = 24

cdef struct Shadow:               # what an account's entry must hold, while it is there
    uint64_t rev
    uint64_t last_seq
    uint32_t key                  # number of the key set last
    uint8_t dirty


cdef class Ops:
    """A table of `capacity` entries and `keys` keys, for a universe of accounts; one in `web_every` is a did:web.

    Hashes differ in `hash_bits` bits, 1 to 64. Only the table's own memory is touched later than here.
    """

    cdef Table table
    cdef Shadow *shadows
    cdef uint32_t universe
    cdef uint32_t web_every
    cdef uint64_t hash_mask
    cdef uint64_t rng
    cdef uint64_t seq
    cdef uint64_t applied
    cdef readonly uint64_t faults
    cdef readonly uint64_t refused     # inserts that found everything pinned
    cdef readonly uint64_t hits
    cdef readonly uint64_t collected

    def __cinit__(self, uint32_t universe, uint32_t capacity, uint32_t keys, *, uint32_t hash_bits=64,
                  uint32_t web_every=10):
        self.universe = universe
        self.web_every = web_every
        self.hash_mask = <uint64_t> -1 << (64 - hash_bits)
        self.rng = 88172645463325252ULL
        self.seq = 1
        self.shadows = <Shadow *> zl_malloc(MEM_MISC, universe * sizeof(Shadow))
        if self.shadows == NULL or table_init(&self.table, capacity, keys) != 0:
            raise MemoryError
        memset(self.shadows, 0, universe * sizeof(Shadow))

    def __dealloc__(self):
        table_free(&self.table)
        zl_free(self.shadows)

    # --- accounts ---

    cdef uint32_t _did(self, uint32_t i, uint8_t *out) noexcept nogil:
        """The DID of account i; a did:web is of any length up to the longest."""
        cdef uint64_t x = <uint64_t> i * 0x9E3779B97F4A7C15ULL
        cdef uint32_t k
        if self.web_every and i % self.web_every == 0:
            k = <uint32_t> snprintf(<char *> out, MAX_DID, b"did:web:%u.example.", i)
            while k < 40 + i % (MAX_DID - 40):
                out[k] = c'a'
                k += 1
            return k
        memcpy(out, b"did:plc:", 8)
        for k in range(PLC_CHARS):
            out[8 + k] = <uint8_t> (c'a' + (x >> (k * 5 % 60) & 15) + (k & 1))
        for k in range(8):            # distinct for distinct numbers
            out[8 + k] = <uint8_t> (c'a' + (i >> (4 * k) & 15))
        return 8 + PLC_CHARS

    cdef uint64_t _hash(self, const uint8_t *did, uint32_t n) noexcept nogil:
        # The high bits choose the bucket: what is left of a hash stands there, and few hashes fill few buckets.
        return zl_siphash24(1, 2, did, n) & self.hash_mask | 1

    cdef inline bint _pinned(self, const Shadow *s) noexcept nogil:
        return s.dirty != 0 or s.last_seq > self.applied

    cdef inline void _fault(self, bint wrong) noexcept nogil:
        self.faults += wrong

    # --- one operation ---

    cdef Account *_enter(self, uint32_t i) noexcept nogil:
        """The entry of account i, checked; NULL when there is no room."""
        cdef Shadow *s = &self.shadows[i]
        cdef uint8_t did[MAX_DID + 1]
        cdef uint8_t back[MAX_DID + 1]
        cdef uint32_t n = self._did(i, did)
        cdef uint64_t hash = self._hash(did, n)
        cdef Account *a = account_find(&self.table, hash, did, n)
        if a != NULL:
            self.hits += 1
            self._fault(a.rev != s.rev or a.last_seq != s.last_seq or a.status_s != i)
            self._fault(((a.flags & A_DIRTY) != 0) != (s.dirty != 0))
            self._fault(account_did(a, back) != n or memcmp(back, did, n) != 0)
            return a
        self._fault(self._pinned(s))
        a = account_insert(&self.table, hash, did, n, self.applied)
        if a == NULL:
            self.refused += 1
            return NULL
        self._fault(a.rev != 0 or a.flags != 0 or a.last_seq != 0 or a.hold != NULL or a.key_slot != 0)
        memset(s, 0, sizeof(Shadow))
        a.status_s = i
        return a

    cdef void _change(self, Account *a, Shadow *s) noexcept nogil:
        self.seq += 1
        a.rev = s.rev = self.seq * 3
        a.last_seq = s.last_seq = self.seq
        account_touch_dirty(&self.table, a)
        s.dirty = 1

    cdef void _mark(self, uint32_t i, const Shadow *s, SigningKey *out) noexcept nogil:
        memset(out, 0, sizeof(SigningKey))
        out.type = KEY_K256
        memcpy(out.bytes, &i, 4)
        memcpy(out.bytes + 60, &s.key, 4)

    cdef void _set_key(self, Account *a, uint32_t i) noexcept nogil:
        cdef SigningKey key
        self.shadows[i].key += 1
        self._mark(i, &self.shadows[i], &key)
        self._fault(account_set_key(&self.table, a, &key) != 0)

    cdef void _look_at_key(self, Account *a, uint32_t i) noexcept nogil:
        cdef SigningKey expected
        cdef const SigningKey *key = account_key(&self.table, a)
        if key == NULL:               # none was set, or the clock has taken it
            return
        self._mark(i, &self.shadows[i], &expected)
        self._fault(self.shadows[i].key == 0 or memcmp(key, &expected, sizeof(SigningKey)) != 0)

    cdef void _collect(self) noexcept nogil:
        cdef Account *a = account_pop_dirty(&self.table)
        while a != NULL:
            self._fault(a.status_s >= self.universe or not self.shadows[a.status_s].dirty)
            self.shadows[a.status_s].dirty = 0
            self.collected += 1
            a = account_pop_dirty(&self.table)
        self.applied = self.seq - LAG if self.seq > LAG else 0

    def run(self, uint64_t operations):
        """So many operations on random accounts, half of them of one in twenty."""
        cdef uint64_t k
        cdef uint32_t i, what
        cdef Account *a
        with nogil:
            for k in range(operations):
                if k % COLLECT_EVERY == 0:
                    self._collect()
                i = random_below(&self.rng, self.universe)
                if random_below(&self.rng, 2):
                    i //= 20
                a = self._enter(i)
                if a == NULL:
                    self._collect()
                    continue
                what = random_below(&self.rng, 8)
                if what == 0:
                    self._change(a, &self.shadows[i])
                elif what < 3:
                    self._set_key(a, i)
                elif what < 6:
                    self._look_at_key(a, i)

    def fill(self, uint32_t n):
        """Accounts 0 to n - 1, once each, every second with a key."""
        cdef uint32_t i
        cdef Account *a
        with nogil:
            for i in range(n):
                a = self._enter(i)
                if a != NULL and i & 1:
                    self._set_key(a, i)

    # --- the books ---

    def walk(self):
        """Counts entries in every way in which they are linked; a dict."""
        cdef Table *t = &self.table
        cdef uint64_t newest = 0, oldest = 0, chained = 0, free = 0, with_key = 0, owned = 0, dirty = 0
        cdef uint32_t i
        i = t.lru_newest
        while i:
            newest += 1
            with_key += t.entries[i].key_slot != 0
            dirty += (t.entries[i].flags & A_DIRTY) != 0
            self._fault(t.entries[i].key_slot != 0
                        and t.key_owners[t.entries[i].key_slot] & 0x7FFFFFFF != i)
            i = t.entries[i].lru_older
        i = t.lru_oldest
        while i:
            oldest += 1
            i = t.entries[i].lru_newer
        for k in range(t.capacity):
            i = t.buckets[k]
            while i:
                chained += 1
                i = t.entries[i].chain
        i = t.free_head
        while i:
            free += 1
            i = t.entries[i].chain
        for k in range(1, t.key_capacity + 1):
            owned += t.key_owners[k] != 0
        return {"newest": newest, "oldest": oldest, "chained": chained, "used": t.fresh - 1 - free,
                "with_key": with_key, "owned": owned, "dirty": dirty}

    def stats(self):
        """The table's own counters. Any thread."""
        return {"live": zl_load64_relaxed(&self.table.live), "keys_live": zl_load64_relaxed(&self.table.keys_live),
                "dirty": zl_load64_relaxed(&self.table.dirty),
                "evictions": zl_load64_relaxed(&self.table.evictions),
                "key_evictions": zl_load64_relaxed(&self.table.key_evictions)}
