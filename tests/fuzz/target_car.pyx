"""Any bytes as a CAR, its hashes looked at and not (C10, C11)."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp

from tests.fuzz.fuzzer cimport zl_promise
from zlay._fast.car cimport MAX_CAR_BLOCKS, Car, CarBlock, car_find, car_parse
from zlay._fast.crypto cimport sha256
from zlay._fast.message cimport CID_BYTES, DIGEST_BYTES, Slice
from zlay._fast.scratch cimport Scratch, scratch_init, scratch_reset
from zlay._fast.verdicts cimport R_BLOCK_HASH, R_OK

cdef enum:
    SCRATCH_BYTES = 8 << 20
    DIGEST_AT = CID_BYTES - DIGEST_BYTES

cdef Scratch scratch

if scratch_init(&scratch, SCRATCH_BYTES):
    raise MemoryError


cdef bint _check(const Car *car, const uint8_t *p, size_t n) noexcept nogil:
    """Every block lies in the CAR and is found by its CID, the first of its name. Whether all hashes hold."""
    cdef const CarBlock *block
    cdef const CarBlock *found
    cdef const uint8_t *at = p
    cdef uint8_t digest[DIGEST_BYTES]
    cdef uint32_t i
    cdef bint hold = True
    zl_promise(car.n_blocks <= MAX_CAR_BLOCKS)
    zl_promise(p <= car.root and car.root + CID_BYTES <= p + n)
    for i in range(car.n_blocks):
        block = &car.blocks[i]
        zl_promise(block.cid > at and block.data == block.cid + CID_BYTES and block.data + block.n <= p + n)
        at = block.data + block.n
        found = car_find(car, block.cid)
        zl_promise(found != NULL and found <= block and memcmp(found.cid, block.cid, CID_BYTES) == 0)
        sha256(block.data, block.n, digest)
        hold = hold and memcmp(digest, block.cid + DIGEST_AT, DIGEST_BYTES) == 0
    zl_promise(car.n_blocks == 0 or at == p + n)
    found = car_find(car, car.root)
    zl_promise(found == NULL or memcmp(found.cid, car.root, CID_BYTES) == 0)
    return hold


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) noexcept nogil:
    cdef Car car
    cdef Slice whole
    cdef int r, checked
    cdef bint hold
    whole.p = data
    whole.n = <uint32_t>n
    scratch_reset(&scratch)
    r = car_parse(&scratch, whole, &car, False)
    if r == R_OK:
        hold = _check(&car, data, n)
        scratch_reset(&scratch)
        checked = car_parse(&scratch, whole, &car, True)
        zl_promise(checked == (R_OK if hold else R_BLOCK_HASH))
    else:
        scratch_reset(&scratch)
        # A hash may fail first, but what is no CAR without hashes is none with them.
        zl_promise(car_parse(&scratch, whole, &car, True) != R_OK)
    return 0
