/* LD_PRELOAD: writes down everything that a process does to the files under $RECORD_ROOT, in order, into $RECORD_TRACE.
 *
 * What is written down: creations, writes, truncations, renames, unlinks, new directories; the begin and the end of every
 * sync; what sendfile hands to a socket, before it does. One mutex covers a change and its record, so that the order of
 * records is the order of changes; a sync covers the changes recorded before its begin. Syncs wait $RECORD_SYNC_US
 * microseconds first, so that other threads go on while they run, as on a disk.
 *
 * A record: u8 what, 3 pad, u32 bytes of data, u64 a, u64 b, data. Little endian.
 *   C create    a inode             data path
 *   W write     a inode, b offset   data what was written
 *   T truncate  a inode, b size
 *   B sync begins, b its number     a inode; of a directory: data path
 *   E sync has succeeded, b its number
 *   R rename    data old path, NUL, new path
 *   U unlink    data path
 *   D mkdir     data path
 *   S sendfile  a inode, b offset after the last byte that it may send
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define PATH_BYTES 4096
#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

struct record {
    uint8_t what;
    uint8_t pad[3];
    uint32_t n;
    uint64_t a, b;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the trace and every change under the root */
static char root[PATH_BYTES];
static size_t root_n;
static int trace = -1;
static uint64_t syncs;
static useconds_t sync_us;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("RECORD_TRACE"), *wait = getenv("RECORD_SYNC_US");
    if (!path || !getenv("RECORD_ROOT") || !realpath(getenv("RECORD_ROOT"), root)) return;
    root_n = strlen(root);
    if (wait) sync_us = (useconds_t)atoi(wait);
    trace = REAL(int, open, const char *, int, ...)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* Under the lock. */
static void put(char what, uint64_t a, uint64_t b, const void *data, size_t n) {
    struct record head = {(uint8_t)what, {0}, (uint32_t)n, a, b};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, n}};
    if (writev(trace, parts, 2) != (ssize_t)(sizeof head + n)) abort();
}

static int ours(const char *path) {
    return strncmp(path, root, root_n) == 0 && (path[root_n] == '/' || path[root_n] == 0);
}

static int path_of(int fd, char *out) {
    char link[64];
    ssize_t n;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, out, PATH_BYTES - 1);
    if (n < 0) return 0;
    out[n] = 0;
    return 1;
}

/* Whether an open file is under the root; its inode. */
static int tracked(int fd, uint64_t *inode, char *path) {
    struct stat st;
    int saved = errno, yes;
    yes = trace >= 0 && path_of(fd, path) && ours(path) && fstat(fd, &st) == 0;
    if (yes) *inode = st.st_ino;
    errno = saved;
    return yes;
}

/* The path of a name in a directory; whether it is under the root. */
static int resolve(int dir, const char *name, char *out) {
    char base[PATH_BYTES] = "";
    if (trace < 0) return 0;
    if (name[0] == '/')
        snprintf(out, PATH_BYTES, "%s", name);
    else {
        if (dir == AT_FDCWD ? !getcwd(base, sizeof base) : !path_of(dir, base)) return 0;
        if (snprintf(out, PATH_BYTES, "%s/%s", base, name) >= PATH_BYTES) return 0;
    }
    return ours(out);
}

