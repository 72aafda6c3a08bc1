"""Contents of records."""

from libc.stdint cimport uint64_t

from zlay.sim.buffer cimport Buf
from zlay.sim.rng cimport Rng

cdef void make_record(Buf *out, Rng rng, const char *collection, size_t collection_n, uint64_t value, const char *time,
                      size_t time_n, size_t text_n) noexcept nogil
cdef const char *pick_collection(Rng rng, bint post, size_t *n) noexcept nogil
