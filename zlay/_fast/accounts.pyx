"""The account table: a fixed array of entries, chained buckets, an LRU list, and a smaller array of parsed keys.

Promises: at most `capacity` entries and `key_capacity` keys, whatever the network sends; an entry that is changed and
not yet applied to SQL, or that holds frames, is never evicted. One that only waits for an answer may be: the answer
then finds nobody, and SQL has what it said. Lookups take no lock.
Assumes: one thread, the worker that owns the table. Memory is taken once, zeroed lazily by the kernel, so that an
empty table costs address space only; DID strings that are not did:plc are allocated and freed with their entry.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from zlay._fast.crypto cimport SigningKey
from zlay._fast.includes.atomics cimport zl_bump64, zl_load64_relaxed
from zlay._fast.mem cimport MEM_ACCOUNT, zl_calloc, zl_free, zl_malloc

cdef enum:
    PLC_CHARS = 24          # did:plc:<24 base32 characters> = 120 bits
    PLC_BYTES = 15
    PLC_LENGTH = 32
    EVICTION_SCAN = 4096    # entries looked at from the old end before giving up for now: some 100 us


cdef extern from *:
    """
    #define KEY_USED 0x80000000u
    """
    const uint32_t KEY_USED     # of Table.key_owners; entries are far fewer


# Declared as a pointer: indexing the literal itself would make a bytes object of it, and attach the worker's thread.
cdef const uint8_t *BASE32 = b"abcdefghijklmnopqrstuvwxyz234567"


cdef inline int _base32_value(uint8_t c) noexcept nogil:
    if c'a' <= c <= c'z':
        return c - c'a'
    if c'2' <= c <= c'7':
        return c - c'2' + 26
    return -1


cdef bint _pack_plc(const uint8_t *did, uint32_t n, uint8_t *out) noexcept nogil:
    """The 15 bytes of a well-formed did:plc; False for any other DID."""
    cdef uint64_t bits = 0
    cdef int i, j, value
    if n != PLC_LENGTH or memcmp(did, b"did:plc:", 8) != 0:
        return False
    for i in range(3):
        bits = 0
        for j in range(8):
            value = _base32_value(did[8 + 8 * i + j])
            if value < 0:
                return False
            bits = bits << 5 | <uint64_t>value
        for j in range(5):
            out[5 * i + j] = <uint8_t>(bits >> (32 - 8 * j))
    return True


cdef void _unpack_plc(const uint8_t *packed, uint8_t *out) noexcept nogil:
    cdef uint64_t bits
    cdef int i, j
    memcpy(out, b"did:plc:", 8)
    for i in range(3):
        bits = 0
        for j in range(5):
            bits = bits << 8 | packed[5 * i + j]
        for j in range(8):
            out[8 + 8 * i + j] = BASE32[bits >> (35 - 5 * j) & 31]


cdef int table_init(Table *t, uint32_t capacity, uint32_t key_capacity) noexcept nogil:
    """Takes the arrays. 0, or -1 when out of memory."""
    memset(t, 0, sizeof(Table))
    t.entries = <Account *>zl_calloc(MEM_ACCOUNT, (<size_t>capacity + 1) * sizeof(Account))
    t.buckets = <uint32_t *>zl_calloc(MEM_ACCOUNT, <size_t>capacity * sizeof(uint32_t))
    t.keys = <SigningKey *>zl_calloc(MEM_ACCOUNT, (<size_t>key_capacity + 1) * sizeof(SigningKey))
    t.key_owners = <uint32_t *>zl_calloc(MEM_ACCOUNT, (<size_t>key_capacity + 1) * sizeof(uint32_t))
    if t.entries == NULL or t.buckets == NULL or t.keys == NULL or t.key_owners == NULL:
        table_free(t)
        return -1
    t.capacity = capacity
    t.key_capacity = key_capacity
    t.fresh = 1
    t.key_fresh = 1
    t.key_hand = 1
    return 0


cdef void table_free(Table *t) noexcept nogil:
    """Gives everything back, the entries' DID strings included. Holds must be gone before."""
    cdef uint32_t i
    if t.entries != NULL:
        for i in range(1, t.fresh):
            if t.entries[i].hash != 0 and t.entries[i].did_n != 0:
                zl_free((<void **>t.entries[i].did)[0])
    zl_free(t.entries)
    zl_free(t.buckets)
    zl_free(t.keys)
    zl_free(t.key_owners)
    memset(t, 0, sizeof(Table))


