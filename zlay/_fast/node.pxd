"""One node of a Merkle search tree: read under the rules of C9, written again in its only form.

A node's subtrees stay unread until somebody asks for them; one whose block the CAR does not hold is known by its CID
alone. All of it lives in the scratch of one frame and is used by that frame's worker only.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from zlay._fast.car cimport Car
from zlay._fast.scratch cimport Scratch

cdef enum:
    MAX_HEIGHT = 128             # C9: 256 bits of a digest in pairs
    MAX_MST_KEY_BYTES = 1024     # C1: what reference implementations take; a well-formed path has at most 830
    MAX_NODE_ENTRIES = 1024      # C9 [S]: a node of honest keys is that large once in 10^128 nodes
    # SHA-256 blocks to hash the keys of one frame's nodes (C8), one for a key of up to 55 bytes: bounds the entries
    # that are read, and what prefix compression can unfold to. 200 ops on 300,000 records take 7,000.
    MAX_TREE_HASHES = 60000
    MAX_TREE_WORK = 300000       # entries moved for one frame
    SHARED_UNKNOWN = 0xffff      # Entry.shared: to be found when the node is written

cdef struct Entry:
    const uint8_t *key           # whole, in the block or in the scratch
    const uint8_t *value         # CID of any form, kept as it stands (C9)
    Subtree *right               # what lies between this key and the next; NULL = nothing
    uint16_t key_n
    uint16_t value_n
    uint16_t shared              # bytes shared with the key before it in this node, or SHARED_UNKNOWN
    uint16_t slash               # where the key's slash stands; of entries that were read

cdef struct Subtree:
    const uint8_t *cid           # 36 bytes; NULL = changed, so the node must be written to know it
    Node *node                   # NULL = not read yet
    const uint8_t *low           # keys between which the committed tree puts it; NULL = no bound. Fixed when its
    const uint8_t *high          # parent is read: what is read late is held to the bounds that the commit gave it
    uint16_t low_n
    uint16_t high_n

cdef struct Node:
    Subtree *left                # what lies before the first key; NULL = nothing
    Entry *entries
    uint32_t n
    uint32_t capacity
    uint8_t height

cdef struct Tree:
    Scratch *scratch
    const Car *car
    Subtree *root
    uint8_t *spare               # what is left of the piece of scratch in use
    size_t spare_n
    uint8_t *buffer              # where nodes are written to be hashed
    size_t buffer_n
    uint64_t work                # against MAX_TREE_WORK
    uint64_t hashes              # against MAX_TREE_HASHES
    uint64_t written             # nodes written and hashed, and their bytes: what inversion cannot do without
    uint64_t written_bytes

cdef void tree_init(Tree *t, Scratch *scratch, const Car *car) noexcept nogil   # any memory will do
cdef void *tree_take(Tree *t, size_t n) noexcept nogil               # 8-byte aligned; NULL = over the scratch's limit
cdef int key_height(const uint8_t *key, size_t n) noexcept nogil     # C8
# Reads the node of a subtree that is not read yet; height < 0: the root, whose first key says it. A Reason, and
# R_MST_MISSING_NODE where the CAR does not hold it.
cdef int node_read(Tree *t, Subtree *s, int height) noexcept nogil
cdef int node_reserve(Tree *t, Node *node, uint32_t n) noexcept nogil    # room for n entries. R_OK or R_WORK_LIMIT
cdef Subtree *node_new(Tree *t, int height, uint32_t capacity) noexcept nogil   # an empty one, changed; NULL = no room
cdef int node_write(Tree *t, Subtree *s) noexcept nogil              # gives it its CID; subtrees have theirs. A Reason

cdef inline int key_compare(const uint8_t *a, uint32_t a_n, const uint8_t *b, uint32_t b_n) noexcept nogil:
    cdef int order = memcmp(a, b, a_n if a_n < b_n else b_n)
    return order if order != 0 else <int>a_n - <int>b_n

cdef inline Subtree **node_slot(Node *node, uint32_t i) noexcept nogil:
    """Where the subtree just before entry i (n = after the last) is linked."""
    return &node.left if i == 0 else &node.entries[i - 1].right

cdef inline bint node_is_empty(const Node *node) noexcept nogil:
    return node.n == 0 and node.left is NULL
