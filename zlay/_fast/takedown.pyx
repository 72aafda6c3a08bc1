"""Takedowns and their reverse, carried out by the worker that owns the account.

Promises: the account's own #account is logged first and counts from there on: no event of the account that was judged
before it comes after it in the log, and none that was judged after comes before. From then on (a takedown) all its
events are hidden from readers, or (its reverse) those before it still are, until that is known to be on disk.
The message is made by Python for the status that the account had at its host; where it has another by now nothing
happens, and the caller makes a new one.

Threads: see LocalChange in takedown.pxd.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from zlay._fast.accounts cimport A_KNOWN, Account
from zlay._fast.hidden cimport HIDE_ALL, hidden_entry, hidden_set
from zlay._fast.includes.atomics cimport (
    zl_add32, zl_futex_wait, zl_futex_wake, zl_load32, zl_monotonic_us, zl_store32,
)
from zlay._fast.log cimport LOG_LOCAL, LOG_TAKEN_DOWN, LogEvent, log_append
from zlay._fast.mem cimport MEM_QUEUE, zl_calloc, zl_copy_bytes, zl_free
from zlay._fast.verdicts cimport K_ACCOUNT, S_ACTIVE

__all__ = ["OUTCOMES"]

OUTCOMES = ("pending", "done", "same", "not_loaded", "unknown", "other", "closed")

if len(OUTCOMES) != LOCAL_OUTCOMES:
    raise ImportError("takedown: names and enum differ in number")


cdef uint64_t _append(LocalChange *c, const Account *a, uint64_t now_us) noexcept nogil:
    """Its seq; 0 = the log is closed. Waits, like any event, while the log takes nothing."""
    cdef LogEvent e
    cdef bint active = c.local_status == S_ACTIVE
    memset(&e, 0, sizeof(e))
    e.data = c.frame
    e.n = c.frame_n
    e.seq_off = c.seq_off
    e.seq_len = c.seq_len
    e.kind = K_ACCOUNT
    e.flags = LOG_LOCAL if active else LOG_LOCAL | LOG_TAKEN_DOWN
    e.upstream_status = a.upstream_status
    e.effective_status = a.upstream_status if active else c.local_status
    e.recv_us = now_us
    e.did_hash = a.hash
    return log_append(&e)


cdef bint local_apply(LocalChange *c, Account *a, uint64_t now_us) noexcept nogil:
    cdef uint64_t seq
    c.upstream_status = a.upstream_status
    if not a.flags & A_KNOWN:
        local_answer(c, LOCAL_UNKNOWN)
        return False
    if a.local_status == c.local_status:
        local_answer(c, LOCAL_SAME)
        return False
    if c.local_status == S_ACTIVE and a.upstream_status != c.told_upstream:
        local_answer(c, LOCAL_OTHER)
        return False
    seq = _append(c, a, now_us)
    if seq == 0:
        local_answer(c, LOCAL_CLOSED)
        return False
    a.local_status = c.local_status
    a.last_seq = seq
    hidden_set(c.hidden, seq if c.local_status == S_ACTIVE else HIDE_ALL)
    c.seq = seq
    local_answer(c, LOCAL_DONE)
    return True


cdef void local_answer(LocalChange *c, int outcome) noexcept nogil:
    c.outcome = <uint8_t>outcome
    zl_store32(&c.done, 1)
    zl_futex_wake(&c.done, 1)
    local_release(c)


cdef void local_release(LocalChange *c) noexcept nogil:
    if zl_add32(&c.refs, <uint32_t>-1) == 1:
        zl_free(c.frame)
        zl_free(c)


cdef LocalChange *local_new(bytes did, bytes frame, uint32_t seq_off, uint32_t seq_len, int local_status,
                            int told_upstream) except NULL:
    """For two holders: the asking thread and the worker. Raises MemoryError, ValueError."""
    cdef LocalChange *c = <LocalChange *>zl_calloc(MEM_QUEUE, sizeof(LocalChange))
    if c == NULL:
        raise MemoryError
    c.refs = 1
    try:
        c.hidden = hidden_entry(did)
        c.frame = <uint8_t *>zl_copy_bytes(frame)
    except BaseException:
        local_release(c)
        raise
    c.refs = 2
    c.frame_n = <uint32_t>len(frame)
    c.seq_off = seq_off
    c.seq_len = seq_len
    c.local_status = <uint8_t>local_status
    c.told_upstream = <uint8_t>told_upstream
    return c


cdef int local_wait(LocalChange *c, double timeout_s) noexcept nogil:
    cdef uint64_t deadline = zl_monotonic_us() + <uint64_t>(timeout_s * 1e6), now
    while not zl_load32(&c.done):
        now = zl_monotonic_us()
        if now >= deadline:
            return LOCAL_PENDING
        zl_futex_wait(&c.done, 0, <int64_t>((deadline - now) // 1000 + 1))
    return c.outcome
