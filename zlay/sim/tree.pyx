# distutils: libraries = crypto
# distutils: define_macros = OPENSSL_SUPPRESS_DEPRECATED=1
"""The Merkle search tree of a simulated repository: insert, remove, hash, and the blocks that prove a change.

Strategy: the tree is kept as nodes with their real heights, pointer-only nodes included, so that encoding a node is
writing down what stands there. Every change clears `clean` on the nodes it touches; `tree_hash` encodes and hashes
those, children first. Splitting and merging follow the description of the tree (protocol C7 to C9, D6, D7), not the
code of the relay, which this is the oracle of.

Promises: after tree_hash the root is the canonical tree of the keys and values it holds. Blocks marked by tree_hash
(all new nodes) and tree_mark_proof (search paths of a key and its neighbours) are the set of D11.
Assumes: one thread per tree. Depth of recursion is the height of the tree (a dozen for any real number of keys).
"""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from libc.stdlib cimport abort
from libc.string cimport memcmp, memcpy, memmove, memset

from zlay.sim.buffer cimport (
    CBOR_NULL,
    DIGEST_SIZE,
    MAJOR_ARRAY,
    MAJOR_BYTES,
    MAJOR_MAP,
    MAJOR_UINT,
    Buf,
    buf_free,
    put_block_head,
    put_byte,
    put_bytes,
    put_head,
    put_link,
    put_text,
)
from zlay.sim.sha cimport sha256

cdef enum:
    FIRST_ENTRIES = 4    # mean number of keys in a node
    FIRST_LEAVES = 16


# --- leaves ---


cdef int key_height(const uint8_t *key, size_t n) noexcept nogil:
    """Leading zero bits of SHA-256(key), by twos (C8)."""
    cdef uint8_t digest[32]
    cdef int i
    cdef int height = 0
    sha256(key, n, digest)
    for i in range(32):
        if digest[i] == 0:
            height += 4
            continue
        if digest[i] < 4:
            height += 3
        elif digest[i] < 16:
            height += 2
        elif digest[i] < 64:
            height += 1
        break
    return height


cdef Leaf *leaf_new(const uint8_t *key, size_t key_n, const uint8_t *record, size_t record_n) noexcept nogil:
    cdef Leaf *leaf = <Leaf *> PyMem_RawMalloc(sizeof(Leaf) + key_n + record_n)
    if leaf == NULL:
        abort()
    leaf.index = 0
    leaf.mark = 0
    leaf.key_n = <uint16_t> key_n
    leaf.record_n = <uint32_t> record_n
    leaf.height = <uint8_t> key_height(key, key_n)
    memcpy(leaf.data, key, key_n)
    if record_n:
        memcpy(leaf.data + key_n, record, record_n)
    sha256(record, record_n, leaf.digest)
    return leaf


cdef void leaf_free(Leaf *leaf) noexcept nogil:
    PyMem_RawFree(leaf)


cdef int compare(const uint8_t *a, size_t a_n, const Leaf *b) noexcept nogil:
    cdef size_t n = a_n if a_n < b.key_n else b.key_n
    cdef int order = memcmp(a, b.data, n)
    if order:
        return order
    return -1 if a_n < b.key_n else (1 if a_n > b.key_n else 0)


# --- nodes ---


cdef Node *node_new(int height) noexcept nogil:
    cdef Node *node = <Node *> PyMem_RawCalloc(1, sizeof(Node))
    if node == NULL:
        abort()
    node.height = <uint8_t> height
    return node


cdef void node_drop(Node *node) noexcept nogil:
    """Frees the node alone: its children and leaves belong to somebody else by now."""
    PyMem_RawFree(node.entries)
    PyMem_RawFree(node)


cdef void node_free(Node *node) noexcept nogil:
    cdef uint32_t i
    if node == NULL:
        return
    node_free(node.left)
    for i in range(node.n):
        node_free(node.entries[i].right)
        leaf_free(node.entries[i].leaf)
    node_drop(node)


cdef void node_reserve(Node *node, uint32_t n) noexcept nogil:
    if n <= node.cap:
        return
    node.cap = FIRST_ENTRIES if n <= FIRST_ENTRIES else n * 2
    node.entries = <Entry *> PyMem_RawRealloc(node.entries, node.cap * sizeof(Entry))
    if node.entries == NULL:
        abort()


cdef uint32_t node_index(const Node *node, const uint8_t *key, size_t key_n, bint *found) noexcept nogil:
    """Position of the first entry whose key is not below `key`."""
    cdef uint32_t low = 0
    cdef uint32_t high = node.n
    cdef uint32_t middle
    cdef int order
    found[0] = False
    while low < high:
        middle = (low + high) >> 1
        order = compare(key, key_n, node.entries[middle].leaf)
        if order == 0:
            found[0] = True
            return middle
        if order < 0:
            high = middle
        else:
            low = middle + 1
    return low


