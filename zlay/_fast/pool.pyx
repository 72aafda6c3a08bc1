"""Frames in one bounded region of memory (R1, R5), cut into blocks by the buddy allocator of buddy.pyx.

Promises: no malloc per frame (mode `pool`); never more than the configured bytes; what lies idle goes back to the
kernel by `trim()`; who waits for room is woken when a frame comes back.

Assumes: `init` before the first reader starts, `close` after the last frame has been given back.

Threads: any. `_lock` is a leaf (nothing else is locked, called or waited for under it) and guards the buddy
allocator; mode and region change only in `init` and `close`; figures are atomics. A Frame belongs to whoever
holds its pointer; `pool_give` ends it.

The other modes (FRAME_ALLOC) exist to compare allocators and keep the same bound and the same interface: `malloc` (one
malloc and free per frame), `arena` (a frame plus a chain of small mallocs, the shape of a per-frame arena), `mmap`
(whole pages per frame).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from zlay._fast.buddy cimport (
    BLOCK_ORDERS, BLOCK_UNIT, COLD_BATCH, NO_BLOCK, BlockFigures, Cold, buddy_check, buddy_close, buddy_discard,
    buddy_figures, buddy_give, buddy_give_cold, buddy_memory, buddy_open, buddy_order, buddy_resident_bytes, buddy_take,
    buddy_take_cold, buddy_tidy,
)
from zlay._fast.includes.atomics cimport (
    zl_add32, zl_add64, zl_add64_relaxed, zl_cas64, zl_fence, zl_futex_wait, zl_futex_wake, zl_load32, zl_load64,
    zl_load64_relaxed, zl_store64, zl_sub64,
)
from zlay._fast.includes.threads cimport zl_lock, zl_mutex, zl_unlock
from zlay._fast.mem cimport MEM_FRAME, zl_free, zl_malloc

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t n, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t n)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS
    void *MAP_FAILED

MODES = ("pool", "malloc", "arena", "mmap")

cdef enum:
    WAKE_AT_ONCE = 4             # waiters woken by one frame given back
    ARENA_CHUNKS = 40            # mallocs per frame in mode arena
    PAGE = 4096

cdef enum Mode:
    MODE_POOL
    MODE_MALLOC
    MODE_ARENA
    MODE_MMAP

cdef zl_mutex _lock
cdef int _mode = MODE_POOL
cdef uint64_t _total = 0         # atomic: readers of the bound take no lock
cdef uint64_t _used = 0          # atomic: bytes of blocks that hold frames
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


# --- the interface of pool.pxd ---

cdef inline uint64_t _footprint(uint32_t cap) noexcept nogil:
    cdef uint64_t n = sizeof(Frame) + <uint64_t>cap
    if _mode == MODE_POOL:
        return <uint64_t>BLOCK_UNIT << buddy_order(n)
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
    if n > (<uint64_t>BLOCK_UNIT << (BLOCK_ORDERS - 1)):
        return NULL
    if _mode != MODE_POOL:
        return _take_elsewhere(cap)
    order = buddy_order(n)
    zl_lock(&_lock)
    unit = buddy_take(order)
    if unit != NO_BLOCK:
        _note_peak(zl_add64(&_used, <uint64_t>BLOCK_UNIT << order) + (<uint64_t>BLOCK_UNIT << order))
    zl_unlock(&_lock)
    if unit == NO_BLOCK:
        zl_add64_relaxed(&_exhausted, 1)
        return NULL
    f = <Frame *>buddy_memory(unit)
    memset(f, 0, sizeof(Frame))
    f.data = <uint8_t *>f + sizeof(Frame)
    f.cap = <uint32_t>((<uint64_t>BLOCK_UNIT << order) - sizeof(Frame))
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
        buddy_give(unit, order)
        zl_sub64(&_used, <uint64_t>BLOCK_UNIT << order)
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

def init(total_bytes, mode="pool"):
    """Makes the pool: `total_bytes` is its bound, rounded down to whole 8 MiB blocks, at least one.

    Call once per process before any reader starts (and again after `close`). Raises ValueError for an unknown mode or a
    bound outside 8 MiB to 1 TiB, RuntimeError when the pool stands already, MemoryError when the kernel refuses.
    """
    global _mode, _peak, _recent_peak, _last_peak, _takes, _exhausted, _mallocs, _trimmed
    cdef uint32_t block = <uint32_t>1 << (BLOCK_ORDERS - 1)
    cdef uint32_t units
    if mode not in MODES:
        raise ValueError(f"FRAME_ALLOC={mode}: not one of {', '.join(MODES)}")
    if not BLOCK_UNIT * block <= total_bytes <= 1 << 40:
        raise ValueError(f"FRAME_POOL_BYTES={total_bytes}: must be between {BLOCK_UNIT * block} and {1 << 40}")
    if _total != 0:
        raise RuntimeError("the pool stands already")
    units = <uint32_t>(total_bytes // (BLOCK_UNIT * block)) * block
    _mode = MODES.index(mode)
    _peak = _recent_peak = _last_peak = 0
    _takes = _exhausted = _mallocs = _trimmed = 0
    if _mode == MODE_POOL and buddy_open(units) != 0:
        raise MemoryError(f"no address space for a frame pool of {total_bytes} bytes")
    zl_store64(&_total, <uint64_t>units * BLOCK_UNIT)


def close():
    """Gives the region back. Raises RuntimeError while frames are alive: the last user has not let go."""
    if zl_load64(&_frames) != 0:
        raise RuntimeError(f"{zl_load64(&_frames)} frames are still alive")
    zl_lock(&_lock)
    buddy_close()
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
    cdef Cold[COLD_BATCH] cold
    cdef uint32_t n
    cdef uint64_t warm, used, given = 0
    zl_lock(&_lock)
    used = zl_load64(&_used)
    warm = max(zl_load64_relaxed(&_recent_peak), _last_peak)
    warm = warm - used if warm > used else 0
    _last_peak = zl_load64_relaxed(&_recent_peak)
    zl_store64(&_recent_peak, used)
    buddy_tidy()
    while True:
        n = buddy_take_cold(cold, warm)
        if n == 0:
            break
        zl_unlock(&_lock)
        given += buddy_discard(cold, n)
        zl_lock(&_lock)
        buddy_give_cold(cold, n)
        if n < COLD_BATCH:
            break
    zl_unlock(&_lock)
    zl_add64_relaxed(&_trimmed, given)
    return given


def stats():
    """Figures of now; bytes unless the name says otherwise. `allocator_calls` stays 0 in mode pool. Any thread."""
    cdef BlockFigures blocks
    zl_lock(&_lock)
    buddy_figures(&blocks)
    zl_unlock(&_lock)
    total, used = zl_load64(&_total), zl_load64(&_used)
    return {
        "mode": MODES[_mode],
        "total_bytes": total,
        "used_bytes": used,
        "free_bytes": total - used,
        "peak_bytes": zl_load64_relaxed(&_peak),
        "idle_warm_bytes": blocks.warm_bytes,
        "largest_free_bytes": blocks.largest_bytes,
        "trimmed_bytes_total": zl_load64_relaxed(&_trimmed),
        "frames": zl_load64(&_frames),
        "takes_total": zl_load64_relaxed(&_takes),
        "exhausted_total": zl_load64_relaxed(&_exhausted),
        "allocator_calls_total": zl_load64_relaxed(&_mallocs),
        "waiting": zl_load32(&_waiting),
    }


def resident_bytes():
    """What the region occupies now, by mincore: the pool's line in the memory ledger. Any thread, not during close."""
    cdef uint64_t n
    with nogil:
        n = buddy_resident_bytes()
    return n


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
    assert buddy_check() + _used == _total, "bytes lost"
