"""The `zlay` command run to its end, and what several tests of operating it share. Any thread."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
from typing import TYPE_CHECKING, Any

from tests.e2e.relay import ZLAY, RelayProcess, request
from tests.fixtures import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

COMMAND_S = 60.0  # for what should take a second
NO_PLC = "http://127.0.0.1:9"  # the discard port: nobody listens
_SETTINGS = ("RELAY_", "FRAME_", "HOST_", "RESOLVER_", "LOG_", "LEAK_", "DATABASE_URL", "MALLOC_", "ZLAY_ALLOCATOR")


def zlay(
    *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout_s: float = COMMAND_S
) -> subprocess.CompletedProcess[str]:
    """Run `zlay ARGS` without any setting of this process's own environment; text of both outputs."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}
    return subprocess.run(
        [*ZLAY, *args],
        env={**base, "PYTHONPATH": str(ROOT), **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
    )


def refusal(relay: RelayProcess) -> str:
    """Start a relay that must refuse: the line it says last. AssertionError unless it exits with 1, in words."""
    relay.start(ready=False)
    try:
        status = relay.wait_exit()
    finally:
        relay.kill()
    said = relay.log_tail()
    assert status == 1, (status, said)
    assert "Traceback" not in said, said
    last = said.strip().splitlines()[-1]
    assert last.startswith("zlay: "), said
    return last


def readiness(relay: RelayProcess) -> tuple[int, list[str]]:
    """Status and reasons of /_readyz."""
    status, body = request(relay.metrics_port, "GET", "/_readyz")
    value: Any = json.loads(body)
    return status, list(value.get("reasons", []))


def unready_because(relay: RelayProcess, word: str) -> bool:
    """Whether /_readyz says 503 and a reason with this word in it."""
    status, reasons = readiness(relay)
    return status == 503 and any(word in reason for reason in reasons)


def log_lines(relay: RelayProcess) -> Iterable[dict[str, Any]]:
    """The relay's log as values (it is run with LOG_FORMAT=json); lines of other shape are left out."""
    for line in relay.log_path.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            yield json.loads(line)


@contextlib.contextmanager
def state_stands_still(data: Path) -> Iterator[None]:
    """Nothing is applied meanwhile: the log runs ahead of the state."""
    with contextlib.closing(sqlite3.connect(data / "state.sqlite", timeout=10, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