cdef inline Node **child_slot(Node *node, uint32_t i) noexcept nogil:
    """Where the subtree before entry i hangs."""
    return &node.left if i == 0 else &node.entries[i - 1].right


cdef Node *node_raise(Node *node, int height) noexcept nogil:
    """Wraps a subtree in pointer-only nodes up to `height`."""
    cdef Node *parent
    if node == NULL:
        return NULL
    while node.height < height:
        parent = node_new(node.height + 1)
        parent.left = node
        node = parent
    return node


cdef Node *node_or_null(Node *node) noexcept nogil:
    """The node, or NULL in place of one that holds neither key nor pointer."""
    if node.n or node.left != NULL:
        return node
    node_drop(node)
    return NULL


cdef void node_split(Node *node, const uint8_t *key, size_t key_n, Node **low, Node **high) noexcept nogil:
    """Takes a subtree apart: keys below `key`, keys above it. The key itself must not be there."""
    cdef bint found
    cdef uint32_t i
    cdef Node *right
    cdef Node **slot
    low[0] = NULL
    high[0] = NULL
    if node == NULL:
        return
    i = node_index(node, key, key_n, &found)
    right = node_new(node.height)
    node_reserve(right, node.n - i)
    right.n = node.n - i
    if right.n:
        memcpy(right.entries, node.entries + i, right.n * sizeof(Entry))
    slot = child_slot(node, i)
    node.n = i
    node.clean = False
    node_split(slot[0], key, key_n, slot, &right.left)
    low[0] = node_or_null(node)
    high[0] = node_or_null(right)


cdef Node *node_merge(Node *a, Node *b) noexcept nogil:
    """Joins two neighbouring subtrees of the same height."""
    cdef Node **last
    if a == NULL:
        return b
    if b == NULL:
        return a
    last = child_slot(a, a.n)
    last[0] = node_merge(last[0], b.left)
    node_reserve(a, a.n + b.n)
    if b.n:
        memcpy(a.entries + a.n, b.entries, b.n * sizeof(Entry))
    a.n += b.n
    a.clean = False
    node_drop(b)
    return a


cdef void node_put(Node *node, Leaf *leaf) noexcept nogil:
    """Inserts a leaf into a node of its own height, splitting the subtree that covers the spot."""
    cdef bint found
    cdef uint32_t i = node_index(node, leaf.data, leaf.key_n, &found)
    cdef Node **slot = child_slot(node, i)
    cdef Node *low
    cdef Node *high
    node_split(slot[0], leaf.data, leaf.key_n, &low, &high)
    slot[0] = low
    node_reserve(node, node.n + 1)
    memmove(node.entries + i + 1, node.entries + i, (node.n - i) * sizeof(Entry))
    node.entries[i].leaf = leaf
    node.entries[i].right = high
    node.n += 1


cdef Node *node_remove(Node *node, Leaf *leaf) noexcept nogil:
    """Removes a leaf from a subtree that holds it; what is left of the subtree, or NULL."""
    cdef bint found
    cdef uint32_t i = node_index(node, leaf.data, leaf.key_n, &found)
    cdef Node **slot = child_slot(node, i)
    node.clean = False
    if not found:
        slot[0] = node_remove(slot[0], leaf)
        return node_or_null(node)
    slot[0] = node_merge(slot[0], node.entries[i].right)
    memmove(node.entries + i, node.entries + i + 1, (node.n - i - 1) * sizeof(Entry))
    node.n -= 1
    return node_or_null(node)


cdef void node_encode(const Node *node, Buf *out) noexcept nogil:
    """The node's block (C7). Children must be clean."""
    cdef const Leaf *leaf
    cdef const Leaf *previous = NULL
    cdef uint32_t i
    cdef uint32_t prefix
    put_head(out, MAJOR_MAP, 2)
    put_text(out, b"e", 1)
    put_head(out, MAJOR_ARRAY, node.n)
    for i in range(node.n):
        leaf = node.entries[i].leaf
        prefix = 0
        if previous != NULL:
            while (prefix < leaf.key_n and prefix < previous.key_n
                   and leaf.data[prefix] == previous.data[prefix]):
                prefix += 1
        put_head(out, MAJOR_MAP, 4)
        put_text(out, b"k", 1)
        put_head(out, MAJOR_BYTES, leaf.key_n - prefix)
        put_bytes(out, leaf.data + prefix, leaf.key_n - prefix)
        put_text(out, b"p", 1)
        put_head(out, MAJOR_UINT, prefix)
        put_text(out, b"t", 1)
        put_child(out, node.entries[i].right)
        put_text(out, b"v", 1)
        put_link(out, leaf.digest)
        previous = leaf
    put_text(out, b"l", 1)
    put_child(out, node.left)


