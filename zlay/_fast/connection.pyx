"""One connection's thread: from bytes on a socket to frames in the workers' queues (design 3, R2, R5, R6).

Promises: complete messages only, each once, in order, with credit taken and a progress slot; a host that floods or
stalls makes nobody wait but its own thread; memory grows with what has arrived, never with what is announced.

Assumes: the sink is set (`connection_set_sink`), pool and host stand, the socket is connected, upgraded, non-blocking.

Threads: everything here runs in the one thread that reads the connection; only `stop` is written by others. It waits in
three places: poll (data, next ping, deadline), its host's wait word (credit, its share of the workers' queues, its
allowance, the first cursor to be saved), the pool's word. No Python anywhere.
"""

from libc.errno cimport ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strerror, strlen
from zlay._fast.allowance cimport allowance_spend, allowance_wait_us
from zlay._fast.host cimport (
    BAD_RUN_LIMIT, CREDIT_HOST_LIMIT, CREDIT_OK, CREDIT_POOL_LIMIT, Host, Slot, WAIT_ANCHOR, WAIT_CREDIT,
    WAIT_LIMIT, WAIT_NOTHING, WAIT_SHARE, host_anchored, host_connected, host_drop_slot, host_give_credit,
    host_give_share, host_push_slot, host_take_credit, host_take_share, host_wait, host_wait_ticket,
)
from zlay._fast.includes.atomics cimport (
    zl_add32, zl_bump64, zl_load32, zl_load64_relaxed, zl_monotonic_us, zl_realtime_us, zl_store32, zl_store64,
)
from zlay._fast.mem cimport zl_free
from zlay._fast.message cimport MAX_FRAME_BYTES, MAX_SPLICE_BYTES, Peek, Slice, message_is_whole, message_peek
from zlay._fast.pool cimport Frame, pool_cost, pool_give, pool_grow, pool_take, pool_ticket, pool_wait
from zlay._fast.verdicts cimport K_INFO, R_FRAME_TOO_LARGE, R_SEQ_REGRESSION, V_DROP, count_verdict
from zlay._fast.ws cimport (
    WS_CLOSE, WS_CONTROL_BYTES, WS_DATA, WS_FAIL, WS_MORE, WS_OP_CLOSE, WS_OP_PING, WS_OP_PONG, WS_OUT_BYTES, WS_PING,
    WS_SKIP, WS_SKIPPED, Cutter, ws_close, ws_control, ws_direct, ws_direct_room, ws_init, ws_step,
)

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long n, int timeout_ms)
    short POLLIN, POLLOUT

cdef extern from "sys/socket.h" nogil:
    ssize_t recv(int fd, void *p, size_t n, int flags)
    int shutdown(int fd, int how)
    int SHUT_WR

cdef extern from "sys/random.h" nogil:
    ssize_t getrandom(void *p, size_t n, unsigned int flags)

cdef extern from "string.h" nogil:
    void *memmem(const void *hay, size_t n, const void *needle, size_t needle_n)

cdef enum:
    DIRECT_BYTES = 8192          # a message with this much to come is received straight to its place
    DIRECT_MOST = 262144         # at once, so that one busy host still looks at its clock
    MISSED_PINGS = 4             # A9
    FLUSH_MS = 200               # for the last words to a peer that does not read
    WAIT_MS = 1000               # longest sleep on the host's word before looking again
    POOL_WAIT_MS = 100           # the pool wakes only a few waiters at a time
    DRAIN_READS = 4

cdef enum:                       # RFC 6455 7.4.1
    GOING_AWAY = 1001
    NO_STATUS = 1005

cdef SubmitFn _submit = NULL     # set before the first thread starts
cdef SyncedFn _synced = NULL
cdef HashFn _hash = NULL
cdef uint32_t _waiting_pool = 0  # atomic: connections that wait for the pool now

cdef uint64_t _ping_us = 30000000      # A9
cdef uint64_t _message_us = 120000000  # a whole message, from its first byte: 5 MB at 42 kB/s
cdef uint64_t _pool_us = 10000000      # with a message begun: the room it holds may be what others wait for


cdef void connection_set_sink(SubmitFn submit, SyncedFn synced, HashFn hash) noexcept nogil:
    global _submit, _synced, _hash
    _submit = submit
    _synced = synced
    _hash = hash


