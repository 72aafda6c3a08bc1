"""ZLAY_ALLOCATOR: which library serves malloc in this process.

Only LD_PRELOAD can decide that, before the process begins: `ensure` replaces the process by itself with it set, then
looks into /proc/self/maps whether the library is really there. It serves what C libraries and `zl_malloc` allocate;
the interpreter's own objects always live in its built-in mimalloc. Main thread, before other threads and large imports.
"""

from __future__ import annotations

import ctypes.util
import functools
import os
import sys
from pathlib import Path

from zlay import logs
from zlay.errors import StartError

__all__ = ["PACKAGES", "ensure", "loaded", "running_on"]

MARK = "ZLAY_REEXECUTED"  # set for the new process, so that a library that does not load cannot make it loop
PACKAGES = {  # name -> (library, Debian packages)
    "mimalloc": ("libmimalloc.so.2", "libmimalloc2.0 or libmimalloc3"),
    "jemalloc": ("libjemalloc.so.2", "libjemalloc2"),
    "tcmalloc": ("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4 or libtcmalloc-minimal4t64"),
}
_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/lib",
    "/lib",
)

log = logs.get("memory")


def _library(name: str) -> Path:
    """The file of an allocator, by path or by one of the names of PACKAGES. StartError when it is not here."""
    if "/" in name:
        path = Path(name)
        if not path.is_file():
            raise StartError(f"ZLAY_ALLOCATOR={name}: there is no such file")
        return path
    soname, package = PACKAGES[name]
    stem = soname.split(".so")[0]
    for folder in _FOLDERS:
        for path in sorted(Path(folder).glob(f"{stem}.so.*")):
            return path
    if ctypes.util.find_library(stem.removeprefix("lib")):
        return Path(soname)  # the loader knows where
    raise StartError(f"ZLAY_ALLOCATOR={name}: {soname} is not installed (Debian: apt-get install {package})")


def _mapped() -> set[str]:
    """The files of all libraries in this process, symbolic links resolved, as the kernel lists them."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    return {path for line in maps.splitlines() if (path := "/" + line.partition("/")[2].rstrip()) != "/"}


def loaded(library: Path) -> bool:
    """Whether this library is mapped into this process; one without a folder: one of that name in any."""
    if library.is_absolute() or "/" in str(library):
        return str(library.resolve()) in _mapped()
    stem = library.name.partition(".so")[0]
    return any(Path(path).name.startswith(stem + ".so") for path in _mapped())


@functools.cache
def running_on() -> str:
    """The known allocator this process runs on, by what is mapped into it; glibc when it is none of them."""
    files = [Path(path).name for path in _mapped()]
    for name, (soname, _) in PACKAGES.items():
        if any(file.startswith(soname.partition(".so")[0] + ".so") for file in files):
            return name
    return "glibc"


def _command() -> list[str]:
    """This very process's command line, interpreter options included."""
    return [sys.executable, *sys.orig_argv[1:]]


def ensure(name: str) -> None:
    """Goes on only under the allocator `name`; otherwise this process becomes a new one. StartError."""
    if name == "glibc":
        log.info("allocator", name=running_on())  # another one when the caller has set LD_PRELOAD himself
        return
    library = _library(name)
    if loaded(library):
        log.info("allocator", name=name, library=str(library))
        return
    if os.environ.get(MARK) == name:
        raise StartError(f"ZLAY_ALLOCATOR={name}: {library} did not load (LD_PRELOAD is ignored for this program?)")
    environment = dict(os.environ)
    earlier = environment.get("LD_PRELOAD")
    environment["LD_PRELOAD"] = f"{library}:{earlier}" if earlier else str(library)
    environment[MARK] = name
    try:
        os.execve(sys.executable, _command(), environment)
    except OSError as exc:
        raise StartError(f"ZLAY_ALLOCATOR={name}: zlay cannot start itself again: {exc.strerror}") from None