cdef void put_child(Buf *out, const Node *child) noexcept nogil:
    if child == NULL:
        put_byte(out, CBOR_NULL)
    else:
        put_link(out, child.digest)


cdef void node_hash(Node *node, Buf *scratch, uint64_t mark) noexcept nogil:
    cdef uint32_t i
    if node == NULL or node.clean:
        return
    node_hash(node.left, scratch, mark)
    for i in range(node.n):
        node_hash(node.entries[i].right, scratch, mark)
    scratch.n = 0
    node_encode(node, scratch)
    sha256(scratch.p, scratch.n, node.digest)
    node.clean = True
    node.mark = mark


cdef void node_put_blocks(Node *node, Buf *out, Buf *scratch, uint64_t mark, Node *leave_out) noexcept nogil:
    cdef uint32_t i
    if node == NULL or (mark and node.mark != mark):
        return
    if node != leave_out:
        scratch.n = 0
        node_encode(node, scratch)
        put_block_head(out, node.digest, scratch.n)
        put_bytes(out, scratch.p, scratch.n)
    node_put_blocks(node.left, out, scratch, mark, leave_out)
    for i in range(node.n):
        node_put_blocks(node.entries[i].right, out, scratch, mark, leave_out)


# --- the tree ---


cdef void tree_free(Tree *t) noexcept nogil:
    node_free(t.root)
    PyMem_RawFree(t.leaves)
    memset(t, 0, sizeof(Tree))


cdef Node *tree_node_of(Tree *t, const uint8_t *key, size_t key_n) noexcept nogil:
    """The node that holds the key, or NULL."""
    cdef Node *node = t.root
    cdef bint found
    cdef uint32_t i
    while node != NULL:
        i = node_index(node, key, key_n, &found)
        if found:
            return node
        node = child_slot(node, i)[0]
    return NULL


cdef Leaf *tree_find(Tree *t, const uint8_t *key, size_t key_n) noexcept nogil:
    cdef Node *node = tree_node_of(t, key, key_n)
    cdef bint found
    if node == NULL:
        return NULL
    return node.entries[node_index(node, key, key_n, &found)].leaf


cdef void tree_insert(Tree *t, Leaf *leaf) noexcept nogil:
    cdef Node *node
    cdef Node *low
    cdef Node *high
    cdef Node **slot
    cdef bint found
    if t.n == t.cap:
        t.cap = t.cap * 2 if t.cap else FIRST_LEAVES
        t.leaves = <Leaf **> PyMem_RawRealloc(t.leaves, t.cap * sizeof(Leaf *))
        if t.leaves == NULL:
            abort()
    leaf.index = t.n
    t.leaves[t.n] = leaf
    t.n += 1
    if t.root == NULL:
        t.root = node_new(leaf.height)
    if leaf.height > t.root.height:
        node_split(t.root, leaf.data, leaf.key_n, &low, &high)
        t.root = node_new(leaf.height)
        node_put(t.root, leaf)
        t.root.left = node_raise(low, leaf.height - 1)
        t.root.entries[0].right = node_raise(high, leaf.height - 1)
        return
    node = t.root
    while node.height > leaf.height:
        node.clean = False
        slot = child_slot(node, node_index(node, leaf.data, leaf.key_n, &found))
        if slot[0] == NULL:
            slot[0] = node_raise(node_new(leaf.height), node.height - 1)
        node = slot[0]
    node.clean = False
    node_put(node, leaf)


cdef void tree_remove(Tree *t, Leaf *leaf) noexcept nogil:
    cdef Node *root
    t.root = node_remove(t.root, leaf)
    while t.root != NULL and t.root.n == 0:  # the top must hold a key (C9)
        root = t.root
        t.root = root.left
        node_drop(root)
    t.n -= 1
    t.leaves[leaf.index] = t.leaves[t.n]
    t.leaves[leaf.index].index = leaf.index


cdef void tree_replace(Tree *t, Leaf *old, Leaf *new) noexcept nogil:
    cdef Node *node = t.root
    cdef bint found
    cdef uint32_t i
    while True:
        node.clean = False
        i = node_index(node, old.data, old.key_n, &found)
        if found:
            break
        node = child_slot(node, i)[0]
    node.entries[i].leaf = new
    new.index = old.index
    t.leaves[new.index] = new


cdef void tree_hash(Tree *t, Buf *scratch, uint64_t mark, uint8_t *out) noexcept nogil:
    """Hashes what has changed, marks it, and gives the digest of the root block."""
    if t.root == NULL:
        sha256(b"\xa2\x61\x65\x80\x61\x6c\xf6", 7, out)  # C7, the empty tree
        return
    node_hash(t.root, scratch, mark)
    memcpy(out, t.root.digest, DIGEST_SIZE)


