"""Keeps h11 quick, whoever calls it and whatever a peer sends. Import it wherever h11 or wsproto is used.

**Tables.** Without the GIL, CPython 3.13 reads a dict without its lock only when it can take a reference to the key
that it finds there. It can where that key is the very object asked for, a string, or referred to by a thread that did
not make it. h11 finds its readers and writers with `dict.get` by new tuples, which are none of these: the lock is then
taken, and by `dict.get` twice, which ends in 40 calls of sched_yield: some 20 us where 0.1 us would do, five times per
HTTP exchange, and all threads wait for one another meanwhile. So one other thread makes a reference to each key here,
for good.

**Header lines.** h11's expression for them looks at blanks before a byte that it refuses as often as there are blanks:
16 KiB take half a second, 64 KiB ten times that. The same expression here gives no blank back that it has taken, so its
time is in proportion to the line; it matches the same lines, with the same parts.

Any thread may import it.
"""

from __future__ import annotations

import re
import threading

import h11._readers
from h11._abnf import field_name
from h11._readers import READERS
from h11._writers import WRITERS

__all__: list[str] = []

_BLANKS = r"[ \t]*+"  # possessive: what it has taken it keeps
_WORDS = r"[^\x00\s]++(?:[ \t]++[^\x00\s]++)*+"

h11._readers.header_field_re = re.compile(
    rf"(?P<field_name>{field_name}):{_BLANKS}(?P<field_value>(?:{_WORDS})?){_BLANKS}".encode()
)

_held: list[object] = []


def _hold() -> None:
    _held.extend([*READERS, *WRITERS])


_thread = threading.Thread(target=_hold, name="h11-tables")
_thread.start()
_thread.join()
