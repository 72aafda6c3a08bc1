"""A region of memory in blocks of powers of two. Everything but memory and discard needs the caller's one lock."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    BLOCK_UNIT = 2048            # smallest block: half of all frames of the network fit two of these
    BLOCK_ORDERS = 13            # 2 KiB << 12 = 8 MiB: the largest frame (5,000,000 bytes) with its struct
    COLD_BATCH = 64              # blocks taken out for one round of buddy_discard
    NO_BLOCK = 0xFFFFFFFF

cdef struct Cold:                # an idle block that is nobody's while its memory is given back
    uint32_t unit
    uint32_t order
    uint64_t kept                # bytes at its start that stay: where the next frames will be cut from

cdef struct BlockFigures:
    uint64_t warm_bytes          # of free blocks that have been touched
    uint64_t largest_bytes       # the largest free block

# The smallest order of blocks that hold so many bytes
cdef inline uint32_t buddy_order(uint64_t bytes) noexcept nogil:
    cdef uint32_t order = 0
    while (<uint64_t>BLOCK_UNIT << order) < bytes:
        order += 1
    return order

# Maps a region of so many units, a multiple of the largest block; -1 = no address space for it
cdef int buddy_open(uint32_t units) noexcept nogil
cdef void buddy_close() noexcept nogil
# A block's first unit; NO_BLOCK when none is free, or nothing is open
cdef uint32_t buddy_take(uint32_t order) noexcept nogil
cdef void buddy_give(uint32_t unit, uint32_t order) noexcept nogil
# Where a block that is taken begins: no lock
cdef uint8_t *buddy_memory(uint32_t unit) noexcept nogil
# Takes out up to COLD_BATCH free blocks that have been touched, but leaves `keep` bytes of them. Join the blocks with
# buddy_tidy first
cdef uint32_t buddy_take_cold(Cold *out, uint64_t keep) noexcept nogil
# Gives their memory back to the kernel, without the lock; the bytes of address space
cdef uint64_t buddy_discard(const Cold *cold, uint32_t n) noexcept nogil
cdef void buddy_give_cold(const Cold *cold, uint32_t n) noexcept nogil
cdef void buddy_tidy() noexcept nogil
cdef void buddy_figures(BlockFigures *out) noexcept nogil
# Pages of the region in memory: no lock, not during buddy_close
cdef uint64_t buddy_resident_bytes() noexcept nogil
# Raises AssertionError where books and lists disagree; the bytes of free blocks
cdef uint64_t buddy_check() except? 0xFFFFFFFFFFFFFFFF
