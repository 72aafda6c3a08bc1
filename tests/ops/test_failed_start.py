"""A start that breaks off in the middle for whatever reason is a stop like any other."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.fixtures import ROOT
from tests.ops.command import COMMAND_S, NO_PLC
from tests.ports import free_ports

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# A machine that gives no more threads at the moment the thread of this name is started.
NO_THREAD_FOR = """
import sys, threading
start = threading.Thread.start
def refuse(thread):
    if thread.name == sys.argv[1]:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = refuse
from zlay.cli import main
sys.exit(main(["run"]))
"""


ENVIRONMENT = ("PATH", "LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS")  # what an interpreter with sanitizers wants, too


@pytest.mark.parametrize("name", ["http", "applier", "dialer"])
def test_no_thread_at_the_start(tmp_path: Path, name: str) -> None:
    """Where a thread cannot be started the relay says so and ends with 1, in order: log synced, state written."""
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", NO_THREAD_FOR, name],
        env={
            **{name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
            "PYTHONPATH": str(ROOT),
            "RELAY_BIND": "127.0.0.1",
            "RELAY_PORT": str(free_ports()),
            "RELAY_METRICS_PORT": str(free_ports()),
            "RELAY_UPSTREAM": "none",
            "RELAY_PLC_URL": NO_PLC,
            "RELAY_DATA_DIR": str(tmp_path / "data"),
        },
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert "can't start new thread" in ended.stderr
    assert "Traceback" not in ended.stderr
    if name != "http":  # that is before anything else
        assert " stopped " in ended.stderr
        assert "synced=True applied=True threads_left=0" in ended.stderr
