"""CAR v1 and its blocks: parsed in place, every block's hash checked, indexed by digest in the scratch (C10, C11)."""

from libc.stdint cimport uint8_t, uint32_t
from zlay._fast.message cimport Slice
from zlay._fast.scratch cimport Scratch

cdef enum:
    MAX_CAR_BLOCKS = 20000       # far above what 2 MB of real blocks hold; bounds the index

cdef struct CarBlock:
    const uint8_t *cid           # 36 bytes
    const uint8_t *data
    uint32_t n

cdef struct Car:
    const uint8_t *root          # root[0], 36 bytes
    CarBlock *blocks
    uint32_t n_blocks
    uint32_t *slots              # open addressing over the digests: index + 1, 0 = empty
    uint32_t mask

# A Reason. Blocks and slots live in the scratch, until its reset; everything else points into the bytes.
cdef int car_parse(Scratch *s, Slice bytes, Car *car, bint check_hashes) noexcept nogil
# By all 36 bytes; of equal CIDs the first block in the CAR. NULL = absent.
cdef CarBlock *car_find(const Car *car, const uint8_t *cid) noexcept nogil
