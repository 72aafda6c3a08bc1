"""A host's C side: credit, progress slots, counters.

Made by Python when a host is registered, never freed while the process runs.
"""

from libc.stdint cimport uint32_t, uint64_t
from zlay._fast.allowance cimport Allowance

cdef enum:
    MAX_HOSTS = 65536            # bounds the host array; RELAY_MAX_HOSTS stays below
    SLOTS_PER_CHUNK = 46         # a chunk fits 1.5 KiB
    HOST_NAME_BYTES = 256        # DNS names end at 253, with :port at 259: longer ones are refused
    # Of one host, in the workers' queues and not looked at yet. All that a flooding host adds to the others' latency is
    # the judging of this much: some 50 commits, 20 ms of one core. One frame always fits.
    QUEUE_SHARE_BYTES = 262144
    BAD_RUN_LIMIT = 100          # frames in a row that cannot be decoded before the connection ends (design 14)

cdef enum:
    SLOT_PENDING = 0             # no verdict yet
    # any other value of Slot.verdict: the log seq of the event, or SLOT_DROPPED
cdef extern from *:
    """
    #define SLOT_DROPPED UINT64_MAX
    """
    const uint64_t SLOT_DROPPED

cdef struct Slot:                # one frame received from the host, in the order received
    uint64_t upstream_seq        # 0 = the frame had none; moves no cursor
    uint64_t verdict             # atomic: SLOT_PENDING, SLOT_DROPPED or the log seq
    uint64_t synced_at_arrival   # the log's synced_end when the frame arrived
    uint32_t epoch               # the host's when the frame arrived: a slot of an earlier one moves no cursor

cdef struct SlotChunk:
    SlotChunk *next              # atomic; written by the reader when it starts the next chunk
    Slot slots[46]

cdef enum Wait:                  # what a host's reader sleeps for
    WAIT_NOTHING
    WAIT_CREDIT                  # bytes of the host to be given back
    WAIT_SHARE                   # frames of the host to be looked at by workers
    WAIT_ANCHOR                  # the host's first cursor to be saved
    WAIT_LIMIT                   # its allowance to fill again

cdef extern from *:
    """
    #define NO_ANCHOR UINT64_MAX
    """
    const uint64_t NO_ANCHOR

cdef enum CreditOutcome:
    CREDIT_OK
    CREDIT_HOST_LIMIT            # the host's own bytes must come back first: WAIT_CREDIT
    CREDIT_POOL_LIMIT            # the pool is too full for this host: wait for the pool

cdef struct Host:
    uint32_t id                  # row id in SQL, 1..; also in the log's index
    uint32_t epoch               # atomic; a host whose numbering starts again gets a new one
    uint32_t index               # position in the process's host array
    uint32_t banned              # atomic flag
    char name[256]               # host name as in the registry (name or name:port)
    # credit (R5): bytes of partial, queued, held and not yet synced frames
    uint64_t credit_used         # atomic
    uint64_t credit_limit        # atomic
    uint64_t queued_bytes        # atomic: of these, what workers have not looked at yet
    uint32_t wait_word           # futex: the reader sleeps on it; bumped when what it waits for may have come
    uint32_t waits_for           # atomic: a Wait
    # progress: single producer (the host's current reader), single consumer (host_collect)
    SlotChunk *head              # atomic until the first chunk stands, then the collector's own
    uint32_t head_used           # collector only
    uint64_t popped              # atomic, the collector writes
    SlotChunk *tail              # reader only
    uint32_t tail_used           # reader only
    uint64_t pushed              # atomic: slots ever pushed
    SlotChunk *spare             # atomic: one chunk on its way from collector back to reader
    uint64_t cursor              # atomic: highest upstream seq below which all have a verdict and are synced
    uint32_t has_cursor          # atomic flag: 0 = none, dialled live; cursor 0 = the whole of what the host keeps
    # The anchor: no frame with a seq is handed on before a cursor from which it would be sent again has been saved.
    uint32_t anchored            # atomic: the epoch of which such a cursor has been saved; 0 = none
    uint64_t anchor              # under _progress_lock: what is to be saved; NO_ANCHOR = no frame has come, or no need
    # what this process has received
    uint64_t last_seq            # atomic, reader writes: last upstream seq received (reconnect cursor); 0 = none
    # dedup after a restart: sorted upstream seqs of this epoch already logged above the persisted cursor. Set before
    # the host is dialled, read by workers, replaced never, so they need no lock.
    uint64_t *dedup
    uint32_t dedup_n
    uint32_t dedup_epoch
    uint32_t bad_run             # atomic: frames dropped in a row for their encoding; the reader ends the connection
    # counters (relaxed atomics)
    uint64_t frames
    uint64_t bytes
    uint64_t published
    uint64_t waited_us           # time the reader did not read, for whatever it waited
    uint64_t throttled_us        # of it, time it did not read because the host was over its limits
    uint64_t outdated            # #info OutdatedCursor received
    uint64_t last_frame_us       # atomic, reader writes: wall clock of the last frame; 0 = none since the start
    uint64_t lag_us              # atomic, workers write: age of the newest commit or sync passed on, when it came
    Allowance allowance          # E18
    uint64_t refresh_due_us      # atomic: rate of forced identity look-ups this host may cause (judge.pyx)
    uint64_t by_reason[128]      # verdicts.Reason; R_COUNT < 128

