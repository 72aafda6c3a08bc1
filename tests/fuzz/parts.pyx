"""A #commit or #sync taken apart, put together again, and its CIDs made to hold.

A mutation leaves blocks that are not what their CIDs say. Every link still is the CID that the section of its block
says; so after parts_relink has hashed the blocks, those below others first, each link to a block names it again, in
nodes, in the commit, in the CAR's root, in the message's commit and ops.

Nothing here is strict, and all of it lives with any bytes: it is not what is tested.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from zlay._fast.crypto cimport sha256
from zlay._fast.drisl cimport MAJOR_ARRAY, MAJOR_BYTES, MAJOR_UINT, Cursor, cbor_head, cbor_put_head
from zlay._fast.verdicts cimport R_OK

cdef enum:
    KEY_ROOM = 65536             # for the whole keys of one node
    MOST_DEPTH = 200             # of blocks that link to each other

cdef extern from "string.h" nogil:
    void *memmem(const void *hay, size_t n, const void *needle, size_t needle_n)

cdef uint8_t[KEY_ROOM] keys


# --- taking apart and joining ----------------------------------------------------------------------------------------

cdef bint _length(Cursor *c, uint8_t wanted, uint64_t *n) noexcept nogil:
    """A head of that major type whose argument is not above what follows."""
    cdef uint8_t major
    return cbor_head(c, &major, n) == R_OK and major == wanted and n[0] <= <uint64_t>(c.end - c.p)


cdef bint _varint(Cursor *c, uint32_t *n) noexcept nogil:
    cdef int shift = 0
    n[0] = 0
    while c.p < c.end and shift < 28:
        n[0] |= <uint32_t>(c.p[0] & 0x7F) << shift
        shift += 7
        c.p += 1
        if (c.p - 1)[0] < 0x80:
            return n[0] <= <uint64_t>(c.end - c.p)
    return False


cdef bint parts_cut(const uint8_t *p, size_t n, Parts *out) noexcept nogil:
    cdef Cursor c
    cdef const uint8_t *key = <const uint8_t *>memmem(p, n, b"\x66blocks", 7)
    cdef const uint8_t *end = p + n
    cdef uint64_t car_n
    cdef uint32_t section
    if key == NULL:
        return False
    c.p = key + 7
    c.end = end
    out.before.p = p
    out.before.n = c.p - p
    if not _length(&c, MAJOR_BYTES, &car_n):
        return False
    c.end = c.p + car_n
    out.after.p = c.end
    out.after.n = end - c.end
    out.car_head.p = c.p
    if not _varint(&c, &section):
        return False
    c.p += section
    out.car_head.n = c.p - out.car_head.p
    out.n = 0
    while c.p < c.end:
        if out.n == MOST_BLOCKS or not _varint(&c, &section) or section < CID_BYTES_:
            return False
        out.cids[out.n] = c.p
        out.blocks[out.n].p = c.p + CID_BYTES_
        out.blocks[out.n].n = section - CID_BYTES_
        out.n += 1
        c.p += section
    return True


cdef uint8_t *_put(uint8_t *p, const uint8_t *data, size_t n) noexcept nogil:
    memcpy(p, data, n)
    return p + n


cdef size_t parts_join(const Parts *parts, uint8_t *out, size_t most) noexcept nogil:
    cdef uint8_t *p
    cdef uint8_t[9] head
    cdef size_t car_n = parts.car_head.n
    cdef size_t section
    cdef uint32_t i, head_n
    for i in range(parts.n):
        section = CID_BYTES_ + parts.blocks[i].n
        car_n += section + 1 + (section >= 1 << 7) + (section >= 1 << 14) + (section >= 1 << 21)
    head_n = cbor_put_head(head, MAJOR_BYTES, car_n)
    if parts.before.n + head_n + car_n + parts.after.n > most:
        return 0
    p = _put(_put(out, parts.before.p, parts.before.n), head, head_n)
    p = _put(p, parts.car_head.p, parts.car_head.n)
    for i in range(parts.n):
        section = CID_BYTES_ + parts.blocks[i].n
        while section >= 0x80:
            p[0] = <uint8_t>(section | 0x80)
            p += 1
            section >>= 7
        p[0] = <uint8_t>section
        p = _put(_put(p + 1, parts.cids[i], CID_BYTES_), parts.blocks[i].p, parts.blocks[i].n)
    return _put(p, parts.after.p, parts.after.n) - out


# --- links -----------------------------------------------------------------------------------------------------------

cdef struct Linker:
    Parts parts
    uint8_t old[256][36]         # what the sections said
    uint8_t done[256]            # 0, 1 = begun, 2 = has its new CID

cdef Linker linker


cdef const uint8_t *next_cid(const uint8_t *p, const uint8_t *end) noexcept nogil:
    while end - p >= CID_BYTES_:
        if p[0] == 1 and (p[1] == 0x71 or p[1] == 0x55) and p[2] == 0x12 and p[3] == 0x20:
            return p
        p += 1
    return NULL


cdef int _block_of(const uint8_t *cid) noexcept nogil:
    """The first block whose section had this CID; -1 = none."""
    cdef uint32_t i
    for i in range(linker.parts.n):
        if memcmp(linker.old[i], cid, CID_BYTES_) == 0:
            return <int>i
    return -1


cdef void _relink_range(const uint8_t *p, size_t n, int depth) noexcept nogil:
    """Every link in these bytes to a block of ours names it again, once the block itself does so."""
    cdef const uint8_t *end = p + n
    cdef int i
    p = next_cid(p, end)
    while p != NULL:
        i = _block_of(p)
        if i >= 0:
            if linker.done[i] == 0 and depth < MOST_DEPTH:
                _relink_block(i, depth + 1)
            if linker.done[i] == 2:
                memcpy(<uint8_t *>p, linker.parts.cids[i], CID_BYTES_)
        p = next_cid(p + 1 if i < 0 else p + CID_BYTES_, end)


cdef void _relink_block(int i, int depth) noexcept nogil:
    cdef Piece block = linker.parts.blocks[i]
    linker.done[i] = 1
    _relink_range(block.p, block.n, depth)
    sha256(block.p, block.n, <uint8_t *>linker.parts.cids[i] + DIGEST_AT_)
    linker.done[i] = 2


cdef void parts_relink(uint8_t *p, size_t n) noexcept nogil:
    cdef Parts *parts = &linker.parts
    cdef uint32_t i
    if not parts_cut(p, n, parts):
        return
    for i in range(parts.n):
        memcpy(linker.old[i], parts.cids[i], CID_BYTES_)
        linker.done[i] = 0
    for i in range(parts.n):
        if linker.done[i] == 0:
            _relink_block(<int>i, 0)
    _relink_range(parts.before.p, parts.before.n, 0)
    _relink_range(parts.car_head.p, parts.car_head.n, 0)
    _relink_range(parts.after.p, parts.after.n, 0)


# --- nodes -----------------------------------------------------------------------------------------------------------

cdef bint _literal(Cursor *c, const char *text, size_t n) noexcept nogil:
    if <size_t>(c.end - c.p) < n or memcmp(c.p, text, n) != 0:
        return False
    c.p += n
    return True


cdef bint _link(Cursor *c, const uint8_t **cid) noexcept nogil:
    """A link of the usual form, or null."""
    cid[0] = NULL
    if _literal(c, b"\xf6", 1):
        return True
    if not _literal(c, b"\xd8\x2a\x58\x25\x00", 5) or c.end - c.p < CID_BYTES_:
        return False
    cid[0] = c.p
    c.p += CID_BYTES_
    return True


cdef bint node_items(Piece block, NodeItems *out) noexcept nogil:
    cdef Cursor c
    cdef Item *item
    cdef Piece last
    cdef uint64_t n, count, shared
    cdef size_t used = 0
    cdef uint8_t major
    c.p = block.p
    c.end = block.p + block.n
    last.n = 0
    last.p = keys
    out.n = 0
    if not _literal(&c, b"\xa2\x61e", 3) or not _length(&c, MAJOR_ARRAY, &count) or count > MOST_ITEMS:
        return False
    while out.n < count:
        item = &out.items[out.n]
        if not _literal(&c, b"\xa4\x61k", 3) or not _length(&c, MAJOR_BYTES, &n):
            return False
        item.key.p = c.p
        c.p += n
        if not _literal(&c, b"\x61p", 2) or cbor_head(&c, &major, &shared) != R_OK or major != MAJOR_UINT:
            return False
        if shared > last.n or used + shared + n > KEY_ROOM:
            return False
        _put(_put(&keys[used], last.p, shared), item.key.p, n)
        item.key.p = &keys[used]
        item.key.n = shared + n
        used += item.key.n
        last = item.key
        if not _literal(&c, b"\x61t", 2) or not _link(&c, &item.right):
            return False
        if not _literal(&c, b"\x61v", 2) or not _link(&c, &item.value) or item.value == NULL:
            return False
        out.n += 1
    return _literal(&c, b"\x61l", 2) and _link(&c, &out.left) and c.p == c.end


cdef uint8_t *_put_link(uint8_t *p, const uint8_t *cid) noexcept nogil:
    if cid == NULL:
        return _put(p, b"\xf6", 1)
    return _put(_put(p, b"\xd8\x2a\x58\x25\x00", 5), cid, CID_BYTES_)


cdef size_t node_put(const NodeItems *node, uint8_t *out, size_t most) noexcept nogil:
    cdef uint8_t *p
    cdef const Item *item
    cdef size_t shared, room = 128
    cdef uint32_t i
    for i in range(node.n):
        room += node.items[i].key.n + 128
    if room > most:
        return 0
    p = _put(out, b"\xa2\x61e", 3)
    p += cbor_put_head(p, MAJOR_ARRAY, node.n)
    for i in range(node.n):
        item = &node.items[i]
        shared = 0
        if i > 0:
            while (
                shared < item.key.n and shared < node.items[i - 1].key.n
                and item.key.p[shared] == node.items[i - 1].key.p[shared]
            ):
                shared += 1
        p = _put(p, b"\xa4\x61k", 3)
        p += cbor_put_head(p, MAJOR_BYTES, item.key.n - shared)
        p = _put(_put(p, item.key.p + shared, item.key.n - shared), b"\x61p", 2)
        p += cbor_put_head(p, MAJOR_UINT, shared)
        p = _put_link(_put(p, b"\x61t", 2), item.right)
        p = _put_link(_put(p, b"\x61v", 2), item.value)
    return _put_link(_put(p, b"\x61l", 2), node.left) - out
