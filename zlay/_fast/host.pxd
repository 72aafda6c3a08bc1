"""A host's C side: credit, progress slots, counters. Made by Python when a host is registered, never freed while the process runs."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from zlay._fast.verdicts cimport R_COUNT

cdef enum:
    SLOTS_PER_CHUNK = 62         # a chunk fits 1.5 KiB
    HOST_NAME_BYTES = 256        # DNS names end at 253

cdef enum:
    SLOT_PENDING = 0             # no verdict yet
    # any other value of Slot.verdict: the log seq of the event, or SLOT_DROPPED
cdef extern from *:
    """
    #define SLOT_DROPPED UINT64_MAX
    """
    const uint64_t SLOT_DROPPED

cdef struct Slot:                # one frame received from the host, in the order received
    uint64_t upstream_seq        # 0 = the frame had none; moves no cursor
    uint64_t verdict             # atomic: SLOT_PENDING, SLOT_DROPPED or the log seq
    uint64_t synced_at_arrival   # the log's synced_end when the frame arrived

cdef struct SlotChunk:
    SlotChunk *next              # atomic; written by the reader when it starts the next chunk
    Slot slots[62]

cdef struct Host:
    uint32_t id                  # row id in SQL, 1..; also in the log's index
    uint32_t epoch               # atomic; a host whose numbering starts again gets a new one
    uint32_t index               # position in the process's host array
    uint32_t banned              # atomic flag
    char name[256]               # host name as in the registry (name or name:port)
    # credit (R5): bytes of partial, queued, held and not yet synced frames
    uint64_t credit_used         # atomic
    uint64_t credit_limit
    uint32_t credit_word         # futex: the reader sleeps on it; bumped at release when someone waits
    uint32_t credit_waiting      # atomic flag
    # progress: single producer (the host's current reader), single consumer (progress_collect)
    SlotChunk *tail
    uint32_t tail_used           # reader only
    uint64_t pushed              # atomic: slots ever pushed
    SlotChunk *head
    uint32_t head_used           # collector only
    uint64_t popped              # collector only
    SlotChunk *spare             # atomic one-deep recycling from collector to reader
    uint64_t cursor              # atomic: highest upstream seq below which all have a verdict and are synced
    # what this process has received
    uint64_t last_seq            # reader writes, atomic: last upstream seq received (reconnect cursor)
    # dedup after a restart: sorted upstream seqs of this epoch already logged above the persisted cursor; built before dialling, read by workers
    uint64_t *dedup
    uint32_t dedup_n
    uint32_t dedup_epoch
    # counters (relaxed atomics)
    uint64_t frames
    uint64_t bytes
    uint64_t published
    uint64_t waited_us           # time the reader waited for credit or pool
    uint64_t by_reason[128]      # verdicts.Reason; R_COUNT < 128

cdef Host *host_new(uint32_t id, const char *name, uint64_t credit_limit) noexcept nogil
cdef bint host_take_credit(Host *h, uint64_t n) noexcept nogil             # False = over the limit (one frame always fits an idle host)
cdef void host_give_credit(Host *h, uint64_t n) noexcept nogil             # any thread; wakes the reader when it waits
cdef Slot *host_push_slot(Host *h, uint64_t upstream_seq, uint64_t synced_end) noexcept nogil   # reader thread only; NULL = no memory
cdef uint64_t host_collect(Host *h, uint64_t synced_end, uint64_t *oldest_pending) noexcept nogil  # one collector thread: moves and returns cursor; oldest_pending = synced_at_arrival of the oldest slot left, or 2^64-1
cdef bint host_is_duplicate(const Host *h, uint32_t epoch, uint64_t upstream_seq) noexcept nogil
