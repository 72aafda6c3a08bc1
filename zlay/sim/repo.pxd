"""Repositories of simulated accounts and the frames that announce their changes."""

from libc.stdint cimport uint8_t, uint64_t

from zlay.sim.keys cimport SigningKey
from zlay.sim.rng cimport Rng
from zlay.sim.tree cimport Leaf, Tree

cdef enum:
    MAX_OPS = 200  # protocol B2

cdef struct Op:
    # One write of the commit being made. `old` and `new` belong to the commit until it is kept or taken back.
    Leaf *old   # NULL: create
    Leaf *new   # NULL: delete

cdef class Repo:
    # One thread. Owns the tree; `key` signs.
    cdef Tree tree
    cdef readonly str did
    cdef bytes did_bytes
    cdef public SigningKey key
    cdef uint64_t clock_id
    cdef uint64_t mark
    cdef readonly uint64_t rev
    cdef uint8_t data[32]
    cdef uint8_t head[32]
    cdef uint8_t signature[64]
    cdef int n_ops
    cdef Op ops[200]
    cdef _write(self, Rng rng, uint64_t rev, bytes time, int creates, int updates, int deletes, size_t text_n)
    cdef _create(self, Rng rng, uint64_t rev, bytes time, size_t text_n)
    cdef _change(self, Rng rng, uint64_t rev, bytes time, size_t text_n, bint delete)
    cdef _forget_old(self)
    cdef _take_back(self)
    cdef _put_commit(self, bint signed)
    cdef _sign(self, int spoil, SigningKey other_key)
    cdef _build_car_of_commit(self)
    cdef _build_car(self, int spoil)
    cdef bytes _build_commit(self, uint64_t seq, uint64_t since, const uint8_t *prev_data, bytes time, int spoil)
    cdef _put_op(self, const Op *op, int spoil)
