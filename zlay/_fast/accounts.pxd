"""The account table of one worker: what it knows of each DID it has lately seen (design 6).

A table belongs to one worker thread; nobody else reads it but for its counters, which are torn-free.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zlay._fast.crypto cimport SigningKey

cdef enum AccountFlag:
    A_LOADED = 1           # what SQL holds of the account is here
    A_LOADING = 2          # asked of the loader, not answered yet
    A_RESOLVING = 4        # asked of the resolvers, not answered yet
    A_STALE = 8            # an #identity was passed: the key is not used again until it is refreshed
    A_ASKING_STATUS = 16   # asked of the PDS, not answered yet
    A_DIRTY = 32           # on the dirty list: changed since the applier last collected
    A_DESYNCHRONIZED = 64  # a chain break not healed yet
    A_RESYNCING = 128      # asked of the resync worker, not answered yet
    A_KNOWN = 256          # an account of ours: has a row in SQL, or will have one
    A_RENEWING = 512       # asked of the resolvers for later, nobody waits
    A_ELSEWHERE = 1024     # the DID document names a host that is not registered; host_id is the last one that was
    A_BROKEN_AGAIN = 2048  # a chain break came while A_RESYNCING

cdef enum IdentityState:   # what the directory said last
    ID_UNKNOWN
    ID_OK
    ID_NOT_FOUND
    ID_TOMBSTONED
    ID_NO_KEY
    ID_NO_PDS

cdef struct Hold           # holds.pxd

cdef struct Account:       # 160 bytes; lives in Table.entries, found by index, never moved
    uint64_t hash          # keyed DID hash; 0 = free entry
    uint64_t rev           # TID as a number; 0 = no repository state known
    uint64_t last_seq      # log seq of the newest event that changed it: pinned while above the applied seq
    Hold *hold             # frames waiting; NULL = none. Owned by the worker
    uint8_t did[16]        # did:plc packed in 15 bytes; else a zl_malloc'd string, owned by the entry
    uint8_t data[32]       # digest of the MST root
    uint8_t head[32]       # digest of the commit
    uint32_t host_id       # host that the DID document names, or named while it was registered; 0 = none
    uint32_t identity_s    # unix seconds when the last conclusive answer was asked for, and
    uint32_t stale_s       # when the last #identity came, and
    uint32_t status_s      # unix seconds when the PDS was last asked for the account's status
    uint32_t lru_newer
    uint32_t lru_older
    uint32_t chain         # next entry of the same bucket
    uint32_t dirty_next
    uint32_t key_slot      # 0 = no parsed key here
    uint16_t flags
    uint16_t did_n         # 0 = packed did:plc; else length of the string
    uint16_t identity_ms   # ... the milliseconds within that second
    uint16_t stale_ms
    uint8_t upstream_status
    uint8_t local_status
    uint8_t identity       # IdentityState

cdef struct Table:
    Account *entries       # 1..capacity; 0 is "none"
    uint32_t *buckets
    SigningKey *keys       # 1..key_capacity
    uint32_t *key_owners   # the entry that each belongs to, 0 = free; its highest bit is the clock's second chance
    uint32_t capacity      # of entries, and of buckets
    uint32_t free_head     # entries once used and evicted, linked by chain
    uint32_t fresh         # entries never used begin here
    uint32_t lru_newest
    uint32_t lru_oldest
    uint32_t dirty_head
    uint32_t key_capacity
    uint32_t key_fresh
    uint32_t key_hand
    uint64_t live          # read by scrapes
    uint64_t keys_live
    uint64_t dirty
    uint64_t evictions
    uint64_t key_evictions

cdef enum:
    MAX_DID = 261          # "did:web:" + a DNS name of 253 (G1)

cdef inline uint64_t account_identity_us(const Account *a) noexcept nogil:
    return <uint64_t>a.identity_s * 1000000 + <uint64_t>a.identity_ms * 1000


cdef inline uint64_t account_stale_us(const Account *a) noexcept nogil:
    return <uint64_t>a.stale_s * 1000000 + <uint64_t>a.stale_ms * 1000


cdef int table_init(Table *t, uint32_t capacity, uint32_t key_capacity) noexcept nogil
cdef void table_free(Table *t) noexcept nogil
cdef Account *account_find(Table *t, uint64_t hash, const uint8_t *did, uint32_t n) noexcept nogil
cdef Account *account_insert(
    Table *t, uint64_t hash, const uint8_t *did, uint32_t n, uint64_t applied_seq
) noexcept nogil
cdef uint32_t account_did(const Account *a, uint8_t *out) noexcept nogil
cdef void account_touch_dirty(Table *t, Account *a) noexcept nogil
cdef Account *account_pop_dirty(Table *t) noexcept nogil
cdef int account_set_key(Table *t, Account *a, const SigningKey *key) noexcept nogil
cdef const SigningKey *account_key(Table *t, Account *a) noexcept nogil
