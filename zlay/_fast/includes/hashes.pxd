from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "zl_crc32c.h" nogil:
    uint32_t zl_crc32c(uint32_t crc, const void *p, size_t n)
    uint32_t zl_crc32c_entry(uint64_t seq, const void *entry)
    uint32_t zl_crc32c_soft(uint32_t crc, const uint8_t *p, size_t n)

cdef extern from "zl_siphash.h" nogil:
    uint64_t zl_siphash24(uint64_t k0, uint64_t k1, const uint8_t *p, size_t n)
