"""A #commit or #sync taken apart, put together again, and its CIDs made to hold. One thread: libFuzzer's."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    MOST_BLOCKS = 256            # of a CAR that is taken apart; inputs are small
    MOST_ITEMS = 256             # of a node, likewise
    CID_BYTES_ = 36
    DIGEST_AT_ = 4               # where the digest stands in a CID

cdef struct Piece:
    const uint8_t *p
    size_t n

cdef struct Parts:               # pieces of an input; what they point to is the caller's
    Piece before                 # up to the head of the value of `blocks`
    Piece car_head               # the CAR's header with its length
    const uint8_t *cids[256]
    Piece blocks[256]
    uint32_t n
    Piece after

cdef struct Item:                # an entry of a node, its key whole
    Piece key
    const uint8_t *value         # 36 bytes
    const uint8_t *right         # 36 bytes, or NULL

cdef struct NodeItems:
    const uint8_t *left          # 36 bytes, or NULL
    Item items[256]
    uint32_t n

# False = nothing of that kind, or larger than what is taken apart.
cdef bint parts_cut(const uint8_t *p, size_t n, Parts *out) noexcept nogil
# The whole again, its lengths right; 0 = over the most.
cdef size_t parts_join(const Parts *parts, uint8_t *out, size_t most) noexcept nogil
# Blocks get the CIDs they have, from below, and so does whatever names them.
cdef void parts_relink(uint8_t *p, size_t n) noexcept nogil
# The next CID at or after p; NULL = none.
cdef const uint8_t *next_cid(const uint8_t *p, const uint8_t *end) noexcept nogil
# The keys live until the next call. False = no node, or not one of usual links.
cdef bint node_items(Piece block, NodeItems *out) noexcept nogil
cdef size_t node_put(const NodeItems *node, uint8_t *out, size_t most) noexcept nogil
