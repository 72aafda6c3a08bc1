"""Mutations of whole frames that get past the hashes.

A frame is changed as libFuzzer likes: somewhere, in one block, in one node's entries, in its ops; or blocks go, come,
change places. Then it is mended, mostly: blocks get their CIDs and links follow (parts.pyx), the commit says account
and rev of its message, and prevData is what the inversion finds. Now and then it is not: that is what those checks are
for. The inversion used is the one under test: it is held against a reference elsewhere (tests/_fast/test_mst.py).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from tests.fuzz.fuzzer cimport LLVMFuzzerMutate
from tests.fuzz.parts cimport (
    CID_BYTES_, MOST_BLOCKS, MOST_ITEMS, Item, NodeItems, Parts, Piece, next_cid, node_items, node_put, parts_cut,
    parts_join, parts_relink
)
from zlay._fast.commit cimport Commit, commit_open
from zlay._fast.drisl cimport (
    DRISL_UNKNOWN, MAJOR_ARRAY, MAJOR_MAP, MAJOR_TEXT, Cursor, cbor_put_head, drisl_skip
)
from zlay._fast.message cimport Message, message_decode
from zlay._fast.mst cimport tree_invert
from zlay._fast.node cimport Tree, key_height, tree_init
from zlay._fast.scratch cimport Scratch, scratch_init, scratch_reset
from zlay._fast.verdicts cimport K_COMMIT, R_OK

cdef enum:
    ROOM = 1 << 17               # for a frame, and for a block
    SCRATCH_BYTES = 64 * 1024 * 1024
    MOST_OPS = 12                # of ops written anew
    TRIES = 64                   # for a key of the wanted height: three in four have height 0
    TID_TEXT = 14                # 6d and 13 characters
    DID_TEXT = 34                # 78 20 and 32 characters

cdef extern from "string.h" nogil:
    void *memmem(const void *hay, size_t n, const void *needle, size_t needle_n)

cdef Scratch scratch
cdef uint8_t[ROOM] whole         # what a mutation joins into
cdef uint8_t[ROOM] one           # a changed block, or changed text before or after the blocks
cdef uint8_t[4096] new_key
cdef Parts parts
cdef Parts other
cdef NodeItems node
cdef uint64_t state

if scratch_init(&scratch, SCRATCH_BYTES):
    raise MemoryError


cdef uint32_t _any(uint32_t n) noexcept nogil:
    """A number below n, which is not 0."""
    global state
    state += 0x9E3779B97F4A7C15ULL
    cdef uint64_t z = state
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL
    return <uint32_t>((z >> 32) % n)


cdef bint _chance(uint32_t n) noexcept nogil:
    """Once in n times."""
    return _any(n) == 0


# --- mutations of the parts: True = something was changed ------------------------------------------------------------

cdef bint _bytes_of(Piece *piece) noexcept nogil:
    """libFuzzer's own mutations, in one piece."""
    cdef size_t most = piece.n + piece.n // 4 + 64
    if piece.n > ROOM // 2:
        return False
    memcpy(one, piece.p, piece.n)
    piece.n = LLVMFuzzerMutate(one, piece.n, most)
    piece.p = one
    return True


cdef bint _drop_block() noexcept nogil:
    cdef uint32_t i
    if parts.n == 0:
        return False
    i = _any(parts.n)
    parts.n -= 1
    memmove(&parts.blocks[i], &parts.blocks[i + 1], (parts.n - i) * sizeof(Piece))
    memmove(&parts.cids[i], &parts.cids[i + 1], (parts.n - i) * sizeof(parts.cids[0]))
    return True


cdef bint _add_block(const Parts *source) noexcept nogil:
    cdef uint32_t i
    if source.n == 0 or parts.n == MOST_BLOCKS:
        return False
    i = _any(source.n)
    parts.blocks[parts.n] = source.blocks[i]
    parts.cids[parts.n] = source.cids[i]
    parts.n += 1
    return True


cdef bint _swap_blocks() noexcept nogil:
    """Two blocks change places; or only what they are called, so that others link to them the other way round."""
    cdef uint32_t i, j
    cdef Piece block
    cdef const uint8_t *cid
    if parts.n < 2:
        return False
    i = _any(parts.n)
    j = _any(parts.n)
    block = parts.blocks[i]
    parts.blocks[i] = parts.blocks[j]
    parts.blocks[j] = block
    if _chance(2):
        cid = parts.cids[i]
        parts.cids[i] = parts.cids[j]
        parts.cids[j] = cid
    return True


cdef const uint8_t *_some_cid() noexcept nogil:
    return parts.cids[_any(parts.n)]


