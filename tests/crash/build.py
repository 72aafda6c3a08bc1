"""A copy of the tree under build/crash whose compiled core has crash points (zl_crash.h).

Promises: only the topics that have crash points are compiled; the others are copies of the tree's own. Nothing is done
where nothing has changed. One process at a time.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.fixtures import ROOT

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["crash_points", "crash_tree"]

TREE = ROOT / "build" / "crash"
COPIED = ("zlay", "tests", "setup.py", "pyproject.toml", "LICENSE")
_POINT = re.compile(r"""(?:zl_crash_(?:point|torn)\(b|crash\.point\()"([\w.]+)\"""")
_CORE_POINT = re.compile(r"zl_crash_(?:point|torn)\(")


def crash_points() -> dict[str, str]:
    """Every crash point by name, and the file it stands in. ValueError for a name that stands twice."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "zlay").rglob("*.py*")):
        if path.suffix in (".py", ".pyx"):
            for name in _POINT.findall(path.read_text(encoding="utf-8")):
                where = str(path.relative_to(ROOT))
                if name in found:
                    raise ValueError(f"crash point {name} stands in {found[name]} and again in {where}")
                found[name] = where
    return found


def _topics() -> set[str]:
    """Names of the topics that have to be compiled with crash points."""
    sources = (ROOT / "zlay" / "_fast").glob("*.pyx")
    return {path.stem for path in sources if _CORE_POINT.search(path.read_text(encoding="utf-8"))}


def _wanted(topics: set[str]) -> dict[str, Path]:
    """What the copy is to hold besides what is compiled in it, by path."""
    files: dict[str, Path] = {}
    for name in COPIED:
        path = ROOT / name
        for file in path.rglob("*") if path.is_dir() else [path]:
            own = file.suffix == ".so" and file.name.split(".")[0] in topics and file.parent.name == "_fast"
            if file.is_file() and "__pycache__" not in file.parts and not own:
                files[str(file.relative_to(ROOT))] = file
    return files


def _update(topics: set[str]) -> bool:
    """Makes the copy like the tree; whether anything had to be done."""
    wanted = _wanted(topics)
    changed = False
    for name in COPIED:
        for file in (TREE / name).rglob("*"):
            made = "__pycache__" in file.parts or (file.suffix == ".so" and file.name.split(".")[0] in topics)
            if file.is_file() and not made and str(file.relative_to(TREE)) not in wanted:
                file.unlink()
                changed = True
    for name, source in wanted.items():
        target, now = TREE / name, source.stat()
        if target.exists() and (target.stat().st_size, target.stat().st_mtime_ns) == (now.st_size, now.st_mtime_ns):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
        changed = True
    return changed


def crash_tree() -> Path:
    """The tree with crash points, up to date. Compiling from nothing takes a minute or two."""
    topics = _topics()
    TREE.mkdir(parents=True, exist_ok=True)
    with (TREE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = TREE / "done"
        if _update(topics) or not done.exists():
            done.unlink(missing_ok=True)
            built = subprocess.run(
                [sys.executable, "setup.py", "build_ext", "--inplace"],
                cwd=TREE,
                env={**os.environ, "ZLAY_CRASH_POINTS": "1", "ZLAY_ONLY": ",".join(sorted(topics))},
                capture_output=True,
                text=True,
            )
            if built.returncode != 0:
                raise RuntimeError(f"the build with crash points failed:\n{built.stderr[-3000:]}")
            done.touch()
    return TREE