cdef bint connection_has_sink() noexcept nogil:
    return _submit != NULL and _synced != NULL and _hash != NULL


cdef void connection_set_times(uint64_t ping_us, uint64_t message_us, uint64_t pool_us) noexcept nogil:
    global _ping_us, _message_us, _pool_us
    _ping_us = ping_us
    _message_us = message_us
    _pool_us = pool_us


cdef uint32_t connections_waiting_for_pool() noexcept nogil:
    return zl_load32(&_waiting_pool)


cdef void connection_init(Connection *c, Host *h, int fd, Io io, uint64_t cursor) noexcept nogil:
    c.host = h
    c.fd = fd
    c.io = io
    c.cursor = cursor
    c.last_seq = cursor
    c.cause = END_COUNT
    c.started_us = zl_monotonic_us()
    c.next_ping_us = c.started_us + _ping_us
    ws_init(&c.cutter, MAX_FRAME_BYTES - MAX_SPLICE_BYTES)
    zl_store32(&h.bad_run, 0)
    host_connected(h)


# --- endings ---

cdef bint connection_end(Connection *c, uint32_t cause, int code, const char *text) noexcept nogil:
    """Notes the end; False, so that callers can return it as "do not go on". The first cause stands."""
    cdef size_t n
    if c.cause == END_COUNT:
        c.cause = cause
        c.code = code
        n = min(strlen(text), <size_t>TEXT_BYTES - 1)
        memcpy(c.text, text, n)
        c.text[n] = 0
    return False


cdef bint _end_io(Connection *c, int64_t outcome) noexcept nogil:
    cdef int code = errno
    if outcome == IO_FAILED:
        return connection_end(c, END_TLS, 0, c.io.why(c.io.ctx))
    return connection_end(c, END_IO, code, strerror(code))


cdef void _release(Connection *c, Frame *f) noexcept nogil:
    cdef uint32_t cost = f.cost
    pool_give(f)
    host_give_credit(c.host, cost)


cdef void connection_drop_partial(Connection *c) noexcept nogil:
    if c.frame != NULL:
        _release(c, c.frame)
        c.frame = NULL
    c.message_since_us = 0


cdef bint _stopped(Connection *c) noexcept nogil:
    if zl_load32(&c.stop):
        connection_end(c, END_STOPPED, 0, b"")
        return True
    return False


# --- what we send ---

cdef uint32_t _mask() noexcept nogil:
    cdef uint32_t mask = 0
    getrandom(&mask, sizeof(mask), 0)
    return mask


cdef void _queue_control(Connection *c, int opcode, const uint8_t *payload, size_t n) noexcept nogil:
    if c.out_n + WS_OUT_BYTES <= OUT_BYTES:
        c.out_n += <uint32_t>ws_control(c.out + c.out_n, opcode, payload, n, _mask())


cdef void _queue_close(Connection *c, uint32_t code, const char *text) noexcept nogil:
    if c.out_n + WS_OUT_BYTES <= OUT_BYTES:
        c.out_n += <uint32_t>ws_close(c.out + c.out_n, code, text, _mask())


cdef bint _flush(Connection *c) noexcept nogil:
    """Writes what is queued, as far as the socket takes it."""
    cdef int64_t sent
    while c.out_off < c.out_n:
        sent = c.io.write(c.io.ctx, c.fd, c.out + c.out_off, c.out_n - c.out_off)
        if sent == IO_WANT_READ or sent == IO_WANT_WRITE:
            return True
        if sent < 0:
            return _end_io(c, sent)
        c.out_off += <uint32_t>sent
    c.out_n = 0
    c.out_off = 0
    return True


cdef void _farewell(Connection *c) noexcept nogil:
    """The close frame that the cause asks for, and a moment for the peer to get it."""
    cdef pollfd p
    cdef int reads = 0
    if c.cause == END_STOPPED:
        _queue_close(c, GOING_AWAY, b"")
    elif c.cause == END_PROTOCOL:
        _queue_close(c, <uint32_t>c.code, c.text)
    elif c.cause == END_CLOSED:
        if c.code == NO_STATUS:
            _queue_control(c, WS_OP_CLOSE, NULL, 0)
        else:
            _queue_close(c, <uint32_t>c.code, b"")
    elif c.cause == END_IO or c.cause == END_TLS or c.cause == END_EOF:
        return
    if _flush(c) and c.out_off < c.out_n:
        p.fd = c.fd
        p.events = POLLOUT
        p.revents = 0
        poll(&p, 1, FLUSH_MS)
        _flush(c)
    if c.io.finish != NULL and c.out_n == 0:
        c.io.finish(c.io.ctx)
    # Closing a socket with unread bytes resets it, and the reset overtakes the close frame.
    shutdown(c.fd, SHUT_WR)
    while reads < DRAIN_READS and recv(c.fd, c.buffer, BUFFER_BYTES, 0) > 0:
        reads += 1


