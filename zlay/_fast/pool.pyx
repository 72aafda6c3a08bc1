"""Frames in one bounded region of memory (R1, R5), by a buddy allocator whose books stand outside the region.

Promises: no malloc per frame (mode `pool`); never more than the configured bytes; a block's memory is reused warm;
what lies idle goes back to the kernel by `trim()`. A free block is never touched: its links stand in side arrays, so
a trimmed page stays untouched until a frame needs it.

Assumes: `init` before the first reader starts, `close` after the last frame has been given back.

Threads: any. `_lock` is a leaf (nothing else is locked, called or waited for under it) and guards the side arrays and
the lists; mode, region and arrays change only in `init` and `close`; figures are atomics. A Frame belongs to whoever
holds its pointer; `pool_give` ends it.

The other modes (FRAME_ALLOC) exist to compare allocators and keep the same bound and the same interface: `malloc` (one
malloc and free per frame), `arena` (a frame plus a chain of small mallocs, the shape of a per-frame arena), `mmap`
(whole pages per frame).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from zlay._fast.includes.atomics cimport (
    zl_add32, zl_add64, zl_add64_relaxed, zl_cas64, zl_fence, zl_futex_wait, zl_futex_wake, zl_load32, zl_load64,
    zl_load64_relaxed, zl_store64, zl_sub64,
)
from zlay._fast.includes.threads cimport zl_lock, zl_mutex, zl_unlock
from zlay._fast.mem cimport MEM_FRAME, zl_free, zl_malloc

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t n, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t n)
    int madvise(void *addr, size_t n, int advice)
    int mincore(void *addr, size_t n, unsigned char *vec)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_DONTNEED
    void *MAP_FAILED

MODES = ("pool", "malloc", "arena", "mmap")

cdef enum:
    UNIT = 2048                  # smallest block: half of all frames of the network fit two of these
    ORDERS = 13                  # 2 KiB << 12 = 8 MiB: the largest frame (5,000,000 bytes) with its struct
    QUICK_ORDERS = 7             # up to 128 KiB: freed blocks wait on a list of their own before they merge
    QUICK_BYTES = 1 << 20        # of each of these orders at most
    TRIM_ORDER = 5               # 64 KiB: smaller free blocks are not worth a system call
    TRIM_BATCH = 64              # blocks taken out for one unlocked round of madvise
    WAKE_AT_ONCE = 4             # waiters woken by one frame given back
    ARENA_CHUNKS = 40            # mallocs per frame in mode arena
    PAGE = 4096
    NONE = 0xFFFFFFFF

cdef enum Mode:
    MODE_POOL
    MODE_MALLOC
    MODE_ARENA
    MODE_MMAP

cdef enum:                       # _state of a block's first unit: order in the low 4 bits, and
    FREE = 0x80
    DIRTY = 0x40                 # touched since it was mapped or trimmed
    ORDER_MASK = 0x0F

cdef zl_mutex _lock
cdef int _mode = MODE_POOL
cdef uint8_t *_base = NULL       # the region; owned by init/close
cdef uint64_t _total = 0         # atomic: readers of the bound take no lock
cdef uint64_t _used = 0          # atomic: bytes of blocks that hold frames
cdef uint32_t _units = 0
cdef uint8_t *_state = NULL      # side arrays, one element a unit; owned by init/close
cdef uint32_t *_next = NULL
cdef uint32_t *_prev = NULL
cdef uint32_t[ORDERS] _head
cdef uint32_t[QUICK_ORDERS] _quick
cdef uint32_t[QUICK_ORDERS] _quick_n
cdef uint64_t _peak = 0          # atomic: since init
cdef uint64_t _recent_peak = 0   # atomic: since the last trim
cdef uint64_t _last_peak = 0     # under _lock: of the interval before
cdef uint64_t _frames = 0        # atomic: frames alive
cdef uint64_t _takes = 0         # atomic
cdef uint64_t _exhausted = 0     # atomic
cdef uint64_t _mallocs = 0       # atomic: allocator calls (malloc or mmap) made for frames; stays 0 in mode pool
cdef uint64_t _trimmed = 0       # atomic
cdef uint32_t _word = 0          # futex: bumped when room appears while someone waits
cdef uint32_t _waiting = 0       # atomic: how many wait

cdef struct ArenaChunk:          # mode arena: owned by its frame, freed with it
    ArenaChunk *next


# --- buddy lists: all need _lock ---

cdef inline void _push_free(uint32_t unit, uint32_t order, uint8_t dirty) noexcept nogil:
    cdef uint32_t head = _head[order]
    _state[unit] = <uint8_t>(FREE | dirty | order)
    _prev[unit] = NONE
    _next[unit] = head
    if head != NONE:
        _prev[head] = unit
    _head[order] = unit


cdef inline void _unlink_free(uint32_t unit, uint32_t order) noexcept nogil:
    if _prev[unit] == NONE:
        _head[order] = _next[unit]
    else:
        _next[_prev[unit]] = _next[unit]
    if _next[unit] != NONE:
        _prev[_next[unit]] = _prev[unit]


cdef void _merge_free(uint32_t unit, uint32_t order, uint8_t dirty) noexcept nogil:
    """Puts a block back, joined with its buddy as long as that is free."""
    cdef uint32_t buddy
    while order < ORDERS - 1:
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


cdef void _flush_quick() noexcept nogil:
    cdef uint32_t order, unit, following
    for order in range(QUICK_ORDERS):
        unit = _quick[order]
        while unit != NONE:
            following = _next[unit]
            _merge_free(unit, order, DIRTY)
            unit = following
        _quick[order] = NONE
        _quick_n[order] = 0


cdef uint32_t _take_block(uint32_t order) noexcept nogil:
    """A block's first unit, or NONE."""
    cdef uint32_t unit, k
    cdef uint8_t dirty
    cdef int attempt
    if order < QUICK_ORDERS and _quick[order] != NONE:
        unit = _quick[order]
        _quick[order] = _next[unit]
        _quick_n[order] -= 1
        return unit
    for attempt in range(2):
        k = order
        while k < ORDERS and _head[k] == NONE:
            k += 1
        if k < ORDERS:
            break
        if attempt == 0:
            _flush_quick()
    else:
        return NONE
    unit = _head[k]
    dirty = _state[unit] & DIRTY
    _unlink_free(unit, k)
    while k > order:
        k -= 1
        _push_free(unit + (<uint32_t>1 << k), k, dirty)
    _state[unit] = <uint8_t>order
    return unit


