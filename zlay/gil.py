"""R10: the GIL stays off, or zlay refuses to run and names who turned it on.

The interpreter turns the GIL on when a module is imported that does not declare itself safe without it, and says so in
a RuntimeWarning that names the module. `watch` keeps these names; `check` refuses. Main thread at start; `is_off` from
any thread.
"""

from __future__ import annotations

import re
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zlay.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check", "is_off", "watch"]

_NAMED = re.compile(r"load module '([^']+)'")
_culprits: list[str] = []


def is_off() -> bool:
    """Whether this interpreter runs without the GIL at this moment. False in an ordinary build."""
    probe = getattr(sys, "_is_gil_enabled", None)
    return probe is not None and not probe()


@contextmanager
def watch() -> Iterator[None]:
    """Keeps the names of modules that turn the GIL on while they are imported inside."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", RuntimeWarning)
        yield
    for warning in seen:
        found = _NAMED.search(str(warning.message))
        if found and "GIL" in str(warning.message):
            _culprits.append(found.group(1))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def check() -> None:
    """Raises StartError unless the GIL is off."""
    if is_off():
        return
    if not hasattr(sys, "_is_gil_enabled"):
        raise StartError("this interpreter has a GIL: zlay needs a free-threaded CPython (python3.13t)")
    if _culprits:
        raise StartError(f"the GIL was turned on by importing {', '.join(_culprits)}: zlay runs only without it")
    raise StartError("the GIL is on (PYTHON_GIL=1, -X gil=1, or an import before zlay's): zlay runs only without it")