static int do_open(int dir, const char *name, int flags, mode_t mode) {
    int (*real)(int, const char *, int, ...) = REAL(int, openat64, int, const char *, int, ...);
    char path[PATH_BYTES];
    struct stat st;
    int fd, existed, saved;
    if (!(flags & (O_CREAT | O_TRUNC)) || !resolve(dir, name, path)) return real(dir, name, flags, mode);
    pthread_mutex_lock(&lock);
    saved = errno;
    existed = stat(path, &st) == 0;
    errno = saved;
    fd = real(dir, name, flags, mode);
    saved = errno;
    if (fd >= 0 && fstat(fd, &st) == 0) {
        if (!existed)
            put('C', st.st_ino, 0, path, strlen(path));
        else if (flags & O_TRUNC)
            put('T', st.st_ino, 0, NULL, 0);
    }
    errno = saved;
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE_ARGUMENT(mode)                                    \
    va_list args;                                              \
    va_start(args, flags);                                     \
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;  \
    va_end(args)

int open(const char *path, int flags, ...) {
    MODE_ARGUMENT(mode);
    return do_open(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE_ARGUMENT(mode);
    return do_open(AT_FDCWD, path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...) {
    MODE_ARGUMENT(mode);
    return do_open(dir, path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...) {
    MODE_ARGUMENT(mode);
    return do_open(dir, path, flags, mode);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) {
    ssize_t (*real)(int, const void *, size_t, off_t) = REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
    char path[PATH_BYTES];
    uint64_t inode;
    ssize_t done;
    if (!tracked(fd, &inode, path)) return real(fd, data, n, at);
    pthread_mutex_lock(&lock);
    done = real(fd, data, n, at);
    if (done > 0) put('W', inode, (uint64_t)at, data, (size_t)done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return pwrite64(fd, data, n, at); }

ssize_t write(int fd, const void *data, size_t n) {
    ssize_t (*real)(int, const void *, size_t) = REAL(ssize_t, write, int, const void *, size_t);
    char path[PATH_BYTES];
    uint64_t inode;
    off_t at;
    ssize_t done;
    if (!tracked(fd, &inode, path)) return real(fd, data, n);
    pthread_mutex_lock(&lock);
    at = lseek(fd, 0, SEEK_CUR);
    done = real(fd, data, n);
    if (done > 0) put('W', inode, (uint64_t)at, data, (size_t)done);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate64(int fd, off_t size) {
    int (*real)(int, off_t) = REAL(int, ftruncate64, int, off_t);
    char path[PATH_BYTES];
    uint64_t inode;
    int failed;
    if (!tracked(fd, &inode, path)) return real(fd, size);
    pthread_mutex_lock(&lock);
    failed = real(fd, size);
    if (!failed) put('T', inode, (uint64_t)size, NULL, 0);
    pthread_mutex_unlock(&lock);
    return failed;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int do_sync(int fd, int (*real)(int)) {
    char path[PATH_BYTES];
    struct stat st;
    uint64_t inode, number;
    int failed;
    if (!tracked(fd, &inode, path)) return real(fd);
    pthread_mutex_lock(&lock);
    number = ++syncs;
    put('B', inode, number, path, fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) ? strlen(path) : 0);
    pthread_mutex_unlock(&lock);
    if (sync_us) usleep(sync_us);
    failed = real(fd);
    if (!failed) {
        pthread_mutex_lock(&lock);
        put('E', 0, number, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    return failed;
}

int fsync(int fd) { return do_sync(fd, REAL(int, fsync, int)); }

int fdatasync(int fd) { return do_sync(fd, REAL(int, fdatasync, int)); }

int renameat(int old_dir, const char *old, int new_dir, const char *new) {
    int (*real)(int, const char *, int, const char *) = REAL(int, renameat, int, const char *, int, const char *);
    char paths[2 * PATH_BYTES], to[PATH_BYTES];
    int failed;
    size_t n;
    if (!resolve(old_dir, old, paths) || !resolve(new_dir, new, to)) return real(old_dir, old, new_dir, new);
    n = strlen(paths) + 1;
    strcpy(paths + n, to);
    pthread_mutex_lock(&lock);
    failed = real(old_dir, old, new_dir, new);
    if (!failed) put('R', 0, 0, paths, n + strlen(to));
    pthread_mutex_unlock(&lock);
    return failed;
}

int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int unlinkat(int dir, const char *name, int flags) {
    int (*real)(int, const char *, int) = REAL(int, unlinkat, int, const char *, int);
    char path[PATH_BYTES];
    int failed;
    if (!resolve(dir, name, path)) return real(dir, name, flags);
    pthread_mutex_lock(&lock);
    failed = real(dir, name, flags);
    if (!failed) put('U', 0, 0, path, strlen(path));
    pthread_mutex_unlock(&lock);
    return failed;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }

int mkdirat(int dir, const char *name, mode_t mode) {
    int (*real)(int, const char *, mode_t) = REAL(int, mkdirat, int, const char *, mode_t);
    char path[PATH_BYTES];
    int failed;
    if (!resolve(dir, name, path)) return real(dir, name, mode);
    pthread_mutex_lock(&lock);
    failed = real(dir, name, mode);
    if (!failed) put('D', 0, 0, path, strlen(path));
    pthread_mutex_unlock(&lock);
    return failed;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

ssize_t sendfile64(int out, int in, off64_t *offset, size_t n) {
    ssize_t (*real)(int, int, off64_t *, size_t) = REAL(ssize_t, sendfile64, int, int, off64_t *, size_t);
    char path[PATH_BYTES];
    uint64_t inode;
    if (offset && tracked(in, &inode, path)) {
        pthread_mutex_lock(&lock);
        put('S', inode, (uint64_t)*offset + n, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    return real(out, in, offset, n);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t n) { return sendfile64(out, in, offset, n); }
