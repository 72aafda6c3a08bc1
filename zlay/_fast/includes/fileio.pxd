"""What the log and its consumers take from the C library, in the order of the headers."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "<errno.h>" nogil:
    int errno
    const int EINTR
    const int EAGAIN
    const int EINVAL
    const int EIO
    const int ENOENT
    const int EEXIST
    const int ENOMEM
    const int ENOSPC
    const int EDQUOT
    const int EROFS
    const int EPIPE
    const int ECONNRESET
    const int ETIMEDOUT

cdef extern from "<fcntl.h>" nogil:
    const int O_RDONLY
    const int O_RDWR
    const int O_CREAT
    const int O_EXCL
    const int O_CLOEXEC
    const int O_NONBLOCK
    const unsigned int SYNC_FILE_RANGE_WRITE
    const int F_GETFL
    const int F_SETFL
    int openat(int dirfd, const char *path, int flags, ...)
    int fcntl(int fd, int cmd, ...)
    int sync_file_range(int fd, int64_t offset, int64_t n, unsigned int flags)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    ssize_t read(int fd, void *buf, size_t n)
    ssize_t write(int fd, const void *buf, size_t n)
    ssize_t pread(int fd, void *buf, size_t n, int64_t offset)
    ssize_t pwrite(int fd, const void *buf, size_t n, int64_t offset)
    int fdatasync(int fd)
    int fsync(int fd)
    int unlinkat(int dirfd, const char *path, int flags)
    int dup(int fd)
    int ftruncate(int fd, int64_t n)

cdef extern from "<sys/stat.h>" nogil:
    cdef struct stat_s "stat":
        int64_t st_size
    int fstat(int fd, stat_s *out)

cdef extern from "<sys/statvfs.h>" nogil:
    cdef struct statvfs_s "statvfs":
        unsigned long f_frsize
        uint64_t f_blocks
        uint64_t f_bavail
    int fstatvfs(int fd, statvfs_s *out)

cdef extern from "<sys/mman.h>" nogil:
    const int MADV_DONTNEED
    int madvise(void *addr, size_t n, int advice)

cdef extern from "<sys/sendfile.h>" nogil:
    ssize_t sendfile(int out_fd, int in_fd, int64_t *offset, size_t n)

cdef extern from "<sys/eventfd.h>" nogil:
    const int EFD_CLOEXEC
    const int EFD_NONBLOCK
    int eventfd(unsigned int initval, int flags)

cdef extern from "<sys/epoll.h>" nogil:
    const int EPOLL_CLOEXEC
    const int EPOLL_CTL_ADD
    const int EPOLL_CTL_DEL
    const uint32_t EPOLLIN
    const uint32_t EPOLLOUT
    const uint32_t EPOLLRDHUP
    const uint32_t EPOLLHUP
    const uint32_t EPOLLERR
    const uint32_t EPOLLET
    ctypedef union epoll_data_t:
        int fd
        uint32_t u32
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int n, int timeout_ms)

cdef extern from "<poll.h>" nogil:
    const short POLLIN
    const short POLLOUT
    const short POLLHUP
    const short POLLERR
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long n, int timeout_ms)

cdef extern from "<sys/socket.h>" nogil:
    const int MSG_DONTWAIT
    const int MSG_NOSIGNAL
    const int MSG_TRUNC
    const int SOL_SOCKET
    const int SHUT_RDWR
    const int SHUT_WR
    ssize_t send(int fd, const void *buf, size_t n, int flags)
    ssize_t recv(int fd, void *buf, size_t n, int flags)
    int shutdown(int fd, int how)
    int setsockopt(int fd, int level, int option, const void *value, unsigned int n)

cdef extern from "<netinet/in.h>" nogil:
    const int IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    const int TCP_NODELAY
    const int TCP_USER_TIMEOUT

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int nanosleep(const timespec *wanted, timespec *left)
