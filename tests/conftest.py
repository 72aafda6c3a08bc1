"""What every test run has: no silent skips in CI, a note of the running test for the case that it crashes, the GIL off.

Data of others: `tests/fixtures.py`. One pytest process, tests one after the other in its main thread.
"""

from __future__ import annotations

import fnmatch
import os
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import fixtures

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tests.state.databases import Database
    from zlay.bench.cluster import Cluster

ALLOWED_SKIPS = Path(__file__).with_name("allowed-skips.txt")

NO_SKIP = os.environ.get("ZLAY_NO_SKIP", "0") == "1"
RUNNING_TEST = os.environ.get("ZLAY_RUNNING_TEST", "")


@pytest.fixture
def fixtures_dir() -> Path:
    """The folder of recorded and published data; skips the test where there is none."""
    return fixtures.folder()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL of this session's own, in which each test makes itself a schema."""
    from zlay.bench.cluster import Cluster, binaries

    if binaries() is None:
        pytest.skip("PostgreSQL is not installed: run scripts/test-deps")
    with Cluster() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database; every test that asks for it runs on both kinds."""
    from tests.state.databases import PostgresDatabase, SqliteDatabase

    if request.param == "sqlite":
        return SqliteDatabase(tmp_path / "state.sqlite")
    return PostgresDatabase(request.getfixturevalue("cluster"))


# ---- what tests write need not last: in memory a sync costs nothing --------------------------------------------------

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 << 30  # free at least: many times what one test leaves


def _takes_tests(folder: Path) -> bool:
    """Whether there is room for what tests write, and leave to load the libraries that they compile."""
    try:
        told = os.statvfs(folder)
    except OSError:
        return False
    return told.f_bavail * told.f_frsize >= MEMORY_BYTES and not told.f_flag & os.ST_NOEXEC


def pytest_configure() -> None:
    """Put tmp_path into memory."""
    if _takes_tests(MEMORY) and os.access(MEMORY, os.W_OK):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


# ---- a skipped test is a failure (ZLAY_NO_SKIP=1) -----------------------------------------------------------------


@dataclass(slots=True)
class _Skips:
    """Skips seen in this run; `allowed` maps patterns of test ids to reasons."""

    allowed: dict[str, str]
    seen: list[str] = field(default_factory=list)

    def judge(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Note a skip that is allowed; turn any other into a failure."""
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        for pattern, reason in self.allowed.items():
            if fnmatch.fnmatchcase(report.nodeid, pattern):
                self.seen.append(f"{report.nodeid}: {reason}")
                return
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{why}\nZLAY_NO_SKIP=1: only what {ALLOWED_SKIPS.name} lists may be skipped."


def _read_allowed_skips(text: str) -> dict[str, str]:
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for line in lines:
        if len(line) != 2:
            raise pytest.UsageError(f"{ALLOWED_SKIPS}: no reason given for {line[0]}")
    return dict(lines)


_skips = _Skips(_read_allowed_skips(ALLOWED_SKIPS.read_text(encoding="utf-8")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge the skip of one test."""
    report = yield
    if NO_SKIP:
        _skips.judge(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Judge the skip of a whole module."""
    report = yield
    if NO_SKIP:
        _skips.judge(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print every allowed skip with its reason."""
    if _skips.seen:
        terminalreporter.section("allowed skips")
        for line in _skips.seen:
            terminalreporter.line(line)


# ---- a crash has a name ---------------------------------------------------------------------------------------------


def pytest_runtest_logstart(nodeid: str) -> None:
    """Leave the running test's name where scripts/test finds it after a crash."""
    if RUNNING_TEST:
        Path(RUNNING_TEST).write_text(nodeid, encoding="utf-8")


# ---- a thread that a failed test has left does not keep the run from ending ------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """End the process, as failed, when the interpreter would wait for somebody's threads for ever."""
    left = [thread.name for thread in threading.enumerate() if _would_be_waited_for(thread)]
    if left:
        sys.stdout.flush()
        sys.stderr.write(f"\nthreads that no test has ended: {', '.join(left)}\n")
        sys.stderr.flush()
        os._exit(pytest.ExitCode.TESTS_FAILED)


def _would_be_waited_for(thread: threading.Thread) -> bool:
    return thread is not threading.main_thread() and not thread.daemon


# ---- the GIL stays off ----------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if anything that was imported turned the GIL on (R10)."""
    if RUNNING_TEST:
        Path(RUNNING_TEST).unlink(missing_ok=True)
    if sys._is_gil_enabled():
        sys.stderr.write("\nthe GIL is on: a test or a package it imported turned it on\n")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
