/* Crash points: named places where a test build can be told to die (ZLAY_CRASH_POINTS=1 when it is built; tests/crash).
 *
 * ZLAY_CRASH_AT=NAME:COUNT: who comes to that place as the COUNT-th says so on stderr and ends the process by SIGKILL.
 * A name belongs to one place, and so to one topic: each topic counts for itself. In every other build nothing of this
 * is there, not even the names.
 */
#ifndef ZL_CRASH_H
#define ZL_CRASH_H

#ifdef ZLAY_CRASH_POINTS

#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char zl_crash_name[64]; /* "" = nowhere */
static atomic_long zl_crash_left;

__attribute__((constructor)) static void zl_crash_read(void) {
    const char *at = getenv("ZLAY_CRASH_AT"), *colon = at ? strchr(at, ':') : NULL;
    if (!colon || (size_t)(colon - at) >= sizeof zl_crash_name) return;
    memcpy(zl_crash_name, at, (size_t)(colon - at));
    atomic_store(&zl_crash_left, atol(colon + 1));
}

static inline int zl_crash_due(const char *name) {
    return strcmp(name, zl_crash_name) == 0 && atomic_fetch_sub(&zl_crash_left, 1) == 1;
}

static inline void zl_crash_die(const char *name) {
    char text[128] = "crash point ";
    strncat(text, name, sizeof zl_crash_name);
    strcat(text, "\n");
    if (write(STDERR_FILENO, text, strlen(text)) < 0) abort();
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static inline void zl_crash_point(const char *name) {
    if (zl_crash_due(name)) zl_crash_die(name);
}

/* Dies in the middle of a write: half of it is in the file. */
static inline void zl_crash_torn(const char *name, int fd, const void *data, size_t n, uint64_t offset) {
    if (!zl_crash_due(name)) return;
    if (pwrite(fd, data, n / 2, (off_t)offset) < 0) abort();
    zl_crash_die(name);
}

#else

#define zl_crash_point(name) ((void)0)
#define zl_crash_torn(name, fd, data, n, offset) ((void)0)

#endif
#endif
