"""Crash points for Python: places where a test build can be told to die (zl_crash.h, tests/crash). Any thread."""

from crash_points cimport zl_crash_point

__all__ = ["point"]


def point(str name):
    """Die here if ZLAY_CRASH_AT says so; nothing in a build without crash points."""
    cdef bytes text = name.encode()
    cdef const char *c_name = text
    zl_crash_point(c_name)
