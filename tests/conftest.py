"""What every test run has: no silent skips in CI, a note of the running test for the case that it crashes, the GIL off.

Data of others: `tests/fixtures.py`. In each process tests run one after the other in its main thread. Where
pytest-xdist runs files side by side, what its processes find amiss at their end fails the run in the first.
"""

from __future__ import annotations

import fnmatch
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import fixtures

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tests.state.databases import Database
    from zlay.bench.cluster import Cluster

ALLOWED_SKIPS = Path(__file__).with_name("allowed-skips.txt")

NO_SKIP = os.environ.get("ZLAY_NO_SKIP", "0") == "1"
RUNNING_TEST = os.environ.get("ZLAY_RUNNING_TEST", "")
LONG_FOLDERS = ("e2e", "crash", "demo", "ops", "firehose", "verdicts", "_fast")  # the longest to run first


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


# ---- a skipped test is a failure (ZLAY_NO_SKIP=1) -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Skips:
    """What may be skipped; `allowed` maps patterns of test ids to reasons."""

    allowed: dict[str, str]

    def reason(self, nodeid: str) -> str | None:
        """Why this test may be skipped; None = it may not."""
        found = (reason for pattern, reason in self.allowed.items() if fnmatch.fnmatchcase(nodeid, pattern))
        return next(found, None)

    def judge(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Turn a skip that is not allowed into a failure."""
        if not report.skipped or hasattr(report, "wasxfail") or self.reason(report.nodeid) is not None:
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
    skipped = {report.nodeid: _skips.reason(report.nodeid) for report in terminalreporter.getreports("skipped")}
    if NO_SKIP and skipped:
        terminalreporter.section("allowed skips")
        for nodeid, reason in skipped.items():
            terminalreporter.line(f"{nodeid}: {reason}")


# ---- a crash has a name ---------------------------------------------------------------------------------------------


def pytest_runtest_logstart(nodeid: str) -> None:
    """Leave the running test's name where scripts/test finds it after a crash; pytest-xdist says it by itself."""
    if RUNNING_TEST and not _side_by_side:
        Path(RUNNING_TEST).write_text(nodeid, encoding="utf-8")


# ---- files side by side ---------------------------------------------------------------------------------------------

_side_by_side = False
_amiss: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Put tmp_path into memory; note whether pytest-xdist runs this."""
    global _side_by_side
    if _takes_tests(MEMORY) and os.access(MEMORY, os.W_OK):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    _side_by_side = hasattr(config, "workerinput") or bool(config.getoption("numprocesses", None))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none of them is left for the end."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return LONG_FOLDERS.index(folder) if folder in LONG_FOLDERS else len(LONG_FOLDERS)

    if _side_by_side:
        items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process of pytest-xdist has found amiss at its end."""
    _amiss.extend(getattr(node, "workeroutput", {}).get("amiss", []))


# ---- the GIL stays off, threads end ---------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if anything that was imported turned the GIL on (R10)."""
    if RUNNING_TEST:
        Path(RUNNING_TEST).unlink(missing_ok=True)
    if sys._is_gil_enabled():
        _amiss.append("the GIL is on: a test or a package it imported turned it on")
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["amiss"] = _amiss + [f"threads that no test has ended: {name}" for name in _threads_left()]
    else:
        _fail(session)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End the process, as failed, when the interpreter would wait for threads that a failed test has left for ever."""
    left = _threads_left()
    if left and not hasattr(config, "workerinput"):
        sys.stdout.flush()
        sys.stderr.write(f"\nthreads that no test has ended: {', '.join(left)}\n")
        sys.stderr.flush()
        os._exit(pytest.ExitCode.TESTS_FAILED)


def _threads_left() -> list[str]:
    threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    return [thread.name for thread in threads if not thread.daemon]


def _fail(session: pytest.Session) -> None:
    for line in _amiss:
        sys.stderr.write(f"\n{line}\n")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
