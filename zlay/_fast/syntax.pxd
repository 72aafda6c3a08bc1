"""String syntaxes of the protocol: DIDs, NSIDs, record keys, paths, TIDs, handles, datetimes. Any thread; no state."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    TID_CHARS = 13

cdef bint did_valid(const uint8_t *p, uint32_t n) noexcept nogil          # any method
cdef bint account_did_valid(const uint8_t *p, uint32_t n) noexcept nogil  # did:plc, hostname-level did:web (G1)
cdef bint handle_valid(const uint8_t *p, uint32_t n) noexcept nogil
cdef bint nsid_valid(const uint8_t *p, uint32_t n) noexcept nogil
cdef bint record_key_valid(const uint8_t *p, uint32_t n) noexcept nogil
# NSID/record key (C1): the length of the NSID, or 0 when it is none.
cdef uint32_t path_collection(const uint8_t *p, uint32_t n) noexcept nogil
# Where the slash of a key that a tree may hold stands (C1), 0 = no such key; the first `known` bytes are those of one
# that has its slash at `slash`
cdef uint32_t mst_key_slash(const uint8_t *key, uint32_t n, uint32_t known, uint32_t slash) noexcept nogil
cdef bint datetime_valid(const uint8_t *p, uint32_t n) noexcept nogil
# The 64-bit number of a TID (C5), which orders as its text does; False = no TID.
cdef bint tid_parse(const uint8_t *p, uint32_t n, uint64_t *out) noexcept nogil
# The TID_CHARS characters of a number below 2**63.
cdef void tid_format(uint64_t tid, uint8_t *out) noexcept nogil
