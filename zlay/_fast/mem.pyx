"""Every C allocation of the compiled core, counted by tag.

Promises: what zl_malloc, zl_calloc and zl_realloc give is 16-byte aligned and freed by zl_free, by whichever thread.
A pointer that is not theirs, or is freed twice, ends the process at once instead of corrupting it.
Assumes: sizes are the caller's own; what the network declares is bounded before it comes here.
Threads: any may call any function. Counters are striped by thread and relaxed: a sum taken while others allocate is
off by what is in flight, never for good.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort, calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from atomics cimport zl_add64_relaxed, zl_load64_relaxed
from stripe cimport ZL_STRIPES, zl_stripe

__all__ = ["histogram", "usage"]

cdef enum:
    SIZE_CLASSES = 40            # class c holds sizes below 2**c and not below 2**(c - 1); the last holds all above
    LIVE_MARK = 0x7A6C4D45       # "zlME": stands before a live allocation
    FREED_MARK = 0x7A6C6465      # "zlde": before one that was freed

cdef struct Header:              # stands before every allocation; owned with it
    uint64_t size                # bytes asked for
    uint32_t tag
    uint32_t mark

cdef struct TagCounters:
    uint64_t live_bytes          # modulo 2**64: one stripe may free what another allocated; only sums mean something
    uint64_t live_count
    uint64_t total_count
    uint64_t by_size[SIZE_CLASSES]

cdef struct Stripe:
    TagCounters tags[MEM_TAGS]
    uint64_t pad[8]              # keeps neighbours off one cache line

cdef Stripe _stripes[ZL_STRIPES]
memset(_stripes, 0, sizeof(_stripes))

cdef inline int _size_class(uint64_t n) noexcept nogil:
    cdef int c = 0
    while n != 0 and c < SIZE_CLASSES - 1:
        n >>= 1
        c += 1
    return c

cdef inline void _count_new(int tag, uint64_t size) noexcept nogil:
    cdef TagCounters *t = &_stripes[zl_stripe()].tags[tag]
    zl_add64_relaxed(&t.live_bytes, size)
    zl_add64_relaxed(&t.live_count, 1)
    zl_add64_relaxed(&t.total_count, 1)
    zl_add64_relaxed(&t.by_size[_size_class(size)], 1)

cdef inline void _count_gone(uint32_t tag, uint64_t size) noexcept nogil:
    cdef TagCounters *t = &_stripes[zl_stripe()].tags[tag]
    zl_add64_relaxed(&t.live_bytes, 0 - size)
    zl_add64_relaxed(&t.live_count, <uint64_t>0 - 1)

cdef inline Header *_header(void *p) noexcept nogil:
    cdef Header *h = <Header *>p - 1
    if h.mark != LIVE_MARK:
        if h.mark == FREED_MARK:
            fprintf(stderr, b"zlay: memory freed twice (tag %u)\n", h.tag)
        else:
            fprintf(stderr, b"zlay: pointer not from zl_malloc, or its header is overwritten\n")
        abort()
    return h

cdef void *zl_malloc(int tag, size_t n) noexcept nogil:
    """n bytes, not zeroed; NULL when there is no memory. The caller owns them until zl_free."""
    if n > <size_t>-1 - sizeof(Header):
        return NULL
    cdef Header *h = <Header *>malloc(sizeof(Header) + n)
    if h == NULL:
        return NULL
    h.size = n
    h.tag = tag
    h.mark = LIVE_MARK
    _count_new(tag, n)
    return h + 1

cdef void *zl_calloc(int tag, size_t n) noexcept nogil:
    """As zl_malloc, zeroed (untouched pages of a large one stay unmapped)."""
    if n > <size_t>-1 - sizeof(Header):
        return NULL
    cdef Header *h = <Header *>calloc(1, sizeof(Header) + n)
    if h == NULL:
        return NULL
    h.size = n
    h.tag = tag
    h.mark = LIVE_MARK
    _count_new(tag, n)
    return h + 1

cdef void *zl_realloc(int tag, void *p, size_t n) noexcept nogil:
    """p grown or shrunk to n bytes, counted under tag from now on; NULL = no memory and p untouched. p may be NULL."""
    if p == NULL:
        return zl_malloc(tag, n)
    if n > <size_t>-1 - sizeof(Header):
        return NULL
    cdef Header *h = _header(p)
    cdef uint64_t old_size = h.size
    cdef uint32_t old_tag = h.tag
    h = <Header *>realloc(h, sizeof(Header) + n)
    if h == NULL:
        return NULL
    h.size = n
    h.tag = tag
    _count_gone(old_tag, old_size)
    _count_new(tag, n)
    return h + 1

cdef void zl_free(void *p) noexcept nogil:
    """Gives back what zl_malloc, zl_calloc or zl_realloc gave; NULL is nothing."""
    if p == NULL:
        return
    cdef Header *h = _header(p)
    h.mark = FREED_MARK
    _count_gone(h.tag, h.size)
    free(h)

cdef tuple _TAG_NAMES = (
    "misc", "frame", "scratch", "host", "connection", "account", "queue", "log", "consumer", "crypto",
)
if len(_TAG_NAMES) != MEM_TAGS:
    raise ImportError("mem: names and tags differ in number")


def usage():
    """What is allocated now, by tag: (live bytes, live allocations, allocations ever made). Headers are not counted.

    Any thread.
    """
    cdef uint64_t live_bytes, live_count, total_count
    cdef int tag, i
    cdef dict out = {}
    for tag in range(MEM_TAGS):
        live_bytes = live_count = total_count = 0
        for i in range(ZL_STRIPES):
            live_bytes += zl_load64_relaxed(&_stripes[i].tags[tag].live_bytes)
            live_count += zl_load64_relaxed(&_stripes[i].tags[tag].live_count)
            total_count += zl_load64_relaxed(&_stripes[i].tags[tag].total_count)
        out[_TAG_NAMES[tag]] = (live_bytes, live_count, total_count)
    return out


def histogram():
    """Allocations ever made, by tag and size class: item c counts sizes in [2**(c-1), 2**c); item 0 counts size 0.

    Any thread.
    """
    cdef uint64_t n
    cdef int tag, i, c
    cdef dict out = {}
    cdef list row
    for tag in range(MEM_TAGS):
        row = []
        for c in range(SIZE_CLASSES):
            n = 0
            for i in range(ZL_STRIPES):
                n += zl_load64_relaxed(&_stripes[i].tags[tag].by_size[c])
            row.append(n)
        out[_TAG_NAMES[tag]] = row
    return out


# --- for tests and tools ---

cdef void *zl_copy_bytes(bytes data) except NULL:
    cdef void *p = zl_malloc(MEM_MISC, len(data))
    if p == NULL:
        raise MemoryError(len(data))
    memcpy(p, <const char *>data, len(data))
    return p


cdef class Block:
    """One allocation held by Python. For tests; one thread at a time.

    Owns `p`: made in __init__, changed by resize, given back by free() or with the object.
    """
    cdef void *p

    def __init__(self, int tag, size_t n, bint zeroed=False):
        if not 0 <= tag < MEM_TAGS:
            raise ValueError("no such tag")
        self.p = zl_calloc(tag, n) if zeroed else zl_malloc(tag, n)
        if self.p == NULL:
            raise MemoryError(n)

    def __dealloc__(self):
        zl_free(self.p)

    def resize(self, int tag, size_t n):
        """False = no memory, the block is as it was."""
        if not 0 <= tag < MEM_TAGS:
            raise ValueError("no such tag")
        cdef void *p = zl_realloc(tag, self.p, n)
        if p == NULL:
            return False
        self.p = p
        return True

    def write(self, bytes data):
        if self.p == NULL or <size_t>len(data) > _header(self.p).size:
            raise ValueError("larger than the block")
        cdef const char *src = data
        cdef size_t i
        for i in range(<size_t>len(data)):
            (<char *>self.p)[i] = src[i]

    def read(self):
        if self.p == NULL:
            return b""
        return (<char *>self.p)[:_header(self.p).size]

    def address(self):
        return <size_t>self.p

    def free(self):
        zl_free(self.p)
        self.p = NULL

    def free_twice(self):
        """Ends the process: what a double free must do."""
        cdef void *p = self.p
        self.p = NULL
        zl_free(p)
        zl_free(p)
