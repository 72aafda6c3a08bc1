"""Reading and writing one node of a Merkle search tree (C7 to C9).

Promises: a node that is read obeys every rule of C9 that can be seen from it and from its parent; a node that is
written has the one encoding those rules allow. Reading accepts exactly that encoding, by comparing bytes: there is no
second form of a node, so there is nothing to decode generally.
Assumes: blocks were held against their CIDs when the CAR was parsed, and stay where they are for the frame's verdict.
Threads: a Tree belongs to the worker whose frame it is made for.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from zlay._fast.car cimport CarBlock, car_find
from zlay._fast.crypto cimport DIGEST_SIZE, sha256, sha256_zero_bits
from zlay._fast.drisl cimport (
    CBOR_NULL, CID_SIZE, Cursor, DRISL_DATA, DRISL_RECORD, MAJOR_ARRAY, MAJOR_BYTES, MAJOR_UINT, MAX_CID_BYTES,
    cbor_head, cbor_put_head, cbor_put_uint, drisl_map_block, drisl_skip, read_link, take_null
)
from zlay._fast.includes.poison cimport ZL_REDZONE, zl_poison, zl_unpoison
from zlay._fast.scratch cimport scratch_alloc
from zlay._fast.syntax cimport mst_key_slash
from zlay._fast.verdicts cimport (
    R_FIELD_TYPE, R_MST_DEPTH, R_MST_MISSING_NODE, R_MST_NODE, R_OK, R_WORK_LIMIT
)

cdef enum:
    PIECE_BYTES = 8192               # taken from the scratch at a time: a usual frame's whole tree in two or three
    LINK_BYTES = 41                  # d8 2a 58 25 00 and a blessed CID
    LEAST_ENTRY_BYTES = 18           # less than any entry has; bounds what a declared length may reserve
    SHA_BLOCK_BYTES = 64
    SHA_PADDING = 8                  # bytes that a message's length takes, beside one that ends it
    NODE_FRAME_BYTES = 64            # a written node without its entries, with room
    ENTRY_FRAME_BYTES = 80 + MAX_CID_BYTES   # a written entry without its key, with room
    LINK_HEAD_BYTES = 5
    NODE_LINK_HEAD_BYTES = 9

cdef const uint8_t *LINK_HEAD = b"\xd8\x2a\x58\x25\x00"                      # tag 42, 37 bytes, 00
cdef const uint8_t *NODE_LINK_HEAD = b"\xd8\x2a\x58\x25\x00\x01\x71\x12\x20"  # and the head of a blessed DRISL CID


# --- memory ----------------------------------------------------------------------------------------------------------

cdef void tree_init(Tree *t, Scratch *scratch, const Car *car) noexcept nogil:
    """Makes t ready; it owns nothing but what it takes from the scratch."""
    memset(t, 0, sizeof(t[0]))
    t.scratch = scratch
    t.car = car


cdef void *tree_take(Tree *t, size_t n) noexcept nogil:
    """n bytes, 8-byte aligned, not zeroed, for as long as the frame's verdict takes. NULL: over the scratch's limit."""
    cdef uint8_t *p
    cdef size_t piece
    cdef size_t wanted = n
    n = ((n + 7) & ~<size_t>7) + ZL_REDZONE
    if n > t.spare_n:
        piece = n if n > PIECE_BYTES else PIECE_BYTES
        p = <uint8_t *>scratch_alloc(t.scratch, piece)
        if p is NULL:
            return NULL
        zl_poison(p, piece)
        if n == piece:               # a large demand: go on with the piece in use
            zl_unpoison(p, wanted)
            return p
        t.spare = p
        t.spare_n = piece
    p = t.spare
    t.spare += n
    t.spare_n -= n
    zl_unpoison(p, wanted)
    return p


cdef Subtree *node_new(Tree *t, int height, uint32_t capacity) noexcept nogil:
    """An empty node of that height, in a subtree of its own that counts as changed. NULL: no room."""
    cdef Subtree *s = <Subtree *>tree_take(t, sizeof(Subtree))
    cdef Node *node = <Node *>tree_take(t, sizeof(Node) + capacity * sizeof(Entry))
    if s is NULL or node is NULL:
        return NULL
    node.left = NULL
    node.entries = <Entry *>(node + 1)
    node.n = 0
    node.capacity = capacity
    node.height = <uint8_t>height
    s.cid = NULL
    s.node = node
    s.low = s.high = NULL
    s.low_n = s.high_n = 0
    return s


cdef int node_reserve(Tree *t, Node *node, uint32_t n) noexcept nogil:
    """Makes room for n entries in all, moving those that are there. R_OK or R_WORK_LIMIT."""
    cdef Entry *entries
    if n > MAX_NODE_ENTRIES:
        return R_WORK_LIMIT
    if n <= node.capacity:
        return R_OK
    n += 4
    t.work += node.n
    entries = <Entry *>tree_take(t, n * sizeof(Entry))
    if entries is NULL or t.work > MAX_TREE_WORK:
        return R_WORK_LIMIT
    memcpy(entries, node.entries, node.n * sizeof(Entry))
    node.entries = entries
    node.capacity = n
    return R_OK


# --- reading ---------------------------------------------------------------------------------------------------------

cdef int key_height(const uint8_t *key, size_t n) noexcept nogil:
    """Leading zero bits of the key's SHA-256, in pairs (C8): 0..128."""
    return <int>(sha256_zero_bits(key, n) // 2)


cdef inline bint _literal(Cursor *c, const uint8_t *text, size_t n) noexcept nogil:
    """Steps over bytes that must stand here."""
    if <size_t>(c.end - c.p) < n or memcmp(c.p, text, n) != 0:
        return False
    c.p += n
    return True


cdef inline bint _argument(Cursor *c, uint8_t wanted, uint64_t *arg) noexcept nogil:
    """The argument of a head of the wanted major type."""
    cdef uint8_t major
    return cbor_head(c, &major, arg) == R_OK and major == wanted


cdef inline int _pointer(Tree *t, Cursor *c, Subtree **out) noexcept nogil:
    """null, or a link to a node, which must be a blessed CID (C9). A Reason; the subtree's bounds are left open."""
    cdef Subtree *s
    if take_null(c):
        out[0] = NULL
        return R_OK
    if c.end - c.p < LINK_BYTES or memcmp(c.p, NODE_LINK_HEAD, NODE_LINK_HEAD_BYTES) != 0:
        return R_MST_NODE
    s = <Subtree *>tree_take(t, sizeof(Subtree))
    if s is NULL:
        return R_WORK_LIMIT
    s.cid = c.p + LINK_BYTES - CID_SIZE
    s.node = NULL
    out[0] = s
    c.p += LINK_BYTES
    return R_OK


cdef inline bint _value(Cursor *c, Entry *e) noexcept nogil:
    """The link to a record: any well-formed CID, kept as it stands (C9)."""
    cdef Cursor link = c[0]
    cdef uint64_t n
    if read_link(c, &e.value) == R_OK:
        e.value_n = CID_SIZE
        return True
    c[0] = link
    if drisl_skip(c, DRISL_RECORD, 0) != R_OK or not _literal(&link, b"\xd8\x2a", 2):
        return False
    if not _argument(&link, MAJOR_BYTES, &n):
        return False
    e.value = link.p + 1                 # drisl_skip has seen the 00 and all the rest
    e.value_n = <uint16_t>(n - 1)
    return True


cdef inline int _key(Tree *t, Cursor *c, const Entry *before, Entry *e) noexcept nogil:
    """Fields k and p: the key's own bytes, and how many it shares with the key before. A Reason."""
    cdef const uint8_t *suffix
    cdef uint8_t *whole
    cdef uint64_t n, shared
    if not _argument(c, MAJOR_BYTES, &n) or n > <uint64_t>(c.end - c.p):
        return R_MST_NODE
    suffix = c.p
    c.p += n
    # No key is empty and none a prefix of the one before, so each has bytes of its own.
    if not _literal(c, b"\x61p", 2) or not _argument(c, MAJOR_UINT, &shared) or n == 0:
        return R_MST_NODE
    if n > MAX_MST_KEY_BYTES or shared > MAX_MST_KEY_BYTES or n + shared > MAX_MST_KEY_BYTES:
        return R_MST_NODE
    e.shared = <uint16_t>shared
    e.key_n = <uint16_t>(n + shared)
    e.key = suffix
    t.hashes += 1 + (n + shared + SHA_PADDING) // SHA_BLOCK_BYTES
    # What is shared must be all that can be (C9), and the keys ascend: then the first byte of its own is higher.
    if shared > (0 if before is NULL else before.key_n):
        return R_MST_NODE
    if before is not NULL and shared < before.key_n and suffix[0] <= before.key[shared]:
        return R_MST_NODE
    if shared > 0:
        whole = <uint8_t *>tree_take(t, n + shared)
        if whole is NULL:
            return R_WORK_LIMIT
        memcpy(whole, before.key, shared)
        memcpy(whole + shared, suffix, n)
        e.key = whole
    e.slash = <uint16_t>mst_key_slash(e.key, e.key_n, <uint32_t>shared, 0 if before is NULL else before.slash)
    return R_OK if e.slash != 0 else R_MST_NODE


cdef int _read_entries(Tree *t, Node *node, Cursor *c) noexcept nogil:
    cdef Entry *e
    cdef Entry *before = NULL
    cdef uint32_t i
    cdef int reason
    for i in range(node.n):
        e = &node.entries[i]
        if not _literal(c, b"\xa4\x61k", 3):
            return R_MST_NODE
        reason = _key(t, c, before, e)
        if reason != R_OK:
            return reason
        if not _literal(c, b"\x61t", 2):
            return R_MST_NODE
        reason = _pointer(t, c, &e.right)
        if reason != R_OK:
            return reason
        if not _literal(c, b"\x61v", 2) or not _value(c, e):
            return R_MST_NODE
        before = e
    return R_OK


cdef inline int _bound(Node *node, uint32_t i, const Subtree *parent) noexcept nogil:
    """Gives the subtree before entry i the keys between which it must lie. A Reason: none may hang below height 0."""
    cdef Subtree *s = node_slot(node, i)[0]
    if s is NULL:
        return R_OK
    if node.height == 0:
        return R_MST_DEPTH
    if i > 0:
        s.low = node.entries[i - 1].key
        s.low_n = node.entries[i - 1].key_n
    else:
        s.low = parent.low
        s.low_n = parent.low_n
    if i < node.n:
        s.high = node.entries[i].key
        s.high_n = node.entries[i].key_n
    else:
        s.high = parent.high
        s.high_n = parent.high_n
    return R_OK


cdef int _place(Tree *t, Node *node, const Subtree *s, int height) noexcept nogil:
    """The rules that hold between a node and what is around it: heights and bounds. A Reason."""
    cdef Entry *last
    cdef uint32_t i
    cdef int reason
    if node.n == 0:
        # The top node holds a key, unless it is the whole of an empty tree; further down a lone pointer may stand.
        if (height < 0) != (node.left is NULL):
            return R_MST_NODE
        node.height = <uint8_t>(height if height > 0 else 0)
        return _bound(node, 0, s)
    if height < 0:
        height = key_height(node.entries[0].key, node.entries[0].key_n)
    elif key_height(node.entries[0].key, node.entries[0].key_n) != height:
        return R_MST_NODE
    node.height = <uint8_t>height
    for i in range(1, node.n):
        if key_height(node.entries[i].key, node.entries[i].key_n) != height:
            return R_MST_NODE
    last = &node.entries[node.n - 1]
    if s.low is not NULL and key_compare(s.low, s.low_n, node.entries[0].key, node.entries[0].key_n) >= 0:
        return R_MST_NODE
    if s.high is not NULL and key_compare(last.key, last.key_n, s.high, s.high_n) >= 0:
        return R_MST_NODE
    for i in range(node.n + 1):
        reason = _bound(node, i, s)
        if reason != R_OK:
            return reason
    return R_OK


cdef int node_read(Tree *t, Subtree *s, int height) noexcept nogil:
    """Reads the node of a subtree from its block; height < 0: it is the root. A Reason; s.node is set at R_OK."""
    cdef const CarBlock *block = car_find(t.car, s.cid)
    cdef int reason, encoding
    if block is NULL:
        return R_MST_MISSING_NODE
    reason = _read(t, s, block, height)
    if reason == R_MST_NODE:
        # Where the encoding itself is at fault, say so.
        encoding = drisl_map_block(block.data, block.n, DRISL_DATA)
        return reason if encoding == R_OK or encoding == R_FIELD_TYPE else encoding
    return reason


cdef int _read(Tree *t, Subtree *s, const CarBlock *block, int height) noexcept nogil:
    cdef Cursor c
    cdef Node *node
    cdef uint64_t n
    cdef int reason
    c.p = block.data
    c.end = block.data + block.n
    if not _literal(&c, b"\xa2\x61e", 3) or not _argument(&c, MAJOR_ARRAY, &n):
        return R_MST_NODE
    if n > <uint64_t>(c.end - c.p) / LEAST_ENTRY_BYTES:
        return R_MST_NODE
    t.hashes += 1                        # a node without keys costs about as much
    if n > MAX_NODE_ENTRIES or t.hashes + n > MAX_TREE_HASHES:
        return R_WORK_LIMIT
    # Room for one more: most nodes that change gain one entry.
    node = <Node *>tree_take(t, sizeof(Node) + (n + 1) * sizeof(Entry))
    if node is NULL:
        return R_WORK_LIMIT
    node.left = NULL
    node.entries = <Entry *>(node + 1)
    node.n = <uint32_t>n
    node.capacity = node.n + 1
    reason = _read_entries(t, node, &c)
    if reason != R_OK:
        return reason
    if t.hashes > MAX_TREE_HASHES:
        return R_WORK_LIMIT
    if not _literal(&c, b"\x61l", 2):
        return R_MST_NODE
    reason = _pointer(t, &c, &node.left)
    if reason == R_OK:
        reason = R_MST_NODE if c.p != c.end else _place(t, node, s, height)
    if reason == R_OK:
        s.node = node
    return reason


# --- writing ---------------------------------------------------------------------------------------------------------

cdef inline uint8_t *_put(uint8_t *p, const uint8_t *data, size_t n) noexcept nogil:
    memcpy(p, data, n)
    return p + n


cdef inline uint8_t *_put_pointer(uint8_t *p, const Subtree *s) noexcept nogil:
    if s is NULL:
        p[0] = CBOR_NULL
        return p + 1
    return _put(_put(p, LINK_HEAD, LINK_HEAD_BYTES), s.cid, CID_SIZE)


cdef inline uint8_t *_put_value(uint8_t *p, const Entry *e) noexcept nogil:
    if e.value_n == CID_SIZE:
        return _put(_put(p, LINK_HEAD, LINK_HEAD_BYTES), e.value, CID_SIZE)
    p = _put(p, LINK_HEAD, 2)            # the tag
    p += cbor_put_head(p, MAJOR_BYTES, <uint64_t>e.value_n + 1)
    p[0] = 0
    return _put(p + 1, e.value, e.value_n)


cdef inline uint32_t _shared(const Entry *a, const Entry *b) noexcept nogil:
    """How many bytes the keys of two neighbours have in common."""
    cdef uint32_t n = a.key_n if a.key_n < b.key_n else b.key_n
    cdef uint32_t i = 0
    while i < n and a.key[i] == b.key[i]:
        i += 1
    return i


cdef int _buffer(Tree *t, const Node *node) noexcept nogil:
    """Makes t.buffer large enough for the node. R_OK or R_WORK_LIMIT."""
    cdef size_t n = NODE_FRAME_BYTES
    cdef uint32_t i
    for i in range(node.n):
        n += ENTRY_FRAME_BYTES + node.entries[i].key_n
    if n <= t.buffer_n:
        return R_OK
    if n < 2 * t.buffer_n:
        n = 2 * t.buffer_n
    t.buffer = <uint8_t *>scratch_alloc(t.scratch, n)
    t.buffer_n = n if t.buffer is not NULL else 0
    return R_OK if t.buffer is not NULL else R_WORK_LIMIT


cdef int node_write(Tree *t, Subtree *s) noexcept nogil:
    """Encodes a changed node whose subtrees all have their CIDs, and gives it its own. R_OK or R_WORK_LIMIT."""
    cdef Node *node = s.node
    cdef Entry *e
    cdef uint8_t *p
    cdef uint8_t *cid = <uint8_t *>tree_take(t, CID_SIZE)
    cdef uint32_t i
    if cid is NULL or _buffer(t, node) != R_OK:
        return R_WORK_LIMIT
    p = _put(t.buffer, b"\xa2\x61e", 3)
    p += cbor_put_head(p, MAJOR_ARRAY, node.n)
    for i in range(node.n):
        e = &node.entries[i]
        if i == 0:
            e.shared = 0
        elif e.shared == SHARED_UNKNOWN:
            e.shared = <uint16_t>_shared(e - 1, e)
        p = _put(p, b"\xa4\x61k", 3)
        p += cbor_put_head(p, MAJOR_BYTES, <uint64_t>(e.key_n - e.shared))
        p = _put(p, e.key + e.shared, <size_t>(e.key_n - e.shared))
        p = _put(p, b"\x61p", 2)
        p += cbor_put_uint(p, e.shared)
        p = _put_pointer(_put(p, b"\x61t", 2), e.right)
        p = _put_value(_put(p, b"\x61v", 2), e)
    p = _put_pointer(_put(p, b"\x61l", 2), node.left)
    memcpy(cid, NODE_LINK_HEAD + LINK_HEAD_BYTES, CID_SIZE - DIGEST_SIZE)
    sha256(t.buffer, p - t.buffer, cid + CID_SIZE - DIGEST_SIZE)
    s.cid = cid
    t.written += 1
    t.written_bytes += p - t.buffer
    return R_OK


# --- for tests and tools ---------------------------------------------------------------------------------------------

MAX_ENTRIES = MAX_NODE_ENTRIES
MAX_KEY = MAX_MST_KEY_BYTES


def height(key: bytes) -> int:
    """The height at which a key stands in a tree (C8). Any thread."""
    return key_height(key, <size_t>len(key))


def common_prefix(left: bytes, right: bytes) -> int:
    """How many first bytes two keys share, as it is written into a node (C9). Any thread."""
    cdef Entry a, b
    a.key = left
    a.key_n = <uint16_t>len(left)
    b.key = right
    b.key_n = <uint16_t>len(right)
    return _shared(&a, &b)