cdef void _give_block(uint32_t unit, uint32_t order) noexcept nogil:
    if order < QUICK_ORDERS and _quick_n[order] < <uint32_t>QUICK_BYTES // (<uint32_t>UNIT << order):
        _next[unit] = _quick[order]
        _quick[order] = unit
        _quick_n[order] += 1
    else:
        _merge_free(unit, order, DIRTY)


cdef inline uint32_t _order_of(uint64_t bytes) noexcept nogil:
    cdef uint32_t order = 0
    while (<uint64_t>UNIT << order) < bytes:
        order += 1
    return order


# --- the interface of pool.pxd ---

cdef inline uint64_t _footprint(uint32_t cap) noexcept nogil:
    cdef uint64_t n = sizeof(Frame) + <uint64_t>cap
    if _mode == MODE_POOL:
        return <uint64_t>UNIT << _order_of(n)
    if _mode == MODE_MMAP:
        return (n + PAGE - 1) & ~(<uint64_t>PAGE - 1)
    if _mode == MODE_ARENA:
        return n + ARENA_CHUNKS * _arena_chunk_bytes(cap)
    return n


cdef inline uint64_t _arena_chunk_bytes(uint32_t cap) noexcept nogil:
    return sizeof(ArenaChunk) + 32 + cap // ARENA_CHUNKS


