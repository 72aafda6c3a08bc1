"""Mutations of whole frames that get past the hashes. One thread: libFuzzer's."""

from libc.stdint cimport uint8_t, uint32_t

# Both work on a frame in memory of `most` bytes and return its new length.
cdef size_t frame_mutate(uint8_t *p, size_t n, size_t most, uint32_t seed) noexcept nogil
cdef size_t frame_cross(
    const uint8_t *a, size_t a_n, const uint8_t *b, size_t b_n, uint8_t *out, size_t most, uint32_t seed
) noexcept nogil
