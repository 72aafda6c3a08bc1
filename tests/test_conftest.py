"""tests/conftest.py: what ZLAY_NO_SKIP=1 makes of skipped tests, and the name a crash leaves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest
from tests.fixtures import ROOT

CASES = {
    "test_passes.py": "def test_it(): pass",
    "test_skips.py": "import pytest\ndef test_it(): pytest.skip('no reason')",
    "test_marked.py": "import pytest\n@pytest.mark.skip(reason='no reason')\ndef test_it(): pass",
    "test_module.py": "import pytest\npytest.skip('no reason', allow_module_level=True)\n",
    "test_allowed.py": "import pytest\ndef test_it(): pytest.skip('a reason')",
    "test_leaves_thread.py": (
        "import threading\ndef test_it(): threading.Thread(target=threading.Event().wait, name='left').start()"
    ),
    "test_crashes.py": "import os\ndef test_it(): os.kill(os.getpid(), 9)",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with zlay's conftest and the cases above."""
    tests = tmp_path / "tests"
    tests.mkdir()
    for name in ("__init__.py", "conftest.py", "fixtures.py"):
        shutil.copy(ROOT / "tests" / name, tests)
    (tests / "allowed-skips.txt").write_text("# comment\ntests/test_allowed.py::* its reason\n", encoding="utf-8")
    for name, text in CASES.items():
        (tests / name).write_text(text, encoding="utf-8")
    return tmp_path


in_one_and_in_several_processes = pytest.mark.parametrize("workers", [0, 1])


def run(project: Path, *cases: str, workers: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on cases, with no more of zlay's and pytest's environment than `environment`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ZLAY_", "PYTEST_"))}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "-n",
            str(workers),
            *(f"tests/{case}" for case in cases),
        ],
        cwd=project,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@in_one_and_in_several_processes
def test_a_skip_fails_in_ci_only(project: Path, workers: int) -> None:
    """A skipped test or module is a failure with ZLAY_NO_SKIP=1, and none without."""
    cases = ("test_skips.py", "test_marked.py", "test_module.py")
    assert "3 skipped" in run(project, *cases, workers=workers).stdout
    for strict_cases in (cases[:2], cases[2:]):  # a module that fails to load ends a run before its tests
        strict = run(project, *strict_cases, workers=workers, ZLAY_NO_SKIP="1")
        assert strict.returncode != 0
        assert strict.stdout.count("only what allowed-skips.txt lists") >= len(strict_cases)


@in_one_and_in_several_processes
def test_a_listed_skip_passes_and_is_printed(project: Path, workers: int) -> None:
    """A skip that the list names passes in CI and is printed with its reason."""
    strict = run(project, "test_allowed.py", workers=workers, ZLAY_NO_SKIP="1")
    assert strict.returncode == 0
    assert "tests/test_allowed.py::test_it: its reason" in strict.stdout


def test_a_reason_is_required(project: Path) -> None:
    """An entry of the list without a reason stops the run."""
    (project / "tests" / "allowed-skips.txt").write_text("tests/test_allowed.py::*\n", encoding="utf-8")
    result = run(project, "test_allowed.py", ZLAY_NO_SKIP="1")
    assert result.returncode != 0
    assert "no reason given" in result.stdout + result.stderr


def test_a_crash_leaves_the_name_of_its_test(project: Path) -> None:
    """When the process dies, the file ZLAY_RUNNING_TEST names the test; after an orderly end it is gone."""
    note = project / "running"
    crashed = run(project, "test_crashes.py", ZLAY_RUNNING_TEST=str(note))
    assert crashed.returncode == -signal.SIGKILL
    assert note.read_text(encoding="utf-8") == "tests/test_crashes.py::test_it"
    assert run(project, "test_passes.py", ZLAY_RUNNING_TEST=str(note)).returncode == 0
    assert not note.exists()


@in_one_and_in_several_processes
def test_a_thread_that_is_left_fails_the_run(project: Path, workers: int) -> None:
    """A thread that would keep the interpreter from ending is named, and the run ends, as failed."""
    result = run(project, "test_leaves_thread.py", workers=workers)
    assert "1 passed" in result.stdout
    assert "threads that no test has ended: left" in result.stderr
    assert result.returncode == 1


@in_one_and_in_several_processes
def test_the_gil_turned_on_fails_the_run(project: Path, workers: int) -> None:
    """A run that passes but ends with the GIL on has failed (R10)."""
    result = run(project, "test_passes.py", workers=workers, PYTHON_GIL="1")
    assert "1 passed" in result.stdout
    assert "the GIL is on" in result.stderr
    assert result.returncode == 1


def test_a_crash_of_one_of_several_processes_names_its_test(project: Path) -> None:
    """Where files are tested side by side, a process that dies fails the test it was at."""
    crashed = run(project, "test_crashes.py", workers=1)
    assert crashed.returncode == 1
    assert "crashed while running 'tests/test_crashes.py::test_it'" in crashed.stdout


def test_what_tests_write_goes_into_memory(tmp_path: Path) -> None:
    """Temporary folders of tests are in memory where there is room for them, and elsewhere where there is not."""
    assert not conftest._takes_tests(tmp_path / "not there")
    assert not conftest._takes_tests(Path("/proc"))
    wanted = conftest.MEMORY if conftest._takes_tests(conftest.MEMORY) else Path("/")
    assert tmp_path.is_relative_to(os.environ.get("PYTEST_DEBUG_TEMPROOT", wanted))
