"""The way to a worker.

Promises: putting never blocks and never allocates; what one thread puts comes out in the order it was put; a worker
that sleeps is woken. Bounded by each host's QUEUE_SHARE_BYTES (frames) and by one open request per account (messages),
so the lists themselves need no bound.
Any thread puts; only the worker takes. There is no pop of a single node, hence no ABA.
"""

from libc.stdint cimport uint32_t

from zlay._fast.includes.atomics cimport (
    zl_add32, zl_add64, zl_casp, zl_fence, zl_futex_wait, zl_futex_wake, zl_load32, zl_loadp, zl_store32, zl_swapp,
)
from zlay._fast.pool cimport Frame

cdef Inlet _inlets[64]
cdef uint32_t _workers = 1


cdef Inlet *inlet(uint32_t worker) noexcept nogil:
    return &_inlets[worker]


cdef uint32_t worker_count() noexcept nogil:
    return _workers


cdef void set_worker_count(uint32_t n) noexcept nogil:
    """Before any reader or worker runs."""
    global _workers
    _workers = n


cdef void _push(Node **top, Node *node) noexcept nogil:
    cdef void *old
    while True:
        old = zl_loadp(<void **>top)
        node.next = <Node *>old
        if zl_casp(<void **>top, old, node):
            return


cdef void _ring(Inlet *i) noexcept nogil:
    """Wakes the worker when it sleeps. The fence orders our push before the look at `sleeping`."""
    zl_fence()
    if zl_load32(&i.sleeping):
        zl_add32(&i.bell, 1)
        zl_futex_wake(&i.bell, 1)


cdef void inlet_put_message(uint32_t worker, Node *message) noexcept nogil:
    """Hands a message over; the worker owns it from here on."""
    _push(&_inlets[worker].messages, message)
    _ring(&_inlets[worker])


cdef Node *inlet_take(Node **top) noexcept nogil:
    """All nodes, oldest first. Worker only."""
    cdef Node *node = <Node *>zl_swapp(<void **>top, NULL)
    cdef Node *oldest = NULL
    cdef Node *after
    while node != NULL:
        after = node.next
        node.next = oldest
        oldest = node
        node = after
    return oldest


cdef void inlet_wait(Inlet *i, uint32_t timeout_ms, bint for_frames) noexcept nogil:
    """Sleeps until something is put, or the time is over; frames that lie there already only count `for_frames`.

    Worker only. May end early.
    """
    cdef uint32_t bell = zl_load32(&i.bell)
    zl_store32(&i.sleeping, 1)
    zl_fence()
    if zl_loadp(<void **>&i.messages) == NULL and (not for_frames or zl_loadp(<void **>&i.frames) == NULL):
        zl_futex_wait(&i.bell, bell, timeout_ms)
    zl_store32(&i.sleeping, 0)


cdef void pipeline_submit(Frame *f) noexcept nogil:
    """Hands a frame to the worker of its DID; frames of one DID and one reader stay in order (R4)."""
    cdef Inlet *i = &_inlets[f.did_hash % _workers]
    zl_add64(&i.queued, 1)
    zl_add64(&i.queued_bytes, f.cost)
    _push(&i.frames, <Node *>f)
    _ring(i)
