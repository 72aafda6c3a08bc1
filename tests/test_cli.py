"""The command's edges, in processes of their own: exit status, words, and what is imported when."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.fixtures import ROOT
from zlay import __version__
from zlay.cli import main
from zlay.errors import ConfigError, StartError

# Runs a command and then tells which parts of the program have been imported.
IMPORTED = """
import sys
from zlay.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as exc:
    status = exc.code
parts = ("zlay.relay", "zlay._fast", "zlay.memory.allocator", "zlay.sim.network", "psutil")
print("status", status, *[name for name in parts if name in sys.modules])
"""


def run(*args: str, **env: str) -> tuple[str, str]:
    """IMPORTED with these arguments: its last line, and all it said on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )
    return done.stdout.strip().splitlines()[-1], done.stderr


def test_help_and_errors_come_before_heavy_imports() -> None:
    """Help and a bad setting of `zlay run` are told without importing the relay, its core or the simulation."""
    assert run("run", "--help") == ("status 0", "")
    told, said = run("run", RELAY_PORT="x")
    assert told == "status 2 zlay.memory.allocator"
    assert said.startswith("zlay: RELAY_PORT='x'")


def test_an_allocator_is_chosen_before_the_core_is_imported() -> None:
    """What decides about malloc comes before anything that allocates much."""
    told, said = run("run", ZLAY_ALLOCATOR="/nowhere/lib.so")
    assert told == "status 1 zlay.memory.allocator"
    assert said.splitlines()[-1] == "zlay: ZLAY_ALLOCATOR=/nowhere/lib.so: there is no such file"


def test_commands_know_their_own_arguments() -> None:
    """Each command has its own help, with the program's name before it."""
    for name in ("run", "log", "consume", "backup", "restore", "sim", "demo"):
        done = subprocess.run(
            [sys.executable, "-m", "zlay", name, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0
        assert done.stdout.startswith(f"usage: zlay {name} ")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version names program and version."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"zlay {__version__}\n"


def test_exit_status_of_errors() -> None:
    """A bad setting is 2, a refusal 1: what scripts and supervisors tell apart."""
    assert (ConfigError("x").exit_code, StartError("x").exit_code) == (2, 1)


def test_the_module_is_the_command() -> None:
    """`python -m zlay` is the `zlay` command."""
    done = subprocess.run(
        [sys.executable, "-m", "zlay", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout) == (0, f"zlay {__version__}\n")
