"""Accounts whose events are hidden from readers of the log: takedowns (design 4). See hidden.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #define HIDE_ALL UINT64_MAX
    """
    const uint64_t HIDE_ALL

cdef struct Hidden:              # one account; made by Python, freed by clear() when nobody reads any more
    Hidden *next                 # of the same bucket; constant once it is found there
    uint64_t hash                # keyed hash of the DID
    uint64_t below               # atomic: events with a lower seq are hidden; 0 = none, HIDE_ALL = all
    uint32_t did_n
    uint8_t did[261]             # MAX_DID

# --- any thread ---
cdef bint hidden_any() noexcept nogil                     # whether there is any account to be looked for
cdef uint32_t hidden_generation() noexcept nogil          # goes up with each change: what was judged before is old
# Whether an event may be hidden, by its hash alone; if so, whether it is, by the DID in its message.
cdef bint hidden_maybe(uint64_t seq, uint64_t hash) noexcept nogil
cdef bint hidden_is(uint64_t seq, uint64_t hash, const uint8_t *did, uint32_t n) noexcept nogil
cdef void hidden_count(uint64_t events) noexcept nogil    # a reader was not shown so many
# --- the worker of the account ---
cdef void hidden_set(Hidden *h, uint64_t below) noexcept nogil
# --- Python ---
cdef Hidden *hidden_entry(bytes did) except NULL