cdef inline uint32_t _bucket(const Table *t, uint64_t hash) noexcept nogil:
    """The low bits choose the worker, so the bucket takes the high ones, as a share of all buckets."""
    return <uint32_t>((hash >> 32) * t.capacity >> 32)


cdef inline uint32_t _index(const Table *t, const Account *a) noexcept nogil:
    return <uint32_t>(a - t.entries)


cdef void _lru_unlink(Table *t, uint32_t i) noexcept nogil:
    cdef Account *a = &t.entries[i]
    if a.lru_newer:
        t.entries[a.lru_newer].lru_older = a.lru_older
    else:
        t.lru_newest = a.lru_older
    if a.lru_older:
        t.entries[a.lru_older].lru_newer = a.lru_newer
    else:
        t.lru_oldest = a.lru_newer


cdef void _lru_push(Table *t, uint32_t i) noexcept nogil:
    cdef Account *a = &t.entries[i]
    a.lru_newer = 0
    a.lru_older = t.lru_newest
    if t.lru_newest:
        t.entries[t.lru_newest].lru_newer = i
    else:
        t.lru_oldest = i
    t.lru_newest = i


cdef bint _same_did(
    const Account *a, const uint8_t *did, uint32_t n, const uint8_t *packed, bint is_plc
) noexcept nogil:
    if is_plc:
        return a.did_n == 0 and memcmp(a.did, packed, PLC_BYTES) == 0
    return a.did_n == n and memcmp((<void **>a.did)[0], did, n) == 0


cdef Account *account_find(Table *t, uint64_t hash, const uint8_t *did, uint32_t n) noexcept nogil:
    """The entry of a DID, now the newest of the LRU list; NULL when it is not here."""
    cdef uint8_t packed[16]
    cdef bint is_plc = _pack_plc(did, n, packed)
    cdef uint32_t i = t.buckets[_bucket(t, hash)]
    cdef Account *a
    while i:
        a = &t.entries[i]
        if a.hash == hash and _same_did(a, did, n, packed, is_plc):
            if t.lru_newest != i:
                _lru_unlink(t, i)
                _lru_push(t, i)
            return a
        i = a.chain
    return NULL


cdef inline bint _pinned(const Account *a, uint64_t applied_seq) noexcept nogil:
    return a.hold != NULL or (a.flags & A_DIRTY) != 0 or a.last_seq > applied_seq


cdef void _drop_key(Table *t, Account *a) noexcept nogil:
    """Frees the entry's key slot. The slot is found again by the clock."""
    if a.key_slot:
        t.key_owners[a.key_slot] = 0
        a.key_slot = 0
        zl_bump64(&t.keys_live, <uint64_t>-1)


cdef void _evict(Table *t, uint32_t i) noexcept nogil:
    cdef Account *a = &t.entries[i]
    cdef uint32_t *link = &t.buckets[_bucket(t, a.hash)]
    while link[0] != i:
        link = &t.entries[link[0]].chain
    link[0] = a.chain
    _lru_unlink(t, i)
    _drop_key(t, a)
    if a.did_n:
        zl_free((<void **>a.did)[0])
    memset(a, 0, sizeof(Account))
    a.chain = t.free_head
    t.free_head = i
    zl_bump64(&t.live, <uint64_t>-1)
    zl_bump64(&t.evictions, 1)


