"""Messages appended to the log as fast as it takes them, from as many threads as call: for benchmarks and tools.

A Batch is read-only once made: any number of threads may append from it at once.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from atomics cimport zl_realtime_us

from zlay._fast.log cimport LogEvent, log_append
from zlay._fast.mem cimport MEM_MISC, zl_calloc, zl_free

__all__ = ["Batch"]

cdef enum:
    SOMEBODY = 1                 # a hash that no DID is known to have, and not 0: whose events they are says nothing

cdef struct Span:                # a message, and where its seq stands
    const uint8_t *data
    uint32_t n
    uint32_t seq_off
    uint32_t seq_len


cdef class Batch:
    """Messages of one kind, given with the place and length of their encoded seq."""

    cdef Span *spans             # owned; they point into `held`
    cdef uint32_t n
    cdef int kind
    cdef list held

    def __cinit__(self, messages: list[tuple[bytes, int, int]], int kind):
        """ValueError: none. MemoryError."""
        cdef uint32_t i
        if not messages:
            raise ValueError("no messages")
        self.held = [message for message, _, _ in messages]
        self.n = <uint32_t> len(messages)
        self.kind = kind
        self.spans = <Span *> zl_calloc(MEM_MISC, self.n * sizeof(Span))
        if self.spans == NULL:
            raise MemoryError
        for i in range(self.n):
            message, self.spans[i].seq_off, self.spans[i].seq_len = messages[i]
            self.spans[i].data = <const uint8_t *> <bytes> message
            self.spans[i].n = <uint32_t> len(message)

    def __dealloc__(self):
        zl_free(self.spans)

    def append(self, uint64_t first, uint64_t count):
        """Appends `count` events, the first of them message number `first` (round and round). The last one's seq.

        Waits while the log's buffer is full. 0: the log is closed.
        """
        cdef LogEvent e
        cdef Span *span
        cdef uint64_t seq = 0, i
        memset(&e, 0, sizeof(e))
        e.kind = <uint8_t> self.kind
        e.did_hash = SOMEBODY
        with nogil:
            for i in range(first, first + count):
                span = &self.spans[i % self.n]
                e.data = span.data
                e.n = span.n
                e.seq_off = span.seq_off
                e.seq_len = span.seq_len
                e.recv_us = zl_realtime_us()
                e.upstream_seq = i + 1
                seq = log_append(&e)
                if seq == 0:
                    break
        return seq