# --- the host's allowance ---

cdef bint _wait_allowance(Connection *c) noexcept nogil:
    """Reads nothing while the host is over its limits (E18), so that TCP pushes back; False = ended.

    Its pings lie unread meanwhile: a pong that nobody asked for (RFC 6455 5.5.3) tells it that we live.
    """
    cdef Host *h = c.host
    cdef uint64_t began = zl_monotonic_us()
    cdef uint64_t now = began
    cdef uint64_t later
    cdef uint64_t wait_us = allowance_wait_us(&h.allowance, now)
    cdef uint32_t ticket, sleep_ms
    if wait_us == 0:
        return True
    while wait_us != 0 and not _stopped(c):
        if c.io.write != NULL:  # where Python cuts the frames it answers, too
            if now >= c.next_ping_us:
                c.next_ping_us = now + _ping_us
                _queue_control(c, WS_OP_PONG, NULL, 0)
            if not _flush(c):
                return False
        ticket = host_wait_ticket(h, WAIT_LIMIT)
        wait_us = allowance_wait_us(&h.allowance, now)
        sleep_ms = 0
        if wait_us != 0 and not zl_load32(&c.stop):
            sleep_ms = <uint32_t>min(min(wait_us, _ping_us) // 1000 + 1, <uint64_t>WAIT_MS)
        host_wait(h, ticket, sleep_ms)
        later = zl_monotonic_us()
        zl_bump64(&h.throttled_us, later - now)  # at each look: a wait may last for hours
        zl_bump64(&h.waited_us, later - now)
        now = later
        wait_us = allowance_wait_us(&h.allowance, now)
    _have_not_read(c, began, now)
    return not _stopped(c)


# --- room for messages ---

cdef Frame *_room(Connection *c, Frame *old, uint32_t cap) noexcept nogil:
    """A frame of at least `cap`, its credit taken, holding what `old` (or NULL) held; NULL = ended, `old` still c's.

    What is charged is what the block takes out of the pool. Waits for the host's credit, or for the pool.
    """
    cdef int short_of = CREDIT_OK
    cdef Frame *f = _try_room(c, old, cap, &short_of)
    cdef uint64_t began
    if f == NULL:
        began = zl_monotonic_us()
        f = _wait_room(c, old, cap)
        _have_waited(c, began)
    return f


cdef void _have_waited(Connection *c, uint64_t began) noexcept nogil:
    """We did not read meanwhile: no fault of the host's."""
    cdef uint64_t now = zl_monotonic_us()
    zl_bump64(&c.host.waited_us, now - began)
    _have_not_read(c, began, now)


cdef void _have_not_read(Connection *c, uint64_t began, uint64_t now) noexcept nogil:
    c.unanswered = 0
    c.next_ping_us = max(c.next_ping_us, now + _ping_us)
    if c.message_since_us:
        c.message_since_us += now - began


cdef Frame *_try_room(Connection *c, Frame *old, uint32_t cap, int *short_of) noexcept nogil:
    cdef uint32_t cost = pool_cost(cap)
    cdef uint32_t own = old.cost if old != NULL else 0
    cdef uint32_t more = cost - own if cost > own else 0
    cdef Frame *f
    short_of[0] = host_take_credit(c.host, more, own)
    if short_of[0] != CREDIT_OK:
        return NULL
    f = pool_take(cap) if old == NULL else pool_grow(old, cap)
    if f == NULL:
        host_give_credit(c.host, more)
        short_of[0] = CREDIT_POOL_LIMIT
    else:
        f.cost = own + more
    return f


cdef Frame *_wait_room(Connection *c, Frame *old, uint32_t cap) noexcept nogil:
    cdef int short_of = CREDIT_OK
    cdef uint64_t pool_since = 0
    cdef uint32_t ticket
    cdef bint wait_here
    cdef Frame *f
    while True:
        ticket = host_wait_ticket(c.host, WAIT_CREDIT)
        f = _try_room(c, old, cap, &short_of)
        wait_here = short_of == CREDIT_HOST_LIMIT and not zl_load32(&c.stop)
        host_wait(c.host, ticket, WAIT_MS if wait_here else 0)
        if f != NULL or _stopped(c):
            return f
        if short_of == CREDIT_HOST_LIMIT:
            pool_since = 0
            continue
        if pool_since == 0:
            pool_since = zl_monotonic_us()
        elif old != NULL and zl_monotonic_us() - pool_since > _pool_us:
            connection_end(c, END_POOL, 0, b"no room in the frame pool for a message already begun")
            return NULL
        zl_add32(&_waiting_pool, 1)
        ticket = pool_ticket()
        f = _try_room(c, old, cap, &short_of)
        pool_wait(ticket, 0 if f != NULL or short_of == CREDIT_HOST_LIMIT else POOL_WAIT_MS)
        zl_add32(&_waiting_pool, <uint32_t>-1)
        if f != NULL:
            return f


# --- messages ---

cdef bint _append(Connection *c, const uint8_t *p, size_t n) noexcept nogil:
    """More payload of the current message. Room is made for what has come, doubled, never for what is announced."""
    cdef Frame *f = c.frame
    cdef uint64_t want = n
    if f == NULL:
        c.message_since_us = zl_monotonic_us()
    else:
        want += f.n
    if f == NULL or want > f.cap:
        f = _room(c, f, <uint32_t>min(2 * want, c.cutter.message_n))
        if f == NULL:
            return False
        c.frame = f
    memcpy(f.data + f.n, p, n)
    f.n += <uint32_t>n
    return True


cdef bint _deliver(Connection *c) noexcept nogil:
    """The current message is complete: judge its order, hand it on."""
    cdef Frame *f = c.frame
    cdef Host *h = c.host
    cdef Peek peek
    cdef int reason
    if f == NULL:  # a message without a byte is a frame too: the workers give its verdict
        f = _room(c, NULL, 1)
        if f == NULL:
            return False
    c.frame = NULL
    c.message_since_us = 0
    c.frames += 1
    zl_bump64(&h.frames, 1)
    zl_bump64(&h.bytes, f.n)
    allowance_spend(&h.allowance, zl_monotonic_us(), f.n)
    memset(&peek, 0, sizeof(peek))
    reason = message_peek(f.data, f.n, &peek)
    if reason != 0:
        memset(&peek, 0, sizeof(peek))
        c.bad_run += 1
    else:
        c.bad_run = 0
    if peek.is_error:
        _note_error(c, &peek)
        _release(c, f)
        return False
    if peek.kind == K_INFO and memmem(f.data, f.n, b"OutdatedCursor", 14) != NULL:
        zl_bump64(&h.outdated, 1)
    if peek.seq != 0 and peek.seq != c.last_seq + 1 and not message_is_whole(f.data, f.n):
        # A jump is believed of a well-formed message only: a seq out of a broken one would make all that follow look
        # like a step back, or the reconnect skip them (R6). The workers say what is wrong with it.
        peek.seq = 0
    if peek.seq != 0:
        if peek.seq <= c.last_seq:
            return _out_of_order(c, f, peek.seq)
        c.last_seq = peek.seq
        c.good = True
    return _hand_on(c, f, &peek)


cdef uint32_t _in_the_way(Connection *c, Frame *f, uint64_t seq) noexcept nogil:
    """What keeps the frame from the workers: a Wait. WAIT_NOTHING: it has its share of their queues."""
    if seq != 0 and not host_anchored(c.host, seq):
        return WAIT_ANCHOR
    return WAIT_NOTHING if host_take_share(c.host, f.cost) else WAIT_SHARE


cdef bint _wait_turn(Connection *c, Frame *f, uint64_t seq) noexcept nogil:
    """Waits until the frame may go to the workers; False = stopped."""
    cdef uint32_t what = _in_the_way(c, f, seq)
    cdef uint32_t ticket, now
    cdef uint64_t began
    if what == WAIT_NOTHING:
        return True
    began = zl_monotonic_us()
    while what != WAIT_NOTHING and not _stopped(c):
        ticket = host_wait_ticket(c.host, what)
        now = _in_the_way(c, f, seq)
        host_wait(c.host, ticket, WAIT_MS if now == what and not zl_load32(&c.stop) else 0)
        what = now if now != what else _in_the_way(c, f, seq)
    _have_waited(c, began)
    return what == WAIT_NOTHING


cdef bint _hand_on(Connection *c, Frame *f, const Peek *peek) noexcept nogil:
    cdef Host *h = c.host
    cdef Slot *slot
    if not _wait_turn(c, f, peek.seq):
        _release(c, f)
        return False
    slot = host_push_slot(h, peek.seq, _synced())
    if slot == NULL:
        host_give_share(h, f.cost)
        _release(c, f)
        return connection_end(c, END_MEMORY, ENOMEM, b"no memory for a progress slot")
    if peek.seq != 0:
        zl_store64(&h.last_seq, peek.seq)
    f.host = h
    f.slot = slot
    f.epoch = slot.epoch
    f.upstream_seq = peek.seq
    f.recv_us = zl_realtime_us()
    zl_store64(&h.last_frame_us, f.recv_us)
    f.did_off = peek.did_off
    f.did_n = peek.did_n
    f.did_hash = _hash(f.data + peek.did_off, peek.did_n) if peek.did_off else 0
    _submit(f)
    return not _bad_run(c) or connection_end(c, END_DECODE, 0, b"too many frames in a row that cannot be decoded")


cdef bint _bad_run(Connection *c) noexcept nogil:
    """Design 14: 100 undecodable frames in a row. The workers' part of the count comes with a delay."""
    cdef uint64_t published = zl_load64_relaxed(&c.host.published)
    if published != c.published:
        c.published = published
        zl_store32(&c.host.bad_run, 0)
    return c.bad_run >= BAD_RUN_LIMIT or zl_load32(&c.host.bad_run) >= BAD_RUN_LIMIT


cdef bint _out_of_order(Connection *c, Frame *f, uint64_t seq) noexcept nogil:
    """A19. Not above the last on this socket: the message is dropped, the connection stays."""
    _release(c, f)
    if not c.good and seq < c.cursor:
        return connection_end(c, END_SEQ_RESET, 0, b"first event below the cursor: numbering has started again")
    host_drop_slot(c.host, NULL, R_SEQ_REGRESSION)
    count_verdict(V_DROP, R_SEQ_REGRESSION)
    return True


cdef void _note_text(char *out, size_t room, const Slice *text) noexcept nogil:
    """What of a peer's text there is room for; without any its pointer is NULL, which memcpy must not see."""
    cdef size_t n = min(<size_t>text.n, room - 1)
    if n:
        memcpy(out, text.p, n)
    out[n] = 0


cdef void _note_error(Connection *c, const Peek *peek) noexcept nogil:
    _note_text(c.error_name, ERROR_NAME_BYTES, &peek.error_name)
    if c.cause == END_COUNT:
        c.cause = END_ERROR_FRAME
        _note_text(c.text, TEXT_BYTES, &peek.error_message)


cdef void connection_too_large(Connection *c) noexcept nogil:
    allowance_spend(&c.host.allowance, zl_monotonic_us(), MAX_FRAME_BYTES)
    host_drop_slot(c.host, NULL, R_FRAME_TOO_LARGE)  # its seq was never seen: no slot, the next frame moves the cursor
    count_verdict(V_DROP, R_FRAME_TOO_LARGE)


cdef bint _feed(Connection *c, const uint8_t *p, size_t n) noexcept nogil:
    """Bytes off the wire; False = the connection has ended."""
    cdef Cutter *cutter = &c.cutter
    cdef size_t used = 0
    cdef int event
    while True:
        event = ws_step(cutter, p, n, &used)
        p += used
        n -= used
        if event == WS_MORE:
            return True
        if event == WS_DATA:
            if cutter.chunk_n and not _append(c, cutter.chunk, cutter.chunk_n):
                return False
            if cutter.message_end and not _deliver(c):
                return False
        elif event == WS_SKIP:
            connection_drop_partial(c)
        elif event == WS_SKIPPED:
            connection_too_large(c)
        elif event == WS_PING:
            _queue_control(c, WS_OP_PONG, cutter.control, cutter.control_n)
        elif event == WS_CLOSE:
            return _end_closed(c)
        elif event == WS_FAIL:
            return connection_end(c, END_PROTOCOL, <int>cutter.close_code, cutter.fail_text)


cdef bint _end_closed(Connection *c) noexcept nogil:
    cdef char[WS_CONTROL_BYTES] reason
    cdef size_t n = c.cutter.control_n - 2 if c.cutter.control_n > 2 else 0
    memcpy(reason, c.cutter.control + 2, n)
    reason[n] = 0
    return connection_end(c, END_CLOSED, <int>c.cutter.close_code, reason)


# --- the loop ---

cdef bint _receive(Connection *c, bint *drained) noexcept nogil:
    """Reads once; False = ended. drained = poll before the next read."""
    cdef uint64_t coming = ws_direct_room(&c.cutter)
    cdef Frame *f = c.frame
    cdef uint8_t *into = c.buffer
    cdef uint64_t ask = BUFFER_BYTES
    cdef int64_t got
    cdef bint direct = f != NULL and coming >= DIRECT_BYTES
    if direct:  # the rest of a large message goes straight to where it lies
        if f.n == f.cap:
            f = _room(c, f, <uint32_t>min(2 * <uint64_t>f.n, c.cutter.message_n))
            if f == NULL:
                return False
            c.frame = f
        into = f.data + f.n
        ask = min(min(<uint64_t>(f.cap - f.n), coming), <uint64_t>DIRECT_MOST)
    got = c.io.read(c.io.ctx, c.fd, into, ask)
    c.want_write = got == IO_WANT_WRITE
    if got == IO_WANT_READ or got == IO_WANT_WRITE:
        drained[0] = True
        return True
    if got == IO_AGAIN:
        return True
    if got <= 0 and _stopped(c):  # which shuts the socket down
        return False
    if got == IO_EOF:
        return connection_end(c, END_EOF, 0, b"closed without a close frame")
    if got < 0:
        return _end_io(c, got)
    c.bytes += got
    c.unanswered = 0
    drained[0] = c.io.short_read_is_all and <uint64_t>got < ask
    if not direct:
        return _feed(c, c.buffer, got)
    f.n += <uint32_t>got
    return _deliver(c) if ws_direct(&c.cutter, got) else True


cdef bint _clock(Connection *c, int *timeout_ms) noexcept nogil:
    """Pings and deadlines; how long poll may wait."""
    cdef uint64_t now = zl_monotonic_us()
    cdef uint64_t until
    if now >= c.next_ping_us:
        if c.unanswered >= MISSED_PINGS:
            return connection_end(c, END_SILENT, 0, b"no answer to pings")
        c.unanswered += 1
        c.next_ping_us = now + _ping_us
        _queue_control(c, WS_OP_PING, NULL, 0)
    until = c.next_ping_us
    if c.message_since_us:
        if now >= c.message_since_us + _message_us:
            return connection_end(c, END_STALLED, 0, b"a message was begun and not completed in time")
        until = min(until, c.message_since_us + _message_us)
    timeout_ms[0] = <int>((until - now) // 1000 + 1)
    return True


cdef void _loop(Connection *c) noexcept nogil:
    cdef bint drained = False
    cdef int timeout_ms = 0
    cdef pollfd p
    cdef bint going = True
    if c.leftover != NULL:
        c.bytes += c.leftover_n
        going = _feed(c, c.leftover, c.leftover_n)
        zl_free(c.leftover)
        c.leftover = NULL
    while going:
        if _stopped(c) or not _wait_allowance(c) or not _clock(c, &timeout_ms) or not _flush(c):
            return
        if not drained:
            going = _receive(c, &drained)
            continue
        p.fd = c.fd
        p.events = POLLIN
        p.revents = 0
        if c.out_n or c.want_write:
            p.events |= POLLOUT
        poll(&p, 1, timeout_ms)
        # Only room to write: the queue is flushed above and nothing is read, unless the read waited for it (TLS).
        drained = (p.revents & ~POLLOUT) == 0 and not (c.want_write and p.revents)


cdef void connection_run(Connection *c) noexcept nogil:
    _loop(c)
    _farewell(c)
    connection_drop_partial(c)


cdef bint connection_message(Connection *c, const uint8_t *p, size_t n) noexcept nogil:
    if not _wait_allowance(c):
        return False
    c.cutter.message_n = n
    return (n == 0 or _append(c, p, n)) and _deliver(c)
