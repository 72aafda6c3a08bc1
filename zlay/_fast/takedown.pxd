"""An #account of this relay's own, on its way through the account's worker (design 4). See takedown.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from zlay._fast.accounts cimport Account
from zlay._fast.hidden cimport Hidden

cdef enum LocalOutcome:
    LOCAL_PENDING
    LOCAL_DONE                   # logged under `seq`, and in force
    LOCAL_SAME                   # the account has that status already
    LOCAL_NOT_LOADED             # the loader has been asked for it: try again
    LOCAL_UNKNOWN                # no account of ours
    LOCAL_OTHER                  # its status at the host is another than the message says: see upstream_status
    LOCAL_CLOSED                 # the log takes nothing more
    LOCAL_OUTCOMES

cdef struct LocalChange:         # made by the asking Python thread; freed by the last of the two that lets go of it
    uint32_t refs                # atomic
    uint32_t done                # atomic, futex: 1 when what follows is final
    uint8_t outcome              # LocalOutcome
    uint8_t upstream_status      # the account's at its host
    uint64_t seq                 # of LOCAL_DONE
    # constant
    uint8_t local_status         # verdicts.Status: active or taken down
    uint8_t told_upstream        # the status at the host that the message was made for
    uint32_t frame_n
    uint32_t seq_off
    uint32_t seq_len
    Hidden *hidden
    uint8_t *frame               # the message; freed with this

# The account's worker, which has found it loaded. True = its entry has changed.
cdef bint local_apply(LocalChange *c, Account *a, uint64_t now_us) noexcept nogil
cdef void local_answer(LocalChange *c, int outcome) noexcept nogil  # the worker lets go of it
cdef void local_release(LocalChange *c) noexcept nogil
cdef LocalChange *local_new(bytes did, bytes frame, uint32_t seq_off, uint32_t seq_len, int local_status,
                            int told_upstream) except NULL
# The outcome, waited for without the interpreter; LOCAL_PENDING at the time-out.
cdef int local_wait(LocalChange *c, double timeout_s) noexcept nogil
