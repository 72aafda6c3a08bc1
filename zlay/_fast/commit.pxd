"""The signed commit of a #commit or #sync: its block, its fields against the message, its signature (C2, C3, D1)."""

from libc.stdint cimport uint8_t, uint64_t

from zlay._fast.car cimport Car
from zlay._fast.crypto cimport KeyCache, SigningKey
from zlay._fast.message cimport Message
from zlay._fast.scratch cimport Scratch

cdef struct Commit:              # pointers lead into the frame
    Car car
    const uint8_t *cid           # 36 bytes: the commit's own CID (root[0])
    const uint8_t *data          # 36 bytes: MST root
    uint64_t rev
    const uint8_t *sig           # 64 bytes
    uint8_t digest[32]           # SHA-256 of the unsigned commit: what is signed

cdef struct Opened:              # a frame opened outside the path of frames; owns all that is in it
    Scratch scratch
    Message message
    Commit commit
    void *frame

# Parses the CAR, checks every CID, finds the commit block, checks its shape and that it says of account, rev and itself
# what the message says. A Reason.
cdef int commit_open(Scratch *s, const Message *m, Commit *c) noexcept nogil
# Signature over c.digest by key. A Reason: R_OK, R_NO_KEY, R_SIG_FORM, R_SIG_HIGH_S or R_SIG_INVALID.
cdef int commit_verify(const Commit *c, const SigningKey *key, KeyCache *cache) noexcept nogil
# For tests and tools, with the interpreter: decodes and opens a copy of a #commit or #sync. A Reason.
cdef int opened_init(Opened *o, bytes frame) except -1
cdef void opened_free(Opened *o) noexcept