cdef bint _make_room(Table *t, uint64_t applied_seq) noexcept nogil:
    """Evicts the oldest entry that nothing pins. False when the old end of the list is all pinned.

    What is pinned goes to the new end, so that the next look begins behind it.
    """
    cdef uint32_t i, _looked
    for _looked in range(min(<uint32_t>EVICTION_SCAN, t.capacity)):
        i = t.lru_oldest
        if not _pinned(&t.entries[i], applied_seq):
            _evict(t, i)
            return True
        _lru_unlink(t, i)
        _lru_push(t, i)
    return False


cdef Account *account_insert(
    Table *t, uint64_t hash, const uint8_t *did, uint32_t n, uint64_t applied_seq
) noexcept nogil:
    """A new, zeroed entry for a DID that account_find did not find; NULL when all is pinned or memory is out.

    Events up to `applied_seq` are in SQL: entries whose last change is not newer may be evicted.
    """
    cdef uint32_t i, b
    cdef Account *a
    cdef void *text = NULL
    cdef uint8_t packed[16]
    cdef bint is_plc = _pack_plc(did, n, packed)
    if t.free_head == 0 and t.fresh > t.capacity and not _make_room(t, applied_seq):
        return NULL
    if not is_plc:
        text = zl_malloc(MEM_ACCOUNT, n)
        if text == NULL:
            return NULL
        memcpy(text, did, n)
    if t.free_head:
        i = t.free_head
        t.free_head = t.entries[i].chain
    else:
        i = t.fresh
        t.fresh += 1
    a = &t.entries[i]
    memset(a, 0, sizeof(Account))
    a.hash = hash
    if is_plc:
        memcpy(a.did, packed, PLC_BYTES)
    else:
        (<void **>a.did)[0] = text
        a.did_n = n
    b = _bucket(t, hash)
    a.chain = t.buckets[b]
    t.buckets[b] = i
    _lru_push(t, i)
    zl_bump64(&t.live, 1)
    return a


cdef uint32_t account_did(const Account *a, uint8_t *out) noexcept nogil:
    """Writes the DID (MAX_DID bytes of room) and returns its length."""
    if a.did_n == 0:
        _unpack_plc(a.did, out)
        return PLC_LENGTH
    memcpy(out, (<void **>a.did)[0], a.did_n)
    return a.did_n


cdef void account_touch_dirty(Table *t, Account *a) noexcept nogil:
    """Puts the entry on the dirty list, once."""
    if a.flags & A_DIRTY:
        return
    a.flags |= A_DIRTY
    a.dirty_next = t.dirty_head
    t.dirty_head = _index(t, a)
    zl_bump64(&t.dirty, 1)


cdef Account *account_pop_dirty(Table *t) noexcept nogil:
    """Takes one entry off the dirty list; NULL when it is empty."""
    cdef Account *a
    if t.dirty_head == 0:
        return NULL
    a = &t.entries[t.dirty_head]
    t.dirty_head = a.dirty_next
    a.dirty_next = 0
    a.flags &= ~A_DIRTY
    zl_bump64(&t.dirty, <uint64_t>-1)
    return a


cdef uint32_t _take_key_slot(Table *t) noexcept nogil:
    """A free slot: never used, or the first one the clock's hand finds unused since its last round."""
    cdef uint32_t i
    if t.key_fresh <= t.key_capacity:
        t.key_fresh += 1
        return t.key_fresh - 1
    while True:
        i = t.key_hand
        t.key_hand = i + 1 if i < t.key_capacity else 1
        if t.key_owners[i] & KEY_USED:
            t.key_owners[i] &= ~<uint32_t>KEY_USED
            continue
        if t.key_owners[i] == 0:
            return i
        t.entries[t.key_owners[i]].key_slot = 0
        zl_bump64(&t.keys_live, <uint64_t>-1)
        zl_bump64(&t.key_evictions, 1)
        return i


