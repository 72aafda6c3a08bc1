"""Background threads that nobody forgets: each has a name, an owner, and an end that is noticed.

A thread that ends by an exception, or returns before `stopping`, is said, counted, and started again after a pause that
grows; while it is down the process is not ready (`faults`). None dies silently. The interpreter's own threads only:
plain OS threads of the compiled core report their end through the structures they serve.
`Supervisor` may be used from any thread; `join` from the one that stops the process.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zlay import logs
from zlay.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Supervisor"]

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
INNERMOST_FRAMES = 8  # of a trace, in the log: the ends of the lines are what tells
KERNEL_NAME_CHARS = 15  # TASK_COMM_LEN, less its zero
QUIET_S = 60.0  # a thread that ran this long begins with the first pause again

log = logs.get("threads")


@dataclass(slots=True)
class _Watched:
    """One thread's record. Written by that thread; read by any."""

    name: str
    thread: threading.Thread | None = None
    failures: int = 0
    fault: str | None = None


@dataclass(slots=True)
class Supervisor:
    """Starts threads and keeps them running until `stopping`."""

    _stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # guards _watched
    _watched: list[_Watched] = field(default_factory=list)

    def spawn(self, name: str, target: Callable[[], None]) -> None:
        """Runs `target` on a thread of its own, again and again until `stopping`; it should return only after that.

        Raises StartError where the system gives no thread.
        """
        watched = _Watched(name)
        thread = threading.Thread(target=self._run, args=(watched, target), name=name, daemon=True)
        watched.thread = thread
        try:
            thread.start()
        except RuntimeError as exc:  # then there is none to be joined either
            raise StartError(f"thread {name}: {exc}; look at the limits of threads (ulimit -u, TasksMax)") from exc
        with self._lock:
            self._watched.append(watched)

    def _run(self, watched: _Watched, target: Callable[[], None]) -> None:
        _tell_kernel(watched.name)
        pause = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            try:
                target()
            except BaseException as exc:  # noqa: BLE001 - whatever it was, it is said and the thread lives on
                problem = f"{type(exc).__name__}: {exc}"
                trace = traceback.format_exc(limit=-INNERMOST_FRAMES)
            else:
                if self._stopping.is_set():
                    return
                problem, trace = "it returned, and nobody had asked it to", ""
            watched.failures += 1
            watched.fault = f"thread {watched.name} failed: {problem}"
            log.error("thread failed", thread=watched.name, error=problem, trace=trace)
            if time.monotonic() - began > QUIET_S:
                pause = FIRST_PAUSE_S
            if self._stopping.wait(pause):
                return
            pause = min(2 * pause, LONGEST_PAUSE_S)
            watched.fault = None

    def stopping(self) -> None:
        """From here on failed threads are not started again."""
        self._stopping.set()

    def faults(self) -> list[str]:
        """What is wrong with which thread, now."""
        with self._lock:
            return [watched.fault for watched in self._watched if watched.fault]

    def failures(self) -> dict[str, int]:
        """Failures so far by thread name."""
        with self._lock:
            return {watched.name: watched.failures for watched in self._watched}

    def join(self, timeout_s: float) -> list[str]:
        """Waits for all threads to end, at most `timeout_s` in all; returns the names of those that run on."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            watched = list(self._watched)
        for one in watched:
            if one.thread is not None and one.thread is not threading.current_thread():
                one.thread.join(max(0.0, deadline - time.monotonic()))
        return [one.name for one in watched if one.thread is not None and one.thread.is_alive()]


def _tell_kernel(name: str) -> None:
    """Gives the calling thread its name in `top -H`, profilers and core dumps too, which this Python does not do."""
    with contextlib.suppress(OSError):
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name[:KERNEL_NAME_CHARS])
