"""The ops of a #commit (protocol B3)."""

from libc.stdint cimport uint32_t

from zlay._fast.drisl cimport Cursor
from zlay._fast.message cimport RepoOp
from zlay._fast.scratch cimport Scratch

# Reads and checks the ops array. A Reason; the ops stand in the scratch until its reset. NULL = there are none.
cdef int ops_read(Cursor *c, Scratch *s, RepoOp **ops, uint32_t *n_ops) noexcept nogil