cdef int account_set_key(Table *t, Account *a, const SigningKey *key) noexcept nogil:
    """Keeps a parsed key for the entry, in place of an older one. NULL forgets it. 0, or -1 without any slot."""
    if key == NULL:
        _drop_key(t, a)
        return 0
    if t.key_capacity == 0:
        return -1
    if a.key_slot == 0:
        a.key_slot = _take_key_slot(t)
        zl_bump64(&t.keys_live, 1)
    t.key_owners[a.key_slot] = _index(t, a) | KEY_USED
    t.keys[a.key_slot] = key[0]
    return 0


cdef const SigningKey *account_key(Table *t, Account *a) noexcept nogil:
    """The parsed key; NULL when there is none, or the clock has taken it."""
    if a.key_slot == 0:
        return NULL
    t.key_owners[a.key_slot] |= KEY_USED
    return &t.keys[a.key_slot]


# --- for tests and tools ---

cdef class TestTable:
    """One table for tests; one thread at a time."""

    cdef Table table

    def __cinit__(self, uint32_t capacity, uint32_t key_capacity):
        if table_init(&self.table, capacity, key_capacity) != 0:
            raise MemoryError

    def __dealloc__(self):
        table_free(&self.table)

    def insert(self, bytes did, uint64_t hash, uint64_t applied_seq=0):
        """True when there was room."""
        return account_insert(&self.table, hash, did, <uint32_t>len(did), applied_seq) != NULL

    cdef Account *_get(self, bytes did, uint64_t hash) except NULL:
        cdef Account *a = account_find(&self.table, hash, did, <uint32_t>len(did))
        if a == NULL:
            raise KeyError(did)
        return a

    def find(self, bytes did, uint64_t hash):
        """The DID as the entry gives it back, or None."""
        cdef uint8_t out[262]
        cdef Account *a = account_find(&self.table, hash, did, <uint32_t>len(did))
        if a == NULL:
            return None
        return <bytes>out[:account_did(a, out)]

    def set_last_seq(self, bytes did, uint64_t hash, uint64_t seq):
        """Pins the entry until `seq` is applied."""
        self._get(did, hash).last_seq = seq

    def touch_dirty(self, bytes did, uint64_t hash):
        """Puts the entry on the dirty list."""
        account_touch_dirty(&self.table, self._get(did, hash))

    def pop_dirty(self):
        """The DID of one dirty entry, or None."""
        cdef uint8_t out[262]
        cdef Account *a = account_pop_dirty(&self.table)
        return None if a == NULL else <bytes>out[:account_did(a, out)]

    def set_key(self, bytes did, uint64_t hash, bytes mark):
        """Keeps a key whose first bytes are `mark` (at most 64)."""
        cdef SigningKey key
        memset(&key, 0, sizeof(key))
        key.type = 1
        memcpy(key.bytes, <const uint8_t *>mark, min(<size_t>64, <size_t>len(mark)))
        return account_set_key(&self.table, self._get(did, hash), &key) == 0

    def key(self, bytes did, uint64_t hash):
        """The 64 bytes of the entry's key, or None."""
        cdef const SigningKey *key = account_key(&self.table, self._get(did, hash))
        return None if key == NULL else <bytes>(<const uint8_t *>key.bytes)[:64]

    def stats(self):
        """Counters by name."""
        return {
            "live": zl_load64_relaxed(&self.table.live),
            "keys_live": zl_load64_relaxed(&self.table.keys_live),
            "dirty": zl_load64_relaxed(&self.table.dirty),
            "evictions": zl_load64_relaxed(&self.table.evictions),
            "key_evictions": zl_load64_relaxed(&self.table.key_evictions),
        }


def entry_bytes():
    """Bytes of one entry, of one key with its owner, and of one bucket."""
    return sizeof(Account), sizeof(SigningKey) + sizeof(uint32_t), sizeof(uint32_t)
