"""Where LLVM's tools are: clang with libFuzzer's runtime, llvm-profdata and llvm-cov, all of one version.

`python -m tests.fuzz.llvm` prints the version's suffix; exit status 1 and what to install when there is none.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

__all__ = ["PACKAGES", "ToolsMissing", "suffix", "tool"]

SUFFIXES = ("-19", "-18", "-17", "-16", "-15", "-14", "")  # newest first; Debian 12 and 13 have 19
TOOLS = ("clang", "llvm-profdata", "llvm-cov")
PACKAGES = "clang-19 libclang-rt-19-dev llvm-19"
ASK_S = 60.0


class ToolsMissing(Exception):
    """No version of LLVM here has all that fuzzing needs; says what to install."""


def _has_runtime(clang: str) -> bool:
    command = [clang, "-print-resource-dir"]
    folder = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ASK_S).stdout.strip()
    return any(platform.machine() in str(found) for found in Path(folder, "lib").glob("*/*clang_rt.fuzzer*"))


@cache
def suffix() -> str:
    """What stands behind the names of the tools, such as -19. ToolsMissing."""
    for found in SUFFIXES:
        paths = [shutil.which(name + found) for name in TOOLS]
        if all(paths) and _has_runtime(str(paths[0])):
            return found
    raise ToolsMissing(
        f"clang with libFuzzer, llvm-profdata or llvm-cov is missing. Debian: apt-get install {PACKAGES}"
    )


def tool(name: str) -> str:
    """The path of one of TOOLS. ToolsMissing."""
    path = shutil.which(name + suffix())
    assert path is not None
    return path


if __name__ == "__main__":
    try:
        print(suffix())
    except ToolsMissing as exc:
        sys.exit(str(exc))
