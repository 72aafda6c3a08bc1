"""When consumers are woken: at once while they are few, else by a thread of its own, at most once per tick (design 8).

Every waiting consumer has the one eventfd in its epoll, edge-triggered: one write wakes all of them, no wake-up is lost
between two waits, and nobody has to read it empty. While consumers are few the log's writer does it itself; a tick of
more than a few would hold it up, so the waker thread does it then: at once after a quiet time, and then once per tick.

Threads: any may count and wake; start and stop belong to who starts and stops the consumers.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from atomics cimport (zl_add32, zl_add64_relaxed, zl_futex_wait, zl_futex_wake, zl_load32, zl_load64_relaxed,
                      zl_store32)
from fileio cimport EFD_CLOEXEC, EFD_NONBLOCK, close, errno, eventfd, nanosleep, timespec, write
from threads cimport pthread_join, pthread_t, zl_thread_start

from zlay._fast.log cimport log_set_wake

__all__ = []

cdef enum:
    STACK_BYTES = 64 << 10
    LOOK_AGAIN_MS = 1000
    FEW = 32                     # consumers that are woken at once
    TICK_PER_CONSUMER_US = 20
    TICK_MOST_US = 5000

# --- atomics ---
cdef uint32_t _consumers = 0
cdef uint32_t _word = 0          # goes up with each event that the waker thread is to tell of
cdef uint32_t _asleep = 0
cdef uint32_t _stop = 0
cdef uint64_t _wakes = 0

# --- constant while consumers live ---
cdef int _fd = -1
cdef int64_t _tick_us = -1
cdef uint32_t _seen = 0          # _word when the thread was made: what is told before it runs is news to it
cdef pthread_t _thread


cdef int waker_fd() noexcept nogil:
    return _fd


cdef void waker_count(int n) noexcept nogil:
    zl_add32(&_consumers, <uint32_t> n)


cdef uint32_t waker_consumers() noexcept nogil:
    return zl_load32(&_consumers)


cdef uint64_t waker_wakes() noexcept nogil:
    return zl_load64_relaxed(&_wakes)


cdef void waker_now() noexcept nogil:
    cdef uint64_t one = 1
    zl_add64_relaxed(&_wakes, 1)
    write(_fd, &one, 8)


cdef int64_t _tick() noexcept nogil:
    """Microseconds between two wake-ups by now; 0 = at once."""
    cdef uint32_t n
    if _tick_us >= 0:
        return _tick_us
    n = zl_load32(&_consumers)
    return 0 if n <= FEW else min(<int64_t> n * TICK_PER_CONSUMER_US, <int64_t> TICK_MOST_US)


cdef void _on_publish() noexcept nogil:
    """In the log's writer."""
    if zl_load32(&_consumers) == 0:
        return
    if _tick() == 0:
        waker_now()
        return
    zl_add32(&_word, 1)
    if zl_load32(&_asleep):
        zl_futex_wake(&_word, 1)


cdef void *_main(void *arg) noexcept nogil:
    cdef uint32_t seen = _seen, word
    cdef timespec ts
    cdef int64_t tick
    while not zl_load32(&_stop):
        zl_store32(&_asleep, 1)
        word = zl_load32(&_word)
        if word == seen:
            zl_futex_wait(&_word, seen, LOOK_AGAIN_MS)
            continue
        zl_store32(&_asleep, 0)
        seen = word
        waker_now()
        tick = _tick()
        ts.tv_sec = <long> (tick // 1000000)
        ts.tv_nsec = <long> (tick % 1000000 * 1000)
        nanosleep(&ts, NULL)
    return NULL


cdef int waker_start(int64_t tick_us) noexcept nogil:
    global _fd, _tick_us, _seen
    cdef int error
    _fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if _fd < 0:
        return errno
    _tick_us = tick_us
    _seen = zl_load32(&_word)
    zl_store32(&_stop, 0)
    error = zl_thread_start(&_thread, STACK_BYTES, b"zlay-waker", _main, NULL)
    if error:
        close(_fd)
        _fd = -1
        return error
    log_set_wake(_on_publish)
    return 0


cdef void waker_stop() noexcept nogil:
    global _fd
    log_set_wake(NULL)
    zl_store32(&_stop, 1)
    zl_add32(&_word, 1)
    zl_futex_wake(&_word, 1)
    pthread_join(_thread, NULL)
    close(_fd)
    _fd = -1
