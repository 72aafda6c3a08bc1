"""Background threads: none ends without a word, and what fails is started again."""

from __future__ import annotations

import json
import os
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.support import wait_until
from zlay import logs, supervise
from zlay.supervise import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT_S = 10.0


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Gives the log's lines so far, and makes the pauses short."""
    monkeypatch.setattr(supervise, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(supervise, "LONGEST_PAUSE_S", 0.04)
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    logs.configure("json", "info", writable)
    said: list[dict[str, Any]] = []

    def read() -> list[dict[str, Any]]:
        try:
            said.extend(json.loads(line) for line in os.read(readable, 1 << 20).splitlines())
        except BlockingIOError:
            pass
        return said

    yield read
    logs.configure()
    os.close(readable)
    os.close(writable)


class Part:
    """A part whose thread does as the test says: each run takes the next of `script`, then waits for `stop`."""

    def __init__(self, *script: Callable[[], object]) -> None:
        self.script = list(script)
        self.runs = 0
        self.resting = threading.Event()
        self.stop = threading.Event()

    def run(self) -> None:
        """The thread."""
        self.runs += 1
        if self.script:
            self.script.pop(0)()
            return
        self.resting.set()
        self.stop.wait(WAIT_S)


def fail(exc: BaseException) -> Callable[[], object]:
    """What raises."""

    def run() -> None:
        raise exc

    return run


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (fail(ValueError("boom")), "ValueError: boom"),
        (fail(SystemExit(3)), "SystemExit: 3"),
        (fail(KeyboardInterrupt()), "KeyboardInterrupt"),
        (lambda: None, "it returned, and nobody had asked it to"),
    ],
    ids=["exception", "exit", "interrupt", "return"],
)
def test_a_thread_that_ends_is_said_and_started_again(
    lines: Callable[[], list[dict[str, Any]]], end: Callable[[], object], words: str
) -> None:
    """However a thread ends before the stop, the log says it, it is counted, it is a fault, and it runs again."""
    supervisor, part = Supervisor(), Part(end, end)
    supervisor.spawn("worker", part.run)
    wait_until(lambda: any(words in fault and "worker" in fault for fault in supervisor.faults()), "it is a fault")
    assert part.resting.wait(WAIT_S)
    assert part.runs == 3
    assert supervisor.faults() == []
    assert supervisor.failures() == {"worker": 2}
    said = [line for line in lines() if line["event"] == "thread failed"]
    assert [(line["thread"], line["level"]) for line in said] == [("worker", "error")] * 2
    assert words in said[0]["error"]
    supervisor.stopping()
    part.stop.set()
    assert supervisor.join(WAIT_S) == []
    assert supervisor.faults() == []


def test_the_trace_tells_where(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """The log has the innermost frames of a failure, however deep it was."""

    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise ValueError("at the bottom")

    supervisor, part = Supervisor(), Part(lambda: deep(60))
    supervisor.spawn("worker", part.run)
    assert part.resting.wait(WAIT_S)
    trace = next(line["trace"] for line in lines() if line["event"] == "thread failed")
    assert trace.endswith("ValueError: at the bottom\n")
    assert "raise ValueError" in trace
    supervisor.stopping()
    part.stop.set()
    assert supervisor.join(WAIT_S) == []


def test_one_failing_thread_does_not_touch_others(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """Threads are names of their own: while one fails for ever the other runs, and only the one is a fault."""
    supervisor, good, bad = Supervisor(), Part(), Part(*[fail(OSError("again"))] * 1000)
    supervisor.spawn("good", good.run)
    supervisor.spawn("bad", bad.run)
    wait_until(lambda: supervisor.failures()["bad"] >= 3, "it fails again and again")
    assert good.runs == 1
    assert all("bad" in fault for fault in supervisor.faults())
    supervisor.stopping()
    good.stop.set()
    assert supervisor.join(WAIT_S) == []
    ended_with = supervisor.failures()["bad"]
    assert len([line for line in lines() if line["event"] == "thread failed"]) == ended_with


def test_after_stopping_a_return_is_the_end() -> None:
    """A thread that returns after the stop has done its work: no fault, no second run."""
    supervisor, part = Supervisor(), Part()
    supervisor.spawn("worker", part.run)
    assert part.resting.wait(WAIT_S)
    supervisor.stopping()
    part.stop.set()
    assert supervisor.join(WAIT_S) == []
    assert (part.runs, supervisor.faults(), supervisor.failures()) == (1, [], {"worker": 0})


def test_join_names_who_does_not_end() -> None:
    """`join` waits no longer than told, and names the threads that run on."""
    supervisor, slow, quick = Supervisor(), Part(), Part()
    supervisor.spawn("slow", slow.run)
    supervisor.spawn("quick", quick.run)
    assert slow.resting.wait(WAIT_S)
    assert quick.resting.wait(WAIT_S)
    supervisor.stopping()
    quick.stop.set()
    assert supervisor.join(0.2) == ["slow"]
    slow.stop.set()
    assert supervisor.join(WAIT_S) == []


def test_the_kernel_knows_the_names_of_threads() -> None:
    """`top -H` and profilers show a thread by its name, cut to what the kernel keeps."""
    supervisor = Supervisor()
    names: queue.SimpleQueue[str] = queue.SimpleQueue()

    def target() -> None:
        names.put(Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text().strip())
        supervisor.stopping()

    supervisor.spawn("a-name-longer-than-that", target)
    assert names.get(timeout=10) == "a-name-longer-t"
    assert supervisor.join(10) == []
