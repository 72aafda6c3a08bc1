"""Consumer threads: live and replay are one path, sendfile from the segment that holds the position (design 8).

Promises: a consumer gets every event after its cursor once, in order, at frame boundaries whole; it costs no buffer
however far it is behind; what it does wrong ends its own connection only, with a counted reason. Assumes: the fd is a
connected stream socket whose upgrade has been answered; the log is open while consumers live.

Threads: one plain OS thread per consumer, which never attaches to the interpreter. It waits on its socket and the
wake-up of all together, in an epoll of its own (see waker.pyx); one whose socket takes nothing waits for that alone.
`_lock` guards the lists. Settings are constant while consumers live.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from atomics cimport (zl_add64_relaxed, zl_load32, zl_load64, zl_load64_relaxed, zl_monotonic_us,
                      zl_realtime_us, zl_store32, zl_store64)
from fileio cimport (EAGAIN, EFD_CLOEXEC, EFD_NONBLOCK, EINTR, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLET, EPOLLIN, F_GETFL,
                     F_SETFL, IPPROTO_TCP, MSG_DONTWAIT, O_NONBLOCK, POLLIN, POLLOUT, SHUT_RDWR,
                     TCP_NODELAY, TCP_USER_TIMEOUT, close, epoll_create1, epoll_ctl, epoll_event, epoll_wait, errno,
                     eventfd, fcntl, nanosleep, poll, pollfd, recv, setsockopt, shutdown, timespec,
                     write)
from threads cimport zl_lock, zl_mutex, zl_thread_name, zl_thread_start, zl_unlock

from zlay._fast.client_frames cimport CLIENT_CLOSE, CLIENT_MORE, CLIENT_PING, client_feed
from zlay._fast.mem cimport MEM_CONSUMER, zl_calloc, zl_free, zl_malloc
from zlay._fast.ranges cimport range_free, range_overdue, range_set_grace
from zlay._fast.sending cimport (CLOSE_POLICY, CLOSE_PROTOCOL, FLUSH_BLOCKED, FLUSH_FAILED, FLUSH_IDLE, FLUSH_MORE,
                                 sending_bytes, sending_close, sending_cut, sending_error_us, sending_events,
                                 sending_finish, sending_flush, sending_open, sending_ping_us, sending_too_slow)
from zlay._fast.waker cimport waker_consumers, waker_count, waker_fd, waker_now, waker_start, waker_stop, waker_wakes

__all__ = ["REASONS", "STATES", "accept", "close_all", "count", "disconnect", "disconnects", "start", "stats", "stop",
           "take_ends"]

cdef enum:
    STACK_BYTES = 64 << 10
    READ_BYTES = 4096
    INPUT_PER_SECOND = 65536     # of a consumer's own bytes; more is left to TCP, which then holds the consumer
    THROTTLED_WAIT_MS = 20       # how often a throttled consumer looks for new events
    WAIT_MS = 60000              # longest sleep of a consumer
    LEAVE_US = 1000000           # after the last deadline, for threads to see it
    LEAVE_LOOK_NS = 2000000      # how often close_all looks who is left
    ROOM_MORE = 16               # for consumers that come while a list is made

# --- under _lock ---
cdef zl_mutex _lock
cdef Consumer *_live = NULL
cdef Consumer *_ended = NULL     # waiting for take_ends()
cdef uint64_t _next_id = 1

# --- atomics ---
cdef uint32_t _stop_code = 0     # nonzero: everybody closes with it
cdef uint64_t _stop_deadline_us = 0
cdef uint64_t _disconnects[END_COUNT]

# --- settings, constant while consumers live ---
cdef int _stop_fd = -1
cdef uint64_t _slow_us = 60000000
cdef int _dead_ms = 75000        # TCP_USER_TIMEOUT: unacknowledged for so long = gone
cdef uint32_t _running = 0       # atomic flag

REASONS = ("client_closed", "client_gone", "protocol_error", "too_slow", "retention", "future_cursor", "shutdown",
           "log_error", "operator")
STATES = ("streaming", "finishing", "closing", "ended")


# --- what comes in -------------------------------------------------------------------------------------------------

cdef void _take_input(Consumer *c, const uint8_t *p, size_t n, uint64_t now) noexcept nogil:
    cdef size_t used
    cdef int event
    while c.state != C_ENDED:
        event = client_feed(&c.parser, p, n, &used)
        p += used
        n -= used
        if event == CLIENT_MORE:
            return
        if event == CLIENT_PING:
            memcpy(c.pong, c.parser.control, c.parser.control_n)
            c.pong_n = c.parser.control_n
            c.pong_wanted = True
            if c.state == C_STREAMING and c.range.offset < c.range.end:
                sending_cut(c)
        elif event == CLIENT_CLOSE:
            if c.state == C_STREAMING:
                sending_finish(c, END_CLIENT_CLOSED, c.parser.close_code, b"", NULL, 0, now + sending_error_us())
            elif c.state == C_CLOSING:
                zl_store32(&c.state, C_ENDED)
            return
        else:
            if c.state == C_CLOSING:
                zl_store32(&c.state, C_ENDED)
            sending_finish(c, END_PROTOCOL, CLOSE_PROTOCOL, b"", NULL, 0, now + sending_error_us())
            return


cdef void _read_input(Consumer *c, uint64_t now) noexcept nogil:
    """One recv. The end of the stream ends the consumer."""
    cdef uint8_t buffer[READ_BYTES]
    cdef ssize_t n = recv(c.fd, buffer, READ_BYTES, MSG_DONTWAIT)
    if n > 0:
        if now - c.input_window_us >= 1000000:
            c.input_window_us = now
            c.input_bytes = 0
        c.input_bytes += <uint64_t> n
        _take_input(c, buffer, <size_t> n, now)
    elif n == 0 or (errno != EAGAIN and errno != EINTR):
        zl_store32(&c.state, C_ENDED)


# --- the thread ------------------------------------------------------------------------------------------------------

cdef void _check_time(Consumer *c, bint blocked, uint64_t now) noexcept nogil:
    """Deadlines, and the order to stop."""
    cdef uint32_t stop = zl_load32(&_stop_code)
    if stop and not c.stop_seen:
        c.stop_seen = True
        c.deadline_us = min(c.deadline_us, zl_load64(&_stop_deadline_us))
        sending_finish(c, END_SHUTDOWN, <uint16_t> stop, b"shutting down", NULL, 0, zl_load64(&_stop_deadline_us))
    if c.state != C_STREAMING:
        if now >= c.deadline_us:
            zl_store32(&c.state, C_ENDED)
        return
    if range_overdue(&c.range):                      # however steadily it reads: the disk is wanted back
        sending_too_slow(c, END_RETENTION, now)
        return
    if not blocked:
        return
    if c.blocked_us == 0:
        zl_store64(&c.blocked_us, now)
    if now - c.blocked_us >= _slow_us:
        sending_too_slow(c, END_TOO_SLOW, now)


cdef int _wait_ms(Consumer *c, uint64_t now) noexcept nogil:
    """How long it may sleep before a deadline wants it: 1 to WAIT_MS."""
    cdef uint64_t until
    if c.state != C_STREAMING:
        until = c.deadline_us
    elif c.blocked_us:
        until = c.blocked_us + _slow_us
    else:
        until = c.last_write_us + sending_ping_us()
    return <int> min((until - now) // 1000 + 1, <uint64_t> WAIT_MS) if until > now else 1


cdef bint _wait(Consumer *c, bint blocked, uint64_t now) noexcept nogil:
    """Sleeps until there is something to do; True = the socket has something to read, or has ended."""
    cdef bint throttled = c.input_bytes >= INPUT_PER_SECOND and now - c.input_window_us < 1000000
    cdef pollfd fds[2]
    cdef epoll_event events[2]
    cdef int i, n, timeout = _wait_ms(c, now)
    cdef bint readable = False
    if blocked or throttled or c.state != C_STREAMING:
        fds[0].fd = -1 if c.stop_seen else _stop_fd
        fds[0].events = POLLIN
        fds[1].fd = c.fd
        fds[1].events = (POLLOUT if blocked else 0) | (0 if throttled else POLLIN)
        fds[0].revents = fds[1].revents = 0
        if throttled:
            timeout = min(timeout, <int> THROTTLED_WAIT_MS)
            if not blocked:
                fds[1].fd = -1
        poll(fds, 2, timeout)
        return fds[1].revents != 0 and fds[1].revents != POLLOUT
    n = epoll_wait(c.epoll_fd, events, 2, timeout)
    for i in range(n):
        readable = readable or events[i].data.fd == c.fd
    return readable


cdef void _run(Consumer *c) noexcept nogil:
    cdef uint64_t now = zl_monotonic_us()
    cdef uint32_t rounds = 0
    cdef int flushed
    c.last_write_us = now
    while True:
        flushed = sending_flush(c, now)
        if flushed == FLUSH_FAILED:
            return
        rounds += 1
        if flushed == FLUSH_MORE and rounds & 7:
            continue
        now = zl_monotonic_us()
        _check_time(c, flushed == FLUSH_BLOCKED, now)
        if c.state == C_ENDED:
            return
        if flushed == FLUSH_MORE:                    # busy for some rounds: look at what has come in
            _read_input(c, now)
        elif c.state == C_FINISHING and flushed == FLUSH_IDLE:
            continue                                 # has just been told to
        elif _wait(c, flushed == FLUSH_BLOCKED, now):
            now = zl_monotonic_us()
            _read_input(c, now)
        if c.state == C_ENDED:
            return
        now = zl_monotonic_us()


cdef void *_consumer_main(void *arg) noexcept nogil:
    cdef Consumer *c = <Consumer *> arg
    zl_thread_name(b"zlay-consumer")
    _run(c)
    range_free(&c.range)
    if c.lead_owned:
        zl_free(c.lead)
    zl_lock(&_lock)
    close(c.fd)                  # here, or disconnect() would end a connection that has got its number since
    close(c.epoll_fd)
    if zl_load32(&c.unwanted):
        c.reason = END_OPERATOR
    zl_add64_relaxed(&_disconnects[c.reason], 1)
    if c.previous != NULL:
        c.previous.next = c.next
    else:
        _unlink_first(c)
    if c.next != NULL:
        c.next.previous = c.previous
    zl_store32(&c.state, C_ENDED)
    _push_ended(c)
    waker_count(-1)
    zl_unlock(&_lock)
    return NULL


cdef void _unlink_first(Consumer *c) noexcept nogil:
    """Requires `_lock`."""
    global _live
    _live = c.next


cdef void _push_ended(Consumer *c) noexcept nogil:
    """Requires `_lock`."""
    global _ended
    c.previous = NULL
    c.next = _ended
    _ended = c


# --- for zlay.firehose, tests and tools ------------------------------------------------------------------------------

cdef struct Glance:              # what others may see of a consumer
    uint64_t id
    uint64_t since_us
    uint64_t first_seq
    uint64_t next_seq
    uint64_t events
    uint64_t bytes
    uint64_t blocked_us
    uint32_t state
    char peer[PEER_BYTES]


cdef void _look(const Consumer *c, Glance *out) noexcept nogil:
    """Requires `_lock`, or a consumer that has ended."""
    out.id = c.id
    out.since_us = c.since_us
    out.first_seq = c.first_seq
    out.next_seq = zl_load64(&c.next_seq)
    out.events = zl_load64_relaxed(&c.events)
    out.bytes = zl_load64_relaxed(&c.bytes)
    out.blocked_us = zl_load64(&c.blocked_us)
    out.state = zl_load32(&c.state)
    memcpy(out.peer, c.peer, PEER_BYTES)


cdef object _row(Glance *g, uint64_t now):
    return (g.id, g.peer.decode("utf-8", "replace"), g.since_us, g.first_seq, g.next_seq, g.events, g.bytes,
            (now - g.blocked_us) / 1e6 if g.blocked_us and now > g.blocked_us else 0.0, STATES[g.state])


def start(bytes too_slow, bytes outdated, *, int64_t tick_us=-1, uint64_t slow_us=60_000_000,
          uint64_t ping_us=30_000_000, uint64_t error_us=5_000_000, uint64_t dead_us=75_000_000,
          uint64_t grace_us=600_000_000):
    """Take consumers from now on. One thread; the log is open.

    too_slow is the ConsumerTooSlow error frame, outdated the #info OutdatedCursor, with their WebSocket headers; of
    some bytes each. tick_us: at most one wake-up in so many microseconds; negative = by the number of consumers, 0 =
    each at once. slow_us: without progress while behind; ping_us: after so long without a write; error_us: for the
    error frame and the close; dead_us: what the peer's system has not acknowledged for so long ends the connection;
    grace_us: for reading on in a segment that retention has taken away. Raises OSError, RuntimeError, MemoryError.
    """
    global _stop_fd, _slow_us, _dead_ms
    cdef int error
    if zl_load32(&_running):
        raise RuntimeError("consumers are being served already")
    sending_open(too_slow, outdated, ping_us, error_us)
    _slow_us = slow_us
    _dead_ms = <int> max(dead_us // 1000, <uint64_t> 1)
    range_set_grace(grace_us)
    zl_store32(&_stop_code, 0)
    _stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    error = errno if _stop_fd < 0 else waker_start(tick_us)
    if error:
        _let_go()
        raise OSError(error, "consumers cannot be served")
    zl_store32(&_running, 1)


cdef void _let_go() noexcept:
    global _stop_fd
    if _stop_fd >= 0:
        close(_stop_fd)
    _stop_fd = -1
    sending_close()


cdef int _prepare(Consumer *c) noexcept nogil:
    """Socket options and the epoll. 0 or an errno."""
    cdef int one = 1, dead = _dead_ms
    cdef epoll_event event
    if fcntl(c.fd, F_SETFL, fcntl(c.fd, F_GETFL) | O_NONBLOCK) != 0:
        return errno
    setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(int))        # no effect on a Unix socket
    setsockopt(c.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead, sizeof(int))
    c.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    if c.epoll_fd < 0:
        return errno
    event.events = EPOLLIN
    event.data.fd = c.fd
    if epoll_ctl(c.epoll_fd, EPOLL_CTL_ADD, c.fd, &event) != 0:
        return errno
    event.events = EPOLLIN | EPOLLET
    event.data.fd = waker_fd()
    if epoll_ctl(c.epoll_fd, EPOLL_CTL_ADD, waker_fd(), &event) != 0:
        return errno
    return 0


cdef void _discard(Consumer *c) noexcept:
    if c.epoll_fd >= 0:
        close(c.epoll_fd)
    if c.lead != NULL:
        zl_free(c.lead)
    zl_free(c)


def accept(int fd, str peer, uint64_t next_seq, *, bytes lead=b"", bytes received=b"", bint future_cursor=False,
           bint any_start=False):
    """Serve a connected socket whose upgrade has been answered; its id. Any thread.

    The first event sent is next_seq. lead goes out before everything (#info); with future_cursor it is an error frame,
    after which the connection is closed. received: what has come after the upgrade request. any_start: it is not told
    when retention takes next_seq away before it is sent, which then is where the window begins. The fd is the
    consumer's from here on; when OSError or RuntimeError is raised it is still the caller's.
    """
    global _live, _next_id
    cdef Consumer *c
    cdef int error
    cdef uint64_t ident, now = zl_monotonic_us()
    cdef bytes name = peer.encode()[:PEER_BYTES - 1]
    if not zl_load32(&_running) or zl_load32(&_stop_code):
        raise RuntimeError("no consumers are served")
    c = <Consumer *> zl_calloc(MEM_CONSUMER, sizeof(Consumer))
    if c == NULL:
        raise MemoryError
    c.fd = fd
    c.epoll_fd = -1
    c.since_us = zl_realtime_us()
    c.next_seq = c.first_seq = next_seq
    c.reason = END_CLIENT_GONE
    c.told_outdated = any_start
    memcpy(c.peer, PyBytes_AS_STRING(name), len(name))
    error = _prepare(c)
    if lead and error == 0:
        c.lead = <uint8_t *> zl_malloc(MEM_CONSUMER, <size_t> len(lead))
        if c.lead == NULL:
            _discard(c)
            raise MemoryError
        memcpy(c.lead, PyBytes_AS_STRING(lead), len(lead))
        c.lead_n = <uint32_t> len(lead)
        c.lead_owned = True
    if error:
        _discard(c)
        raise OSError(error, "the consumer's socket cannot be served")
    if future_cursor:
        sending_finish(c, END_FUTURE_CURSOR, CLOSE_POLICY, b"FutureCursor", NULL, 0, now + sending_error_us())
    _take_input(c, <const uint8_t *> PyBytes_AS_STRING(received), <size_t> len(received), now)
    zl_lock(&_lock)
    ident = c.id = _next_id
    _next_id += 1
    c.next = _live
    if _live != NULL:
        _live.previous = c
    _live = c
    waker_count(1)
    error = zl_thread_start(NULL, STACK_BYTES, NULL, _consumer_main, c)
    if error:
        _live = c.next
        if _live != NULL:
            _live.previous = NULL
        waker_count(-1)
    zl_unlock(&_lock)
    if error:
        _discard(c)
        raise OSError(error, "no thread for another consumer")
    return ident


def take_ends():
    """Forget the consumers that have ended: (stats row, reason) of each. Any thread."""
    global _ended
    cdef Consumer *c
    cdef Consumer *following
    cdef Glance glance
    zl_lock(&_lock)
    c = _ended
    _ended = NULL
    zl_unlock(&_lock)
    ends = []
    while c != NULL:
        following = c.next
        _look(c, &glance)
        ends.append((_row(&glance, 0), REASONS[c.reason]))
        zl_free(c)
        c = following
    return ends


def stats():
    """(id, peer, since unix us, first seq, next seq, events, bytes, seconds blocked, state) of each connected one."""
    cdef uint32_t room, n = 0
    cdef Glance *copies = NULL
    cdef Consumer *c
    # Copied first: no object is made under the lock, for a collection could then wait for who waits for the lock.
    room = waker_consumers() + ROOM_MORE
    copies = <Glance *> zl_malloc(MEM_CONSUMER, room * sizeof(Glance))
    if copies == NULL:
        raise MemoryError
    with nogil:
        zl_lock(&_lock)
        c = _live
        while c != NULL and n < room:
            _look(c, &copies[n])
            n += 1
            c = c.next
        zl_unlock(&_lock)
    try:
        return [_row(&copies[i], zl_monotonic_us()) for i in range(n)]
    finally:
        zl_free(copies)


def disconnect(uint64_t ident):
    """End one consumer's connection, without a close frame; False = none of this id is connected. Any thread."""
    cdef Consumer *c
    cdef bint found
    with nogil:
        zl_lock(&_lock)
        c = _live
        while c != NULL and c.id != ident:
            c = c.next
        found = c != NULL
        if found:
            zl_store32(&c.unwanted, 1)
            shutdown(c.fd, SHUT_RDWR)                # its thread sees that, wherever it waits
        zl_unlock(&_lock)
    return found


def count():
    """Consumers connected, events and bytes sent to all of them ever, wake-ups. Any thread."""
    return (waker_consumers(), sending_events(), sending_bytes(), waker_wakes())


def disconnects():
    """Consumers that have ended, by reason. Any thread."""
    return {name: zl_load64_relaxed(&_disconnects[i]) for i, name in enumerate(REASONS)}


def close_all(uint16_t code, double deadline_s):
    """Close every consumer with a close code; True = all have ended before the deadline. No new ones from now on."""
    cdef uint64_t deadline = zl_monotonic_us() + <uint64_t> (deadline_s * 1e6)
    cdef uint64_t one = 1
    cdef timespec ts
    ts.tv_sec = 0
    ts.tv_nsec = LEAVE_LOOK_NS
    with nogil:
        zl_store64(&_stop_deadline_us, deadline)
        zl_store32(&_stop_code, code)
        write(_stop_fd, &one, 8)
        waker_now()
        while waker_consumers() and zl_monotonic_us() < deadline + LEAVE_US:
            nanosleep(&ts, NULL)
    return waker_consumers() == 0


def stop(uint16_t code=1001, double deadline_s=3.0):
    """close_all, then end the waker and let everything go. One thread. Raises RuntimeError when a consumer is left."""
    if not zl_load32(&_running):
        return
    if not close_all(code, deadline_s):
        raise RuntimeError("a consumer thread has not ended")
    with nogil:
        waker_stop()
    take_ends()
    _let_go()
    zl_store32(&_running, 0)
