"""What threads can do without waiting for one another where the obvious call would make them wait.

`look_up`: without the GIL, CPython 3.13 reads a dict without its lock only when it can take references to the key and
the value that lie there. Of an object that another thread has made, and nobody else refers to, it cannot; it then takes
the lock. `dict.get` holds that lock already: it calls sched_yield 40 times before it notices, some 40 us for what takes
0.1 us, and while all threads that want the same dict do so, they wait for one another. Subscripts and `in` do not.

`split_url`: an `lru_cache` holds its lock while the function that it wraps runs, and `urllib.parse.urlsplit` is such a
function: threads that parse URLs, hardly ever the same one twice, do so one after the other. This one has no cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from urllib.parse import SplitResult

__all__ = ["look_up", "split_url"]

split_url: Callable[[str], SplitResult] = urlsplit.__wrapped__  # type: ignore[attr-defined]


def look_up[K, V](table: Mapping[K, V], key: K) -> V | None:
    """`table.get(key)` for a dict that several threads use. Any thread."""
    try:
        return table[key]
    except KeyError:
        return None
