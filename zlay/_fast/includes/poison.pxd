cdef extern from "zl_poison.h" nogil:
    enum:
        ZL_REDZONE
    void zl_poison(const void *p, size_t n)
    void zl_unpoison(const void *p, size_t n)