cdef uint32_t pool_cost(uint32_t cap) noexcept nogil:
    return <uint32_t>_footprint(cap)


cdef uint64_t pool_used_bytes() noexcept nogil:
    return zl_load64_relaxed(&_used)


cdef uint64_t pool_total_bytes() noexcept nogil:
    return zl_load64_relaxed(&_total)


cdef inline void _note_peak(uint64_t used) noexcept nogil:
    # Approximate in the other modes (no lock there); exact under _lock in mode pool.
    if used > zl_load64_relaxed(&_recent_peak):
        zl_store64(&_recent_peak, used)
        if used > zl_load64_relaxed(&_peak):
            zl_store64(&_peak, used)


cdef Frame *pool_take(uint32_t cap) noexcept nogil:
    cdef uint64_t n = sizeof(Frame) + <uint64_t>cap
    cdef uint32_t order, unit
    cdef Frame *f
    if n > (<uint64_t>UNIT << (ORDERS - 1)):
        return NULL
    if _mode != MODE_POOL:
        return _take_elsewhere(cap)
    order = _order_of(n)
    zl_lock(&_lock)
    unit = _take_block(order) if _base != NULL else NONE
    if unit != NONE:
        _note_peak(zl_add64(&_used, <uint64_t>UNIT << order) + (<uint64_t>UNIT << order))
    zl_unlock(&_lock)
    if unit == NONE:
        zl_add64_relaxed(&_exhausted, 1)
        return NULL
    f = <Frame *>(_base + <size_t>unit * UNIT)
    memset(f, 0, sizeof(Frame))
    f.data = <uint8_t *>f + sizeof(Frame)
    f.cap = <uint32_t>((<uint64_t>UNIT << order) - sizeof(Frame))
    f.size_class = <uint8_t>order
    f.block = unit
    zl_add64_relaxed(&_takes, 1)
    zl_add64_relaxed(&_frames, 1)
    return f


cdef Frame *_take_elsewhere(uint32_t cap) noexcept nogil:
    cdef uint64_t n = _footprint(cap)
    cdef uint64_t before = zl_load64(&_used)
    cdef Frame *f
    while True:
        if before + n > zl_load64_relaxed(&_total):
            zl_add64_relaxed(&_exhausted, 1)
            return NULL
        if zl_cas64(&_used, before, before + n):
            break
        before = zl_load64(&_used)
    if _mode == MODE_MMAP:
        f = <Frame *>mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if <void *>f == MAP_FAILED:
            f = NULL
    else:
        f = <Frame *>zl_malloc(MEM_FRAME, sizeof(Frame) + <size_t>cap)
    if f == NULL:
        zl_sub64(&_used, n)
        zl_add64_relaxed(&_exhausted, 1)
        return NULL
    memset(f, 0, sizeof(Frame))
    f.data = <uint8_t *>f + sizeof(Frame)
    f.cap = cap
    if _mode == MODE_ARENA:
        _add_arena_chunks(f)
    _note_peak(before + n)
    zl_add64_relaxed(&_mallocs, 1)
    zl_add64_relaxed(&_takes, 1)
    zl_add64_relaxed(&_frames, 1)
    return f


cdef void _add_arena_chunks(Frame *f) noexcept nogil:
    cdef ArenaChunk *chunk
    cdef int _i
    for _i in range(ARENA_CHUNKS):
        chunk = <ArenaChunk *>zl_malloc(MEM_FRAME, _arena_chunk_bytes(f.cap))
        if chunk == NULL:
            return
        zl_add64_relaxed(&_mallocs, 1)
        chunk.next = <ArenaChunk *>f.chain
        f.chain = chunk


cdef void _give_elsewhere(Frame *f) noexcept nogil:
    cdef uint64_t n = _footprint(f.cap)
    cdef ArenaChunk *chunk = <ArenaChunk *>f.chain
    cdef ArenaChunk *following
    while chunk != NULL:
        following = chunk.next
        zl_free(chunk)
        chunk = following
    if _mode == MODE_MMAP:
        munmap(f, n)
    else:
        zl_free(f)
    zl_sub64(&_used, n)


