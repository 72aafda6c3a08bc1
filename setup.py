"""Builds the compiled core: one extension per topic, every `.pyx` of `zlay/_fast` and `zlay/sim`.

All compiler directives and flags stand here. What only one topic needs (the libraries it links) stands at the head
of its own `.pyx`, as a `# distutils:` line. Generated C goes to `build/`, never beside the sources.

Environment (a change of the last three rebuilds everything):

  ZLAY_ONLY=a,b     build only these topics (file names without `.pyx`); `none` builds nothing
  ZLAY_EXTRA=DIR    also build the `.pyx` of this folder: tests/native, what tests drive the core with
  ZLAY_DEBUG=1      bounds and division checks on, -O0, C assertions kept
  ZLAY_SAN=NAME     `address`, `thread` or `undefined`: build with that sanitizer, or with several, comma-separated
  ZLAY_CRASH_POINTS=1  places where the process can be told to die, for tests/crash; less optimised
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sysconfig
from functools import cache
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PACKAGES_WITH_TOPICS = ("zlay/_fast", "zlay/sim", *filter(None, [os.environ.get("ZLAY_EXTRA")]))
INCLUDES = "zlay/_fast/includes"
SANITIZERS = ("address", "thread", "undefined")
BUILD_JOBS = min(2, os.cpu_count() or 1)  # the compiler takes up to 1 GB for a large generated file

DEBUG = os.environ.get("ZLAY_DEBUG", "0") == "1"
SANITIZER = os.environ.get("ZLAY_SAN", "")
CRASH_POINTS = os.environ.get("ZLAY_CRASH_POINTS", "0") == "1"

if SANITIZER and not set(SANITIZER.split(",")) <= set(SANITIZERS):
    raise SystemExit(f"ZLAY_SAN={SANITIZER}: not of {', '.join(SANITIZERS)}")

DIRECTIVES = {
    "language_level": 3,
    "freethreading_compatible": True,
    "binding": True,
    "embedsignature": False,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "nonecheck": DEBUG,
    "cdivision": not DEBUG,
    "overflowcheck": False,
}

# Generated C depends on the directives, so each set of them has a folder of its own.
GENERATED = f"build/c-{hashlib.sha256(repr(DIRECTIVES).encode()).hexdigest()[:8]}"


def compile_args() -> list[str]:
    """Flags for the C compiler. gnu11: C11 atomics, with the GNU names the kernel and libc headers declare."""
    args = ["-std=gnu11", "-Wall", "-Wextra", "-fno-strict-aliasing", "-fno-omit-frame-pointer"]
    # What Cython's own generated code cannot help.
    args += ["-Wno-unused-function", "-Wno-unused-parameter", "-Wno-unused-variable", "-Wno-unused-but-set-variable"]
    args += ["-Wno-missing-field-initializers", "-Wno-sign-compare", "-Wno-cast-function-type"]
    args += ["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g1", *optional_args()]
    if SANITIZER:
        # What is undefined ends the process, as what AddressSanitizer finds does: nobody reads the log of a good run.
        args += [f"-fsanitize={SANITIZER}", "-fno-sanitize-recover=all", "-g", "-O1"]
    if SANITIZER == "thread":  # copies that the compiler writes out itself would not be seen
        args += [f"-fno-builtin-{name}" for name in ("memcpy", "memmove", "memset", "memcmp")]
    if CRASH_POINTS:
        args += ["-DZLAY_CRASH_POINTS=1", "-O1"]
    return args


@cache
def optional_args() -> list[str]:
    """Flags of one compiler or processor, where this one has them.

    GCC copies and clears short pieces of memory on x86 by `rep`, which takes longer to begin than libc takes for all.
    """
    wanted = "-mstringop-strategy=libcall"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    tried = subprocess.run([*compiler, wanted, "-E", "-xc", os.devnull], capture_output=True, check=False)
    return [wanted] if tried.returncode == 0 and not tried.stderr else []


def link_args() -> list[str]:
    """Flags for the linker. Undefined symbols of an extension are the interpreter's, so they cannot be forbidden."""
    return [f"-fsanitize={SANITIZER}"] if SANITIZER else []


def topics() -> list[str]:
    """Paths of the `.pyx` to build, relative to the project's root."""
    found = sorted(path for package in PACKAGES_WITH_TOPICS for path in glob(f"{package}/*.pyx", root_dir=ROOT))
    wanted = {name for name in os.environ.get("ZLAY_ONLY", "").split(",") if name}
    if not wanted:
        return found
    if wanted == {"none"}:
        return []
    missing = wanted - {Path(path).stem for path in found}
    if missing:
        raise SystemExit(f"ZLAY_ONLY names what is not there: {', '.join(sorted(missing))}")
    return [path for path in found if Path(path).stem in wanted]


def dependencies() -> list[str]:
    """Files that every topic is made from besides its own source and its `.pxd` files, which Cython tracks."""
    headers = [
        path for package in PACKAGES_WITH_TOPICS for path in glob(f"{package}/**/*.h", root_dir=ROOT, recursive=True)
    ]
    return [*sorted(headers), flags_file()]


def flags_file() -> str:
    """A file that is newer than every compiled topic once flags or directives differ from those of the build before."""
    path = Path("build/flags")
    flags = repr((DIRECTIVES, compile_args(), link_args()))
    if not path.exists() or path.read_text() != flags:
        path.parent.mkdir(exist_ok=True)
        path.write_text(flags)
    return str(path)


def extensions() -> list[Extension]:
    """One extension per topic, translated to C where the source is newer."""
    paths = topics()
    if not paths:
        return []
    from Cython.Build import cythonize  # not needed to make a source distribution

    depends = dependencies()
    modules = [
        Extension(
            path.removesuffix(".pyx").replace("/", "."),
            [path],
            include_dirs=["zlay/_fast", INCLUDES],
            depends=depends,
            extra_compile_args=compile_args(),
            extra_link_args=link_args(),
            language="c",
        )
        for path in paths
    ]
    return cythonize(
        modules,
        build_dir=GENERATED,
        compiler_directives=DIRECTIVES,
        include_path=[".", INCLUDES],
        nthreads=BUILD_JOBS if len(modules) > 1 else 0,
        show_all_warnings=DEBUG,
    )


class BuildTopics(build_ext):
    """`build_ext` with two compilers at a time."""

    def initialize_options(self) -> None:
        """Set the defaults that differ from setuptools' own."""
        super().initialize_options()
        self.parallel = BUILD_JOBS
        self.build_temp = "build/objects"


if __name__ == "__main__":
    os.chdir(ROOT)
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildTopics})
