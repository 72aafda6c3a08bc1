"""Not of the product: one fault of each kind that fuzzing must find, to show that it does (`scripts/fuzz --self-test`).

ZLAY_FUZZ_PLANT names the fault; it lies behind a CAR whose every block is what its CID says, and a word in one of them.
"""

from libc.stdint cimport INT32_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

import os

from tests.fuzz.fuzzer cimport zl_promise
from tests.fuzz.mutator cimport frame_mutate
from tests.fuzz.parts cimport Parts, parts_cut
from zlay._fast.crypto cimport sha256
from zlay._fast.mem cimport MEM_MISC, zl_free, zl_malloc

cdef enum:
    WORD = 4                     # bytes of the word that the fault waits for

cdef enum Plant:
    OVERFLOW
    UNDEFINED
    LEAK
    HANG
    PROMISE

_PLANTS = ["overflow", "undefined", "leak", "hang", "promise"]

cdef int plant = _PLANTS.index(os.environ.get("ZLAY_FUZZ_PLANT", "overflow"))
cdef Parts parts
cdef uint8_t *kept               # what is leaked


cdef void _fault(uint32_t n) noexcept nogil:
    global kept
    cdef volatile uint64_t *turn
    cdef int small = <int>n
    if plant == PROMISE:
        zl_promise(n == 0)
        return
    kept = <uint8_t *>zl_malloc(MEM_MISC, 16)
    if plant == OVERFLOW:
        kept[15 + n] = 1
    elif plant == UNDEFINED:
        kept[0] = <uint8_t>((small + INT32_MAX) & 0xFF)
    elif plant == HANG:
        turn = <volatile uint64_t *>kept
        turn[0] = 0
        while turn[0] < <uint64_t>-1 // 2:
            turn[0] += n
    if plant != LEAK:
        zl_free(kept)
    kept = NULL


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) noexcept nogil:
    cdef uint8_t digest[32]
    cdef uint32_t i
    cdef bint said = False
    if not parts_cut(data, n, &parts):
        return 0
    for i in range(parts.n):
        sha256(parts.blocks[i].p, parts.blocks[i].n, digest)
        if memcmp(digest, parts.cids[i] + 4, 32) != 0:
            return 0
        said = said or (parts.blocks[i].n >= WORD and memcmp(parts.blocks[i].p, b"bug!", WORD) == 0)
    if said:
        _fault(parts.n)
    return 0


cdef public size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t n, size_t most, unsigned int seed) noexcept nogil:
    return frame_mutate(data, n, most, seed)
