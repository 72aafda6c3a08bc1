"""Random numbers that are the same on every machine and in every version of Python: splitmix64."""

from libc.stdint cimport uint64_t

cdef inline uint64_t splitmix(uint64_t *state) noexcept nogil:
    cdef uint64_t z
    state[0] += 0x9E3779B97F4A7C15ULL
    z = state[0]
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL
    return z ^ (z >> 31)

cdef class Rng:
    # One thread.
    cdef uint64_t state
    cdef inline uint64_t next64(self) noexcept nogil:
        return splitmix(&self.state)
    cdef inline uint64_t next_below(self, uint64_t n) noexcept nogil:
        return splitmix(&self.state) % n
