cdef extern from "zl_threads.h" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct zl_mutex:
        pass
    ctypedef void *(*zl_thread_fn)(void *) noexcept nogil
    int zl_thread_start(pthread_t *out, size_t stack_bytes, const char *name, zl_thread_fn fn, void *arg)
    void zl_thread_name(const char *name)
    int pthread_join(pthread_t thread, void **result)
    void zl_lock(zl_mutex *m)
    void zl_lock_short(zl_mutex *m)
    void zl_unlock(zl_mutex *m)
