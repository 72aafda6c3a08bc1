"""Where the process's memory is, each figure from its own source; the remainder is what no source claims.

All in bytes. Reading it costs some milliseconds of kernel time (smaps_rollup): not more than once a second. Any thread.
`_peaks_lock` guards the peaks by tag: the allocator itself keeps none, so they are what `sample` has seen.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

from zlay._fast import mem, pool
from zlay.memory import allocator, libc, mappings

__all__ = ["measure", "report", "rss_bytes", "sample", "smaps"]

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
KIB = 1024

_peaks_lock = threading.Lock()
_peaks: dict[str, int] = {}


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


def sample() -> dict[str, tuple[int, int, int, int]]:
    """C memory by tag: (live bytes, live allocations, ever made, most live bytes seen). Housekeeping calls it, too."""
    usage = mem.usage()
    with _peaks_lock:
        for tag, (live, _, _) in usage.items():
            _peaks[tag] = max(live, _peaks.get(tag, 0))
        return {tag: (*figures, _peaks[tag]) for tag, figures in usage.items()}


def report() -> dict[str, Any]:
    """Where the resident memory is, part by part, and what no part claims; what C has asked for, by tag; all figures.

    Each part is resident memory by the mappings it has (zlay.memory.mappings). Of the mappings that are nobody's else,
    the frame pool says what it has, and malloc how much it has had mapped piece by piece: more cannot be its.
    """
    figures = measure()
    parts = mappings.by_kind(mappings.parse(mappings.read()))
    pieces = parts.pop("pieces")
    parts["frame_pool"] = min(pieces, pool.resident_bytes())
    parts["malloc_pieces"] = min(pieces - parts["frame_pool"], figures["libc_mapped"])
    rss = max(figures["rss"], sum(parts.values()))  # the mappings were read a moment later
    return {
        "allocator": allocator.running_on(),
        "rss": rss,
        "parts": parts,
        "remainder": rss - sum(parts.values()),
        "core": [
            {"tag": tag, "live_bytes": live, "peak_bytes": peak, "live_count": count, "total_count": ever}
            for tag, (live, count, ever, peak) in sample().items()
        ],
        "figures": figures,
    }
