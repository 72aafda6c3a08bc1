"""A frame worker: one OS thread, its shard of the accounts, the frames it holds."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zlay._fast.accounts cimport Account, Hold, Table
from zlay._fast.crypto cimport KeyCache, SigningKey
from zlay._fast.dirty cimport DirtyRows
from zlay._fast.includes.threads cimport pthread_t
from zlay._fast.pool cimport Frame
from zlay._fast.queue cimport Inlet, Node
from zlay._fast.scratch cimport Scratch

cdef struct Hold:              # frames of one DID that wait; owned by the worker; reused through a free list
    Frame *first
    Frame *last
    Account *account
    Hold *newer                # list of all holds, oldest first
    Hold *older
    uint64_t retry_us          # monotonic: not run again before, unless an answer comes
    uint64_t asked_us          # hold clock: when the question that it waits for was put

cdef struct Worker:
    uint32_t index
    uint32_t stopping          # atomic; 2 = never started
    uint32_t ended             # under pipeline.pyx's _end_lock: its thread has ended, messages find nobody
    pthread_t thread
    Inlet *inlet
    Table table
    Scratch scratch
    KeyCache keys
    Hold *oldest_hold
    Hold *newest_hold
    Hold *spare_holds
    uint64_t hold_clock_us     # runs only while directory and database answer (design 5); never 0
    uint64_t ticked_us         # monotonic time of the last tick
    uint64_t now_us            # realtime, taken once per batch
    # Counters: this thread writes, any thread reads
    uint64_t judged
    uint64_t held              # frames held now
    uint64_t held_bytes
    uint64_t chain_breaks
    uint64_t inversions        # ops undone by verification (R9)
    uint64_t refreshes         # forced resolutions asked for
    uint64_t moves             # accounts that changed host
    uint64_t stalls            # times the account table was all pinned
    uint64_t busy_us

cdef enum MessageKind:
    M_ACCOUNT                  # answer of the loader
    M_IDENTITY                 # answer of the resolvers
    M_STATUS                   # answer to REQUEST_STATUS
    M_RESYNC                   # answer to REQUEST_RESYNC
    M_COLLECT                  # copy the dirty entries out

cdef struct Message_:          # one message to a worker; zl_malloc'd by the sender, freed by the worker
    Node node
    uint8_t kind
    # M_IDENTITY, M_ACCOUNT: IdentityState (ID_UNKNOWN: nothing conclusive); M_STATUS: 1 = answered; M_RESYNC: 1 = whole
    uint8_t outcome
    uint8_t upstream_status
    uint8_t local_status
    uint8_t known              # M_ACCOUNT: SQL has a row of the account
    uint8_t desynchronized
    uint8_t has_identity       # M_ACCOUNT
    uint32_t host_id           # that the identity's document names; 0 = not registered
    uint32_t account_host_id   # M_ACCOUNT: of the row
    uint32_t did_n
    uint64_t identity_us
    uint64_t hash
    uint64_t rev
    SigningKey key
    uint8_t data[32]
    uint8_t head[32]
    uint8_t did[261]
    DirtyRows *rows            # M_COLLECT

cdef int worker_init(Worker *w, uint32_t index, uint32_t entries, uint32_t keys) noexcept nogil
cdef int worker_start(Worker *w) noexcept nogil
cdef void worker_free(Worker *w) noexcept nogil
cdef void set_hold_time(uint64_t hold_us) noexcept nogil
cdef void set_down(bint directory, bint store, bint clock) noexcept nogil
cdef void set_applied(uint64_t seq) noexcept nogil
cdef uint64_t applied() noexcept nogil
# In the worker's thread, or after it has ended
cdef void worker_abandon(Worker *w) noexcept nogil