# NULL = out of memory, or MAX_HOSTS stand
cdef Host *host_new(uint32_t id, const char *name, uint64_t credit_limit) noexcept nogil
# NULL = no such host; any thread, no lock
cdef Host *host_at(uint32_t index) noexcept nogil
cdef uint32_t host_count() noexcept nogil
# A CreditOutcome. `own` = bytes already charged for the same frame: a host with nothing else charged is bound by the
# pool alone, so one frame always fits. The host's reader only.
cdef int host_take_credit(Host *h, uint64_t n, uint64_t own) noexcept nogil
# Any thread; wakes the reader when it waits
cdef void host_give_credit(Host *h, uint64_t n) noexcept nogil
# Before a frame of cost n is handed to a worker; False = QUEUE_SHARE_BYTES are queued: WAIT_SHARE. The reader only.
cdef bint host_take_share(Host *h, uint64_t n) noexcept nogil
# Whoever takes the frame out of a queue, once, when it has been looked at; the frame need not live any more
cdef void host_give_share(Host *h, uint64_t n) noexcept nogil
# A connection begins: from here on a host without a cursor is not dialled live any more
cdef void host_connected(Host *h) noexcept nogil
# Whether the frame with this seq may be handed on; False = its anchor must be saved first: WAIT_ANCHOR. Reader only.
cdef bint host_anchored(Host *h, uint64_t seq) noexcept nogil
# The reader announces what it will wait for; tries again; waits (timeout 0 withdraws). A wait may end early.
cdef uint32_t host_wait_ticket(Host *h, uint32_t what) noexcept nogil
cdef void host_wait(Host *h, uint32_t ticket, uint32_t timeout_ms) noexcept nogil
# Any thread: ends a wait (stop)
cdef void host_interrupt(Host *h) noexcept nogil
# The host's reader only; NULL = no memory
cdef Slot *host_push_slot(Host *h, uint64_t upstream_seq, uint64_t synced_end) noexcept nogil
# Verdict SLOT_DROPPED and the host's counter; slot may be NULL. Any thread.
cdef void host_drop_slot(Host *h, Slot *slot, int reason) noexcept nogil
# One collector thread: moves and returns the cursor; oldest_pending = synced_at_arrival of the oldest slot left,
# or 2^64-1
cdef uint64_t host_collect(Host *h, uint64_t synced_end, uint64_t *oldest_pending) noexcept nogil
cdef bint host_is_duplicate(const Host *h, uint32_t epoch, uint64_t upstream_seq) noexcept nogil
