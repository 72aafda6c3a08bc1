"""What workers ask of Python threads: load an account, resolve a DID, ask a PDS. One bounded list per kind."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum RequestKind:
    REQUEST_LOAD        # account, repository and identity from SQL
    REQUEST_RESOLVE     # the DID document, from the store when fresh enough
    REQUEST_REFRESH     # the DID document, from the directory
    REQUEST_RECHECK     # the directory once more, in a while: its replicas may lag (design 5)
    REQUEST_STATUS      # getRepoStatus of the PDS
    REQUEST_RESYNC      # a chain break to heal
    REQUEST_KINDS

# Any worker. 0, or -1 when memory is out (the worker asks again at its next tick).
cdef int request_put(int kind, const uint8_t *did, uint32_t n, uint32_t host_id) noexcept nogil