cdef bint _redirect_link() noexcept nogil:
    """One link of a block names another block."""
    cdef Piece *block
    cdef const uint8_t *p
    cdef const uint8_t *cid
    cdef uint32_t left
    if parts.n == 0:
        return False
    block = &parts.blocks[_any(parts.n)]
    if block.n > ROOM:
        return False
    cid = _some_cid()
    memcpy(one, block.p, block.n)
    block.p = one
    left = _any(8)
    p = next_cid(one, &one[block.n])
    while p != NULL:
        if left == 0:
            memcpy(<uint8_t *>p, cid, CID_BYTES_)
            return True
        left -= 1
        p = next_cid(p + CID_BYTES_, &one[block.n])
    return False


cdef int _some_node() noexcept nogil:
    """A block that is a node, read into `node`; -1 = none found."""
    cdef uint32_t _try, i
    for _try in range(8 if parts.n else 0):
        i = _any(parts.n)
        if node_items(parts.blocks[i], &node):
            return <int>i
    return -1


cdef bint _new_key(const Item *like) noexcept nogil:
    """A key a little above another, of the same height if luck will have it."""
    cdef size_t n = like.key.n
    cdef int height = key_height(like.key.p, n)
    cdef uint32_t _try
    if n == 0 or n > 1000:
        return False
    memcpy(new_key, like.key.p, n)
    for _try in range(TRIES):
        new_key[n - 1 - _any(min(<uint32_t>n, <uint32_t>3))] = b"234567abcdefghijklmnopqrstuvwxyz"[_any(32)]
        if key_height(new_key, n) == height:
            return True
    return True


cdef bint _change_node() noexcept nogil:
    """An entry goes or comes, a pointer changes; the node is written in its only form."""
    cdef int at = _some_node()
    cdef uint32_t i, what = _any(6)
    cdef Item *item
    if at < 0:
        return False
    i = _any(node.n) if node.n else 0
    item = &node.items[i]
    if node.n == 0 or what == 0:
        node.left = NULL if _chance(2) else _some_cid()
    elif what == 1:
        item.right = NULL if _chance(2) else _some_cid()
    elif what == 2:
        node.n -= 1
        memmove(item, item + 1, (node.n - i) * sizeof(Item))
    elif what == 3 and node.n < MOST_ITEMS and _new_key(item):
        memmove(item + 1, item, (node.n - i) * sizeof(Item))
        node.n += 1
        item[1].key.p = new_key
        if _chance(2):
            item.right = NULL
    elif what == 4:
        item.value = _some_cid()
    elif _new_key(item):
        item.key.p = new_key
    parts.blocks[at].n = node_put(&node, one, ROOM)
    parts.blocks[at].p = one
    return True


# --- ops -------------------------------------------------------------------------------------------------------------

cdef uint8_t *_put(uint8_t *p, const uint8_t *data, size_t n) noexcept nogil:
    memcpy(p, data, n)
    return p + n


cdef uint8_t *_put_op(uint8_t *p, Piece key, const uint8_t *cid, const uint8_t *prev) noexcept nogil:
    p += cbor_put_head(p, MAJOR_MAP, 3 if prev == NULL else 4)
    p = _put(p, b"\x63cid", 4)
    if cid == NULL:
        p = _put(p, b"\xf6", 1)
    else:
        p = _put(_put(p, b"\xd8\x2a\x58\x25\x00", 5), cid, CID_BYTES_)
    p = _put(p, b"\x64path", 5)
    p += cbor_put_head(p, MAJOR_TEXT, key.n)
    p = _put(p, key.p, key.n)
    if prev != NULL:
        p = _put(_put(p, b"\x64prev\xd8\x2a\x58\x25\x00", 10), prev, CID_BYTES_)
    return _put(p, b"\x66action\x66create" if prev == NULL else b"\x66action\x66delete" if cid == NULL else
                b"\x66action\x66update", 14)


cdef bint _rewrite_ops() noexcept nogil:
    """Ops about keys that nodes hold, now created or updated, and about others near them, now deleted."""
    cdef Cursor c
    cdef const uint8_t *ops = <const uint8_t *>memmem(parts.before.p, parts.before.n, b"\x63ops", 4)
    cdef uint8_t *p
    cdef uint32_t count = 0, wanted = 1 + _any(MOST_OPS), i, what
    cdef Piece key
    if ops == NULL or parts.before.n > 4096:
        return False
    c.p = ops + 4
    c.end = parts.before.p + parts.before.n
    if drisl_skip(&c, DRISL_UNKNOWN, 1) != R_OK:
        return False
    p = _put(one, parts.before.p, ops + 4 - parts.before.p)
    p += cbor_put_head(p, MAJOR_ARRAY, wanted)
    while count < wanted:
        if _some_node() < 0 or node.n == 0:
            return False
        i = _any(node.n)
        key = node.items[i].key
        if key.n > 1000:
            return False
        what = _any(4)
        if what == 0 and _new_key(&node.items[i]):
            key.p = new_key
            p = _put_op(p, key, NULL, node.items[i].value)
        else:
            p = _put_op(p, key, node.items[i].value, NULL if what == 1 else _some_cid())
        count += 1
    p = _put(p, c.p, c.end - c.p)
    parts.before.p = one
    parts.before.n = p - one
    return True


