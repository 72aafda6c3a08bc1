"""TIDs and the envelope of frames, for whoever builds one."""

from libc.stdint cimport uint64_t

from zlay.sim.buffer cimport Buf

cdef enum:
    TID_SIZE = 13
    CLOCK_ID_BITS = 10

cdef void tid_text(uint64_t value, char *out) noexcept nogil
cdef void put_tid(Buf *b, uint64_t value) noexcept nogil
cdef void put_bytes_text(Buf *b, bytes text)
cdef void message_begin(Buf *b, const char *type_name, size_t type_n, int fields) noexcept nogil
cdef void put_seq(Buf *b, uint64_t seq) noexcept nogil
cdef bytes message_end(Buf *b)
