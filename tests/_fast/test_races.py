"""The shared structures of the core under many native threads: nothing lost, nothing twice, everything in order.

`scripts/tsan` runs the same compiled with ThreadSanitizer, which reports races that did no harm this time.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fixtures import ROOT
from tests.native import stress

SECONDS = "0.3"
END_S = 280.0  # what is to be compiled first included


@pytest.mark.parametrize("part", stress.PARTS)
def test_nothing_is_lost_under_many_threads(part: str) -> None:
    """Threads that work on the core's structures at once find each thing once and in order, and leave nothing."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.native.stress", "--seconds", SECONDS, part]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=END_S)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"stress: {part}: ok" in done.stdout
