"""What workers ask of Python threads: load an account, resolve a DID, ask a PDS. One list per kind of answer."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum RequestKind:
    REQUEST_LOAD        # account, repository and identity from SQL
    REQUEST_RESOLVE     # the DID document, as somebody may have asked for it just now
    REQUEST_RECHECK     # the directory once more, in a while: its replicas may lag (design 5)
    REQUEST_STATUS      # getRepoStatus of the PDS
    REQUEST_RESYNC      # a chain break to heal
    REQUEST_WEB         # as REQUEST_RESOLVE, for did:web: hosts of strangers never keep did:plc waiting
    REQUEST_KINDS       # each has a list of its own; the next two go on that of REQUEST_RESOLVE or REQUEST_WEB
    REQUEST_REFRESH = REQUEST_KINDS  # the DID document, asked for from now on
    REQUEST_RENEW       # the same, when nobody waits for anything else

cdef struct Ticket:     # a request's place among the urgent ones of its lane
    uint64_t number
    uint8_t list
    uint8_t lane

# Any worker. host_id: of a status check or resync whom to ask, else on whose account: hosts take turns.
# 0, or -1: memory is out (the worker asks again at its next tick), or of what nobody waits for too much
# lies there already. `ticket`: NULL, or where to note the place.
cdef int request_put(int kind, const uint8_t *did, uint32_t n, uint32_t host_id, Ticket *ticket) noexcept nogil
# Whether a thread has taken the request: until then it lies in our own queue. True for a ticket of zeros. Any thread.
cdef bint request_is_taken(const Ticket *t) noexcept nogil
