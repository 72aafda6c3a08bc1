"""The threads behind connections: started, stopped, collected.

Promises: a plain OS thread per connection, all signals blocked, never attached to the interpreter; one connection per
host at a time; every connection ends with exactly one end record; a stop takes effect within milliseconds.

Threads: a Connection belongs to its thread until `_finish`, then to the end list, then to `take_ends`, which frees it.
Anybody may stop: set the flag, shut the socket down for reading, ring the wait word; the thread then says goodbye.
`_lock` guards `_live`, the end list and the counts; nothing is waited for under it. A Connection is in `_live` as long
as its socket is open, so that a stop never hits a number that now belongs to another file.
"""

from libc.errno cimport EAGAIN, EBUSY, EINTR, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strerror
from zlay._fast.connection cimport (
    Connection, END_COUNT, END_INTERNAL, HashFn, IO_ERROR, IO_WANT_READ, IO_WANT_WRITE, Io, SubmitFn, SyncedFn,
    connection_drop_partial, connection_end, connection_has_sink, connection_init, connection_message, connection_run,
    connection_set_sink, connection_set_times, connection_too_large, connections_waiting_for_pool,
)
from zlay._fast.host cimport Host, MAX_HOSTS, host_at, host_drop_slot, host_give_credit, host_give_share, host_interrupt
from zlay._fast.includes.atomics cimport (
    zl_futex_wait, zl_futex_wake, zl_load32, zl_loadp, zl_monotonic_us, zl_store32, zl_storep,
)
from zlay._fast.includes.threads cimport zl_lock, zl_mutex, zl_thread_fn, zl_thread_name, zl_thread_start, zl_unlock
from zlay._fast.mem cimport MEM_CONNECTION, zl_calloc, zl_free, zl_malloc
from zlay._fast.pool cimport Frame, pool_give
from zlay._fast.tls cimport Session, tls_lend, tls_taken
from zlay._fast.ws cimport WS_SKIP_BYTES

from typing import NamedTuple

cdef extern from "sys/socket.h" nogil:
    ssize_t recv(int fd, void *p, size_t n, int flags)
    ssize_t send(int fd, const void *p, size_t n, int flags)
    int shutdown(int fd, int how)
    int MSG_NOSIGNAL, SHUT_RD

cdef extern from "unistd.h" nogil:
    int close(int fd)

cdef extern from "fcntl.h" nogil:
    int fcntl(int fd, int command, ...)
    int F_GETFL, F_SETFL, O_NONBLOCK

cdef extern from "sys/eventfd.h" nogil:
    int eventfd(unsigned int initial, int flags)
    int eventfd_read(int fd, uint64_t *value)
    int eventfd_write(int fd, uint64_t value)
    int EFD_NONBLOCK, EFD_CLOEXEC

cdef enum:
    STACK_BYTES = 131072         # address space; a few pages of it are ever touched
    STOP_AGAIN_MS = 50

cdef zl_mutex _lock
cdef Connection *_live[65536]    # MAX_HOSTS, by host index; written under _lock, atomic for a look without it
cdef Connection *_ends = NULL    # newest first
cdef uint32_t _count = 0         # connections alive; written under _lock, a futex for stop_all
cdef int _eventfd = -1           # readable while ends wait; made at first use, never closed
cdef uint64_t _started = 0       # since the process began; under _lock
cdef uint64_t[END_COUNT] _ended_by  # under _lock

CAUSES = (
    "stopped", "eof", "closed", "protocol", "error_frame", "decode", "silent", "stalled", "io", "tls", "memory", "pool",
    "seq_reset", "internal",
)


cdef void reader_set_sink(SubmitFn submit, SyncedFn synced, HashFn hash) noexcept nogil:
    connection_set_sink(submit, synced, hash)


# --- plain sockets ---

cdef int64_t _plain_read(void *ctx, int fd, uint8_t *p, size_t n) noexcept nogil:
    cdef ssize_t got
    while True:
        got = recv(fd, p, n, 0)
        if got >= 0:
            return got
        if errno == EAGAIN:
            return IO_WANT_READ
        if errno != EINTR:
            return IO_ERROR


cdef int64_t _plain_write(void *ctx, int fd, const uint8_t *p, size_t n) noexcept nogil:
    cdef ssize_t sent
    while True:
        sent = send(fd, p, n, MSG_NOSIGNAL)
        if sent >= 0:
            return sent
        if errno == EAGAIN:
            return IO_WANT_WRITE
        if errno != EINTR:
            return IO_ERROR


