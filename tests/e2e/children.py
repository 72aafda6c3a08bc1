"""Child processes of the end-to-end tests that speak JSON lines.

Promises: a child never outlives its context manager; every wait has a deadline; when something is late or the child has
died, the error shows what it wrote to stderr. Assumes the child ends when its stdin does. One test thread drives a
child; one reader thread of ours collects its lines under `_arrived`.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

STOP_GRACE_S = 10.0  # between the end of stdin and SIGKILL
STDERR_SHOWN_BYTES = 8000

type Line = dict[str, Any]


class ChildFailedError(AssertionError):
    """The child died, or did not say what was awaited in time. The text holds the end of its stderr."""


class JsonChild:
    """A child process that prints one JSON object per line on stdout and ends with its stdin.

    `lines` grows as lines arrive (append only; read it from the test's thread). stderr goes to a file in `log_dir`.
    """

    def __init__(self, name: str, argv: Sequence[str], log_dir: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.lines: list[Line] = []
        self.stderr_path = log_dir / f"{name}.stderr"
        self._arrived = threading.Condition()  # guards: lines, _ended
        self._ended = False
        with self.stderr_path.open("ab") as stderr:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=env, cwd=log_dir
            )
        self._reader = threading.Thread(target=self._read, name=f"{name}-stdout", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def send(self, line: Line) -> None:
        """Write one JSON line to the child's stdin."""
        stdin = self.process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(line).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError as exc:
            raise self._failure("has closed its stdin") from exc

    def wait_for(self, test: Callable[[list[Line]], bool], what: str, timeout_s: float = 60.0) -> None:
        """Wait until `test(lines)` is true; ChildFailedError at the deadline or when the child ends without it."""
        deadline = time.monotonic() + timeout_s
        with self._arrived:
            while not test(self.lines):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._failure(f"did not show {what} within {timeout_s:.0f} s ({len(self.lines)} lines)")
                if self._ended:
                    raise self._failure(f"ended (status {self.process.wait(STOP_GRACE_S)}) before {what}")
                self._arrived.wait(left)

    def wait_ready(self, timeout_s: float = 60.0) -> Line:
        """The child's first line with a true `ready`."""
        self.wait_for(lambda lines: any(line.get("ready") for line in lines), "its ready line", timeout_s)
        return next(line for line in self.lines if line.get("ready"))

    def stop(self) -> None:
        """End the child: close its stdin, then SIGKILL after a grace period. Safe to call twice."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(STOP_GRACE_S)
        stdout.close()

    def _read(self) -> None:
        stdout = self.process.stdout
        assert stdout is not None
        for raw in stdout:
            try:
                line = json.loads(raw)
            except ValueError:
                line = {"noise": raw.decode(errors="replace")}
            with self._arrived:
                self.lines.append(line)
                self._arrived.notify_all()
        with self._arrived:
            self._ended = True
            self._arrived.notify_all()

    def _failure(self, what: str) -> ChildFailedError:
        tail = self.stderr_path.read_bytes()[-STDERR_SHOWN_BYTES:].decode(errors="replace")
        last = [json.dumps(line)[:300] for line in self.lines[-3:]]
        return ChildFailedError(f"{self.name} {what}\nlast lines: {last}\nstderr ({self.stderr_path}):\n{tail}")
