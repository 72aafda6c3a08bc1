"""Where the process's memory is, each figure from its own source; the remainder is what no source claims.

All in bytes. Reading it costs some milliseconds of kernel time (smaps_rollup): not more than once a second. Any thread.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from zlay._fast import mem
from zlay.memory import libc

__all__ = ["measure", "rss_bytes", "smaps"]

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
KIB = 1024


def rss_bytes() -> int:
    """Resident memory of this process, cheaply."""
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * PAGE_BYTES


def smaps() -> dict[str, int]:
    """Sums of /proc/self/smaps_rollup by name; empty where the kernel has none."""
    out: dict[str, int] = {}
    try:
        text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return out
    for line in text.splitlines()[1:]:
        name, _, value = line.partition(":")
        if value.strip().endswith("kB"):
            out[name] = int(value.split()[0]) * KIB
    return out


def _stack_bytes() -> int:
    """Resident bytes of the main thread's stack; those of other threads are anonymous mappings among others."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmStk:"):
            return int(line.split()[1]) * KIB
    return 0


def measure() -> dict[str, int]:
    """All parts by name."""
    maps = smaps()
    arenas = libc.arenas()
    core = {f"core_{tag}": live for tag, (live, _, _) in mem.usage().items()}
    return {
        "rss": rss_bytes(),
        "smaps_rss": maps.get("Rss", 0),
        "smaps_anonymous": maps.get("Anonymous", 0),
        "smaps_private_dirty": maps.get("Private_Dirty", 0),
        "main_stack": _stack_bytes(),
        "libc_arenas": arenas.arena,
        "libc_in_use": arenas.uordblks,
        "libc_free": arenas.fordblks,
        "libc_mapped": arenas.hblkhd,
        "interpreter_blocks": sys.getallocatedblocks(),
        **core,
    }
