from libc.stdint cimport uint32_t

cdef extern from "zl_stripe.h" nogil:
    enum:
        ZL_STRIPES
    uint32_t zl_stripe()
