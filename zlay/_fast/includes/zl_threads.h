/* Plain OS threads and mutexes for the compiled core.
 *
 * A thread started here has all signals blocked (signals are the main thread's), never attaches to the interpreter
 * unless its code does so itself, and has a small stack: what it needs beyond that is allocated by tag.
 */
#ifndef ZL_THREADS_H
#define ZL_THREADS_H

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>

typedef void *(*zl_thread_fn)(void *);

/* Starts a thread; out = NULL starts it detached. 0, or an errno. */
static inline int zl_thread_start(pthread_t *out, size_t stack_bytes, const char *name, zl_thread_fn fn, void *arg) {
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, before;
    int rc = pthread_attr_init(&attr);
    if (rc) return rc;
    if (stack_bytes < (size_t)PTHREAD_STACK_MIN) stack_bytes = (size_t)PTHREAD_STACK_MIN;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    stack_bytes += 1 << 20; /* instrumented frames are several times as large */
#endif
    rc = pthread_attr_setstacksize(&attr, stack_bytes);
    if (!rc && !out) rc = pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (!rc) {
        /* Blocked around the start: the new thread inherits the mask, so not even its first instruction takes a signal. */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        rc = pthread_create(&thread, &attr, fn, arg);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_attr_destroy(&attr);
    if (!rc && out) *out = thread;
    (void)name;
#if defined(__GLIBC__)
    /* A detached thread may be gone already, its handle with it: it names itself if it wants to. */
    if (!rc && out && name) pthread_setname_np(thread, name);
#endif
    return rc;
}

static inline void zl_thread_name(const char *name) {
#if defined(__GLIBC__)
    pthread_setname_np(pthread_self(), name);
#else
    (void)name;
#endif
}

/* A mutex that needs no initialisation: zeroed memory is an unlocked one (PTHREAD_MUTEX_INITIALIZER is all zero on Linux). */
typedef pthread_mutex_t zl_mutex;
static inline void zl_lock(zl_mutex *m) { (void)pthread_mutex_lock(m); }
/* For a mutex that is held for less than a microsecond: to sleep and be woken takes several. */
#define ZL_LOCK_TRIES 50
static inline void zl_lock_short(zl_mutex *m) {
    for (int i = 0; i < ZL_LOCK_TRIES; i++) {
        if (!pthread_mutex_trylock(m)) return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    (void)pthread_mutex_lock(m);
}
static inline void zl_unlock(zl_mutex *m) { (void)pthread_mutex_unlock(m); }

#endif
