"""CAR v1: header, blocks, hashes, and an index by CID (protocol C10, C11).

Promises: after R_OK every block is what its CID says (where hashes are checked) and car_find answers in a few steps,
whatever the blocks are: the index is keyed by a secret of the process, so nobody can choose blocks that collide.
Extra roots, any order, duplicates and blocks that nothing links to are tolerated.
Assumes: the bytes stay where they are; a scratch belongs to one thread.
Threads: any, one per Scratch. The secret is written once at import.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

import os
import time

from zlay._fast.crypto cimport sha256
from zlay._fast.drisl cimport (
    CID_SIZE, Cursor, DRISL_DATA, drisl_skip, MAJOR_TAG, map_next, MapWalk, read_array, read_link, read_map, read_uint
)
from zlay._fast.mem cimport MEM_MISC, zl_copy_bytes, zl_free, zl_malloc
from zlay._fast.message cimport DIGEST_BYTES, Message, message_decode, Slice
from zlay._fast.scratch cimport Scratch, scratch_alloc, scratch_free, scratch_init, scratch_reset
from zlay._fast.verdicts cimport (
    K_COMMIT, K_SYNC, R_BLOCK_HASH, R_CAR_BLOCK, R_CAR_HEADER, R_CAR_NO_ROOT, R_CAR_TOO_MANY_BLOCKS, R_FIELD_TYPE,
    R_OK, R_WORK_LIMIT
)

from zlay._fast.verdicts import REASONS

cdef enum:
    MAX_UVARINT_BYTES = 4        # 268,435,455: above any section of a frame
    MIN_SLOTS = 16
    CAR_VERSION = 1
    DIGEST_AT = 4                # where the digest stands in a CID
    INDEX_SHIFT = 48             # the product's top 16 bits: as many as 2 * MAX_CAR_BLOCKS slots take
    TOOL_SCRATCH_BYTES = 8 * 1024 * 1024

cdef uint64_t _secret = int.from_bytes(os.urandom(8), "little") | 1      # odd: multiply-shift hashing


cdef inline bint _uvarint(Cursor *c, uint32_t *out) noexcept nogil:
    """An unsigned LEB128 number of at most 28 bits in its shortest form."""
    cdef int i
    cdef uint8_t b
    out[0] = 0
    for i in range(MAX_UVARINT_BYTES):
        if c.p == c.end:
            return False
        b = c.p[0]
        c.p += 1
        out[0] |= <uint32_t>(b & 0x7F) << (7 * i)
        if b < 0x80:
            return b != 0 or i == 0
    return False


cdef inline bint _blessed(const uint8_t *cid) noexcept nogil:
    return cid[0] == 1 and (cid[1] == 0x71 or cid[1] == 0x55) and cid[2] == 0x12 and cid[3] == DIGEST_BYTES


cdef int _read_roots(Cursor *c, Car *car) noexcept nogil:
    """At least one link; the first must be blessed, of the others only the form counts."""
    cdef uint32_t _i, n
    cdef int r = read_array(c, &n)
    if r != R_OK:
        return r
    if n == 0:
        return R_CAR_NO_ROOT
    r = read_link(c, &car.root)
    for _i in range(1, n):
        if r == R_OK and c.p < c.end and c.p[0] >> 5 != MAJOR_TAG:
            return R_FIELD_TYPE
        if r == R_OK:
            r = drisl_skip(c, DRISL_DATA, 2)
    return r


cdef int _read_header(Cursor *c, Car *car) noexcept nogil:
    """{roots, version: 1} in strict DRISL, as long as its length says. R_CAR_HEADER, R_CAR_NO_ROOT or R_OK."""
    cdef Cursor h
    cdef MapWalk w
    cdef const uint8_t *key
    cdef uint32_t header_n, n
    cdef uint64_t version = 0
    cdef int r
    car.root = NULL
    if not _uvarint(c, &header_n) or header_n > <uint64_t>(c.end - c.p):
        return R_CAR_HEADER
    h.p = c.p
    h.end = c.p + header_n
    c.p = h.end
    r = read_map(&h, &w)
    while r == R_OK and w.left > 0:
        r = map_next(&h, &w, &key, &n)
        if r != R_OK:
            return R_CAR_HEADER
        if n == 5 and memcmp(key, b"roots", 5) == 0:
            r = _read_roots(&h, car)
            if r == R_CAR_NO_ROOT:
                return r
        elif n == 7 and memcmp(key, b"version", 7) == 0:
            r = read_uint(&h, &version)
        else:
            r = drisl_skip(&h, DRISL_DATA, 1)
    if r != R_OK or h.p != h.end or version != CAR_VERSION:
        return R_CAR_HEADER
    return R_OK if car.root != NULL else R_CAR_NO_ROOT


cdef inline uint32_t _slot(const uint8_t *cid, uint32_t mask) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, cid + DIGEST_AT, 8)
    return <uint32_t>((word * _secret) >> INDEX_SHIFT) & mask


cdef void _index(Car *car, uint32_t i) noexcept nogil:
    """Enters block i, unless one of the same CID is there."""
    cdef const uint8_t *cid = car.blocks[i].cid
    cdef uint32_t at = _slot(cid, car.mask)
    while car.slots[at] != 0:
        if memcmp(car.blocks[car.slots[at] - 1].cid, cid, CID_SIZE) == 0:
            return
        at = (at + 1) & car.mask
    car.slots[at] = i + 1


cdef int _sections(Cursor *c, Car *car, uint32_t room, bint check_hashes) noexcept nogil:
    """Reads all sections, each whole and with a blessed CID at its head, and holds each against its CID."""
    cdef CarBlock *block
    cdef uint32_t section_n
    cdef uint8_t[DIGEST_BYTES] digest
    car.n_blocks = 0
    while c.p < c.end:
        if not _uvarint(c, &section_n) or section_n < CID_SIZE or section_n > <uint64_t>(c.end - c.p):
            return R_CAR_BLOCK
        if not _blessed(c.p):
            return R_CAR_BLOCK
        if car.n_blocks == room:
            return R_CAR_TOO_MANY_BLOCKS
        block = &car.blocks[car.n_blocks]
        block.cid = c.p
        block.data = c.p + CID_SIZE
        block.n = section_n - CID_SIZE
        c.p += section_n
        car.n_blocks += 1
        if check_hashes:
            sha256(block.data, block.n, digest)
            if memcmp(digest, block.cid + DIGEST_AT, DIGEST_BYTES) != 0:
                return R_BLOCK_HASH
    return R_OK


cdef int car_parse(Scratch *s, Slice bytes, Car *car, bint check_hashes) noexcept nogil:
    """Parses a CAR in place. check_hashes False is for measuring only: nothing unchecked may be believed."""
    cdef Cursor c
    cdef uint32_t room, i
    cdef int r
    c.p = bytes.p
    c.end = bytes.p + bytes.n
    r = _read_header(&c, car)
    if r != R_OK:
        return r
    room = min(<uint32_t>(c.end - c.p) // (CID_SIZE + 1), <uint32_t>MAX_CAR_BLOCKS)
    car.blocks = <CarBlock *>scratch_alloc(s, (room + 1) * sizeof(CarBlock))
    if car.blocks == NULL:
        return R_WORK_LIMIT
    r = _sections(&c, car, room, check_hashes)
    if r != R_OK:
        return r
    car.mask = MIN_SLOTS - 1
    while car.mask < 2 * car.n_blocks:
        car.mask = 2 * car.mask + 1
    car.slots = <uint32_t *>scratch_alloc(s, (car.mask + 1) * sizeof(uint32_t))
    if car.slots == NULL:
        return R_WORK_LIMIT
    memset(car.slots, 0, (car.mask + 1) * sizeof(uint32_t))
    for i in range(car.n_blocks):
        _index(car, i)
    return R_OK


cdef CarBlock *car_find(const Car *car, const uint8_t *cid) noexcept nogil:
    """The block of a CID; NULL = it is not there."""
    cdef uint32_t at = _slot(cid, car.mask)
    cdef CarBlock *block
    while car.slots[at] != 0:
        block = &car.blocks[car.slots[at] - 1]
        if memcmp(block.cid, cid, CID_SIZE) == 0:
            return block
        at = (at + 1) & car.mask
    return NULL


# --- for tests and tools ---

def parse(bytes data, bint check_hashes=True):
    """{"root": CID, "blocks": [(CID, data), ...] in order}; or the label of the reason it is refused for."""
    cdef Scratch s
    cdef Car car
    cdef Slice view
    cdef uint32_t i
    cdef int r
    cdef void *copy = zl_copy_bytes(data)
    view.p = <const uint8_t *>copy
    view.n = <uint32_t>len(data)
    try:
        if scratch_init(&s, TOOL_SCRATCH_BYTES) != 0:
            raise MemoryError
        with nogil:
            r = car_parse(&s, view, &car, check_hashes)
        if r != R_OK:
            return REASONS[r].label
        blocks = []
        for i in range(car.n_blocks):
            block = car.blocks[i]
            blocks.append(((<const char *>block.cid)[:CID_SIZE], (<const char *>block.data)[:block.n]))
        return {"root": (<const char *>car.root)[:CID_SIZE], "blocks": blocks}
    finally:
        scratch_free(&s)
        zl_free(copy)


def find(bytes data, list cids):
    """For each 36-byte CID the block that car_find gives, None = absent. ValueError when the CAR is refused."""
    cdef Scratch s
    cdef Car car
    cdef Slice view
    cdef CarBlock *block
    cdef bytes cid
    cdef int r
    cdef void *copy = zl_copy_bytes(data)
    view.p = <const uint8_t *>copy
    view.n = <uint32_t>len(data)
    try:
        if scratch_init(&s, TOOL_SCRATCH_BYTES) != 0:
            raise MemoryError
        r = car_parse(&s, view, &car, True)
        if r != R_OK:
            raise ValueError(REASONS[r].label)
        out = []
        for wanted in cids:
            cid = bytes(wanted)
            if len(cid) != CID_SIZE:
                raise ValueError("not 36 bytes")
            block = car_find(&car, cid)
            out.append((<const char *>block.data)[:block.n] if block != NULL else None)
        return out
    finally:
        scratch_free(&s)
        zl_free(copy)


cdef int _decode_whole(Scratch *s, Slice frame, bint check_hashes) noexcept nogil:
    cdef Message m
    cdef Car car
    cdef int r
    scratch_reset(s)
    r = message_decode(s, frame.p, frame.n, &m)
    if r == R_OK and (m.kind == K_COMMIT or m.kind == K_SYNC):
        r = car_parse(s, m.blocks, &car, check_hashes)
    return r


cdef int _collect_blocks(Scratch *s, Slice frame, Slice *out, uint32_t most, uint32_t *count) noexcept nogil:
    """The data of every block of a frame's CAR, appended to out."""
    cdef Message m
    cdef Car car
    cdef uint32_t i
    cdef int r
    scratch_reset(s)
    r = message_decode(s, frame.p, frame.n, &m)
    if r != R_OK or (m.kind != K_COMMIT and m.kind != K_SYNC):
        return r
    r = car_parse(s, m.blocks, &car, False)
    for i in range(car.n_blocks if r == R_OK else 0):
        if count[0] == most:
            return R_WORK_LIMIT
        out[count[0]].p = car.blocks[i].data
        out[count[0]].n = car.blocks[i].n
        count[0] += 1
    return r