cdef void pool_give(Frame *f) noexcept nogil:
    cdef uint32_t order, unit
    if _mode != MODE_POOL:
        _give_elsewhere(f)
    else:
        order = f.size_class
        unit = f.block
        zl_lock(&_lock)
        _give_block(unit, order)
        zl_sub64(&_used, <uint64_t>UNIT << order)
        zl_unlock(&_lock)
    zl_sub64(&_frames, 1)
    zl_fence()  # pairs with the one in pool_ticket: either we see the waiter, or it sees the room
    if zl_load32(&_waiting) != 0:
        zl_add32(&_word, 1)
        zl_futex_wake(&_word, WAKE_AT_ONCE)


cdef Frame *pool_grow(Frame *f, uint32_t cap) noexcept nogil:
    cdef Frame *g = pool_take(cap)
    cdef Frame own
    if g == NULL:
        return NULL
    memcpy(g.data, f.data, f.n)
    own = g[0]
    memcpy(g, f, sizeof(Frame))
    g.data = own.data
    g.cap = own.cap
    g.size_class = own.size_class
    g.block = own.block
    g.chain = own.chain
    pool_give(f)
    return g


cdef uint32_t pool_ticket() noexcept nogil:
    cdef uint32_t word
    zl_add32(&_waiting, 1)
    word = zl_load32(&_word)
    zl_fence()
    return word


cdef void pool_wait(uint32_t ticket, uint32_t timeout_ms) noexcept nogil:
    # A timeout of 0 withdraws the ticket. Only a few waiters are woken at a time: the others look again by themselves.
    if timeout_ms != 0:
        zl_futex_wait(&_word, ticket, timeout_ms)
    zl_add32(&_waiting, <uint32_t>-1)


# --- for Python ---

cdef void _unmap() noexcept nogil:
    global _base, _state, _next, _prev
    if _base != NULL:
        munmap(_base, <size_t>_units * UNIT)
        munmap(_state, <size_t>_units)
        munmap(_next, <size_t>_units * sizeof(uint32_t))
        munmap(_prev, <size_t>_units * sizeof(uint32_t))
    _base = NULL
    _state = NULL
    _next = NULL
    _prev = NULL


cdef void *_map(size_t n) noexcept nogil:
    """Address space, without memory until it is touched; NULL when refused."""
    cdef void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    return NULL if p == MAP_FAILED else p


