# distutils: libraries = pthread
"""The loop of a frame worker, and what it does with a frame once judged: log it, drop it, or hold it.

Promises: frames of one DID leave in the order they came (R4); nothing leaves that `judge` has not passed; a frame that
waits for an account or a key waits inside its host's credit (R5) and the worker goes on with others; every frame ends
in exactly one of: logged, dropped with a reason, let go at shutdown with its host's cursor below it.
Assumes: one thread per Worker, which alone touches its table, holds and scratch; answers come by messages.
No Python, no allocation per frame: holds and scratch are reused, messages come with answers only.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset

from zlay._fast.accounts cimport (
    A_ASKING_STATUS, A_BROKEN_AGAIN, A_DESYNCHRONIZED, A_ELSEWHERE, A_KNOWN, A_LOADED, A_LOADING, A_RENEWING,
    A_RESOLVING, A_RESYNCING, A_STALE, ID_NO_KEY, ID_OK, ID_UNKNOWN, Account, Hold, account_did, account_find,
    account_identity_us, account_insert, account_key, account_set_key, account_stale_us, account_touch_dirty,
    table_free, table_init,
)
from zlay._fast.crypto cimport SigningKey, key_cache_free, key_cache_init, key_is, key_parse
from zlay._fast.dirty cimport DirtyRows, dirty_collect
from zlay._fast.holds cimport (
    hold_append, hold_end, hold_is_over, hold_is_unanswered, hold_next, hold_of, holds_free, holds_init, holds_tick,
)
from zlay._fast.host cimport Host, host_drop_slot, host_give_credit, host_give_share
from zlay._fast.includes.atomics cimport (
    zl_add64_relaxed, zl_bump64, zl_futex_wake, zl_load32, zl_load64, zl_monotonic_us, zl_realtime_us, zl_store32,
    zl_store64, zl_sub64,
)
from zlay._fast.includes.crash_points cimport zl_crash_point
from zlay._fast.includes.threads cimport zl_thread_start
from zlay._fast.judge cimport REV_CLOCK_BITS, Judgement, judge_event, judge_message
from zlay._fast.log cimport LOG_TAKEN_DOWN, LogEvent, log_append
from zlay._fast.mem cimport zl_free
from zlay._fast.pool cimport Frame, pool_give
from zlay._fast.queue cimport Node, inlet, inlet_take, inlet_wait
from zlay._fast.requests cimport (
    REQUEST_LOAD, REQUEST_RECHECK, REQUEST_REFRESH, REQUEST_RENEW, REQUEST_RESOLVE, REQUEST_RESYNC, REQUEST_STATUS,
    Ticket, request_put,
)
from zlay._fast.scratch cimport scratch_free, scratch_init, scratch_reset
from zlay._fast.takedown cimport LOCAL_CLOSED, LOCAL_NOT_LOADED, local_answer, local_apply
from zlay._fast.verdicts cimport (
    K_ACCOUNT, K_COMMIT, K_IDENTITY, K_SYNC, R_ACCOUNT_TAKEDOWN, R_HOLD_ACCOUNT, R_HOLD_BEHIND, R_HOLD_EXPIRED,
    R_HOLD_IDENTITY, R_HOLD_STATUS, R_OK, R_SHUTDOWN, R_WORK_LIMIT, S_ACTIVE, V_DROP, V_HOLD, V_PASS, count_verdict,
)

cdef enum:
    STACK_BYTES = 1 << 20         # the tree code's recursion is limited to MST depth; far below this
    SCRATCH_BYTES = 48 << 20      # most that one frame of 5 MB may take for indexes and re-encoded nodes
    BATCH = 64                    # frames between two looks at the inbox
    TICK_MS = 100                 # holds are looked at this often
    STALL_MS = 10                 # between two looks for room in the account table
    WAITING = A_LOADING | A_RESOLVING | A_ASKING_STATUS


# Set before the workers start, or atomically later.
cdef uint64_t _hold_us = 30000000
cdef uint64_t _retry_us = 1000000
cdef uint64_t _unanswered_us = 20000000
cdef uint64_t _applied = 0        # atomic: events up to here are in SQL
cdef uint32_t _directory_down = 0  # atomic flags: the hold clock stands still
cdef uint32_t _store_down = 0
cdef uint32_t _clock_wrong = 0    # atomic flag: our own clock is off, nothing is judged
cdef uint64_t _clock_offset = 0   # atomic: what the wall clock should be ahead of the monotonic one; 0 = not known


cdef void set_hold_times(uint64_t hold_us, uint64_t retry_us, uint64_t unanswered_us) noexcept nogil:
    """Before the workers start."""
    global _hold_us, _retry_us, _unanswered_us
    _hold_us = hold_us
    _retry_us = retry_us
    _unanswered_us = unanswered_us


cdef void set_down(bint directory, bint store, bint clock) noexcept nogil:
    """Any thread."""
    zl_store32(&_directory_down, directory)
    zl_store32(&_store_down, store)
    zl_store32(&_clock_wrong, clock)


cdef void set_clock_offset(uint64_t offset_us) noexcept nogil:
    """Any thread: how far the wall clock should be ahead of the monotonic one; 0 = not known."""
    zl_store64(&_clock_offset, offset_us)


cdef inline void _look_at_clock(Worker *w) noexcept nogil:
    """Sets w.now_us; a wall clock that has been set back is not believed."""
    cdef uint64_t offset_us = zl_load64(&_clock_offset)
    w.now_us = zl_realtime_us()
    if offset_us != 0:
        w.now_us = max(w.now_us, zl_monotonic_us() + offset_us)


cdef void set_applied(uint64_t seq) noexcept nogil:
    """Any thread: events up to `seq` are in SQL, their accounts may be evicted."""
    zl_store64(&_applied, seq)


cdef uint64_t applied() noexcept nogil:
    return zl_load64(&_applied)


# --- the ends of a frame ---

cdef void _drop(Worker *w, Frame *f, int reason) noexcept nogil:
    """Counts it for the host and in all, moves the host's cursor on, gives credit and slab back."""
    count_verdict(V_DROP, reason)
    host_drop_slot(f.host, f.slot, reason)
    host_give_credit(f.host, f.cost)
    pool_give(f)