# --- mending ---------------------------------------------------------------------------------------------------------

cdef void _copy_field(const Parts *from_message, const char *label, size_t label_n, const char *own, size_t own_n,
                      size_t size) noexcept nogil:
    """Gives a field of the message to the commit, where both have it in its usual form."""
    cdef Piece sides[2]
    cdef const uint8_t *source = NULL
    cdef uint8_t *target
    cdef uint32_t i
    sides[0] = from_message.before
    sides[1] = from_message.after
    for i in range(2):
        if source == NULL:
            source = <const uint8_t *>memmem(sides[i].p, sides[i].n, label, label_n)
            if source != NULL and source + label_n + size > sides[i].p + sides[i].n:
                source = NULL
    if source == NULL:
        return
    for i in range(from_message.n):
        if memmem(from_message.blocks[i].p, from_message.blocks[i].n, b"gversion\x03", 9) == NULL:
            continue
        target = <uint8_t *>memmem(from_message.blocks[i].p, from_message.blocks[i].n, own, own_n)
        if target != NULL and target + own_n + size <= from_message.blocks[i].p + from_message.blocks[i].n:
            memcpy(target + own_n, source + label_n, size)


cdef void _mend_prev_data(uint8_t *p, size_t n) noexcept nogil:
    cdef Message m
    cdef Commit c
    cdef Tree t
    cdef const uint8_t *before = NULL
    scratch_reset(&scratch)
    if message_decode(&scratch, p, <uint32_t>n, &m) != R_OK or m.kind != K_COMMIT or m.prev_data == NULL:
        return
    if commit_open(&scratch, &m, &c) != R_OK:
        return
    if m.n_ops == 0:
        before = c.data
    else:
        tree_init(&t, &scratch, &c.car)
        if tree_invert(&t, c.data, m.ops, m.n_ops, &before) != R_OK:
            return
    memcpy(<uint8_t *>m.prev_data, before, CID_BYTES_)


cdef void _mend(uint8_t *p, size_t n) noexcept nogil:
    if _chance(16):
        return
    if not _chance(8) and parts_cut(p, n, &parts):
        _copy_field(&parts, b"crevm", 5, b"crevm", 5, 13)
        _copy_field(&parts, b"drepox\x20", 7, b"cdidx\x20", 6, 32)
        _copy_field(&parts, b"cdidx\x20", 6, b"cdidx\x20", 6, 32)
    parts_relink(p, n)
    if not _chance(4):
        _mend_prev_data(p, n)


# --- what libFuzzer calls --------------------------------------------------------------------------------------------

cdef bint _change() noexcept nogil:
    cdef uint32_t what = _any(16)
    if what < 3 and parts.n:
        return _bytes_of(&parts.blocks[_any(parts.n)])
    if what < 4:
        return _bytes_of(&parts.before if _chance(2) else &parts.after)
    if what < 5:                 # seldom the CAR's header: it has a target of its own, and little lies behind it
        return _bytes_of(&parts.car_head) if _chance(6) else _redirect_link()
    if what < 6:
        return _drop_block()
    if what < 7:
        return _add_block(&parts)
    if what < 8:
        return _swap_blocks()
    return _change_node() if what < 14 else _rewrite_ops()


cdef size_t frame_mutate(uint8_t *p, size_t n, size_t most, uint32_t seed) noexcept nogil:
    """Changes a frame in one to three places, and mostly mends it."""
    global state
    cdef uint32_t left
    cdef size_t joined
    state = seed
    left = 1 + _any(3)
    if _chance(16) or not parts_cut(p, n, &parts):
        n = LLVMFuzzerMutate(p, n, most)
        left = 0
    while left > 0 and parts_cut(p, n, &parts):
        left -= 1
        if not _change():
            continue
        joined = parts_join(&parts, whole, most if most < ROOM else ROOM)
        if joined:
            n = joined
            memcpy(p, whole, n)
    _mend(p, n)
    return n


cdef size_t frame_cross(
    const uint8_t *a, size_t a_n, const uint8_t *b, size_t b_n, uint8_t *out, size_t most, uint32_t seed
) noexcept nogil:
    """The first frame with some blocks of the second; 0 = they have none."""
    global state
    cdef uint32_t left
    cdef size_t n
    state = seed
    left = 1 + _any(4)
    if not parts_cut(a, a_n, &parts) or not parts_cut(b, b_n, &other):
        return 0
    while left > 0:
        left -= 1
        _add_block(&other)
    n = parts_join(&parts, whole, most if most < ROOM else ROOM)
    memcpy(out, whole, n)
    _mend(out, n)
    return n
