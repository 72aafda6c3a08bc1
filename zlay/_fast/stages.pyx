"""What each stage of verifying a commit costs, on given frames, beside the work that nobody can do without.

For benchmarks: calls the very functions that workers call, on the calling thread, detached from the interpreter.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from zlay._fast.commit cimport Commit, commit_open, commit_verify
from zlay._fast.crypto cimport KeyCache, SigningKey, key_cache_free, key_cache_init, key_parse, sha256
from zlay._fast.mem cimport MEM_MISC, zl_calloc, zl_free
from zlay._fast.message cimport Message, message_decode
from zlay._fast.mst cimport tree_check, tree_invert
from zlay._fast.node cimport Tree, tree_init
from zlay._fast.scratch cimport Scratch, scratch_free, scratch_init, scratch_reset
from zlay._fast.verdicts cimport K_COMMIT, R_FIELD_TYPE, R_OK

from zlay._fast import verdicts

cdef enum:
    SCRATCH_BYTES = 64 * 1024 * 1024

cdef enum:                               # stages
    DECODE
    OPEN                                 # CAR, CIDs, commit block
    SIGNATURE
    TREE
    INVERT                               # the part of TREE that finds and undoes ops
    HASH_BLOCKS                          # SHA-256 of all blocks of the CAR: bound of OPEN
    HASH_NODES                           # SHA-256 of as many nodes of that size as were written: bound of INVERT
    STAGES

NAMES = ("decode", "open", "signature", "tree", "invert", "hash_blocks", "hash_nodes")

cdef struct Item:
    const uint8_t *frame
    uint32_t n
    uint32_t ops
    SigningKey key


cdef inline double _now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <double>t.tv_sec + <double>t.tv_nsec * 1e-9


cdef int _one(Item *item, Scratch *s, KeyCache *cache, bint first, double *out) noexcept nogil:
    """One frame through all stages; out = seconds of each. A Reason."""
    cdef Message m
    cdef Commit c
    cdef Tree t
    cdef uint8_t digest[32]
    cdef const uint8_t *before
    cdef uint32_t i, _i
    cdef int reason
    cdef double[STAGES + 1] at
    at[DECODE] = _now()
    scratch_reset(s)
    reason = message_decode(s, item.frame, item.n, &m)
    if reason == R_OK and m.kind != K_COMMIT:
        reason = R_FIELD_TYPE
    if reason != R_OK:
        return reason
    item.ops = m.n_ops
    at[OPEN] = _now()
    reason = commit_open(s, &m, &c)
    if reason != R_OK:
        return reason
    at[SIGNATURE] = _now()
    reason = commit_verify(&c, &item.key, cache)
    if reason != R_OK:
        return reason
    at[TREE] = _now()
    reason = tree_check(s, &m, &c, first)
    if reason != R_OK:
        return reason
    at[INVERT] = _now()
    tree_init(&t, s, &c.car)
    if m.n_ops > 0:
        reason = tree_invert(&t, c.data, m.ops, m.n_ops, &before)
        if reason != R_OK:
            return reason
    at[HASH_BLOCKS] = _now()
    for i in range(c.car.n_blocks):
        sha256(c.car.blocks[i].data, c.car.blocks[i].n, digest)
    at[HASH_NODES] = _now()
    for _i in range(t.written):
        sha256(item.frame, t.written_bytes // t.written, digest)
    at[STAGES] = _now()
    for i in range(STAGES):
        out[i] = at[i + 1] - at[i]
    return R_OK


cdef double _median(double *samples, uint32_t n, uint32_t stride) noexcept nogil:
    """Of n numbers, each `stride` after the one before; they are sorted in place."""
    cdef uint32_t i, k
    cdef double value
    for i in range(1, n):
        value = samples[i * stride]
        k = i
        while k > 0 and samples[(k - 1) * stride] > value:
            samples[k * stride] = samples[(k - 1) * stride]
            k -= 1
        samples[k * stride] = value
    return samples[n // 2 * stride]


def times(frames: list[bytes], keys: list[tuple[int, bytes]], rounds: int, first: bool = False) -> dict[str, float]:
    """Seconds per frame of each stage, mean over the #commit frames; "ops" is ops per frame.

    Of each frame and stage the median of the rounds counts: what a thread loses that is put aside in the middle of a
    microsecond's work is none of it. `keys`: (key type, point) of each frame's account; `first`: none has stored state.
    The bounds "hash_blocks" and "hash_nodes" are taken on the same bytes in the same rounds. Any thread; it is detached
    meanwhile.
    ValueError: a frame that does not verify (its text is the label), an unusable key, no frames. MemoryError.
    """
    cdef Scratch s
    cdef KeyCache cache
    cdef Item *items                     # owned here, as are the samples; freed below
    cdef double *samples                 # by frame, round and stage
    cdef double[STAGES] total
    cdef uint32_t n = <uint32_t>len(frames), i, k, ops = 0
    cdef uint32_t round_count = rounds
    cdef int reason = R_OK
    cdef bint is_first = first
    if n == 0 or rounds < 1 or len(keys) != n:
        raise ValueError("no frames, no rounds, or not one key per frame")
    items = <Item *>zl_calloc(MEM_MISC, n * sizeof(Item))
    samples = <double *>zl_calloc(MEM_MISC, <size_t>n * round_count * STAGES * sizeof(double))
    if items is NULL or samples is NULL or scratch_init(&s, SCRATCH_BYTES) != 0:
        zl_free(items)
        zl_free(samples)
        raise MemoryError
    if key_cache_init(&cache) != 0:
        reason = -1
    held = list(zip(frames, keys, strict=True))      # ours alone, so that the bytes stay while we are detached
    for i, (frame, (key_type, point)) in enumerate(held):
        items[i].frame = frame
        items[i].n = <uint32_t>len(frame)
        if key_parse(key_type, point, <uint32_t>len(point), &items[i].key) != 0:
            reason = -1
    memset(total, 0, sizeof(total))
    with nogil:
        for k in range(round_count):
            for i in range(n):
                if reason == R_OK:
                    reason = _one(&items[i], &s, &cache, is_first, samples + (i * round_count + k) * STAGES)
        for i in range(n):
            ops += items[i].ops
            for k in range(STAGES):
                total[k] += _median(samples + <size_t>i * round_count * STAGES + k, round_count, STAGES)
    key_cache_free(&cache)
    scratch_free(&s)
    zl_free(items)
    zl_free(samples)
    if reason != R_OK:
        raise ValueError("an unusable key" if reason < 0 else verdicts.REASONS[reason].label)
    found = {name: total[k] / n for k, name in enumerate(NAMES)}
    found["ops"] = ops / <double>n
    return found
