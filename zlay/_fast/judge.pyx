"""What may leave: the order of all checks on one frame (design 5, protocol A to E).

Promises: R_OK only for an event of the account's own host whose account is active and, for #commit and #sync, whose
signature, blocks, tree and revision hold. No I/O, no clock of its own: what it needs to know it is given, what it lacks
it names as a reason to hold. Cheap and certain checks come first; a signature costs a hundred times the rest.
Runs in the worker that owns the table, the scratch and the keys.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from zlay._fast.accounts cimport (
    A_ELSEWHERE, A_KNOWN, A_LOADED, A_STALE, ID_NO_KEY, ID_NO_PDS, ID_NOT_FOUND, ID_OK, ID_TOMBSTONED, ID_UNKNOWN,
    Account, Table, account_identity_us, account_key, account_stale_us,
)
from zlay._fast.commit cimport commit_open, commit_verify
from zlay._fast.crypto cimport KeyCache, SigningKey
from zlay._fast.host cimport Host, host_is_duplicate
from zlay._fast.includes.atomics cimport zl_cas64, zl_load32, zl_load64
from zlay._fast.message cimport Message, message_decode
from zlay._fast.mst cimport tree_check
from zlay._fast.pool cimport Frame
from zlay._fast.scratch cimport Scratch
from zlay._fast.verdicts cimport (
    K_ACCOUNT, K_COMMIT, K_IDENTITY, K_INFO, K_OBSOLETE, K_SYNC, R_ACCOUNT_INACTIVE, R_ACCOUNT_TAKEDOWN,
    R_DID_NOT_FOUND, R_DID_TOMBSTONED, R_DUPLICATE, R_FRAME_INFO, R_FRAME_NO_ACCOUNT, R_FRAME_OBSOLETE,
    R_HOLD_ACCOUNT, R_HOLD_IDENTITY, R_HOLD_STATUS, R_HOST_BANNED, R_NO_KEY, R_NO_PDS, R_OK, R_REV_FUTURE,
    R_REV_STALE, R_SIG_INVALID, R_SYNC_NOOP, R_WRONG_HOST, S_ACTIVE, S_DESYNCHRONIZED, S_THROTTLED,
)

cdef enum Retry:                  # bits of Frame.retried: what this frame has already caused
    RETRY_HOST = 1
    RETRY_SIGNATURE = 2
    RETRY_STATUS = 4
    RETRY_WAIT = 8                # the last run asked; this one waits before the next
    RETRY_NOT_FOUND = 16          # no such DID was the answer: a second question, after a wait

cdef enum:
    SECOND_US = 1000000
    REV_AHEAD_US = 5 * 60 * 1000000   # C6: "a few minutes"; the reference relay's five
    IDENTITY_OLD_S = 24 * 3600        # G5: renewed in the background after a day
    NEGATIVE_S = 120                  # G5: "no such DID" and the like are asked again after two minutes
    STATUS_S = 60                     # a PDS is asked about an inactive account at most this often
    REFRESH_EVERY_US = 100000         # forced look-ups that one host may cause (E19): ten a second,
    REFRESH_BURST_US = 5000000        # fifty at once
    LAG_US = 6000000                  # replicas of the directory may lag this long behind an #identity (design 5)
    NEWS_LAG_US = 500000              # ... and behind a new DID: "a replica may be some 100 ms behind" (G5)


cdef int judge_message(Scratch *s, Frame *f, Judgement *j) noexcept nogil:
    """Encoding, fields and stream: all that needs no account."""
    cdef Message *m = &j.message
    cdef int reason
    if zl_load32(&f.host.banned):
        return R_HOST_BANNED
    reason = message_decode(s, f.data, f.n, m)
    if reason != R_OK:
        return reason
    if m.kind == K_INFO:
        return R_FRAME_INFO
    if m.kind == K_OBSOLETE:
        return R_FRAME_OBSOLETE
    if m.did.n == 0:
        return R_FRAME_NO_ACCOUNT
    if f.upstream_seq != m.seq or f.did_off != <uint32_t>(m.did.p - f.data) or f.did_n != m.did.n:
        return R_FRAME_NO_ACCOUNT     # the reader's look and the decoder's must agree, or order would be lost
    if host_is_duplicate(f.host, f.epoch, f.upstream_seq):
        return R_DUPLICATE
    return R_OK


cdef bint _may_refresh(Host *h, uint64_t now_us) noexcept nogil:
    """One forced look-up for this host, if its rate allows (a leaky bucket in one word; any worker)."""
    cdef uint64_t due, old
    while True:
        old = zl_load64(&h.refresh_due_us)
        due = old if old > now_us else now_us
        if due > now_us + REFRESH_BURST_US + REFRESH_EVERY_US:
            due = now_us              # the clock was set back
        if due - now_us > REFRESH_BURST_US:
            return False
        if zl_cas64(&h.refresh_due_us, old, due + REFRESH_EVERY_US):
            return True


cdef inline bint _asked_since(const Account *a, const Frame *f) noexcept nogil:
    """Whether the directory was asked after the frame came. Both in whole milliseconds."""
    return account_identity_us(a) + 1000 > f.recv_us


cdef bint _ask_again(Account *a, Frame *f, int bit, uint64_t now_us, Judgement *j) noexcept nogil:
    """Whether what contradicts the stored identity is worth another look at the directory (E2, E4): then it is held.

    Not when the answer is younger than the frame, and until there is one: a directory that fails makes nothing
    conclusive. For some seconds after an #identity its replicas may lag, so that until then each answer is doubted.
    """
    cdef bint lagging = now_us < account_stale_us(a) + LAG_US
    if f.retried & bit:
        if not lagging:
            # (From the future: the clock was set back, and no answer would be young enough.)
            j.force = not _asked_since(a, f) and f.recv_us < now_us + SECOND_US
            return j.force
        f.retried ^= RETRY_WAIT
        j.wait = (f.retried & RETRY_WAIT) != 0
    elif _asked_since(a, f) and not lagging:
        return False
    if not j.wait and not _may_refresh(f.host, now_us):
        return False
    f.retried |= <uint8_t>bit
    j.force = True
    return True


cdef inline int _hold(Judgement *j, int reason) noexcept nogil:
    j.hold = True
    return reason


cdef bint _not_found_again(Account *a, Frame *f, uint64_t now_us, Judgement *j) noexcept nogil:
    """Whether "no such DID" is worth a second question, a second later (G5): then the frame is held.

    It is for the frame that caused the question, and for an #identity: an account may be newer than a replica. The
    second answer, which comes later than NEWS_LAG_US, is conclusive.
    """
    if account_identity_us(a) > f.recv_us + NEWS_LAG_US:
        return False
    if not f.retried & RETRY_NOT_FOUND:
        if not (_asked_since(a, f) or j.message.kind == K_IDENTITY) or not _may_refresh(f.host, now_us):
            return False
        f.retried |= RETRY_NOT_FOUND
        j.wait = True
        return True
    j.force = True
    return True


cdef int _identity(Account *a, Frame *f, uint64_t now_us, Judgement *j) noexcept nogil:
    """The account's DID document as far as it is known (E1)."""
    cdef uint64_t now_s = now_us // SECOND_US
    if a.flags & A_STALE or a.identity == ID_UNKNOWN:
        return _hold(j, R_HOLD_IDENTITY)
    if a.identity == ID_OK:
        if now_s > <uint64_t>a.identity_s + IDENTITY_OLD_S:
            j.renew = True
            j.may_ask = _may_refresh(f.host, now_us)
        return R_OK
    if now_s > <uint64_t>a.identity_s + NEGATIVE_S:
        j.force = True
        return _hold(j, R_HOLD_IDENTITY)
    if a.identity == ID_NOT_FOUND:
        return _hold(j, R_HOLD_IDENTITY) if _not_found_again(a, f, now_us, j) else R_DID_NOT_FOUND
    if a.identity == ID_TOMBSTONED:
        return R_DID_TOMBSTONED
    return R_NO_PDS if a.identity == ID_NO_PDS else R_OK