def measure(list frames, int rounds, str hashes="checked"):
    """Processor seconds for `rounds` passes over the frames, one thread, no GIL or allocation inside.

    hashes: "checked" = strict decode, CAR and the hash of every block; "skipped" = the same without hashing; "only" =
    the hashes of the same blocks alone, which is the bound. ValueError names the first frame that is refused.
    """
    cdef Scratch s
    cdef Slice *views = NULL                 # ours, freed below
    cdef Slice *blocks = NULL
    cdef uint8_t[DIGEST_BYTES] digest
    cdef uint32_t n = <uint32_t>len(frames), n_blocks = 0, i
    cdef uint32_t most_blocks = n * 64 + MAX_CAR_BLOCKS
    cdef bint check = hashes == "checked"
    cdef bint only = hashes == "only"
    cdef int r = R_OK, _k
    cdef bytes frame
    if scratch_init(&s, TOOL_SCRATCH_BYTES) != 0:
        raise MemoryError
    try:
        views = <Slice *>zl_malloc(MEM_MISC, (n + 1) * sizeof(Slice))
        blocks = <Slice *>zl_malloc(MEM_MISC, most_blocks * sizeof(Slice))
        if views == NULL or blocks == NULL:
            raise MemoryError
        for i in range(n):
            frame = frames[i]
            views[i].p = frame
            views[i].n = <uint32_t>len(frame)
            r = _decode_whole(&s, views[i], check)
            if r == R_OK and only:
                r = _collect_blocks(&s, views[i], blocks, most_blocks, &n_blocks)
            if r != R_OK:
                raise ValueError(f"frame {i}: {REASONS[r].label}")
        started = time.thread_time()
        with nogil:
            for _k in range(rounds):
                if only:
                    for i in range(n_blocks):
                        sha256(blocks[i].p, blocks[i].n, digest)
                else:
                    for i in range(n):
                        r |= _decode_whole(&s, views[i], check)
        taken = time.thread_time() - started
        if r != R_OK:
            raise ValueError("a frame was refused that was accepted before")
        return taken
    finally:
        zl_free(views)
        zl_free(blocks)
        scratch_free(&s)
