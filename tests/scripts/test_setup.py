"""scripts/setup: running it again, and what it says when it cannot go on. It is run in this very checkout."""

from __future__ import annotations

import os
import subprocess
import time

from tests.fixtures import ROOT

AGAIN_S = 3.0  # every scripts/zlay pays this


def setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/setup to its end."""
    return subprocess.run(
        [ROOT / "scripts" / "setup", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_a_second_run_is_quick_and_silent() -> None:
    """When nothing changed, setup prints nothing and ends within 3 s."""
    assert setup("--dev").returncode == 0
    started = time.monotonic()
    again = setup("--dev")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert time.monotonic() - started < AGAIN_S


def test_an_interpreter_with_a_gil_is_refused_with_a_reason() -> None:
    """A ZLAY_PYTHON that cannot run zlay is an error that says what is needed, and the environment stays as it was."""
    refused = setup("--dev", ZLAY_PYTHON="/bin/false")
    assert refused.returncode != 0
    assert "ZLAY_PYTHON=/bin/false" in refused.stderr
    assert "free-threaded" in refused.stderr
    assert setup("--dev").stderr == ""


def test_an_unknown_argument_is_refused() -> None:
    """A mistyped argument changes nothing and prints the usage."""
    refused = setup("--develop")
    assert refused.returncode != 0
    assert "usage: scripts/setup" in refused.stderr