cdef void _plain_close(void *ctx, int fd) noexcept nogil:
    close(fd)


cdef void *_run(void *argument) noexcept nogil:
    cdef Connection *c = <Connection *>argument
    zl_thread_name(b"zlay-reader")
    connection_run(c)
    _finish(c)
    return NULL


cdef void _finish(Connection *c) noexcept nogil:
    """The last act of a connection's thread: after it the Connection is take_ends's."""
    global _ends, _count
    connection_drop_partial(c)
    zl_lock(&_lock)
    zl_storep(<void **>&_live[c.host.index], NULL)
    zl_unlock(&_lock)
    if c.io.close != NULL:
        c.io.close(c.io.ctx, c.fd)
    c.ended_us = zl_monotonic_us()
    zl_lock(&_lock)
    _ended_by[c.cause] += 1
    c.next = _ends
    _ends = c
    zl_store32(&_count, _count - 1)
    zl_unlock(&_lock)
    eventfd_write(_eventfd, 1)
    zl_futex_wake(&_count, 64)


cdef Connection *_new_connection(Host *h, int fd, Io io, uint64_t cursor, int *rc) noexcept nogil:
    """Enters the connection in _live; NULL with an errno in rc."""
    global _count, _started
    cdef Connection *c
    cdef bint taken
    c = <Connection *>zl_calloc(MEM_CONNECTION, sizeof(Connection))  # owned by its thread, then by the end list
    if c == NULL:
        rc[0] = ENOMEM
        return NULL
    connection_init(c, h, fd, io, cursor)
    zl_lock(&_lock)
    taken = _live[h.index] != NULL
    if not taken:
        zl_storep(<void **>&_live[h.index], c)
        zl_store32(&_count, _count + 1)
        _started += 1
    zl_unlock(&_lock)
    if taken:
        zl_free(c)
        rc[0] = EBUSY
        return NULL
    return c


cdef void _forget(Connection *c) noexcept nogil:
    """A connection whose thread could not be started leaves no end."""
    global _count, _started
    zl_lock(&_lock)
    zl_storep(<void **>&_live[c.host.index], NULL)
    zl_store32(&_count, _count - 1)
    _started -= 1
    zl_unlock(&_lock)
    if c.leftover != NULL:
        zl_free(c.leftover)
    zl_free(c)


cdef int reader_start(Host *h, int fd, Io io, const uint8_t *leftover, uint32_t n, uint64_t cursor) noexcept nogil:
    cdef int rc = 0
    cdef Connection *c = _new_connection(h, fd, io, cursor, &rc)
    if c == NULL:
        return rc
    if n:
        c.leftover = <uint8_t *>zl_malloc(MEM_CONNECTION, n)
        if c.leftover == NULL:
            _forget(c)
            return ENOMEM
        memcpy(c.leftover, leftover, n)
        c.leftover_n = n
    rc = zl_thread_start(NULL, STACK_BYTES, NULL, <zl_thread_fn>_run, c)
    if rc:
        _forget(c)
    return rc


cdef bint _stop(uint32_t index) noexcept nogil:
    cdef Connection *c
    zl_lock(&_lock)
    c = _live[index]
    if c != NULL:
        zl_store32(&c.stop, 1)
        shutdown(c.fd, SHUT_RD)
        host_interrupt(c.host)
    zl_unlock(&_lock)
    return c != NULL


# --- for Python ---

PING_S = 30.0
MISSED_PINGS = 4                 # A9, as in connection.pyx
FLUSH_S = 0.2                    # for the last words to a peer that does not read
SKIP_BYTES = WS_SKIP_BYTES


class ConnectionEnd(NamedTuple):
    """How one connection ended: `cause` of CAUSES, `code` a close code or an errno, `error` an error frame's name."""

    host_index: int
    cause: str
    code: int
    text: str
    error: str
    last_seq: int | None
    frames: int
    received_bytes: int
    seconds: float
    good: bool


cdef int _ready() except -1:
    """Makes the eventfd once."""
    global _eventfd
    cdef int fd
    if _eventfd < 0:
        fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if fd < 0:
            raise OSError(errno, "eventfd")
        zl_lock(&_lock)
        if _eventfd < 0:
            _eventfd = fd
            fd = -1
        zl_unlock(&_lock)
        if fd >= 0:
            close(fd)
    if not connection_has_sink():
        raise RuntimeError("the readers' sink is not set")
    return 0