cdef void _let_go(Frame *f) noexcept nogil:
    """At shutdown: its slot stays open, so the host's cursor stays below and it comes again."""
    count_verdict(V_DROP, R_SHUTDOWN)
    host_give_credit(f.host, f.cost)
    pool_give(f)


cdef void _publish(Worker *w, Frame *f, Judgement *j) noexcept nogil:
    """Gives the event its place in the log; the account takes what it says."""
    cdef LogEvent e
    cdef Account *a = j.account
    cdef uint64_t seq
    memset(&e, 0, sizeof(e))
    e.data = f.data
    e.n = f.n
    e.seq_off = j.message.seq_off
    e.seq_len = j.message.seq_len
    e.kind = j.message.kind
    e.upstream_status = j.upstream_status
    e.effective_status = j.upstream_status
    if a.local_status != S_ACTIVE:
        e.flags = LOG_TAKEN_DOWN
        e.effective_status = a.local_status
    e.host_id = f.host.id
    e.host_epoch = f.epoch
    e.upstream_seq = f.upstream_seq
    e.recv_us = f.recv_us
    e.did_hash = f.did_hash
    e.host = f.host
    e.cost = f.cost
    seq = log_append(&e)
    if seq == 0:                  # closed: shutdown
        _let_go(f)
        return
    zl_crash_point(b"verdict.before")
    zl_store64(&f.slot.verdict, seq)
    zl_add64_relaxed(&f.host.published, 1)
    count_verdict(V_PASS, R_OK)
    a.upstream_status = j.upstream_status
    if j.message.kind == K_COMMIT or j.message.kind == K_SYNC:
        a.rev = j.message.rev
        zl_store64(&f.host.lag_us, f.recv_us - min(f.recv_us, a.rev >> REV_CLOCK_BITS))
        memcpy(a.data, j.commit.data + 4, 32)
        memcpy(a.head, j.commit.cid + 4, 32)
        zl_bump64(&w.inversions, j.message.n_ops)
    a.last_seq = seq
    a.flags |= A_KNOWN
    account_touch_dirty(&w.table, a)
    if j.chain_break:
        zl_bump64(&w.chain_breaks, 1)
        _desynchronize(w, a)
    if j.message.kind == K_IDENTITY:
        a.stale_s = <uint32_t>(f.recv_us // 1000000)
        a.stale_ms = <uint16_t>(f.recv_us // 1000 % 1000)
    if j.refresh_after:
        a.flags |= A_STALE        # asked for at the next commit at the latest
    if j.may_ask:
        _ask(w, a, REQUEST_RENEW, A_RENEWING, a.host_id, NULL)
        if j.refresh_after:
            _ask(w, a, REQUEST_RECHECK, 0, a.host_id, NULL)
    pool_give(f)                  # its credit comes back when the event is synced


# --- asking ---

cdef void _ask(Worker *w, Account *a, int kind, int flag, uint32_t host_id, Ticket *ticket) noexcept nogil:
    """Puts a question to a Python thread, unless the same one is open."""
    cdef uint8_t did[261]
    cdef uint32_t n
    if flag and a.flags & flag:
        return
    n = account_did(a, did)
    if request_put(kind, did, n, host_id, ticket) == 0:
        a.flags |= <uint16_t>flag
        if kind == REQUEST_REFRESH or kind == REQUEST_RENEW:
            zl_bump64(&w.refreshes, 1)


cdef void _desynchronize(Worker *w, Account *a) noexcept nogil:
    a.flags |= A_DESYNCHRONIZED
    if a.flags & A_RESYNCING:
        a.flags |= A_BROKEN_AGAIN     # the answer to come may know nothing of this one
    account_touch_dirty(&w.table, a)
    _ask(w, a, REQUEST_RESYNC, A_RESYNCING, a.host_id, NULL)


cdef void _ask_for(Worker *w, Account *a, int reason, bint force) noexcept nogil:
    """The question that the reason of the account's hold calls for."""
    cdef int kind
    cdef uint32_t on_account_of = a.hold.first.host.id
    if reason == R_HOLD_ACCOUNT:
        _ask(w, a, REQUEST_LOAD, A_LOADING, on_account_of, &a.hold.ticket)
    elif reason == R_HOLD_IDENTITY:
        kind = REQUEST_REFRESH if force or a.flags & A_STALE else REQUEST_RESOLVE
        _ask(w, a, kind, A_RESOLVING, on_account_of, &a.hold.ticket)
    elif reason == R_HOLD_STATUS:
        _ask(w, a, REQUEST_STATUS, A_ASKING_STATUS, a.host_id, &a.hold.ticket)


# --- holds ---

cdef void _hold(Worker *w, Account *a, Frame *f, int reason, bint force, bint wait) noexcept nogil:
    """Puts the frame behind what its account already waits with, or begins a hold; asks what has to be asked.

    `force` asks the directory itself; `wait` asks nothing now: the frame runs again after a while.
    """
    cdef Hold *h = hold_of(&w.holds, a)
    if h == NULL:                 # no memory to wait with; an open slot would hold the host's cursor for good
        _drop(w, f, R_WORK_LIMIT)
        return
    if f.held_since_us == 0 or reason != R_HOLD_BEHIND:
        count_verdict(V_HOLD, reason)
    hold_append(&w.holds, h, f)
    zl_crash_point(b"hold.after")
    if reason != R_HOLD_BEHIND:
        h.asked_us = w.holds.clock_us
        h.retry_us = zl_monotonic_us() + _retry_us
        if not wait:
            _ask_for(w, a, reason, force)


cdef void _resume(Worker *w, Account *a) noexcept nogil:
    """Runs what the account waits with again, in order; what must wait on begins a new hold, the rest is put behind."""
    cdef uint64_t failing_us
    if a.hold == NULL:
        return
    if zl_load32(&_clock_wrong):  # nothing is judged now; the first tick after that runs it
        a.hold.retry_us = 0
        return
    failing_us = a.hold.failing_us
    _run_held(w, hold_end(&w.holds, a.hold))
    if a.hold != NULL:
        a.hold.failing_us = failing_us


cdef void _run_held(Worker *w, Frame *frames) noexcept nogil:
    while frames != NULL:
        _run(w, hold_next(&w.holds, &frames))


cdef inline bint _is_strangers(const Account *a, const Frame *f) noexcept nogil:
    """Whether the frame came from another host than the one that the account is known to live on."""
    return a.identity == ID_OK and (a.host_id != f.host.id or (a.flags & A_ELSEWHERE) != 0)


cdef void _note_failure(Worker *w, Hold *h) noexcept nogil:
    """Its DID got no answer though others did: what has waited too long since that was first so is dropped.

    What is younger runs again, and asks anew; so does what only waits behind the question of a stranger, who names an
    account of another host: that must cost neither its events nor its good name.
    """
    cdef Account *a = h.account
    cdef uint64_t failing_us = h.failing_us
    cdef Frame *frames
    cdef bint own = False         # a frame of the account's own is among what is dropped
    if failing_us == 0:
        h.failing_us = w.holds.clock_us
        return
    if not hold_is_over(&w.holds, failing_us, h.first, _hold_us) or zl_load32(&_clock_wrong):
        return
    frames = hold_end(&w.holds, h)
    while frames != NULL and hold_is_over(&w.holds, failing_us, frames, _hold_us):
        if not _is_strangers(a, frames):
            if not own and a.identity == ID_OK and not a.flags & A_STALE and frames.retried == 0:
                break
            own = True
        _drop(w, hold_next(&w.holds, &frames), R_HOLD_EXPIRED)
    if own and a.flags & A_KNOWN:
        _desynchronize(w, a)
    _run_held(w, frames)
    if a.hold != NULL:
        a.hold.failing_us = failing_us


cdef void _tick(Worker *w) noexcept nogil:
    """Moves the hold clock, puts questions again that nobody has answered, or not conclusively."""
    cdef uint64_t now = zl_monotonic_us()
    cdef Hold *h
    cdef Hold *after
    cdef Hold *last = w.holds.newest
    cdef Account *a
    cdef bint clock_wrong = zl_load32(&_clock_wrong)
    holds_tick(&w.holds, now, not (zl_load32(&_directory_down) or zl_load32(&_store_down) or clock_wrong))
    h = NULL if clock_wrong else w.holds.oldest
    while h != NULL:
        after = h.newer if h != last else NULL    # holds begun by this very walk wait for the next one
        a = h.account
        if now >= h.retry_us and (not a.flags & WAITING or hold_is_unanswered(&w.holds, h, _unanswered_us)):
            a.flags &= ~<uint16_t>WAITING
            _resume(w, a)
        h = after


# --- one frame ---

cdef Account *_account(Worker *w, Frame *f, bint *stalled) noexcept nogil:
    """The account's entry, made when it is not there; NULL only at shutdown.

    When every entry is pinned (the database is behind) the worker waits here for the applier: holding the frame would
    not help, since a hold pins more. Messages are answered meanwhile, which uses the scratch: `stalled` says so.
    """
    cdef const uint8_t *did = f.data + f.did_off
    cdef Account *a = account_find(&w.table, f.did_hash, did, f.did_n)
    while a == NULL:
        a = account_insert(&w.table, f.did_hash, did, f.did_n, zl_load64(&_applied))
        if a == NULL:
            if zl_load32(&w.stopping):
                return NULL
            if not stalled[0]:
                zl_bump64(&w.stalls, 1)
            stalled[0] = True
            inlet_wait(w.inlet, STALL_MS, False)
            _look_at_clock(w)
            w.holds.ticked_us = zl_monotonic_us()   # holds do not grow old meanwhile
            _messages(w, False)
            a = account_find(&w.table, f.did_hash, did, f.did_n)
    return a


cdef int _judge(Worker *w, Frame *f, Account *a, Judgement *j) noexcept nogil:
    """A Reason; j says what goes with it. `a` is the account's entry when the caller knows it."""
    cdef bint stalled = False
    cdef int reason
    scratch_reset(&w.scratch)
    memset(j, 0, sizeof(Judgement))
    reason = judge_message(&w.scratch, f, j)
    if reason != R_OK:
        return reason
    j.account = a if a != NULL else _account(w, f, &stalled)
    if j.account == NULL:
        return R_SHUTDOWN
    if stalled:                   # the scratch was used in between
        a = j.account
        scratch_reset(&w.scratch)
        memset(j, 0, sizeof(Judgement))
        reason = judge_message(&w.scratch, f, j)
        if reason != R_OK:        # banned meanwhile
            return reason
        j.account = a
    return judge_event(&w.table, &w.scratch, &w.keys, f, w.now_us, j)


cdef void _run(Worker *w, Frame *f) noexcept nogil:
    """Judges one frame and does what the verdict says. The frame ends here, or goes to a hold."""
    cdef Judgement j
    cdef Account *a = NULL
    cdef int reason
    if f.did_off != 0:
        a = account_find(&w.table, f.did_hash, f.data + f.did_off, f.did_n)
        if a != NULL and a.hold != NULL:
            _hold(w, a, f, R_HOLD_BEHIND, False, False)
            return
    reason = _judge(w, f, a, &j)
    zl_bump64(&w.judged, 1)
    if reason == R_OK:
        _publish(w, f, &j)
    elif reason == R_SHUTDOWN:
        _let_go(f)
    elif j.hold:
        _hold(w, j.account, f, reason, j.force, j.wait)
    else:
        if reason == R_ACCOUNT_TAKEDOWN and j.message.kind == K_ACCOUNT:
            _set_upstream_status(w, j.account, j.upstream_status)   # what counts again when the takedown is lifted
        _drop(w, f, reason)


# --- messages from Python threads ---

cdef void _set_upstream_status(Worker *w, Account *a, uint8_t status) noexcept nogil:
    if a.upstream_status != status:
        a.upstream_status = status
        account_touch_dirty(&w.table, a)


cdef void _set_host(Worker *w, Account *a, uint32_t host_id) noexcept nogil:
    """The host that the DID document names; 0 = one that is not registered, which has no authority here."""
    if host_id == 0:
        a.flags |= A_ELSEWHERE
        return
    a.flags &= ~<uint16_t>A_ELSEWHERE
    if a.host_id == host_id:
        return
    if a.flags & A_KNOWN:
        zl_bump64(&w.moves, 1)
        account_touch_dirty(&w.table, a)
    a.host_id = host_id


cdef bint _set_key(Worker *w, Account *a, const Message_ *m) noexcept nogil:
    """Takes the message's key, unless it is the one that is here: no key is parsed again while it is. False: no key."""
    cdef const SigningKey *known = account_key(&w.table, a)
    cdef SigningKey key
    if known != NULL and key_is(known, m.key_type, m.point, m.point_n):
        return True
    zl_bump64(&w.keys_parsed, 1)
    if key_parse(m.key_type, m.point, m.point_n, &key) != 0:
        account_set_key(&w.table, a, NULL)
        return False
    account_set_key(&w.table, a, &key)
    return True


cdef void _take_identity(Worker *w, Account *a, const Message_ *m) noexcept nogil:
    """A conclusive answer replaces what was known. A key that does not parse is no key (R_NO_KEY)."""
    a.identity = m.outcome
    a.identity_s = <uint32_t>(m.identity_us // 1000000)
    a.identity_ms = <uint16_t>(m.identity_us // 1000 % 1000)
    if m.outcome == ID_OK or m.outcome == ID_NO_KEY:
        _set_host(w, a, m.host_id)
    if m.outcome != ID_OK:
        account_set_key(&w.table, a, NULL)
    elif not _set_key(w, a, m):
        a.identity = ID_NO_KEY


cdef void _on_account(Worker *w, Account *a, const Message_ *m) noexcept nogil:
    """The loader's answer. What the table learned since it was asked is newer than SQL and stays."""
    a.flags &= ~<uint16_t>A_LOADING
    if m.known and not a.flags & A_KNOWN:
        a.flags |= A_KNOWN
        a.upstream_status = m.upstream_status
        a.local_status = m.local_status
        if a.identity == ID_UNKNOWN:
            a.host_id = m.account_host_id
        a.rev = m.rev
        memcpy(a.data, m.data, 32)
        memcpy(a.head, m.head, 32)
        if m.desynchronized:
            _desynchronize(w, a)
    a.flags |= A_LOADED
    if m.has_identity and m.identity_us >= account_identity_us(a):
        _take_identity(w, a, m)
    elif a.identity == ID_OK and a.key_slot == 0:
        a.identity = ID_UNKNOWN   # the clock has taken the key, and SQL has none that is as new


cdef void _on_identity(Worker *w, Account *a, const Message_ *m) noexcept nogil:
    """The directory's answer, or that it gave none. Runs what waits, or lets it wait for another question."""
    cdef bint waited = a.flags & A_RESOLVING
    a.flags &= ~<uint16_t>(A_RESOLVING | A_RENEWING)
    if m.outcome != ID_UNKNOWN:
        _take_identity(w, a, m)
        # Asked before the #identity came, it may be what that has changed. (Later than now: the clock was set back.)
        if m.identity_us + 1000 > account_stale_us(a) or account_stale_us(a) > w.now_us + _retry_us:
            a.flags &= ~<uint16_t>A_STALE
    if a.hold == NULL:
        return
    if m.outcome != ID_UNKNOWN:
        a.hold.failing_us = 0
        if not a.flags & A_STALE:
            _resume(w, a)
            return
    a.hold.retry_us = zl_monotonic_us() + _retry_us    # the tick asks again then
    if m.own_failure and waited:
        _note_failure(w, a.hold)


cdef void _on_resync(Worker *w, Account *a, const Message_ *m) noexcept nogil:
    a.flags &= ~<uint16_t>A_RESYNCING
    if a.flags & A_BROKEN_AGAIN:
        a.flags &= ~<uint16_t>A_BROKEN_AGAIN
        _ask(w, a, REQUEST_RESYNC, A_RESYNCING, a.host_id, NULL)
    elif m.outcome:
        a.flags &= ~<uint16_t>A_DESYNCHRONIZED
        account_touch_dirty(&w.table, a)


cdef void _on_local(Worker *w, Account *a, const Message_ *m) noexcept nogil:
    """An operator's word on the account, which must be here for it; the sender tries again until it is."""
    if a == NULL:
        a = account_insert(&w.table, m.hash, m.did, m.did_n, zl_load64(&_applied))
    if a == NULL or not a.flags & A_LOADED:
        if a != NULL:
            _ask(w, a, REQUEST_LOAD, A_LOADING, a.host_id, NULL)
        local_answer(m.change, LOCAL_NOT_LOADED)
    elif local_apply(m.change, a, w.now_us):
        account_touch_dirty(&w.table, a)


cdef void _on_message(Worker *w, Message_ *m) noexcept nogil:
    cdef Account *a = account_find(&w.table, m.hash, m.did, m.did_n)
    if m.kind == M_LOCAL:
        _on_local(w, a, m)
        return
    if a == NULL:                 # evicted since, or told unasked: nobody waits
        return
    if m.kind == M_ACCOUNT:
        _on_account(w, a, m)
        _resume(w, a)
    elif m.kind == M_IDENTITY:
        _on_identity(w, a, m)
    elif m.kind == M_STATUS:
        a.flags &= ~<uint16_t>A_ASKING_STATUS
        a.status_s = <uint32_t>(w.now_us // 1000000)
        if m.outcome:
            _set_upstream_status(w, a, m.upstream_status)
        _resume(w, a)
    elif m.kind == M_RESYNC:
        _on_resync(w, a, m)


cdef void _collect(Worker *w, DirtyRows *rows) noexcept nogil:
    dirty_collect(&w.table, rows)
    zl_store32(&rows.done, 1)
    zl_futex_wake(&rows.done, 1)


cdef void _messages(Worker *w, bint ending) noexcept nogil:
    """Takes what Python threads have sent, in order. At the end only those who wait for us are answered."""
    cdef Node *node = inlet_take(&w.inlet.messages)
    cdef Message_ *m
    while node != NULL:
        m = <Message_ *>node
        node = node.next
        if m.kind == M_COLLECT:
            _collect(w, m.rows)
        elif not ending:
            _on_message(w, m)
        elif m.kind == M_LOCAL:
            local_answer(m.change, LOCAL_CLOSED)
        zl_free(m)


# --- the loop ---

cdef void _frames(Worker *w, Frame *f) noexcept nogil:
    """Runs a list of frames, looking at messages and the clock in between; lets the rest go when stopped."""
    cdef Frame *after
    cdef Host *h
    cdef uint32_t cost
    cdef int n = 0
    while f != NULL:
        after = f.next
        f.next = NULL
        h = f.host
        cost = f.cost
        zl_sub64(&w.inlet.queued, 1)
        zl_sub64(&w.inlet.queued_bytes, cost)
        if zl_load32(&w.stopping):
            _let_go(f)
        else:
            _run(w, f)
        host_give_share(h, cost)  # whatever became of it: published, dropped, held
        f = after
        n += 1
        if n % BATCH == 0:
            _look_at_clock(w)
            _messages(w, False)
            _tick_when_due(w)


cdef void _tick_when_due(Worker *w) noexcept nogil:
    if zl_monotonic_us() - w.holds.ticked_us >= TICK_MS * 1000:
        _tick(w)


cdef void *_main(void *arg) noexcept nogil:
    cdef Worker *w = <Worker *>arg
    cdef Frame *f
    cdef uint64_t began
    cdef bint clock_wrong
    w.holds.ticked_us = zl_monotonic_us()
    _look_at_clock(w)
    while not zl_load32(&w.stopping):
        _look_at_clock(w)
        _messages(w, False)
        f = NULL
        clock_wrong = zl_load32(&_clock_wrong)
        if not clock_wrong:
            f = <Frame *>inlet_take(&w.inlet.frames)
        if f != NULL:
            began = zl_monotonic_us()
            _frames(w, f)
            zl_bump64(&w.busy_us, zl_monotonic_us() - began)
        else:
            inlet_wait(w.inlet, TICK_MS, not clock_wrong)
        _tick_when_due(w)
    worker_abandon(w)
    return NULL


cdef void worker_abandon(Worker *w) noexcept nogil:
    """At the end: lets queued and held frames go and answers who waits for us."""
    cdef Frame *f
    _frames(w, <Frame *>inlet_take(&w.inlet.frames))
    while w.holds.oldest != NULL:
        f = hold_end(&w.holds, w.holds.oldest)
        while f != NULL:
            _let_go(hold_next(&w.holds, &f))
    _messages(w, True)


cdef int worker_init(Worker *w, uint32_t index, uint32_t entries, uint32_t keys) noexcept nogil:
    """Takes the worker's memory. 0, or -1; on failure worker_free cleans up."""
    memset(w, 0, sizeof(Worker))
    w.index = index
    holds_init(&w.holds)
    w.inlet = inlet(index)
    memset(w.inlet, 0, sizeof(w.inlet[0]))
    if scratch_init(&w.scratch, SCRATCH_BYTES) != 0:
        return -1
    if key_cache_init(&w.keys) != 0:
        return -1
    return table_init(&w.table, entries, keys)


cdef int worker_start(Worker *w) noexcept nogil:
    """0, or an errno."""
    cdef char name[16]
    snprintf(name, sizeof(name), b"zlay-worker-%u", w.index)
    return zl_thread_start(&w.thread, STACK_BYTES, name, _main, w)


cdef void worker_free(Worker *w) noexcept nogil:
    """After the thread has ended: gives all memory back."""
    holds_free(&w.holds)
    table_free(&w.table)
    key_cache_free(&w.keys)
    scratch_free(&w.scratch)
