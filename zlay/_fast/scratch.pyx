"""Bump memory for one frame's verdict: everything a verdict needs beyond its frame, let go in one step.

Promises: memory given is 16-byte aligned and stays put until scratch_reset; a frame never gets more than the limit.
After a few frames an ordinary frame costs no malloc: the first chunk, and later ones up to KEEP_BYTES, are kept.
Assumes: one Scratch belongs to one thread (a worker); nothing here is locked.
Under AddressSanitizer what was not given, or was given and let go, is forbidden memory, with a gap behind each piece.
"""

from libc.stddef cimport size_t

from zlay._fast.includes.poison cimport ZL_REDZONE, zl_poison, zl_unpoison
from zlay._fast.mem cimport MEM_SCRATCH, zl_free, zl_malloc

cdef enum:
    FIRST_CHUNK_BYTES = 256 * 1024      # holds index, tree and ops of a frame of the usual sizes (p99 below 60 kB)
    KEEP_BYTES = 2 * 1024 * 1024        # what a rare large frame may leave behind in later chunks, per worker
    ALIGN = 16
    CHUNK_HEAD = 32                     # sizeof(ScratchChunk) rounded up to ALIGN

cdef inline ScratchChunk *_new_chunk(size_t n) noexcept nogil:
    # Owned by the Scratch it is linked into; freed by scratch_reset or scratch_free.
    cdef ScratchChunk *c = <ScratchChunk *>zl_malloc(MEM_SCRATCH, CHUNK_HEAD + n)
    if c == NULL:
        return NULL
    c.next = NULL
    c.size = n
    _empty(c)
    return c

cdef inline void _empty(ScratchChunk *c) noexcept nogil:
    c.used = 0
    zl_poison(<char *>c + CHUNK_HEAD, c.size)

cdef int scratch_init(Scratch *s, size_t limit) noexcept nogil:
    """Makes s ready; `limit` = most bytes one frame may take. 0, or -1 when out of memory."""
    s.first = _new_chunk(FIRST_CHUNK_BYTES)
    s.current = s.first
    s.total = 0
    s.limit = limit
    return 0 if s.first != NULL else -1

cdef void _free_from(ScratchChunk *c) noexcept nogil:
    cdef ScratchChunk *following
    while c != NULL:
        following = c.next
        zl_free(c)
        c = following

cdef void scratch_free(Scratch *s) noexcept nogil:
    """Gives everything back; s may be made ready again."""
    _free_from(s.first)
    s.first = s.current = NULL
    s.total = 0

cdef void scratch_reset(Scratch *s) noexcept nogil:
    """Forgets everything given since the last reset."""
    cdef ScratchChunk *c = s.first
    cdef size_t kept = 0
    s.total = 0
    s.current = c
    if c == NULL:
        return
    _empty(c)
    while c.next != NULL:
        kept += c.next.size
        if kept > KEEP_BYTES:
            _free_from(c.next)
            c.next = NULL
            return
        c = c.next
        _empty(c)

cdef void *scratch_alloc(Scratch *s, size_t n) noexcept nogil:
    """n bytes, 16-byte aligned, not zeroed; NULL = over the frame's limit, or out of memory."""
    cdef ScratchChunk *c = s.current
    cdef size_t size
    cdef size_t wanted = n
    if c == NULL or n > s.limit:
        return NULL
    n = (n + ALIGN - 1) & ~<size_t>(ALIGN - 1)
    if s.total + n > s.limit:
        return NULL
    if n + ZL_REDZONE > c.size - c.used:
        if c.next != NULL and n + ZL_REDZONE <= c.next.size:     # kept from an earlier frame, empty since the reset
            c = c.next
        else:
            size = c.size * 2                       # chunks double, so their number stays small
            if size > s.limit:
                size = s.limit
            if size < n + ZL_REDZONE:
                size = n + ZL_REDZONE
            c = _new_chunk(size)
            if c == NULL:
                return NULL
            c.next = s.current.next
            s.current.next = c
        s.current = c
    cdef void *p = <char *>c + CHUNK_HEAD + c.used
    c.used += n + ZL_REDZONE
    s.total += n
    zl_unpoison(p, wanted)
    return p

# --- for tests and tools ---

cdef class Bump:
    """A Scratch of its own. For tests; one thread at a time. Owns `s`; freed with the object."""
    cdef Scratch s

    def __cinit__(self, size_t limit):
        if scratch_init(&self.s, limit) != 0:
            raise MemoryError

    def __dealloc__(self):
        scratch_free(&self.s)

    def alloc(self, size_t n):
        """Address of n bytes, all of them written to; None = over the limit."""
        cdef unsigned char *p = <unsigned char *>scratch_alloc(&self.s, n)
        cdef size_t i
        if p == NULL:
            return None
        for i in range(n):
            p[i] = 0xA5
        return <size_t>p

    def reset(self):
        scratch_reset(&self.s)

    def total(self):
        return self.s.total

    def chunks(self):
        """Sizes of the chunks held now."""
        cdef list out = []
        cdef ScratchChunk *c = self.s.first
        while c != NULL:
            out.append(c.size)
            c = c.next
        return out
