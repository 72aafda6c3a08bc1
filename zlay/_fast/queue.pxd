"""From readers and Python threads to one worker: frames and messages, each a lock-free list that is taken whole."""

from libc.stdint cimport uint32_t, uint64_t

from zlay._fast.pool cimport Frame

cdef enum:
    MAX_WORKERS = 64

cdef struct Node:             # head of whatever is put on a list
    Node *next

cdef struct Inlet:            # of one worker; two cache lines so that readers of one do not slow another
    Node *frames              # atomic: newest first; the worker takes all and turns them round
    Node *messages            # atomic: likewise, from Python threads
    uint32_t sleeping         # atomic: the worker is about to wait, or waits, on `bell`
    uint32_t bell             # futex
    uint64_t queued           # atomic: frames on the list
    uint64_t queued_bytes     # atomic: their cost
    char pad[80]

cdef Inlet *inlet(uint32_t worker) noexcept nogil
cdef uint32_t worker_count() noexcept nogil
cdef void set_worker_count(uint32_t n) noexcept nogil
cdef void inlet_put_message(uint32_t worker, Node *message) noexcept nogil
cdef Node *inlet_take(Node **list) noexcept nogil
cdef void inlet_wait(Inlet *i, uint32_t timeout_ms, bint for_frames) noexcept nogil
# Called by readers: hands the frame to worker did_hash % W. Its credit and its host's share of the queues are already
# taken; the worker gives the share back when it has looked at the frame. Never blocks.
cdef void pipeline_submit(Frame *f) noexcept nogil
