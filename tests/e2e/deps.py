"""Finds what scripts/test-deps has installed outside the tree; skips with a clear reason where it has not.

Any thread may call.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest

from tests.fixtures import ROOT


@functools.cache
def _paths() -> dict[str, str]:
    done = subprocess.run(
        [ROOT / "scripts" / "test-deps", "--paths"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=_ordinary_environment(),
    )
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def npm_environment() -> dict[str, str]:
    """The environment for `node`, with ZLAY_NPM naming the folder whose node_modules has the pinned packages."""
    return {**_ordinary_environment(), "ZLAY_NPM": _path("npm"), "NODE_NO_WARNINGS": "1"}


def oracle_python() -> Path:
    """The interpreter of the oracle's venv: an ordinary CPython with the pinned packages."""
    return Path(_path("oracle")) / "bin" / "python"


def oracle_environment() -> dict[str, str]:
    """The environment for the oracle's interpreter: ours, less what would steer another CPython."""
    return _ordinary_environment()


def _ordinary_environment() -> dict[str, str]:
    # LD_PRELOAD: a sanitizer's runtime is for our interpreter only; bash dies of ThreadSanitizer's.
    ours = ("PYTHON", "VIRTUAL_ENV", "LD_PRELOAD")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _path(name: str) -> str:
    path = _paths().get(name)
    if path is None:
        pytest.skip(f"the {name} packages of the tests are not installed: run scripts/test-deps")
    return path