cdef Host *_host(index) except NULL:
    cdef Host *h = host_at(index) if 0 <= index < MAX_HOSTS else NULL
    if h == NULL:
        raise IndexError(f"no host at index {index}")
    return h


def start(host_index, fd, leftover=b"", cursor=None, Session session=None):
    """Starts a reader on a connected, upgraded socket, which then belongs to it. Any thread.

    `leftover` is what came after the answer to the upgrade; `cursor` the upstream seq asked for, None = live; `session`
    the TLS on it, which then is the reader's too. Raises OSError (both stay the caller's) when there is no thread or
    memory, or when the host's last connection still lives (EBUSY), RuntimeError when the sink is not set.
    """
    cdef Host *h = _host(host_index)
    cdef const uint8_t[::1] view = leftover
    cdef const uint8_t *p = &view[0] if view.shape[0] else NULL
    cdef uint32_t n = <uint32_t>view.shape[0]
    cdef uint64_t after = 0 if cursor is None else cursor
    cdef int number = fd
    cdef Io io
    cdef int rc, flags
    _ready()
    if session is None:
        memset(&io, 0, sizeof(io))
        io.read = _plain_read
        io.write = _plain_write
        io.close = _plain_close
        io.short_read_is_all = True
    else:
        tls_lend(session, &io)
    flags = fcntl(number, F_GETFL)
    if flags < 0 or fcntl(number, F_SETFL, flags | O_NONBLOCK) < 0:
        raise OSError(errno, f"fcntl of socket {number}")
    with nogil:
        rc = reader_start(h, number, io, p, n, after)
    if rc == 0 and session is not None:
        tls_taken(session)
    if rc:
        raise OSError(rc, f"no reader for {h.name.decode()}: {strerror(rc).decode()}")


def stop(host_index):
    """Ends the host's connection; its end record comes as for any other. Any thread. True when there was one."""
    return _stop(_host(host_index).index)


