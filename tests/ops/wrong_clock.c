/* LD_PRELOAD: the wall clock is off by what $CLOCK_OFF holds, for tests of a relay whose machine's clock is wrong.
 *
 * $CLOCK_OFF names a file of eight bytes, a signed number of seconds in the machine's byte order. It is mapped at the
 * first question, so that a test changes the time of a running process by writing to it. Monotonic clocks stay right.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t off_s(void) {
    static const int64_t none = 0;
    static _Atomic(const int64_t *) mapped = NULL;
    const int64_t *p = atomic_load(&mapped);
    if (p == NULL) {
        const char *path = getenv("CLOCK_OFF");
        int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *m = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *p, PROT_READ, MAP_SHARED, fd, 0);
        if (fd >= 0) close(fd);
        p = m == MAP_FAILED ? &none : m;
        atomic_store(&mapped, p);
    }
    return *(const volatile int64_t *)p;
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    static _Atomic(int (*)(clockid_t, struct timespec *)) real = NULL;
    int (*call)(clockid_t, struct timespec *) = atomic_load(&real);
    int result;
    if (call == NULL) {
        call = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
        atomic_store(&real, call);
    }
    result = call(clock, t);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) t->tv_sec += off_s();
    return result;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
