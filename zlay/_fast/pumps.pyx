"""The least work of fan-out, and a reader that takes everything: files sent to many sockets by one thread, and drained.

For benchmarks: `Pump` is the bound of what consumers cost, since nothing moves a file's bytes to sockets with less than
sendfile and one epoll; `drain` reads without copying, so that readers hold up nobody.
Each object and call belongs to one thread, detached from the interpreter while it works.
"""

from libc.stdint cimport int64_t, uint32_t
from posix.time cimport CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec

from fileio cimport (EAGAIN, EINTR, EIO, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLET, EPOLLIN, EPOLLOUT,
                     MSG_DONTWAIT, MSG_TRUNC, close, epoll_create1, epoll_ctl, epoll_event, epoll_wait, errno, recv,
                     sendfile)

from zlay._fast.mem cimport MEM_MISC, zl_calloc, zl_free

__all__ = ["Pump", "drain"]

cdef enum:
    EVENTS_AT_ONCE = 64
    STALL_MS = 60000             # nothing moves for so long: the other side is gone
    TAKE_BYTES = 1 << 22         # of one recv: more than any socket holds

cdef struct Piece:               # of a file: [start, end)
    int fd
    int64_t start
    int64_t end

cdef struct Outlet:              # a socket, and how far it has got
    int fd
    uint32_t piece
    int64_t offset


cdef int _watch(int epoll_fd, int fd, uint32_t events, uint32_t number) noexcept nogil:
    """0 or an errno."""
    cdef epoll_event event
    event.events = events
    event.data.u32 = number
    return errno if epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0 else 0


cdef double _thread_cpu_s() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)
    return <double> t.tv_sec + <double> t.tv_nsec * 1e-9


cdef class Pump:
    """Sends the same pieces of files to every socket, `most_bytes` a call at most. The descriptors are the caller's."""

    cdef Piece *pieces           # owned, as the next
    cdef Outlet *outlets
    cdef uint32_t n_pieces
    cdef uint32_t stepped        # pieces that `step` lets go
    cdef uint32_t n
    cdef size_t most
    cdef int epoll_fd

    def __cinit__(self, sockets: list[int], pieces: list[tuple[int, int, int]], size_t most_bytes):
        """`sockets`: connected, non-blocking. `pieces`: (file, start, end). OSError, MemoryError."""
        cdef uint32_t i
        cdef int error
        self.epoll_fd = -1
        self.most = most_bytes
        self.n = <uint32_t> len(sockets)
        self.n_pieces = <uint32_t> len(pieces)
        self.outlets = <Outlet *> zl_calloc(MEM_MISC, (self.n + 1) * sizeof(Outlet))
        self.pieces = <Piece *> zl_calloc(MEM_MISC, (self.n_pieces + 1) * sizeof(Piece))
        if self.outlets == NULL or self.pieces == NULL:
            raise MemoryError
        for i in range(self.n_pieces):
            self.pieces[i].fd, self.pieces[i].start, self.pieces[i].end = pieces[i]
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            raise OSError(errno, "no epoll")
        for i in range(self.n):
            self.outlets[i].fd = sockets[i]
            self.outlets[i].offset = self.pieces[0].start
            error = _watch(self.epoll_fd, sockets[i], EPOLLOUT | EPOLLET, i)
            if error:
                raise OSError(error, "a socket cannot be watched")

    def __dealloc__(self):
        if self.epoll_fd >= 0:
            close(self.epoll_fd)
        zl_free(self.outlets)
        zl_free(self.pieces)

    cdef int _send(self, Outlet *o) noexcept nogil:
        """One call. 0 or an errno."""
        cdef Piece *piece = &self.pieces[o.piece]
        cdef ssize_t sent = sendfile(o.fd, piece.fd, &o.offset, min(self.most, <size_t> (piece.end - o.offset)))
        if sent < 0:
            return 0 if errno == EINTR else errno
        if sent == 0:
            return EIO                               # the file is shorter than it was
        if o.offset == piece.end:
            o.piece += 1
            o.offset = self.pieces[o.piece].start
        return 0

    cdef int _push(self, Outlet *o, uint32_t pieces) noexcept nogil:
        """Until the socket takes no more or the first `pieces` are sent. 0 or an errno."""
        cdef int error = 0
        while o.piece < pieces and error == 0:
            error = self._send(o)
        return 0 if error == EAGAIN else error

    def fill(self):
        """Sends as much as the sockets hold. OSError."""
        cdef int error = 0
        cdef uint32_t i
        with nogil:
            for i in range(self.n):
                if error == 0:
                    error = self._push(&self.outlets[i], self.n_pieces)
        if error:
            raise OSError(error, "a socket takes nothing")

    def step(self):
        """Sends every socket one piece more than at the last step, and what it had no room for then.

        The thread's processor seconds. OSError.
        """
        cdef double spent
        cdef uint32_t i
        cdef int error = 0
        self.stepped = min(self.stepped + 1, self.n_pieces)
        with nogil:
            spent = _thread_cpu_s()
            for i in range(self.n):
                if error == 0:
                    error = self._push(&self.outlets[i], self.stepped)
            spent = _thread_cpu_s() - spent
        if error:
            raise OSError(error, "a socket takes nothing")
        return spent

    def run(self):
        """Sends the rest; the thread's processor seconds. OSError."""
        cdef epoll_event events[EVENTS_AT_ONCE]
        cdef double spent
        cdef uint32_t left = 0, i
        cdef int n, k, error = 0
        cdef Outlet *o
        with nogil:
            spent = _thread_cpu_s()
            for i in range(self.n):
                left += self.outlets[i].piece < self.n_pieces
            while left and error == 0:
                n = epoll_wait(self.epoll_fd, events, EVENTS_AT_ONCE, STALL_MS)
                if n <= 0:
                    error = EIO if n == 0 else errno
                    break
                for k in range(n):
                    o = &self.outlets[events[k].data.u32]
                    if error == 0 and o.piece < self.n_pieces:
                        error = self._push(o, self.n_pieces)
                        left -= o.piece == self.n_pieces
            spent = _thread_cpu_s() - spent
        if error:
            raise OSError(error, "the sockets cannot be served")
        return spent


