/* LD_PRELOAD: fails calls on files under .../events/ the way a plan file says, for tests of the event log.
 *
 * The plan file ($FAIL_PLAN) holds "CALL ERRNO"; empty = nothing fails. It is read at each call. CALL: pwrite, pwrite-half
 * (writes half of it, then fails), sync_file_range, fdatasync, fsync, openat (only with O_CREAT), openat-half (the second file of a pair);
 * half-born = that, and unlinkat, so that the first file stays; change = what a read-only file system refuses: pwrite,
 * openat, unlinkat. stall: fdatasync creates $FAIL_PLAN.stalled and waits until the plan is another.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int planned(const char *call) {
    char text[64] = "", name[32];
    int error, fd, n;
    const char *path = getenv("FAIL_PLAN");
    int (*real_open)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    if (!path || (fd = real_open(path, O_RDONLY | O_CLOEXEC)) < 0) return 0;
    n = (int)read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0 || sscanf(text, "%31s %d", name, &error) != 2) return 0;
    if (strcmp(name, "change") == 0 && strstr(call, "sync") == NULL) return error;
    if (strcmp(name, "half-born") == 0 && (!strcmp(call, "openat-half") || !strcmp(call, "unlinkat"))) return error;
    return strcmp(name, call) == 0 ? error : 0;
}

static int ours(int fd) {
    char link[64], path[4096];
    ssize_t n;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return strstr(path, "/events") != NULL && strstr(path, ".json") == NULL;
}

ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) {
    ssize_t (*real)(int, const void *, size_t, off_t) =
        (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite64");
    if (ours(fd)) {
        if ((errno = planned("pwrite"))) return -1;
        int error = planned("pwrite-half");
        if (error && n > 1) return real(fd, data, n / 2, at);
        if (error) {
            errno = error;
            return -1;
        }
    }
    return real(fd, data, n, at);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return pwrite64(fd, data, n, at); }

static void stall(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s.stalled", getenv("FAIL_PLAN"));
    close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    while (planned("stall")) usleep(1000);
}

int sync_file_range(int fd, off_t at, off_t n, unsigned int flags) {
    int (*real)(int, off_t, off_t, unsigned int) =
        (int (*)(int, off_t, off_t, unsigned int))dlsym(RTLD_NEXT, "sync_file_range");
    if (ours(fd) && (errno = planned("sync_file_range"))) return -1;
    return real(fd, at, n, flags);
}

int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (ours(fd) && (errno = planned("fdatasync"))) return -1;
    if (ours(fd) && planned("stall")) stall();
    return real(fd);
}

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    if (ours(fd) && (errno = planned("fsync"))) return -1;
    return real(fd);
}

int openat64(int dir, const char *path, int flags, ...) {
    int (*real)(int, const char *, int, ...) = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, "openat64");
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    if (flags & O_CREAT && strstr(path, ".json") == NULL && (errno = planned("openat"))) return -1;
    if (flags & O_CREAT && strstr(path, ".index") != NULL && (errno = planned("openat-half"))) return -1;
    return real(dir, path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
    va_end(args);
    return openat64(dir, path, flags, mode);
}

int unlinkat(int dir, const char *path, int flags) {
    int (*real)(int, const char *, int) = (int (*)(int, const char *, int))dlsym(RTLD_NEXT, "unlinkat");
    if ((strstr(path, ".frames") || strstr(path, ".index")) && (errno = planned("unlinkat"))) return -1;
    return real(dir, path, flags);
}
