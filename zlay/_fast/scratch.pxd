"""Bump memory for one frame's verdict. One Scratch per worker; used by that worker's thread alone; reset per frame."""

from libc.stdint cimport uint8_t

cdef struct ScratchChunk:
    ScratchChunk *next
    size_t size
    size_t used
    # `size` bytes follow

cdef struct Scratch:
    ScratchChunk *first    # kept for ever; later chunks are freed by scratch_reset when large
    ScratchChunk *current
    size_t total           # bytes handed out since the last reset
    size_t limit           # most that one frame may take; beyond it scratch_alloc returns NULL

cdef int scratch_init(Scratch *s, size_t limit) noexcept nogil          # 0, or -1 when out of memory
cdef void scratch_free(Scratch *s) noexcept nogil
cdef void scratch_reset(Scratch *s) noexcept nogil
cdef void *scratch_alloc(Scratch *s, size_t n) noexcept nogil           # 16-byte aligned, not zeroed; NULL = over limit
