"""A frame worker: one OS thread, its shard of the accounts, the frames it holds."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zlay._fast.accounts cimport Table
from zlay._fast.crypto cimport POINT_BYTES, KeyCache
from zlay._fast.dirty cimport DirtyRows
from zlay._fast.holds cimport Holds
from zlay._fast.includes.threads cimport pthread_t
from zlay._fast.queue cimport Inlet, Node
from zlay._fast.scratch cimport Scratch
from zlay._fast.takedown cimport LocalChange

cdef struct Worker:
    uint32_t index
    uint32_t stopping          # atomic; 2 = never started
    uint32_t ended             # under pipeline.pyx's _end_lock: its thread has ended, messages find nobody
    pthread_t thread
    Inlet *inlet
    Table table
    Scratch scratch
    KeyCache keys
    Holds holds
    uint64_t now_us            # realtime, taken once per batch
    # Counters: this thread writes, any thread reads
    uint64_t judged
    uint64_t chain_breaks
    uint64_t inversions        # ops undone by verification (R9)
    uint64_t keys_parsed
    uint64_t refreshes         # forced resolutions asked for
    uint64_t moves             # accounts that changed host
    uint64_t stalls            # times the account table was all pinned
    uint64_t busy_us

cdef enum MessageKind:
    M_ACCOUNT                  # answer of the loader
    M_IDENTITY                 # answer of the resolvers
    M_STATUS                   # answer to REQUEST_STATUS
    M_RESYNC                   # answer to REQUEST_RESYNC
    M_LOCAL                    # a status that this relay gives the account: a takedown, or its reverse
    M_COLLECT                  # copy the dirty entries out

cdef struct Message_:          # one message to a worker; zl_malloc'd by the sender, freed by the worker
    Node node
    uint8_t kind
    # M_IDENTITY, M_ACCOUNT: IdentityState (ID_UNKNOWN: nothing conclusive); M_STATUS: 1 = answered; M_RESYNC: 1 = whole
    uint8_t outcome
    uint8_t own_failure        # M_IDENTITY, ID_UNKNOWN: others were answered, this DID was not
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
    uint8_t key_type           # of a key not looked at yet; KEY_NONE = none
    uint8_t point_n
    uint8_t point[POINT_BYTES]
    uint8_t data[32]
    uint8_t head[32]
    uint8_t did[261]
    DirtyRows *rows            # M_COLLECT
    LocalChange *change        # M_LOCAL

cdef int worker_init(Worker *w, uint32_t index, uint32_t entries, uint32_t keys) noexcept nogil
cdef int worker_start(Worker *w) noexcept nogil
cdef void worker_free(Worker *w) noexcept nogil
# hold: how long frames wait for a DID that nobody knows. retry: after a failure the question is put again. unanswered:
# put again, too, for who took it may have failed
cdef void set_hold_times(uint64_t hold_us, uint64_t retry_us, uint64_t unanswered_us) noexcept nogil
cdef void set_down(bint directory, bint store, bint clock) noexcept nogil
cdef void set_clock_offset(uint64_t offset_us) noexcept nogil
cdef void set_applied(uint64_t seq) noexcept nogil
cdef uint64_t applied() noexcept nogil
# In the worker's thread, or after it has ended
cdef void worker_abandon(Worker *w) noexcept nogil