cdef inline bint _is_active(uint8_t status) noexcept nogil:
    return status == S_ACTIVE or status == S_DESYNCHRONIZED or status == S_THROTTLED


cdef int _activity(Account *a, Frame *f, uint64_t now_us, Judgement *j) noexcept nogil:
    """Inactive accounts publish nothing (E5); where only upstream said so, its PDS is asked once."""
    if not _is_active(a.local_status):
        return R_ACCOUNT_TAKEDOWN
    if _is_active(a.upstream_status):
        return R_OK
    if f.retried & RETRY_STATUS or now_us // SECOND_US < <uint64_t>a.status_s + STATUS_S:
        return R_ACCOUNT_INACTIVE
    f.retried |= RETRY_STATUS
    return _hold(j, R_HOLD_STATUS)


cdef int _repository(
    Table *t, Scratch *s, KeyCache *keys, Frame *f, uint64_t now_us, Judgement *j
) noexcept nogil:
    """A #commit or #sync: revision, blocks, signature, tree, chain (C, D, E6)."""
    cdef Account *a = j.account
    cdef const Message *m = &j.message
    cdef const SigningKey *key
    cdef bint is_commit = m.kind == K_COMMIT
    cdef int reason
    if a.rev != 0 and (m.rev < a.rev or (is_commit and m.rev == a.rev)):
        return R_REV_STALE
    if m.rev >> REV_CLOCK_BITS > now_us + REV_AHEAD_US:
        return R_REV_FUTURE
    if a.identity == ID_NO_KEY:
        return R_NO_KEY
    key = account_key(t, a)
    if key == NULL:               # the clock took it: SQL has it
        a.flags &= ~<unsigned short>A_LOADED
        return _hold(j, R_HOLD_ACCOUNT)
    reason = commit_open(s, m, &j.commit)
    if reason != R_OK:
        return reason
    if a.rev != 0 and m.rev == a.rev:
        return R_SYNC_NOOP if memcmp(j.commit.data + 4, a.data, 32) == 0 else R_REV_STALE
    reason = commit_verify(&j.commit, key, keys)
    if reason == R_SIG_INVALID and _ask_again(a, f, RETRY_SIGNATURE, now_us, j):
        return _hold(j, R_HOLD_IDENTITY)
    if reason != R_OK or not is_commit:
        return reason
    reason = tree_check(s, m, &j.commit, a.rev == 0 and not m.has_since)
    if reason != R_OK:
        return reason
    if a.rev != 0:
        j.chain_break = (
            m.prev_data == NULL or memcmp(m.prev_data + 4, a.data, 32) != 0 or not m.has_since or m.since != a.rev
        )
    return R_OK


