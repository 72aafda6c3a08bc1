"""What tools for people write: figures as text, and an end that is no error when the reader has gone. Main thread."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["plain", "reader_may_leave", "size_text", "time_text"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size_text(count: float) -> str:
    """Bytes in the unit that suits them."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


def time_text(us: int | None) -> str:
    """Unix microseconds as UTC; - where there are none."""
    if not us:
        return "-"
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(us // 1_000_000)) + f".{us // 1000 % 1000:03d}Z"


def plain(text: object) -> str:
    """On one line and without control characters: what others have said must not steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """`| head` has had enough: the command ends as if it had been told so."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
