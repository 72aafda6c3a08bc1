"""The verdict on one frame, given what is known of its account (design 5)."""

from libc.stdint cimport uint8_t, uint64_t

from zlay._fast.accounts cimport Account, Table
from zlay._fast.commit cimport Commit
from zlay._fast.crypto cimport KeyCache
from zlay._fast.message cimport Message
from zlay._fast.pool cimport Frame
from zlay._fast.scratch cimport Scratch

cdef enum:
    REV_CLOCK_BITS = 10        # a TID's low bits (C5); above them, microseconds

cdef struct Judgement:
    Message message
    Commit commit              # of a #commit or #sync that got that far
    Account *account
    uint8_t upstream_status    # the account's, once the event is passed on
    bint hold                  # the reason is one to hold, not to drop
    bint force                 # hold: ask the directory itself, what is known does not do
    bint wait                  # hold: has just been asked, run again in a while
    bint chain_break           # passes, but does not follow from the stored state
    bint refresh_after         # an #identity: the key is not to be used again until refreshed
    bint renew                 # passes with a key that is merely old
    bint may_ask               # refresh_after, renew: the host's rate allows a question that nobody waits for

# Both give a Reason. Frame.retried is judge's own.
cdef int judge_message(Scratch *s, Frame *f, Judgement *j) noexcept nogil
cdef int judge_event(Table *t, Scratch *s, KeyCache *keys, Frame *f, uint64_t now_us, Judgement *j) noexcept nogil
