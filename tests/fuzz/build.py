"""Compiles fuzzing programs: one per target, of the target, the topics it needs, and an interpreter that imports them.

The C of the topics is what `setup.py` makes for the product, with the same directives; only flags differ. Objects are
kept under `build/fuzz` by what they are made of, so that only what changed is compiled. One process at a time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from Cython.Build import cythonize
from setuptools import Extension

from tests.fuzz.llvm import tool

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "KINDS",
    "OUT",
    "PLANTED",
    "ROOT",
    "TARGETS",
    "BuildError",
    "describe",
    "program",
    "sources_digest",
    "targets_of",
]

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
OUT = ROOT / "build" / "fuzz"
COMPILE_S = 900.0
JOBS = min(2, os.cpu_count() or 1)

_WARNINGS = ["-Wall", "-Wno-unused-function", "-Wno-unused-variable", "-Wno-unused-but-set-variable"]
_WARNINGS += ["-Wno-unreachable-code", "-Wno-sign-compare", "-Wno-unneeded-internal-declaration"]
_COMMON = ["-std=gnu11", "-fno-strict-aliasing", "-fno-omit-frame-pointer", *_WARNINGS]
# Cython calls its own methods through pointers of another type, which is undefined by the letter and not our subject.
_SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize=function", "-fno-sanitize-recover=all"]


_OWN = ("mutator", "parts")  # ours, not what is tested: twice as fast without sanitizers, and covers nothing


@dataclass(frozen=True, slots=True)
class Kind:
    """How a program is compiled and linked."""

    compile: tuple[str, ...]
    link: tuple[str, ...]


KINDS = {
    "fuzz": Kind(("-O2", "-g1", "-fsanitize=fuzzer-no-link", *_SANITIZERS), ("-fsanitize=fuzzer", *_SANITIZERS)),
    "coverage": Kind(
        ("-O1", "-g1", "-fprofile-instr-generate", "-fcoverage-mapping"),
        ("-fsanitize=fuzzer", "-fprofile-instr-generate"),
    ),
}


@dataclass(frozen=True, slots=True)
class Target:
    """One subject.

    `wrap`: functions of libraries that the target puts its own in place of, in this program only. `flags`: libFuzzer's.
    """

    about: str
    max_bytes: int
    wrap: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


TARGETS = {
    "frame": Target(
        "a whole frame, from its bytes to the verdict; signatures always hold",
        16384,
        ("secp256k1_ecdsa_verify", "ECDSA_do_verify"),
        ("-mutate_depth=1",),  # its mutator changes several places by itself; more, and four in five get nowhere
    ),
    "drisl": Target("CBOR: one item, a record", 4096),
    "message": Target("a frame's message: the reader's glance and the strict decoding", 16384),
    "car": Target("a CAR", 16384),
    "tree": Target("nodes and inversion, on frames whose hashes nobody looks at", 16384),
    "ws": Target("the WebSocket frame cutter", 8192),
    "connection": Target("a connection from its first byte to its end", 65536),
    "client": Target("WebSocket frames from a consumer", 1024),
    "syntax": Target("DIDs, handles, paths, datetimes, TIDs", 3000),
    "recovery": Target("recovery of the log's last segment", 16384),
    "signature": Target("keys and signatures of both curves", 256),
}
PLANTED = "planted"  # what `--self-test` runs; no target of the product
_PLANTED = Target("faults of each kind, to be found", 256)


class BuildError(Exception):
    """What is missing or failed, and what to do, in words for the user."""


def targets_of(name: str | None) -> list[str]:
    """One target by name, or all of them. BuildError: no such target."""
    if name is None:
        return list(TARGETS)
    if name not in TARGETS:
        raise BuildError(f"no target {name!r}; there are: {', '.join(TARGETS)}")
    return [name]


def describe(name: str) -> Target:
    """A target by name, the planted one too. BuildError: no such target."""
    return _PLANTED if name == PLANTED else TARGETS[targets_of(name)[0]]


@cache
def _setup() -> ModuleType:
    """setup.py as a module: its directives and its list of topics."""
    spec = importlib.util.spec_from_file_location("zlay_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_IMPORT = re.compile(r"^from zlay\._fast\.(\w+) c?import|^from zlay\._fast import (\w+(?:, \w+)*)", re.MULTILINE)
_LOCAL = re.compile(r"^from tests\.fuzz\.(\w+) cimport", re.MULTILINE)


def _text(path: Path) -> str:
    return "".join(p.read_text(encoding="utf-8") for p in (path, path.with_suffix(".pxd")) if p.exists())


def _sources(target: str) -> list[Path]:
    """The target's own source and every source it needs, from what they import."""
    found: dict[Path, None] = {}
    todo = [HERE / f"target_{target}.pyx"]
    while todo:
        path = todo.pop()
        if path in found or not (path.exists() or path.with_suffix(".pxd").exists()):
            continue
        text = _text(path)
        if path.exists():
            found[path] = None
        for one, many in _IMPORT.findall(text):
            todo += [ROOT / "zlay" / "_fast" / f"{name}.pyx" for name in (one, *many.split(", ")) if name]
        todo += [HERE / f"{name}.pyx" for name in _LOCAL.findall(text)]
    return list(found)


