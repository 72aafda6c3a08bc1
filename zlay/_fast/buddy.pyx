"""A buddy allocator over one mapped region, whose books stand outside of it: what the frame pool is made of.

Promises: a block's memory is reused warm; a free block is never touched, since its links stand in side arrays, so that
a page given back to the kernel stays untouched until a frame needs it. Small blocks that come back wait on lists of
their own (`_quick`) before they are joined with their buddies.

Assumes: one region at a time, and one lock of the caller's around all calls but those that buddy.pxd excepts. Region
and arrays are owned by `buddy_open` and `buddy_close`.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t n, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t n)
    int madvise(void *addr, size_t n, int advice)
    int mincore(void *addr, size_t n, unsigned char *vec)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_DONTNEED
    void *MAP_FAILED

cdef enum:
    QUICK_ORDERS = 7             # up to 128 KiB: freed blocks wait on a list of their own before they merge
    QUICK_BYTES = 1 << 20        # of each of these orders at most
    COLD_ORDER = 5               # 64 KiB: smaller free blocks are not worth a system call
    PAGE = 4096

cdef enum:                       # _state of a block's first unit: order in the low 4 bits, and
    FREE = 0x80
    DIRTY = 0x40                 # touched since it was mapped or discarded
    ORDER_MASK = 0x0F

cdef uint8_t *_base = NULL       # the region
cdef uint32_t _units = 0
cdef uint8_t *_state = NULL      # side arrays, one element a unit
cdef uint32_t *_next = NULL
cdef uint32_t *_prev = NULL
cdef uint32_t[BLOCK_ORDERS] _head
cdef uint32_t[QUICK_ORDERS] _quick
cdef uint32_t[QUICK_ORDERS] _quick_n


# --- blocks ---

cdef inline void _push_free(uint32_t unit, uint32_t order, uint8_t dirty) noexcept nogil:
    cdef uint32_t head = _head[order]
    _state[unit] = <uint8_t>(FREE | dirty | order)
    _prev[unit] = NO_BLOCK
    _next[unit] = head
    if head != NO_BLOCK:
        _prev[head] = unit
    _head[order] = unit


cdef inline void _unlink_free(uint32_t unit, uint32_t order) noexcept nogil:
    if _prev[unit] == NO_BLOCK:
        _head[order] = _next[unit]
    else:
        _next[_prev[unit]] = _next[unit]
    if _next[unit] != NO_BLOCK:
        _prev[_next[unit]] = _prev[unit]


cdef void _merge_free(uint32_t unit, uint32_t order, uint8_t dirty) noexcept nogil:
    """Puts a block back, joined with its buddy as long as that is free."""
    cdef uint32_t buddy
    while order < BLOCK_ORDERS - 1:
        buddy = unit ^ (<uint32_t>1 << order)
        if (_state[buddy] & (FREE | ORDER_MASK)) != (FREE | order):
            break
        _unlink_free(buddy, order)
        dirty |= _state[buddy] & DIRTY
        _state[unit] = 0
        _state[buddy] = 0
        if buddy < unit:
            unit = buddy
        order += 1
    _push_free(unit, order, dirty)


cdef void buddy_tidy() noexcept nogil:
    cdef uint32_t order, unit, following
    if _base == NULL:
        return
    for order in range(QUICK_ORDERS):
        unit = _quick[order]
        while unit != NO_BLOCK:
            following = _next[unit]
            _merge_free(unit, order, DIRTY)
            unit = following
        _quick[order] = NO_BLOCK
        _quick_n[order] = 0


cdef uint32_t buddy_take(uint32_t order) noexcept nogil:
    cdef uint32_t unit, k
    cdef uint8_t dirty
    cdef int attempt
    if _base == NULL:
        return NO_BLOCK
    if order < QUICK_ORDERS and _quick[order] != NO_BLOCK:
        unit = _quick[order]
        _quick[order] = _next[unit]
        _quick_n[order] -= 1
        return unit
    for attempt in range(2):
        k = order
        while k < BLOCK_ORDERS and _head[k] == NO_BLOCK:
            k += 1
        if k < BLOCK_ORDERS:
            break
        if attempt == 0:
            buddy_tidy()
    else:
        return NO_BLOCK
    unit = _head[k]
    dirty = _state[unit] & DIRTY
    _unlink_free(unit, k)
    while k > order:
        k -= 1
        _push_free(unit + (<uint32_t>1 << k), k, dirty)
    _state[unit] = <uint8_t>order
    return unit


cdef void buddy_give(uint32_t unit, uint32_t order) noexcept nogil:
    if order < QUICK_ORDERS and _quick_n[order] < <uint32_t>QUICK_BYTES // (<uint32_t>BLOCK_UNIT << order):
        _next[unit] = _quick[order]
        _quick[order] = unit
        _quick_n[order] += 1
    else:
        _merge_free(unit, order, DIRTY)


cdef void *_map(size_t n) noexcept nogil:
    """Address space, without memory until it is touched; NULL when refused."""
    cdef void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return NULL if p == MAP_FAILED else p


cdef void _unmap(void *p, size_t n) noexcept nogil:
    if p != NULL:
        munmap(p, n)


cdef int buddy_open(uint32_t units) noexcept nogil:
    global _base, _units, _state, _next, _prev
    cdef uint32_t unit = 0
    cdef int i
    _units = units
    _state = <uint8_t *>_map(units)
    _next = <uint32_t *>_map(<size_t>units * sizeof(uint32_t))
    _prev = <uint32_t *>_map(<size_t>units * sizeof(uint32_t))
    _base = <uint8_t *>_map(<size_t>units * BLOCK_UNIT)
    if _base == NULL or _state == NULL or _next == NULL or _prev == NULL:
        buddy_close()
        return -1
    for i in range(BLOCK_ORDERS):
        _head[i] = NO_BLOCK
    for i in range(QUICK_ORDERS):
        _quick[i] = NO_BLOCK
        _quick_n[i] = 0
    while unit < units:
        _push_free(unit, BLOCK_ORDERS - 1, 0)
        unit += <uint32_t>1 << (BLOCK_ORDERS - 1)
    return 0


cdef void buddy_close() noexcept nogil:
    global _base, _units, _state, _next, _prev
    _unmap(_base, <size_t>_units * BLOCK_UNIT)
    _unmap(_state, _units)
    _unmap(_next, <size_t>_units * sizeof(uint32_t))
    _unmap(_prev, <size_t>_units * sizeof(uint32_t))
    _base = NULL
    _state = NULL
    _next = NULL
    _prev = NULL
    _units = 0


cdef uint8_t *buddy_memory(uint32_t unit) noexcept nogil:
    return _base + <size_t>unit * BLOCK_UNIT


# --- what lies idle, back to the kernel ---

cdef uint32_t buddy_take_cold(Cold *out, uint64_t keep) noexcept nogil:
    cdef uint32_t unit, following, n = 0
    cdef int order
    cdef uint64_t size
    if _base == NULL:
        return 0
    for order in range(COLD_ORDER, BLOCK_ORDERS):
        size = <uint64_t>BLOCK_UNIT << order
        unit = _head[order]
        while unit != NO_BLOCK and n < COLD_BATCH:
            following = _next[unit]
            if _state[unit] & DIRTY:
                if keep >= size:
                    keep -= size
                else:
                    _unlink_free(unit, order)
                    _state[unit] = <uint8_t>order
                    out[n].unit = unit
                    out[n].order = order
                    out[n].kept = (keep + PAGE - 1) & ~(<uint64_t>PAGE - 1)
                    keep = 0
                    n += 1
            unit = following
    return n


cdef uint64_t buddy_discard(const Cold *cold, uint32_t n) noexcept nogil:
    cdef uint64_t given = 0, size
    cdef uint32_t i
    for i in range(n):
        size = (<uint64_t>BLOCK_UNIT << cold[i].order) - cold[i].kept
        madvise(buddy_memory(cold[i].unit) + cold[i].kept, size, MADV_DONTNEED)
        given += size
    return given


cdef void buddy_give_cold(const Cold *cold, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        _merge_free(cold[i].unit, cold[i].order, DIRTY if cold[i].kept else 0)


# --- figures ---

cdef void buddy_figures(BlockFigures *out) noexcept nogil:
    cdef uint32_t unit
    cdef int order
    out.warm_bytes = out.largest_bytes = 0
    if _base == NULL:
        return
    for order in range(BLOCK_ORDERS):
        unit = _head[order]
        if unit != NO_BLOCK:
            out.largest_bytes = <uint64_t>BLOCK_UNIT << order
        while unit != NO_BLOCK:
            if _state[unit] & DIRTY:
                out.warm_bytes += <uint64_t>BLOCK_UNIT << order
            unit = _next[unit]


cdef uint64_t buddy_resident_bytes() noexcept nogil:
    cdef unsigned char[4096] seen
    cdef size_t n, i, at = 0, end = <size_t>_units * BLOCK_UNIT
    cdef uint64_t pages = 0
    while at < end:
        n = min(<size_t>4096 * PAGE, end - at)
        if mincore(_base + at, n, seen) == 0:
            for i in range(n // PAGE):
                pages += seen[i] & 1
        at += n
    return pages * PAGE


cdef uint64_t buddy_check() except? 0xFFFFFFFFFFFFFFFF:
    cdef uint32_t unit = 0, order, u
    cdef uint64_t free_units = 0, listed = 0, quick = 0
    while unit < _units:
        order = _state[unit] & ORDER_MASK
        assert unit % (<uint32_t>1 << order) == 0, "block not aligned"
        if _state[unit] & FREE:
            free_units += <uint64_t>1 << order
            if order < BLOCK_ORDERS - 1:
                u = unit ^ (<uint32_t>1 << order)
                assert (_state[u] & (FREE | ORDER_MASK)) != (FREE | order), "two free buddies not joined"
        unit += <uint32_t>1 << order
    for order in range(BLOCK_ORDERS):
        u = _head[order]
        while u != NO_BLOCK:
            assert _state[u] & FREE and (_state[u] & ORDER_MASK) == order, "wrong list"
            listed += <uint64_t>1 << order
            u = _next[u]
    for order in range(QUICK_ORDERS):
        quick += _quick_n[order] * (<uint64_t>1 << order)
    assert listed == free_units, "free blocks not all listed"
    return (free_units + quick) * BLOCK_UNIT
