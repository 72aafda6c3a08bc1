"""Crash points of test builds; see zl_crash.h. Nothing in every other build."""

from libc.stdint cimport uint64_t

cdef extern from "zl_crash.h" nogil:
    void zl_crash_point(const char *name)
    void zl_crash_torn(const char *name, int fd, const void *data, size_t n, uint64_t offset)
