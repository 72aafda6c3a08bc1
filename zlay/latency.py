"""How soon a thread gets a processor when many want one.

A thread with a short slice (sched(7), Linux 6.12; before it the kernel takes the wish and ignores it) is chosen soon
after it wakes, in place of waiting for others' whole slices. That counts twice here: the interpreter's locks spin by
giving the processor away, up to forty times before they sleep, and with the usual slice each of these takes up to 4 ms
on a busy machine: a sixth of a second for a lock whose holder has merely lost its processor in the middle.
"""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["answer_soon"]

SLICE_NS = 100_000  # the shortest there is
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274}  # numbers of the system call
_SCHED_OTHER = 0


class _Attributes(ctypes.Structure):
    """struct sched_attr of linux/sched/types.h, version 0."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    )


def answer_soon() -> bool:
    """Gives the calling thread the shortest slice; False where the system has none to give. Any thread.

    For threads that do little at a time and are waited for; its share of the processors stays as it is.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or os.sched_getscheduler(0) != _SCHED_OTHER:
        return False
    size = ctypes.sizeof(_Attributes)
    wanted = _Attributes(size, _SCHED_OTHER, 0, os.getpriority(os.PRIO_PROCESS, 0), 0, SLICE_NS, 0, 0)
    result: int = ctypes.CDLL(None).syscall(ctypes.c_long(number), 0, ctypes.byref(wanted), ctypes.c_uint(0))
    return result == 0
