"""How far consumers may see, told to readers in other processes. See published.pyx."""

from libc.stdint cimport uint64_t

cdef void published_note(uint64_t seq) noexcept nogil    # the log's writer; does nothing while no file is open