def init(total_bytes, mode="pool"):
    """Makes the pool: `total_bytes` is its bound, rounded down to whole 8 MiB blocks, at least one.

    Call once per process before any reader starts (and again after `close`). Raises ValueError for an unknown mode or a
    bound outside 8 MiB to 1 TiB, RuntimeError when the pool stands already, MemoryError when the kernel refuses.
    """
    global _mode, _base, _units, _state, _next, _prev, _peak, _recent_peak, _last_peak
    global _takes, _exhausted, _mallocs, _trimmed
    cdef uint32_t block = <uint32_t>1 << (ORDERS - 1)
    cdef uint32_t unit
    cdef int i
    if mode not in MODES:
        raise ValueError(f"FRAME_ALLOC={mode}: not one of {', '.join(MODES)}")
    if not UNIT * block <= total_bytes <= 1 << 40:
        raise ValueError(f"FRAME_POOL_BYTES={total_bytes}: must be between {UNIT * block} and {1 << 40}")
    if _total != 0:
        raise RuntimeError("the pool stands already")
    _units = <uint32_t>(total_bytes // (UNIT * block)) * block
    _mode = MODES.index(mode)
    _peak = _recent_peak = _last_peak = 0
    _takes = _exhausted = _mallocs = _trimmed = 0
    if _mode == MODE_POOL:
        _state = <uint8_t *>_map(_units)
        _next = <uint32_t *>_map(<size_t>_units * sizeof(uint32_t))
        _prev = <uint32_t *>_map(<size_t>_units * sizeof(uint32_t))
        _base = <uint8_t *>_map(<size_t>_units * UNIT)
        if _base == NULL or _state == NULL or _next == NULL or _prev == NULL:
            raise MemoryError(f"no address space for a frame pool of {total_bytes} bytes")
        for i in range(ORDERS):
            _head[i] = NONE
        for i in range(QUICK_ORDERS):
            _quick[i] = NONE
            _quick_n[i] = 0
        for unit in range(0, _units, block):
            _push_free(unit, ORDERS - 1, 0)
    zl_store64(&_total, <uint64_t>_units * UNIT)


def close():
    """Gives the region back. Raises RuntimeError while frames are alive: the last user has not let go."""
    if zl_load64(&_frames) != 0:
        raise RuntimeError(f"{zl_load64(&_frames)} frames are still alive")
    zl_lock(&_lock)
    _unmap()
    zl_store64(&_total, 0)
    zl_unlock(&_lock)


def trim():
    """Gives idle blocks of 64 KiB and more back to the kernel, but for what the last two intervals needed.

    Returns the bytes of address space given, touched or not.
    Called by housekeeping every few seconds; one thread at a time.
    """
    cdef uint64_t given = 0
    with nogil:
        if _mode == MODE_POOL:
            given = _trim()
    return given


cdef uint64_t _trim() noexcept nogil:
    global _last_peak
    cdef uint32_t[TRIM_BATCH] units
    cdef uint8_t[TRIM_BATCH] orders
    cdef uint64_t[TRIM_BATCH] kept  # from the start of the block: where the next frames will be cut from
    cdef uint32_t unit, following, n, i
    cdef int order
    cdef uint64_t warm, keep, size, used
    cdef uint64_t given = 0
    zl_lock(&_lock)
    if _base == NULL:
        zl_unlock(&_lock)
        return 0
    used = zl_load64(&_used)
    warm = max(zl_load64_relaxed(&_recent_peak), _last_peak)
    warm = warm - used if warm > used else 0
    _last_peak = zl_load64_relaxed(&_recent_peak)
    zl_store64(&_recent_peak, used)
    _flush_quick()
    while True:
        n = 0
        keep = warm
        for order in range(TRIM_ORDER, ORDERS):
            size = <uint64_t>UNIT << order
            unit = _head[order]
            while unit != NONE and n < TRIM_BATCH:
                following = _next[unit]
                if _state[unit] & DIRTY:
                    if keep >= size:
                        keep -= size
                    else:
                        _unlink_free(unit, order)
                        _state[unit] = <uint8_t>order  # ours while the lock is away
                        units[n] = unit
                        orders[n] = <uint8_t>order
                        kept[n] = (keep + PAGE - 1) & ~(<uint64_t>PAGE - 1)
                        keep = 0
                        n += 1
                unit = following
        if n == 0:
            break
        zl_unlock(&_lock)
        for i in range(n):
            size = (<uint64_t>UNIT << orders[i]) - kept[i]
            madvise(_base + <size_t>units[i] * UNIT + kept[i], size, MADV_DONTNEED)
            given += size
        zl_lock(&_lock)
        for i in range(n):
            _merge_free(units[i], orders[i], DIRTY if kept[i] else 0)
        if n < TRIM_BATCH:
            break
    zl_unlock(&_lock)
    zl_add64_relaxed(&_trimmed, given)
    return given


def stats():
    """Figures of now; bytes unless the name says otherwise. `allocator_calls` stays 0 in mode pool. Any thread."""
    cdef uint64_t largest = 0
    cdef uint64_t dirty = 0
    cdef uint32_t unit
    cdef int order
    zl_lock(&_lock)
    if _base != NULL:
        for order in range(ORDERS):
            unit = _head[order]
            if unit != NONE:
                largest = <uint64_t>UNIT << order
            while unit != NONE:
                if _state[unit] & DIRTY:
                    dirty += <uint64_t>UNIT << order
                unit = _next[unit]
    zl_unlock(&_lock)
    total, used = zl_load64(&_total), zl_load64(&_used)
    return {
        "mode": MODES[_mode],
        "total_bytes": total,
        "used_bytes": used,
        "free_bytes": total - used,
        "peak_bytes": zl_load64_relaxed(&_peak),
        "idle_warm_bytes": dirty,
        "largest_free_bytes": largest,
        "trimmed_bytes_total": zl_load64_relaxed(&_trimmed),
        "frames": zl_load64(&_frames),
        "takes_total": zl_load64_relaxed(&_takes),
        "exhausted_total": zl_load64_relaxed(&_exhausted),
        "allocator_calls_total": zl_load64_relaxed(&_mallocs),
        "waiting": zl_load32(&_waiting),
    }


def resident_bytes():
    """What the region occupies now, by mincore: the pool's line in the memory ledger. Any thread, not during close."""
    cdef unsigned char[4096] seen
    cdef size_t n, i, at = 0
    cdef uint64_t pages = 0
    with nogil:
        if _base != NULL:
            while at < <size_t>_units * UNIT:
                n = min(<size_t>4096 * PAGE, <size_t>_units * UNIT - at)
                if mincore(_base + at, n, seen) == 0:
                    for i in range(n // PAGE):
                        pages += seen[i] & 1
                at += n
    return pages * PAGE


# --- for tests and tools ---

def take(cap):
    """A frame as an opaque number, or None when the pool is exhausted."""
    cdef Frame *f = pool_take(cap)
    return None if f == NULL else <uint64_t>f


def fill(frame, data):
    """Writes `data` into a frame and sets its length."""
    cdef Frame *f = <Frame *><uint64_t>frame
    cdef const uint8_t[::1] view = data
    if view.shape[0] > f.cap:
        raise ValueError("longer than the frame")
    if view.shape[0]:
        memcpy(f.data, &view[0], view.shape[0])
    f.n = <uint32_t>view.shape[0]


def content(frame):
    """The bytes in a frame."""
    cdef Frame *f = <Frame *><uint64_t>frame
    return (<char *>f.data)[:f.n]


def capacity(frame):
    """Bytes that fit a frame."""
    return (<Frame *><uint64_t>frame).cap


def grow(frame, cap):
    """The frame moved to a larger block, or None when the pool is exhausted."""
    cdef Frame *f = pool_grow(<Frame *><uint64_t>frame, cap)
    return None if f == NULL else <uint64_t>f


def give(frame):
    """Ends a frame."""
    pool_give(<Frame *><uint64_t>frame)


def cost(cap):
    """What a frame of that capacity takes out of the pool, in bytes."""
    return pool_cost(cap)


def check():
    """Walks all blocks and raises AssertionError where books and lists disagree. Mode pool, nobody else active."""
    cdef uint32_t unit = 0
    cdef uint32_t order
    cdef uint64_t free_units = 0, listed = 0, quick = 0
    cdef uint32_t u
    while unit < _units:
        order = _state[unit] & ORDER_MASK
        assert unit % (<uint32_t>1 << order) == 0, "block not aligned"
        if _state[unit] & FREE:
            free_units += <uint64_t>1 << order
            if order < ORDERS - 1:
                u = unit ^ (<uint32_t>1 << order)
                assert (_state[u] & (FREE | ORDER_MASK)) != (FREE | order), "two free buddies not joined"
        unit += <uint32_t>1 << order
    for order in range(ORDERS):
        u = _head[order]
        while u != NONE:
            assert _state[u] & FREE and (_state[u] & ORDER_MASK) == order, "wrong list"
            listed += <uint64_t>1 << order
            u = _next[u]
    for order in range(QUICK_ORDERS):
        quick += _quick_n[order] * (<uint64_t>1 << order)
    assert listed == free_units, "free blocks not all listed"
    assert (free_units + quick) * UNIT + _used == _total, "bytes lost"
