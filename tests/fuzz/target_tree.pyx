"""The nodes and the inversion, on a frame whose hashes nobody looks at: every change gets to them (C7 to C9, D).

An input is a whole #commit frame. Every block is also read as a node of its own, and written again.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memset

from tests.fuzz.fuzzer cimport zl_promise
from tests.fuzz.parts cimport next_cid
from zlay._fast.car cimport Car, CarBlock, car_find, car_parse
from zlay._fast.crypto cimport sha256
from zlay._fast.message cimport CID_BYTES, DIGEST_BYTES, Message, message_decode
from zlay._fast.mst cimport tree_invert
from zlay._fast.node cimport (
    MAX_HEIGHT, MAX_NODE_ENTRIES, Node, Subtree, Tree, node_read, node_write, tree_init
)
from zlay._fast.scratch cimport Scratch, scratch_init, scratch_reset
from zlay._fast.verdicts cimport K_COMMIT, R_COUNT, R_OK

cdef enum:
    SCRATCH_BYTES = 64 << 20             # a worker's
    DIGEST_AT = CID_BYTES - DIGEST_BYTES

cdef extern from "string.h" nogil:
    void *memmem(const void *hay, size_t n, const void *needle, size_t needle_n)

cdef Scratch scratch

if scratch_init(&scratch, SCRATCH_BYTES):
    raise MemoryError


cdef void _rewrite(Tree *t, const CarBlock *block) noexcept nogil:
    """A node that is accepted is written again in the same bytes: it has only one form (C9)."""
    cdef Subtree s
    cdef Node *node
    cdef uint8_t digest[DIGEST_BYTES]
    cdef uint32_t i
    memset(&s, 0, sizeof(s))
    s.cid = block.cid
    if node_read(t, &s, -1) != R_OK:
        return
    node = s.node
    zl_promise(node.n <= MAX_NODE_ENTRIES and node.height <= MAX_HEIGHT)
    for i in range(1, node.n):
        zl_promise(node.entries[i].shared <= node.entries[i - 1].key_n)
    if node_write(t, &s) != R_OK:
        return
    block = car_find(t.car, block.cid)   # of equal names the first is read
    sha256(block.data, block.n, digest)
    zl_promise(memcmp(digest, s.cid + DIGEST_AT, DIGEST_BYTES) == 0)


cdef const uint8_t *_data_of(const Car *car) noexcept nogil:
    """The root of the tree that the commit names: its first link behind the key `data`; NULL = none."""
    cdef const CarBlock *block = car_find(car, car.root)
    cdef const uint8_t *key
    if block == NULL:
        return NULL
    key = <const uint8_t *>memmem(block.data, block.n, b"\x64data", 5)
    return next_cid(key, block.data + block.n) if key != NULL else NULL


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) noexcept nogil:
    cdef Message m
    cdef Car car
    cdef Tree t
    cdef const uint8_t *root
    cdef const uint8_t *before = NULL
    cdef uint32_t i
    cdef int r
    scratch_reset(&scratch)
    if message_decode(&scratch, data, <uint32_t>n, &m) != R_OK or m.kind != K_COMMIT:
        return 0
    if car_parse(&scratch, m.blocks, &car, False) != R_OK:
        return 0
    tree_init(&t, &scratch, &car)
    for i in range(car.n_blocks):
        _rewrite(&t, &car.blocks[i])
    root = _data_of(&car)
    if root == NULL:
        return 0
    tree_init(&t, &scratch, &car)
    r = tree_invert(&t, root, m.ops, m.n_ops, &before)
    zl_promise(0 <= r < R_COUNT and (r != R_OK or before != NULL))
    return 0
