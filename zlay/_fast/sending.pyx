"""What goes out to a consumer: ranges of the log, info and error frames, control frames, and the close.

Promises: frames whole and in order; nothing stands between two halves of a frame; an end is told by a close frame,
after an error frame where there is something to say.

Threads: a Consumer's own thread calls everything with it. Settings are constant while consumers live; totals are
atomics.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, strncpy

from atomics cimport zl_add64_relaxed, zl_bump64, zl_load64_relaxed, zl_store32, zl_store64
from crash_points cimport zl_crash_point
from fileio cimport EAGAIN, EINTR, MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_WR, errno, send, sendfile, shutdown

from zlay._fast.consumer cimport C_CLOSING, C_FINISHING, C_STREAMING, END_LOG, END_RETENTION, Consumer
from zlay._fast.hidden cimport hidden_generation
from zlay._fast.mem cimport MEM_CONSUMER, zl_free, zl_malloc
from zlay._fast.ranges cimport (RANGE_NONE, RANGE_READY, RANGE_RETIRED, range_cut, range_is_stale, range_next,
                                range_overdue)
from zlay._fast.segments cimport segments_count_damage, segments_oldest

cdef enum:
    CLOSE_WAIT_US = 3000000      # for the consumer's close, after ours
    CLOSE_INTERNAL = 1011

# --- settings ---
cdef uint64_t _ping_us = 30000000
cdef uint64_t _error_us = 5000000
cdef uint8_t *_too_slow = NULL   # the ConsumerTooSlow error frame; owned, as the next
cdef uint32_t _too_slow_n = 0
cdef uint8_t *_outdated = NULL   # the #info OutdatedCursor frame
cdef uint32_t _outdated_n = 0

# --- atomics ---
cdef uint64_t _bytes = 0         # sent to all, ever
cdef uint64_t _events = 0


cdef int sending_open(bytes too_slow, bytes outdated, uint64_t ping_us, uint64_t error_us) except -1:
    """The two frames with their WebSocket headers, of some bytes each. MemoryError."""
    global _too_slow, _too_slow_n, _outdated, _outdated_n, _ping_us, _error_us
    _too_slow, _too_slow_n = _copy(too_slow), <uint32_t> len(too_slow)
    _outdated, _outdated_n = _copy(outdated), <uint32_t> len(outdated)
    if _too_slow == NULL or _outdated == NULL:
        sending_close()
        raise MemoryError
    _ping_us, _error_us = ping_us, error_us
    return 0


cdef uint8_t *_copy(bytes frame) noexcept:
    cdef uint8_t *p = <uint8_t *> zl_malloc(MEM_CONSUMER, <size_t> max(len(frame), 1))
    if p != NULL:
        memcpy(p, PyBytes_AS_STRING(frame), len(frame))
    return p


cdef void sending_close() noexcept nogil:
    global _too_slow, _outdated
    zl_free(_too_slow)
    zl_free(_outdated)
    _too_slow = _outdated = NULL


cdef uint64_t sending_events() noexcept nogil:
    return zl_load64_relaxed(&_events)


cdef uint64_t sending_bytes() noexcept nogil:
    return zl_load64_relaxed(&_bytes)


cdef uint64_t sending_ping_us() noexcept nogil:
    return _ping_us


cdef uint64_t sending_error_us() noexcept nogil:
    return _error_us


cdef void sending_too_slow(Consumer *c, int reason, uint64_t now) noexcept nogil:
    sending_finish(c, reason, CLOSE_POLICY, b"ConsumerTooSlow", _too_slow, _too_slow_n, now + _error_us)


cdef void _put_control(Consumer *c, uint8_t opcode, const uint8_t *payload, uint32_t n) noexcept nogil:
    """Appends an unmasked control frame to out, which has room: a pong and a close at most."""
    c.out[c.out_n] = 0x80 | opcode
    c.out[c.out_n + 1] = <uint8_t> n
    memcpy(&c.out[c.out_n + 2], payload, n)
    c.out_n += 2 + n


cdef void _settle(Consumer *c) noexcept nogil:
    """A range that has been sent to its end is counted, and the position moves on."""
    if c.range.offset < c.range.end or c.range.n == 0:
        return
    zl_bump64(&c.events, c.range.n)
    zl_add64_relaxed(&_events, c.range.n)
    zl_store64(&c.next_seq, c.next_seq + c.range.n)
    c.range.n = 0


cdef void sending_cut(Consumer *c) noexcept nogil:
    """Nothing after the frame being sent; where none is under way, that is the end of the range."""
    range_cut(&c.range)
    _settle(c)


cdef void _lead_by(Consumer *c, uint8_t *lead, uint32_t n) noexcept nogil:
    """A frame of all consumers in the place of the last lead, which has been sent."""
    if c.lead_owned:
        zl_free(c.lead)
    c.lead = lead
    c.lead_n = n
    c.lead_at = 0
    c.lead_owned = False


cdef void sending_finish(Consumer *c, int reason, uint16_t code, const char *text, uint8_t *lead, uint32_t lead_n,
                         uint64_t deadline_us) noexcept nogil:
    """End in order: the frame being sent, then lead (if any) and a close frame, then wait for the consumer's."""
    if c.state != C_STREAMING:
        return
    zl_store32(&c.state, C_FINISHING)
    c.reason = <uint32_t> reason
    c.deadline_us = deadline_us
    c.close_wanted = True
    c.close_code = code
    strncpy(c.close_reason, text, sizeof(c.close_reason) - 1)
    if c.lead_at == c.lead_n and lead != NULL:       # half of an info frame cannot be taken back: no error frame then
        _lead_by(c, lead, lead_n)
    if c.range.offset < c.range.end:
        sending_cut(c)


