"""Resident memory by what each mapping of this process is for, as the kernel lists them. Pure functions but `read`.

Who a mapping belongs to shows by where it lies and what stands beside it:
- CPython's mimalloc asks for addresses from 2 TiB on, far below those that the kernel gives unasked;
- a thread's stack has a page in front of it that nobody may touch;
- an arena of libc's malloc begins at a multiple of 64 MiB, or is [heap].
What is left is what C has had mapped piece by piece: blocks of malloc above its threshold, and the frame pool.

The kernel walks all page tables for it: some 10 us for each mapping, of which a thread has two. Any thread.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Mapping", "by_kind", "parse", "read"]

KIB = 1024
PYTHON = range(1 << 41, 1 << 45)  # mimalloc's hints go from 2 to 30 TiB; a program lies above, libraries higher still
ARENA_BYTES = 64 << 20  # HEAP_MAX_SIZE of glibc on 64 bits
GUARD_BYTES = 64 * KIB  # a page, of whatever size

_ENTRY = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ *(.*)\n(?:\S*: .*\n)*?Rss: +(\d+) kB", re.MULTILINE)


class Mapping(NamedTuple):
    """One line of /proc/self/smaps."""

    start: int
    end: int
    permissions: str
    name: str  # a path, or what the kernel calls it; "" = anonymous
    resident: int  # bytes


def read() -> str:
    """All mappings as the kernel lists them now; "" where it does not."""
    try:
        return Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def parse(text: str) -> Iterator[Mapping]:
    """The mappings of a list, in its order, which is that of their addresses."""
    for start, end, permissions, name, resident in _ENTRY.findall(text):
        yield Mapping(int(start, 16), int(end, 16), permissions, name.rstrip(), int(resident) * KIB)


def by_kind(mappings: Iterable[Mapping]) -> dict[str, int]:
    """Resident bytes: python, files, main_stack, thread_stacks, libc_arenas, and pieces, which is all else."""
    out = dict.fromkeys(("python", "files", "main_stack", "thread_stacks", "libc_arenas", "pieces"), 0)
    before: Mapping | None = None
    for one in mappings:
        out[_kind(one, before)] += one.resident
        before = one
    return out


def _kind(one: Mapping, before: Mapping | None) -> str:
    if one.name == "[stack]":
        return "main_stack"
    if one.name == "[heap]":
        return "libc_arenas"
    if one.name and not one.name.startswith("[anon"):
        return "files"  # and what the kernel lends of its own, which counts as nothing
    if one.start in PYTHON:
        return "python"
    if before is not None and before.end == one.start and _is_guard(before):
        return "thread_stacks"
    return "libc_arenas" if one.start % ARENA_BYTES == 0 and one.end - one.start <= ARENA_BYTES else "pieces"


def _is_guard(mapping: Mapping) -> bool:
    return mapping.permissions.startswith("---") and mapping.end - mapping.start <= GUARD_BYTES
