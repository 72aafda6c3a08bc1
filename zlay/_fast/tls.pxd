"""TLS to hosts: a session shakes hands for the dialer, and is then handed to a reader, as an Io."""

from libc.stdint cimport int64_t
from zlay._fast.connection cimport Io
from zlay._fast.includes.libssl cimport SSL

cdef struct Tls:                 # one connection's; owned by its Session, after tls_taken by a reader
    SSL *ssl
    int fd                       # not ours to close
    bint blocked                 # the socket had nothing to read, or no room, when libssl last asked
    bint at_end                  # the peer has closed the socket
    int error                    # errno of the last call on the socket that failed
    char text[160]               # why the last call failed: not an errno's story

cdef class Session:
    cdef Tls *_t                 # NULL once taken or closed
    cdef int _expect(self, bytes name) except -1
    cdef Tls *_open(self) except NULL
    cdef int _fail(self, int64_t outcome) except -1
    cpdef close(self)

# Fills in how a reader reaches it, whose Io.close frees it
cdef int tls_lend(Session session, Io *io) except -1
# A reader has it: the Session can do nothing any more
cdef void tls_taken(Session session) noexcept
