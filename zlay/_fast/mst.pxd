"""The partial tree of a commit: node rules, ops held against it, inversion back to prevData (C7 to C9, D)."""

from libc.stdint cimport uint8_t, uint32_t

from zlay._fast.commit cimport Commit
from zlay._fast.message cimport Message, RepoOp
from zlay._fast.node cimport Tree
from zlay._fast.scratch cimport Scratch

# Everything of D2 to D10 for a #commit: nodes, forward check of ops, record blocks, inversion; computed previous root
# against m.prev_data. `first` = the account has no stored state and since is null. A Reason.
cdef int tree_check(Scratch *s, const Message *m, const Commit *c, bint first) noexcept nogil
# The part that D2, D3 and D5 to D9 are about, on a tree that tree_init has made; `before` = CID of the root without the
# ops. A Reason.
cdef int tree_invert(
    Tree *t, const uint8_t *root, const RepoOp *ops, uint32_t n, const uint8_t **before
) noexcept nogil