cdef void mark_path(Tree *t, const uint8_t *key, size_t key_n, uint64_t mark,
                    const Leaf **before, const Leaf **after) noexcept nogil:
    """Marks the search path of a key; gives the nearest keys below and above that lie on it."""
    cdef Node *node = t.root
    cdef Node *edge
    cdef bint found
    cdef uint32_t i
    before[0] = NULL
    after[0] = NULL
    while node != NULL:
        node.mark = mark
        i = node_index(node, key, key_n, &found)
        if i:
            before[0] = node.entries[i - 1].leaf
        if i + found < node.n:
            after[0] = node.entries[i + found].leaf
        if found:  # nearer neighbours may stand at the inner edges of the subtrees beside the key
            edge = child_slot(node, i)[0]
            while edge != NULL:
                if edge.n:
                    before[0] = edge.entries[edge.n - 1].leaf
                edge = child_slot(edge, edge.n)[0]
            edge = node.entries[i].right
            while edge != NULL:
                if edge.n:
                    after[0] = edge.entries[0].leaf
                edge = edge.left
            return
        node = child_slot(node, i)[0]


cdef void tree_mark_proof(Tree *t, const uint8_t *key, size_t key_n, uint64_t mark) noexcept nogil:
    """Marks the search paths of a key, its predecessor and its successor (D11)."""
    cdef const Leaf *before
    cdef const Leaf *after
    cdef const Leaf *unused_before
    cdef const Leaf *unused_after
    mark_path(t, key, key_n, mark, &before, &after)
    if before != NULL:
        mark_path(t, before.data, before.key_n, mark, &unused_before, &unused_after)
    if after != NULL:
        mark_path(t, after.data, after.key_n, mark, &unused_before, &unused_after)


cdef void tree_put_blocks(Tree *t, Buf *out, Buf *scratch, uint64_t mark, Node *leave_out) noexcept nogil:
    """CAR blocks of the nodes with this mark (0 = all), from the root down; `leave_out` makes a defect."""
    if t.root == NULL:
        scratch.n = 0
        put_bytes(scratch, b"\xa2\x61\x65\x80\x61\x6c\xf6", 7)
        put_empty_block(out, scratch)
        return
    node_put_blocks(t.root, out, scratch, mark, leave_out)


cdef void put_empty_block(Buf *out, Buf *scratch) noexcept nogil:
    cdef uint8_t digest[32]
    sha256(scratch.p, scratch.n, digest)
    put_block_head(out, digest, scratch.n)
    put_bytes(out, scratch.p, scratch.n)


cdef void tree_put_records(Tree *t, Buf *out) noexcept nogil:
    """CAR blocks of all records."""
    cdef uint32_t i
    cdef Leaf *leaf
    for i in range(t.n):
        leaf = t.leaves[i]
        put_block_head(out, leaf.digest, leaf.record_n)
        put_bytes(out, leaf_record(leaf), leaf.record_n)


# --- for tests and tools ---


def height_of(bytes key not None):
    """Height of a key in the tree (C8)."""
    return key_height(key, len(key))


cdef class TreeProbe:
    """A tree by itself, driven from tests: records are given by their digest alone. One thread."""

    cdef Tree tree
    cdef Buf scratch
    cdef uint64_t mark

    def __dealloc__(self):
        tree_free(&self.tree)
        buf_free(&self.scratch)

    def set(self, bytes key not None, bytes digest not None):
        """Adds a key or gives it a new value."""
        cdef Leaf *old = tree_find(&self.tree, key, len(key))
        cdef Leaf *leaf = leaf_new(key, len(key), NULL, 0)
        memcpy(leaf.digest, <const char *> digest, DIGEST_SIZE)
        if old == NULL:
            tree_insert(&self.tree, leaf)
        else:
            tree_replace(&self.tree, old, leaf)
            leaf_free(old)

    def delete(self, bytes key not None):
        """Removes a key; KeyError where it is not there."""
        cdef Leaf *leaf = tree_find(&self.tree, key, len(key))
        if leaf == NULL:
            raise KeyError(key)
        tree_remove(&self.tree, leaf)
        leaf_free(leaf)

    def root(self):
        """Digest of the root block."""
        cdef uint8_t digest[32]
        self.mark += 1
        tree_hash(&self.tree, &self.scratch, self.mark, digest)
        return bytes(digest[:32])

    def proof(self, list keys not None):
        """CAR blocks (without a CAR header) that prove the keys changed since the last `root` or `proof`."""
        cdef uint8_t digest[32]
        cdef Buf out
        memset(&out, 0, sizeof(Buf))
        self.mark += 1
        tree_hash(&self.tree, &self.scratch, self.mark, digest)
        for key in keys:
            tree_mark_proof(&self.tree, key, len(key), self.mark)
        tree_put_blocks(&self.tree, &out, &self.scratch, self.mark, NULL)
        blocks = bytes(out.p[:out.n])
        buf_free(&out)
        return blocks
