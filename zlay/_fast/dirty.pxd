"""The newest state of every account changed since it was last asked for, on its way to the applier (design 7)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zlay._fast.accounts cimport MAX_DID, Table

cdef struct DirtyRow:
    uint64_t rev
    uint64_t last_seq
    uint32_t host_id
    uint16_t did_n
    uint8_t upstream_status
    uint8_t local_status
    uint8_t desynchronized
    uint8_t identity_stale
    uint8_t data[32]
    uint8_t head[32]
    uint8_t did[261]           # MAX_DID

cdef struct DirtyRows:         # of one collection; made and freed by the collecting Python thread
    DirtyRow *rows
    uint32_t n
    uint32_t capacity
    uint32_t done              # futex: 1 when the worker has filled it
    uint32_t failed            # memory was out: the entries left stay dirty, collect again

# The table's thread
cdef void dirty_collect(Table *t, DirtyRows *out) noexcept nogil
# Any thread
cdef object dirty_delta(const DirtyRow *row)
