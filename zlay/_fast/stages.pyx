"""What each stage of verifying a commit costs, on given frames, beside the work that nobody can do without.

For benchmarks: calls the very functions that workers call, on the calling thread, detached from the interpreter.
"""

from libc.stdint cimport uint8_t, uint32_t
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

cdef struct Item:
    const uint8_t *frame
    uint32_t n
    SigningKey key

cdef struct Times:                       # seconds over all frames and rounds
    double decode
    double open                          # CAR, CIDs, commit block
    double signature
    double tree
    double invert                        # the part of tree that finds and undoes ops
    double hash_blocks                   # SHA-256 of all blocks of the CAR: bound of open
    double hash_nodes                    # SHA-256 of as many nodes of that size as were written: bound of invert
    uint32_t ops


cdef inline double _now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <double>t.tv_sec + <double>t.tv_nsec * 1e-9


cdef int _one(Item *item, Scratch *s, KeyCache *cache, bint first, Times *out) noexcept nogil:
    """One frame through all stages. A Reason."""
    cdef Message m
    cdef Commit c
    cdef Tree t
    cdef uint8_t digest[32]
    cdef const uint8_t *before
    cdef uint32_t i, _i
    cdef int reason
    cdef double t0 = _now(), t1, t2, t3, t4, t5, t6, t7
    scratch_reset(s)
    reason = message_decode(s, item.frame, item.n, &m)
    if reason == R_OK and m.kind != K_COMMIT:
        reason = R_FIELD_TYPE
    if reason != R_OK:
        return reason
    t1 = _now()
    reason = commit_open(s, &m, &c)
    if reason != R_OK:
        return reason
    t2 = _now()
    reason = commit_verify(&c, &item.key, cache)
    if reason != R_OK:
        return reason
    t3 = _now()
    reason = tree_check(s, &m, &c, first)
    if reason != R_OK:
        return reason
    t4 = _now()
    tree_init(&t, s, &c.car)
    if m.n_ops > 0:
        reason = tree_invert(&t, c.data, m.ops, m.n_ops, &before)
        if reason != R_OK:
            return reason
    t5 = _now()
    for i in range(c.car.n_blocks):
        sha256(c.car.blocks[i].data, c.car.blocks[i].n, digest)
    t6 = _now()
    for _i in range(t.written):
        sha256(item.frame, t.written_bytes // t.written, digest)
    t7 = _now()
    out.decode += t1 - t0
    out.open += t2 - t1
    out.signature += t3 - t2
    out.tree += t4 - t3
    out.invert += t5 - t4
    out.hash_blocks += t6 - t5
    out.hash_nodes += t7 - t6
    out.ops += m.n_ops
    return R_OK


def times(frames: list[bytes], keys: list[tuple[int, bytes]], rounds: int, first: bool = False) -> dict[str, float]:
    """Seconds per frame of each stage, mean over the #commit frames and rounds; "ops" is ops per frame.

    `keys`: (key type, point) of each frame's account; `first`: none has stored state. The bounds "hash_blocks" and
    "hash_nodes" are taken on the same bytes in the same rounds. Any thread; it is detached meanwhile.
    ValueError: a frame that does not verify (its text is the label), an unusable key, no frames. MemoryError.
    """
    cdef Scratch s
    cdef KeyCache cache
    cdef Times total
    cdef Item *items                     # owned here; freed below
    cdef uint32_t n = <uint32_t>len(frames), i
    cdef int reason = R_OK
    cdef int _round, round_count = rounds
    cdef bint is_first = first
    if n == 0 or rounds < 1 or len(keys) != n:
        raise ValueError("no frames, no rounds, or not one key per frame")
    items = <Item *>zl_calloc(MEM_MISC, n * sizeof(Item))
    if items is NULL or scratch_init(&s, SCRATCH_BYTES) != 0:
        zl_free(items)
        raise MemoryError
    if key_cache_init(&cache) != 0:
        reason = -1
    held = list(zip(frames, keys, strict=True))      # ours alone, so that the bytes stay while we are detached
    for i, (frame, (key_type, point)) in enumerate(held):
        items[i].frame = frame
        items[i].n = <uint32_t>len(frame)
        if key_parse(key_type, point, <uint32_t>len(point), &items[i].key) != 0:
            reason = -1
    total.decode = total.open = total.signature = total.tree = total.invert = 0
    total.hash_blocks = total.hash_nodes = 0
    total.ops = 0
    with nogil:
        for _round in range(round_count):
            for i in range(n):
                if reason == R_OK:
                    reason = _one(&items[i], &s, &cache, is_first, &total)
    key_cache_free(&cache)
    scratch_free(&s)
    zl_free(items)
    if reason != R_OK:
        raise ValueError("an unusable key" if reason < 0 else verdicts.REASONS[reason].label)
    per_frame = 1.0 / (<double>n * round_count)
    return {name: value * per_frame for name, value in (<dict>total).items()}