cdef void _put_close(Consumer *c) noexcept nogil:
    cdef uint8_t payload[34]
    cdef uint32_t n = 0
    payload[0] = <uint8_t> (c.close_code >> 8)
    payload[1] = <uint8_t> (c.close_code & 0xFF)
    while c.close_reason[n]:
        payload[2 + n] = <uint8_t> c.close_reason[n]
        n += 1
    _put_control(c, 8, payload, 2 + n if c.close_code else 0)
    c.close_wanted = False


cdef void _fill(Consumer *c, uint64_t now) noexcept nogil:
    """At a frame boundary with nothing to send: control frames that are due."""
    c.out_n = c.out_at = 0
    if c.pong_wanted and c.state != C_CLOSING:
        _put_control(c, 10, c.pong, c.pong_n)
        c.pong_wanted = False
    if c.close_wanted:
        _put_close(c)
    elif c.out_n == 0 and c.state == C_STREAMING and now - c.last_write_us >= _ping_us:
        _put_control(c, 9, b"", 0)


cdef int _sent(Consumer *c, ssize_t n) noexcept nogil:
    """Judges the result of a send or sendfile: a Flush; FLUSH_MORE = n bytes went out."""
    if n > 0:
        return FLUSH_MORE
    if n < 0 and errno == EINTR:
        return FLUSH_MORE
    if n < 0 and errno == EAGAIN:
        return FLUSH_BLOCKED
    return FLUSH_FAILED


cdef void _begin_later(Consumer *c) noexcept nogil:
    """Retention has taken a place away since it was given out: the window begins later now (A15). Lead is sent."""
    zl_store64(&c.next_seq, segments_oldest())
    if c.told_outdated:
        return
    c.told_outdated = True
    _lead_by(c, _outdated, _outdated_n)


cdef int sending_flush(Consumer *c, uint64_t now) noexcept nogil:
    """One write, of whatever comes next: the rest of a range, lead, control frames, a new range. A Flush."""
    cdef ssize_t n
    cdef int result
    if range_is_stale(&c.range):
        sending_cut(c)
        c.range.generation = hidden_generation()     # the frame being sent is sent to its end all the same
    if c.range.offset < c.range.end:
        zl_crash_point(b"send.before")
        n = sendfile(c.fd, c.range.segment.frames_fd, &c.range.offset, <size_t> (c.range.end - c.range.offset))
        zl_crash_point(b"send.after")
        result = _sent(c, n)
        if n > 0:
            zl_bump64(&c.bytes, <uint64_t> n)
            zl_add64_relaxed(&_bytes, <uint64_t> n)
        elif n == 0:                                 # shorter than its index says, in the middle of a frame
            segments_count_damage(1)
            c.reason = END_LOG
            return FLUSH_FAILED
        _settle(c)
    elif c.lead_at < c.lead_n:
        n = send(c.fd, c.lead + c.lead_at, c.lead_n - c.lead_at, MSG_DONTWAIT | MSG_NOSIGNAL)
        result = _sent(c, n)
        if n > 0:
            c.lead_at += <uint32_t> n
    elif c.out_at < c.out_n:
        n = send(c.fd, c.out + c.out_at, c.out_n - c.out_at, MSG_DONTWAIT | MSG_NOSIGNAL)
        result = _sent(c, n)
        if n > 0:
            c.out_at += <uint32_t> n
    else:
        _fill(c, now)
        if c.out_n:
            return FLUSH_MORE
        if c.state == C_FINISHING:                   # our close is out
            zl_store32(&c.state, C_CLOSING)
            c.deadline_us = min(c.deadline_us, now + CLOSE_WAIT_US)
            shutdown(c.fd, SHUT_WR)
        if c.state != C_STREAMING:
            return FLUSH_IDLE
        result = range_next(&c.range, &c.next_seq)
        if result == RANGE_READY:
            return FLUSH_MORE
        if result == RANGE_NONE:
            return FLUSH_IDLE
        if result == RANGE_RETIRED and c.events == 0 and not range_overdue(&c.range):
            _begin_later(c)
        elif result == RANGE_RETIRED:
            sending_too_slow(c, END_RETENTION, now)
        else:
            sending_finish(c, END_LOG, CLOSE_INTERNAL, b"", NULL, 0, now + _error_us)
        return FLUSH_MORE
    if n > 0:
        c.last_write_us = now
        if c.blocked_us:
            zl_store64(&c.blocked_us, 0)
    return result
