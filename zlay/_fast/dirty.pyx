"""Copies changed accounts out of a worker's table, and turns the copies into what the applier takes.

Promises: an entry is taken off the dirty list only when its row is in `out`. `dirty_collect` runs in the thread that
owns the table, `dirty_delta` in the collecting Python thread, to which the rows belong.
"""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy

from zlay._fast.accounts cimport A_DESYNCHRONIZED, A_STALE, Account, Table, account_did, account_pop_dirty
from zlay._fast.mem cimport MEM_QUEUE, zl_realloc
from zlay._fast.syntax cimport tid_format

from zlay.pipeline.types import AccountDelta

cdef enum:
    FIRST_ROWS = 256

_CID_PREFIX = b"\x01\x71\x12\x20"   # CIDv1, dag-cbor, sha-256, 32 bytes (C11)


cdef bint _grow(DirtyRows *out) noexcept nogil:
    cdef void *grown = zl_realloc(MEM_QUEUE, out.rows, (<size_t>out.capacity * 2 + FIRST_ROWS) * sizeof(DirtyRow))
    if grown == NULL:
        return False
    out.rows = <DirtyRow *>grown
    out.capacity = out.capacity * 2 + FIRST_ROWS
    return True


cdef void dirty_collect(Table *t, DirtyRows *out) noexcept nogil:
    """Copies every dirty entry out. Entries that find no room stay dirty."""
    cdef Account *a
    cdef DirtyRow *row
    while t.dirty_head != 0:
        if out.n == out.capacity and not _grow(out):
            out.failed = 1
            return
        a = account_pop_dirty(t)
        row = &out.rows[out.n]
        row.rev = a.rev
        row.last_seq = a.last_seq
        row.host_id = a.host_id
        row.upstream_status = a.upstream_status
        row.local_status = a.local_status
        row.desynchronized = (a.flags & A_DESYNCHRONIZED) != 0
        row.identity_stale = (a.flags & A_STALE) != 0
        memcpy(row.data, a.data, 32)
        memcpy(row.head, a.head, 32)
        row.did_n = <uint16_t>account_did(a, row.did)
        out.n += 1


cdef object dirty_delta(const DirtyRow *row):
    """The row as an AccountDelta."""
    cdef uint8_t tid[13]
    cdef bint has_repository = row.rev != 0
    tid_format(row.rev, tid)
    return AccountDelta(
        did=(<bytes>row.did[:row.did_n]).decode("ascii"),
        host_id=row.host_id,
        upstream_status=row.upstream_status,
        local_status=row.local_status,
        rev=(<bytes>tid[:13]).decode("ascii") if has_repository else None,
        data=_CID_PREFIX + <bytes>row.data[:32] if has_repository else None,
        head=_CID_PREFIX + <bytes>row.head[:32] if has_repository else None,
        last_seq=row.last_seq,
        desynchronized=row.desynchronized != 0,
        identity_stale=row.identity_stale != 0,
    )
