"""The report names what stays, within its bound, in the log and in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from tests.fixtures import ROOT
from zlay import logs
from zlay._fast import mem
from zlay.memory.leaks import TOP, TOP_LOGGED, LeakTrace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """A file that the log goes to; tracing is off afterwards."""
    path = tmp_path / "log"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    logs.configure("json", "info", fd)
    yield path
    tracemalloc.stop()
    logs.configure()
    os.close(fd)


def lines(log: Path) -> list[dict[str, object]]:
    """What has been logged."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def leak(n: int) -> list[bytearray]:
    """Memory that stays: a hundred blocks of n bytes, made at this line."""
    return [bytearray(n) for _ in range(100)]


def leak_line() -> str:
    """Where `leak` allocates."""
    return f"{__file__}:{leak.__code__.co_firstlineno + 2}"


@pytest.mark.parametrize("frames", [1, 10])
def test_a_leak_is_named_in_file_and_log(tmp_path: Path, log: Path, frames: int) -> None:
    """What has grown most since the start is first in the report, with size, count and line, and in the log too."""
    trace = LeakTrace(frames, 512 * MIB, tmp_path)
    trace.start()
    kept = leak(50_000)
    path = trace.report("a test")
    assert path is not None
    assert path.parent == tmp_path
    text = path.read_text()
    assert "a test" in text.splitlines()[0]
    first = next(line for line in text.splitlines() if " x  " in line)
    assert leak_line() in first
    assert int(first.split(" B ")[0].replace(",", "")) >= len(kept) * 50_000
    if frames > 1:
        assert "return [bytearray(n) for _ in range(100)]" in text
    grown = [line for line in lines(log) if line["event"] == "grown"]
    assert grown[0]["where"] == leak_line()
    assert len(grown) <= TOP_LOGGED
    assert any(line["event"] == "memory report" and line["path"] == str(path) for line in lines(log))
    assert text.count(" x  ") <= TOP


def test_c_memory_is_in_the_report_by_tag(tmp_path: Path, log: Path) -> None:
    """Without tracing the report holds the compiled core by tag, and the process's figures."""
    tag = next(iter(mem.usage()))
    block = mem.Block(0, 12_345_678)
    path = LeakTrace(0, MIB, tmp_path).report("SIGUSR1")
    block.free()
    assert path is not None
    text = path.read_text()
    assert "LEAK_TRACE=0" in text
    live = next(line for line in text.splitlines() if line.startswith(f"  {tag} "))
    assert int(live.split()[1].replace(",", "")) >= 12_345_678
    assert "  rss " in text


def test_tracing_begins_anew_at_its_limit(tmp_path: Path, log: Path) -> None:
    """When the trace's own memory has passed the limit what was traced is forgotten, as log and report say; what is
    allocated afterwards is found as before."""
    trace = LeakTrace(10, 256 * 1024, tmp_path)
    trace.start()
    trace.check_limit()
    assert not lines(log)
    kept = [bytearray(10) for _ in range(20_000)]
    trace.check_limit()
    trace.check_limit()
    assert tracemalloc.get_tracemalloc_memory() < 256 * 1024
    assert len(kept) == 20_000
    assert sum("limit" in str(line["event"]) for line in lines(log)) == 1
    later = leak(50_000)
    path = trace.report("end")
    assert path is not None
    text = path.read_text()
    assert "Grown most since 2" in text
    assert leak_line() in next(line for line in text.splitlines() if " x  " in line)
    assert len(later) == 100


def test_a_report_that_cannot_be_written(tmp_path: Path, log: Path) -> None:
    """A folder that is gone costs the file; the log says so, nothing is raised."""
    assert LeakTrace(0, MIB, tmp_path / "gone").report("end") is None
    assert [line["level"] for line in lines(log)] == ["error"]


def test_reports_at_once(tmp_path: Path, log: Path) -> None:
    """Reports asked for by several threads at once are all whole."""
    trace = LeakTrace(1, 512 * MIB, tmp_path)
    trace.start()
    barrier = threading.Barrier(4)
    paths: list[Path | None] = []

    def report() -> None:
        barrier.wait()
        paths.append(trace.report("at once"))

    threads = [threading.Thread(target=report) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4
    for path in paths:
        assert path is not None
        text = path.read_text()
        assert text.startswith("zlay memory report")
        assert "  rss " in text.splitlines()[-1] or "core_" in text.splitlines()[-1]


FORGOTTEN_AT_LIMIT = """
import sys, threading
from pathlib import Path
from zlay import logs
from zlay.memory.leaks import LeakTrace
logs.configure("text", "error")
done = threading.Event()
def allocate():
    kept = []
    while not done.is_set():
        kept.append(bytearray(100))
        if len(kept) > 1000:
            kept.clear()
allocators = [threading.Thread(target=allocate) for _ in range(2)]
for thread in allocators:
    thread.start()
trace = LeakTrace(1, 1, Path(sys.argv[1]))
trace.start()
for _ in range(25):
    barrier = threading.Barrier(2)
    def limit():
        barrier.wait()
        trace.check_limit()
    thread = threading.Thread(target=limit)
    thread.start()
    barrier.wait()
    assert trace.report("while tracing begins anew") is not None
    thread.join()
    trace.check_limit()
done.set()
for thread in allocators:
    thread.join()
"""


def test_a_report_while_tracing_begins_anew(tmp_path: Path) -> None:
    """A report is made whatever moment housekeeping forgets the traces at, and beside threads that allocate."""
    done = subprocess.run(
        [sys.executable, "-c", FORGOTTEN_AT_LIMIT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
