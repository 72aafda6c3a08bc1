"""What libc's malloc says of itself, and its trimming. Any thread; mallinfo2 takes each arena's lock for a moment."""

from __future__ import annotations

import ctypes

__all__ = ["Arenas", "arenas", "trim"]


class Arenas(ctypes.Structure):
    """struct mallinfo2 (glibc >= 2.33): bytes and counts of all arenas."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    )  # fmt: skip

    arena: int  # bytes in arenas
    hblkhd: int  # bytes mapped one by one
    uordblks: int  # bytes in use
    fordblks: int  # bytes free in arenas


_libc = ctypes.CDLL(None)
_has_info = hasattr(_libc, "mallinfo2")
_has_trim = hasattr(_libc, "malloc_trim")
if _has_info:
    _libc.mallinfo2.restype = Arenas
    _libc.mallinfo2.argtypes = ()
if _has_trim:
    _libc.malloc_trim.restype = ctypes.c_int
    _libc.malloc_trim.argtypes = (ctypes.c_size_t,)


def arenas() -> Arenas:
    """The figures; all zero where libc has none (musl), and of little meaning under another allocator."""
    info: Arenas = _libc.mallinfo2() if _has_info else Arenas()
    return info


def trim() -> bool:
    """malloc_trim(0): gives free pages back to the kernel. Whether any went."""
    return bool(_has_trim and _libc.malloc_trim(0))