cdef int judge_event(Table *t, Scratch *s, KeyCache *keys, Frame *f, uint64_t now_us, Judgement *j) noexcept nogil:
    """Identity, authority, account and repository, after judge_message and with j.account set."""
    cdef Account *a = j.account
    cdef const Message *m = &j.message
    cdef bint its_host
    cdef int reason
    if not a.flags & A_LOADED:
        return _hold(j, R_HOLD_ACCOUNT)
    j.upstream_status = a.upstream_status
    its_host = a.host_id == f.host.id and not a.flags & A_ELSEWHERE
    reason = _identity(a, f, now_us, j)
    if reason == R_DID_TOMBSTONED and m.kind == K_ACCOUNT and not m.active and a.flags & A_KNOWN and its_host:
        reason = R_OK                     # the end of an account of ours, told by the host that had it
    if reason != R_OK:
        return reason
    if not its_host:
        if _ask_again(a, f, RETRY_HOST, now_us, j):
            return _hold(j, R_HOLD_IDENTITY)
        return R_WRONG_HOST
    if m.kind == K_COMMIT or m.kind == K_SYNC:
        reason = _activity(a, f, now_us, j)
        return reason if reason != R_OK else _repository(t, s, keys, f, now_us, j)
    if m.kind == K_IDENTITY:              # flows for every account (E9)
        # A document asked for after the event came is what the event asks for.
        j.refresh_after = not _asked_since(a, f)
        j.may_ask = j.refresh_after and _may_refresh(f.host, now_us)
        return R_OK
    if m.kind == K_ACCOUNT:
        j.upstream_status = m.status
    return R_OK if _is_active(a.local_status) else R_ACCOUNT_TAKEDOWN  # ours stands, and was told when it was set
