"""Looking things up in a dict that another thread has filled.

Without the GIL, CPython 3.13 reads a dict without its lock only when it can take references to the key and the value
that lie there. Of an object that one other thread has made and no third refers to it cannot; it then takes the lock.
`dict.get` holds that lock already: it calls sched_yield 40 times before it notices, some 40 us for what takes
0.1 us, and while all threads that want the same dict do so, they wait for one another. Subscripts and `in` do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["look_up"]


def look_up[K, V](table: Mapping[K, V], key: K) -> V | None:
    """`table.get(key)` for a dict that several threads use. Any thread."""
    try:
        return table[key]
    except KeyError:
        return None
