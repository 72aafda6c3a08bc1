"""The GIL stays off (R10), and zlay refuses to run with it on."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

import pytest

from tests.fixtures import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

# Walks every module of the package (the simulation and the demo too) as an import of each, warnings being errors.
IMPORT_ALL = """
import importlib, pkgutil, sys
import zlay
names = [module.name for module in pkgutil.walk_packages(zlay.__path__, "zlay.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names), "GIL on" if sys._is_gil_enabled() else "GIL off")
"""

# An extension that, like most, does not say that it can do without the GIL.
GIL_MODULE = "zlay_test_wants_gil"
GIL_SOURCE = """
#include <Python.h>
static struct PyModuleDef def = {PyModuleDef_HEAD_INIT, "%(name)s", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_%(name)s(void) { return PyModule_Create(&def); }
"""


def environment(**extra: str) -> dict[str, str]:
    """Our environment without anything that decides about the GIL."""
    return {**{name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}, **extra}


# What a dependency does that brings such an extension with it: it is imported in the middle of zlay's own imports.
IMPORT_WITH_ZLAY = """
import sys
class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == "zlay.relay":
            sys.meta_path.remove(self)
            import %(name)s
sys.meta_path.insert(0, Hook())
"""


def build_gil_module(folder: Path, sitecustomize: str) -> None:
    """Compile the extension, and leave a sitecustomize.py, which the interpreter runs at its start."""
    folder.mkdir()
    source = folder / "module.c"
    source.write_text(GIL_SOURCE % {"name": GIL_MODULE})
    target = folder / f"{GIL_MODULE}{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = sysconfig.get_path("include")
    subprocess.run(["cc", "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(target)], check=True, timeout=60)
    (folder / "sitecustomize.py").write_text(sitecustomize % {"name": GIL_MODULE})


def test_everything_imports_with_the_gil_off() -> None:
    """Importing every module of zlay, and so all that it depends on, leaves the GIL off and warns of nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALL],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    count, verdict = done.stdout.strip().split(" ", 1)
    assert verdict == "GIL off"
    assert int(count) > 30


def run_relay(tmp_path: Path, sitecustomize: str) -> subprocess.CompletedProcess[str]:
    """`zlay run` in an interpreter with this sitecustomize.py; it must end by itself, and touch nothing."""
    build_gil_module(tmp_path / "site", sitecustomize)
    env = environment(PYTHONPATH=f"{tmp_path / 'site'}{os.pathsep}{ROOT}", RELAY_DATA_DIR=str(tmp_path / "data"))
    done = subprocess.run(
        [sys.executable, "-m", "zlay", "run"], capture_output=True, text=True, timeout=60, cwd=tmp_path, env=env
    )
    assert done.returncode == 1, done.stderr
    assert not (tmp_path / "data").exists(), "it must refuse before it touches anything"
    return done


def test_the_relay_names_what_turned_the_gil_on(tmp_path: Path) -> None:
    """A dependency that turns the GIL on makes `zlay run` refuse to start, and name the module."""
    done = run_relay(tmp_path, IMPORT_WITH_ZLAY)
    assert "GIL" in done.stderr.splitlines()[-1]
    assert GIL_MODULE in done.stderr.splitlines()[-1]


def test_the_relay_refuses_a_gil_that_was_on_before(tmp_path: Path) -> None:
    """A module that turned the GIL on before zlay was imported makes `zlay run` refuse all the same."""
    done = run_relay(tmp_path, "import %(name)s")
    assert "GIL is on" in done.stderr.splitlines()[-1]
