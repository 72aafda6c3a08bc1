"""One firehose message, decoded strictly from one frame. Slices point into the frame; arrays live in the scratch."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from zlay._fast.scratch cimport Scratch

cdef enum:
    CID_BYTES = 36               # 01 71|55 12 20 + 32 (C11)
    DIGEST_BYTES = 32
    MAX_FRAME_BYTES = 5000000    # A8
    MAX_SPLICE_BYTES = 18        # the most that a new seq (9) and a longer WebSocket header can add, with room
    MAX_COMMIT_BLOCKS_BYTES = 2000000
    MAX_SYNC_BLOCKS_BYTES = 10000
    MAX_OPS = 200
    MAX_RECORD_BYTES = 1000000

cdef struct Slice:
    const uint8_t *p
    uint32_t n

cdef enum OpAction:
    OP_CREATE
    OP_UPDATE
    OP_DELETE

cdef struct RepoOp:
    uint8_t action
    uint32_t collection_n        # length of the NSID part of path
    Slice path                   # collection/rkey
    const uint8_t *cid           # 36 bytes, or NULL (delete)
    const uint8_t *prev          # 36 bytes, or NULL (create)

cdef struct Message:
    uint8_t kind                 # verdicts.Kind
    uint8_t active               # #account
    uint8_t status               # verdicts.Status of #account (S_ACTIVE when active and no status)
    bint has_since               # since is a TID (else null)
    uint64_t seq                 # upstream seq
    uint32_t seq_off             # where the encoded seq value stands in the frame (for splicing); 0 = none
    uint32_t seq_len
    uint64_t rev                 # TID as its 64-bit number; 0 = none
    uint64_t since
    Slice did                    # did or repo, as sent
    Slice type_name              # t
    Slice blocks                 # CAR bytes
    Slice time
    Slice handle
    const uint8_t *commit_cid    # 36 bytes (#commit)
    const uint8_t *prev_data     # 36 bytes or NULL
    RepoOp *ops
    uint32_t n_ops

cdef struct Peek:                # what a reader needs of a frame: shard and order, nothing judged
    uint64_t seq                 # 0 = none found
    uint32_t did_off             # 0 = none found
    uint32_t did_n
    uint8_t kind
    bint is_error                # op -1
    Slice error_name             # op -1: error; #info: name. As sent: any bytes, any length; p NULL = none
    Slice error_message

# 0, or a Reason: cannot be cut. Any thread.
cdef int message_peek(const uint8_t *p, uint32_t n, Peek *out) noexcept nogil
# Whether the frame is two DRISL items and nothing else; so is all that message_decode accepts. Any thread.
cdef bint message_is_whole(const uint8_t *p, uint32_t n) noexcept nogil
# A Reason; the whole frame is checked. The scratch's thread.
cdef int message_decode(Scratch *s, const uint8_t *p, uint32_t n, Message *m) noexcept nogil
