"""Compiled helpers of tests: threads in C over the structures of the core, without the interpreter in between.

Built when first needed, and again when their sources or the core's declarations are newer.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = "tests/native"
BUILD_S = 600.0


def load(name: str) -> ModuleType:
    """A module of this folder, compiled. RuntimeError: it does not compile."""
    with open(ROOT / FOLDER / "__init__.py") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_stale(name):
            _build(name)
    return importlib.import_module(f"tests.native.{name}")


def _is_stale(name: str) -> bool:
    compiled = sorted((ROOT / FOLDER).glob(f"{name}.*.so"))
    if not compiled:
        return True
    sources = [ROOT / FOLDER / f"{name}.pyx", *(ROOT / FOLDER).glob("*.pxd")]
    sources += [*(ROOT / "zlay" / "_fast").rglob("*.pxd"), *(ROOT / "zlay" / "_fast").rglob("*.h")]
    return compiled[-1].stat().st_mtime < max(path.stat().st_mtime for path in sources)


def _build(name: str) -> None:
    environment = {**os.environ, "ZLAY_EXTRA": FOLDER, "ZLAY_ONLY": name}
    environment.pop("LD_PRELOAD", None)  # of a sanitizer: not for the compiler
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=BUILD_S, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name}.pyx does not compile:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
