"""Every C allocation of the compiled core, counted by tag. Any thread may call any of these."""

cdef enum MemTag:
    MEM_MISC
    MEM_FRAME      # slab pool and, in the other FRAME_ALLOC modes, frames
    MEM_SCRATCH    # per-worker scratch
    MEM_HOST       # Host structs, progress slots, dedup sets
    MEM_CONNECTION  # reader state of one connection
    MEM_ACCOUNT    # account table
    MEM_QUEUE      # requests and inbox messages
    MEM_LOG        # log buffers, segment table
    MEM_CONSUMER   # consumer state
    MEM_CRYPTO     # contexts, key caches
    MEM_TAGS

cdef void *zl_malloc(int tag, size_t n) noexcept nogil
cdef void *zl_calloc(int tag, size_t n) noexcept nogil
cdef void *zl_realloc(int tag, void *p, size_t n) noexcept nogil
cdef void zl_free(void *p) noexcept nogil
# For tests and tools: bytes in C memory of exactly their size, so that a sanitizer sees a read beyond. The caller's.
cdef void *zl_copy_bytes(bytes data) except NULL
