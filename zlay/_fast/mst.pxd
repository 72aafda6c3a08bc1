"""The partial tree of a commit: node rules, ops held against it, inversion back to prevData (C7 to C9, D)."""

from zlay._fast.commit cimport Commit
from zlay._fast.message cimport Message
from zlay._fast.scratch cimport Scratch

# Everything of D2 to D10 for a #commit: nodes, forward check of ops, record blocks, inversion; computed previous root
# against m.prev_data. `first` = the account has no stored state and since is null. A Reason.
cdef int tree_check(Scratch *s, const Message *m, const Commit *c, bint first) noexcept nogil
