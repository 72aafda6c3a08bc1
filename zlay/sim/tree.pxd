"""The repository tree (MST, protocol C7 to C9) of one simulated account, in plain C structures."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from zlay.sim.buffer cimport Buf

cdef enum:
    MAX_KEY = 1024  # C1

cdef struct Leaf:
    # One record. Owned by the tree that holds it, or by the operation that has taken it out; freed by leaf_free.
    uint8_t digest[32]   # SHA-256 of the record block
    uint32_t index       # place in Tree.leaves while in the tree
    uint32_t record_n
    uint16_t key_n
    uint8_t height       # protocol C8
    uint8_t mark         # for the caller: named by the commit being made
    uint8_t data[1]      # key_n bytes of key, then record_n bytes of record block

cdef struct Entry:
    Leaf *leaf
    Node *right          # subtree between this key and the next, or NULL

cdef struct Node:
    # Owned by its parent (or by Tree.root).
    uint8_t digest[32]   # SHA-256 of the encoded node; holds only while `clean`
    Node *left           # subtree before the first key, or NULL
    Entry *entries
    uint64_t mark        # number of the last commit whose blocks hold this node
    uint32_t n
    uint32_t cap
    uint8_t height
    bint clean

cdef struct Tree:
    # One thread. Leaf pointers stand in `leaves` in no order, for picking one at random.
    Node *root           # NULL = empty
    Leaf **leaves
    uint32_t n
    uint32_t cap

cdef Leaf *leaf_new(const uint8_t *key, size_t key_n, const uint8_t *record, size_t record_n) noexcept nogil
cdef void leaf_free(Leaf *leaf) noexcept nogil
cdef void tree_free(Tree *t) noexcept nogil
cdef Leaf *tree_find(Tree *t, const uint8_t *key, size_t key_n) noexcept nogil
cdef void tree_insert(Tree *t, Leaf *leaf) noexcept nogil           # the key must not be there
cdef void tree_remove(Tree *t, Leaf *leaf) noexcept nogil           # the leaf must be there; the caller owns it then
cdef void tree_replace(Tree *t, Leaf *old, Leaf *new) noexcept nogil  # same key
cdef void tree_hash(Tree *t, Buf *scratch, uint64_t mark, uint8_t *out) noexcept nogil
cdef void tree_mark_proof(Tree *t, const uint8_t *key, size_t key_n, uint64_t mark) noexcept nogil
cdef void tree_put_blocks(Tree *t, Buf *out, Buf *scratch, uint64_t mark, Node *leave_out) noexcept nogil
cdef void tree_put_records(Tree *t, Buf *out) noexcept nogil
cdef Node *tree_node_of(Tree *t, const uint8_t *key, size_t key_n) noexcept nogil

cdef inline const uint8_t *leaf_key(const Leaf *leaf) noexcept nogil:
    return leaf.data

cdef inline const uint8_t *leaf_record(const Leaf *leaf) noexcept nogil:
    return leaf.data + leaf.key_n