cdef int _take(int fd, int64_t *wanted) noexcept nogil:
    """Takes what has come. 0 or an errno."""
    cdef ssize_t got = recv(fd, NULL, TAKE_BYTES, MSG_DONTWAIT | MSG_TRUNC)
    if got > 0:
        wanted[0] -= got
        return 0
    return 0 if got < 0 and (errno == EAGAIN or errno == EINTR) else EIO


cdef int _drain(int epoll_fd, const int *fds, int64_t *wanted, uint32_t left) noexcept nogil:
    """Until each of `left` sockets has brought what is wanted. 0 or an errno."""
    cdef epoll_event events[EVENTS_AT_ONCE]
    cdef int n, k, error
    cdef uint32_t i
    while left:
        n = epoll_wait(epoll_fd, events, EVENTS_AT_ONCE, STALL_MS)
        if n <= 0:
            return EIO if n == 0 else errno
        for k in range(n):
            i = events[k].data.u32
            error = _take(fds[i], &wanted[i])
            if error:
                return error
            if wanted[i] <= 0:
                epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fds[i], NULL)
                left -= 1
    return 0


def drain(sockets: list[int], wanted: list[int]):
    """Takes `wanted[i]` bytes or a little more from each TCP socket, without looking at them.

    OSError: a socket ended before, or none brought anything for a minute. MemoryError.
    """
    cdef uint32_t n = <uint32_t> len(sockets), i, left = 0
    cdef int *fds = <int *> zl_calloc(MEM_MISC, (n + 1) * sizeof(int))
    cdef int64_t *rest = <int64_t *> zl_calloc(MEM_MISC, (n + 1) * sizeof(int64_t))
    cdef int error = 0, epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    try:
        if fds == NULL or rest == NULL:
            raise MemoryError
        if epoll_fd < 0:
            raise OSError(errno, "no epoll")
        for i in range(n):
            fds[i] = sockets[i]
            rest[i] = wanted[i]
            if rest[i] > 0:
                left += 1
                error = error or _watch(epoll_fd, fds[i], EPOLLIN, i)
        with nogil:
            error = error or _drain(epoll_fd, fds, rest, left)
        if error:
            raise OSError(error, "a stream broke off")
    finally:
        if epoll_fd >= 0:
            close(epoll_fd)
        zl_free(fds)
        zl_free(rest)