def stop_all(deadline_s):
    """Ends all connections and waits at most `deadline_s` seconds for them; how many are still alive. Any thread."""
    cdef uint64_t deadline = zl_monotonic_us() + <uint64_t>(deadline_s * 1e6)
    cdef uint64_t now
    cdef uint32_t index, alive
    with nogil:
        while True:
            for index in range(MAX_HOSTS):  # again and again: a dial may just have come through
                if zl_loadp(<void **>&_live[index]) != NULL:
                    _stop(index)
            alive = zl_load32(&_count)
            now = zl_monotonic_us()
            if alive == 0 or now >= deadline:
                break
            zl_futex_wait(&_count, alive, min(<int64_t>((deadline - now) // 1000 + 1), <int64_t>STOP_AGAIN_MS))
    return alive


def event_fd():
    """A file descriptor that is readable while end records wait. It belongs to this module: poll it, no more."""
    _ready()
    return _eventfd


def take_ends():
    """The end records since the last call, oldest first. One thread, the dialer's."""
    global _ends
    cdef Connection *c
    cdef Connection *following
    cdef uint64_t value = 0
    if _eventfd >= 0:
        eventfd_read(_eventfd, &value)
    zl_lock(&_lock)
    c = _ends
    _ends = NULL
    zl_unlock(&_lock)
    ends = []
    while c != NULL:
        following = c.next
        ends.append(ConnectionEnd(
            c.host.index, CAUSES[c.cause], c.code, c.text.decode(errors="replace"),
            c.error_name.decode(errors="replace"), c.last_seq or None, c.frames, c.bytes,
            (c.ended_us - c.started_us) / 1e6, bool(c.good),
        ))
        zl_free(c)
        c = following
    ends.reverse()
    return ends


def alive(host_index):
    """Whether the host has a connection now. Any thread."""
    cdef Host *h = _host(host_index)
    zl_lock(&_lock)
    answer = _live[h.index] != NULL
    zl_unlock(&_lock)
    return answer


def stats():
    """Connections alive and started, ends by cause, readers waiting for room in the pool. Any thread."""
    cdef int i
    cdef uint64_t started
    cdef uint64_t[END_COUNT] ended
    zl_lock(&_lock)
    started = _started
    for i in range(END_COUNT):
        ended[i] = _ended_by[i]
    zl_unlock(&_lock)
    return {
        "alive": zl_load32(&_count),
        "started_total": started,
        "ended_total": {CAUSES[i]: ended[i] for i in range(END_COUNT)},
        "waiting_for_pool": connections_waiting_for_pool(),
        "connection_bytes": sizeof(Connection),
    }


cdef class Attached:
    """A connection whose bytes are cut in Python (HOST_READER=wsproto); order, credit and end as for the others.

    Owner of the C connection until `finish`. Used by one thread; `reader.stop` reaches it like any other.
    """

    cdef Connection *_c

    def __cinit__(self, host_index, fd, cursor=None):
        cdef Host *h = _host(host_index)
        cdef Io io
        cdef int rc = 0
        _ready()
        memset(&io, 0, sizeof(io))
        self._c = _new_connection(h, fd, io, 0 if cursor is None else cursor, &rc)
        if self._c == NULL:
            raise OSError(rc, f"no connection for {h.name.decode()}")

    def __dealloc__(self):
        if self._c != NULL:
            connection_end(self._c, END_INTERNAL, 0, b"its thread forgot it")
            _finish(self._c)

    def stopping(self):
        """Whether somebody asked for the end."""
        return zl_load32(&self._c.stop) != 0

    def received(self, n):
        """So many bytes have come from the host, of messages or not."""
        self._c.bytes += <uint64_t>n

    def submit(self, data):
        """One complete message; waits as a native reader does. None, or the connection's end: (cause, code, text)."""
        cdef const uint8_t[::1] view = data
        cdef Connection *c = self._c
        cdef size_t n = view.shape[0]
        cdef const uint8_t *p = &view[0] if n else NULL
        cdef bint going
        if c == NULL:
            raise RuntimeError("the connection has ended")
        with nogil:
            going = connection_message(c, p, n)
        return None if going else (CAUSES[c.cause], c.code, c.text.decode(errors="replace"))

    def too_large(self):
        """A message over the limit was read past."""
        connection_too_large(self._c)

    def finish(self, cause, code, text):
        """The end; what `submit` found stands before what is said here. The caller then closes the socket."""
        cdef Connection *c = self._c
        connection_end(c, CAUSES.index(cause), code, text.encode())
        self._c = NULL
        with nogil:
            _finish(c)


# --- for tests and tools ---

cdef zl_mutex _sink_lock
cdef Frame *_collected = NULL     # newest first
cdef bint _as_queue = False       # collected frames count to their hosts' share of the workers' queues


cdef void _collect(Frame *f) noexcept nogil:
    global _collected
    if not _as_queue:
        host_give_share(f.host, f.cost)
    zl_lock(&_sink_lock)
    f.next = _collected
    _collected = f
    zl_unlock(&_sink_lock)


cdef uint64_t _nothing_synced() noexcept nogil:
    return 0


cdef uint64_t _first_bytes(const uint8_t *did, uint32_t n) noexcept nogil:
    return n


def collect_here(as_queue=False):
    """Sets a sink that keeps frames until `collected` takes them. No relay in the same process.

    It keeps them as a worker does that holds what it has looked at; `as_queue`: that has not come to them yet.
    """
    global _as_queue
    _as_queue = as_queue
    reader_set_sink(_collect, _nothing_synced, _first_bytes)


def collected(reason=0):
    """What the collecting sink has, oldest first: (host index, upstream seq, message, did); drops it for `reason`."""
    global _collected
    cdef Frame *f
    cdef Frame *following
    zl_lock(&_sink_lock)
    f = _collected
    _collected = NULL
    zl_unlock(&_sink_lock)
    rows = []
    while f != NULL:
        following = f.next
        message = (<char *>f.data)[:f.n]
        rows.append((f.host.index, f.upstream_seq, message, message[f.did_off:f.did_off + f.did_n]))
        host_drop_slot(f.host, f.slot, reason)
        cost = f.cost
        host = f.host.index
        pool_give(f)
        if _as_queue:
            host_give_share(host_at(host), cost)
        host_give_credit(host_at(host), cost)
        f = following
    rows.reverse()
    return rows


def set_times(ping_s=30.0, message_s=120.0, pool_s=10.0):
    """Shortens the clocks of connections that start afterwards."""
    connection_set_times(<uint64_t>(ping_s * 1e6), <uint64_t>(message_s * 1e6), <uint64_t>(pool_s * 1e6))