def sources_digest(target: str) -> str:
    """Changes when anything that a target is made of changes."""
    whole = "".join(_text(path) for path in sorted(_sources(target))).encode() + _headers()
    return hashlib.sha256(whole + (HERE / "main.c").read_bytes() + repr(KINDS["fuzz"]).encode()).hexdigest()[:16]


def _translate(sources: list[Path]) -> list[Extension]:
    """Their C, made where the source is newer."""
    setup = _setup()
    modules = [
        Extension(
            str(path.relative_to(ROOT).with_suffix("")).replace("/", "."),
            [str(path.relative_to(ROOT))],
            include_dirs=["zlay/_fast", setup.INCLUDES],
        )
        for path in sources
    ]
    return cythonize(
        modules,
        build_dir=setup.GENERATED,
        compiler_directives=setup.DIRECTIVES,
        include_path=[".", setup.INCLUDES],
        quiet=True,
    )


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=COMPILE_S)
    if done.returncode != 0:
        raise BuildError(f"{what} failed: {' '.join(command)}\n{done.stderr[-4000:]}")


@cache
def _headers() -> bytes:
    return b"".join(path.read_bytes() for path in sorted((ROOT / "zlay").rglob("*.h")))


def _object(source: Path, kind: str) -> Path:
    """The object of a C file, compiled unless it is there."""
    flags = [*_COMMON, *(("-O2",) if source.stem in _OWN else KINDS[kind].compile), "-I", sysconfig.get_path("include")]
    flags += ["-I", "zlay/_fast", "-I", _setup().INCLUDES, "-I", "tests/fuzz"]
    digest = hashlib.sha256(source.read_bytes() + _headers() + repr(flags).encode()).hexdigest()[:16]
    out = OUT / kind / f"{source.stem}-{digest}.o"
    if not out.exists():
        for stale in out.parent.glob(f"{source.stem}-{'?' * 16}.o"):
            stale.unlink(missing_ok=True)
        partial = out.with_suffix(f".{os.getpid()}.tmp")
        _run([tool("clang"), *flags, "-c", str(source), "-o", str(partial)], f"compiling {source.name}")
        partial.rename(out)
    return out


def _table(target: str, names: list[str]) -> str:
    """C that names what is built in and where the interpreter's own files are."""
    stems = [name.rpartition(".")[2] for name in names]
    lines = ["#include <Python.h>", *[f"PyMODINIT_FUNC PyInit_{stem}(void);" for stem in stems]]
    lines.append("struct _inittab zl_modules[] = {")
    lines += [f'    {{"{name}", PyInit_{stem}}},' for name, stem in zip(names, stems, strict=True)]
    lines += ["    {0, 0},", "};"]
    for variable, value in (("target", f"tests.fuzz.target_{target}"), ("home", sys.base_prefix), ("root", ROOT)):
        lines.append(f'const char *zl_{variable} = "{value}";')
    return "\n".join(lines) + "\n"


def _python_link() -> list[str]:
    """Flags that link the interpreter into a program."""
    config = sysconfig.get_config_vars()
    archive = Path(config["LIBPL"]) / config["LIBRARY"]
    flags = ["-Wl,-export-dynamic", *config["LIBS"].split(), *config["SYSLIBS"].split(), "-lpthread"]
    if archive.exists():
        return [str(archive), *flags]
    return [f"-L{config['LIBDIR']}", f"-Wl,-rpath,{config['LIBDIR']}", f"-lpython{config['LDVERSION']}", *flags]


def program(target: str, kind: str = "fuzz") -> Path:
    """The path of a target's program, built or brought up to date. BuildError, ToolsMissing."""
    os.chdir(ROOT)
    folder = OUT / kind
    folder.mkdir(parents=True, exist_ok=True)
    extensions = _translate(_sources(target))
    table = folder / f"table_{target}.c"
    text = _table(target, [extension.name for extension in extensions])
    if not table.exists() or table.read_text(encoding="utf-8") != text:
        table.write_text(text, encoding="utf-8")
    sources = [*(ROOT / extension.sources[0] for extension in extensions), HERE / "main.c", table]
    with ThreadPoolExecutor(JOBS) as pool:
        objects = list(pool.map(lambda source: _object(source, kind), sources))
    libraries = sorted({library for extension in extensions for library in extension.libraries})
    wraps = [f"-Wl,--wrap={name}" for name in describe(target).wrap]
    command = [tool("clang"), *KINDS[kind].link, *wraps, *map(str, objects)]
    command += [f"-l{library}" for library in libraries] + _python_link()
    digest = hashlib.sha256(repr(command).encode()).hexdigest()
    out, note = folder / target, folder / f"{target}.link"
    if not out.exists() or not note.exists() or note.read_text(encoding="utf-8") != digest:
        partial = folder / f"{target}.{os.getpid()}.tmp"
        _run([*command, "-o", str(partial)], f"linking {target}")
        partial.rename(out)
        note.write_text(digest, encoding="utf-8")
    return out
