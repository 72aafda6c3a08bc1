"""Keeps h11's tables quick to read for threads that did not import h11. Import it wherever h11 is used.

Without the GIL, CPython 3.13 reads a dict without its lock only when it can take a reference to the key that it finds
there. It can where that key is the very object asked for, a string, or referred to by a thread that did not make it.
h11 finds its readers and writers with `dict.get` by new tuples, which are none of these: the lock is then taken, and by
`dict.get` twice, which ends in 40 calls of sched_yield: some 20 us where 0.1 us would do, five times per HTTP exchange,
and all threads wait for one another meanwhile. So one other thread makes a reference to each key here, for good.

Any thread may import it.
"""

from __future__ import annotations

import threading

from h11._readers import READERS
from h11._writers import WRITERS

__all__: list[str] = []

_held: list[object] = []


def _hold() -> None:
    _held.extend([*READERS, *WRITERS])


_thread = threading.Thread(target=_hold, name="h11-tables")
_thread.start()
_thread.join()
