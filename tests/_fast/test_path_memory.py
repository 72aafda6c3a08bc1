"""Memory on the path of a frame (issue of the core, "Memory discipline"; design, section 5).

The threads of the relay run in a child, under a library that counts what each of them calls of malloc.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.preload import preload

if TYPE_CHECKING:
    from typing import Any

COUNTER = Path(__file__).with_name("malloc_calls.c")
CHILD = Path(__file__).with_name("malloc_calls_child.py")
CHILD_S = 180
SLOTS_PER_CHUNK = 46  # frames that one allocation of a host's queue of verdicts serves, at most
OPENSSL_CALLS = 40  # of one P-256 verification, at most: OpenSSL's own, none of ours


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library."""
    library = tmp_path_factory.mktemp("counter") / "malloc_calls.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, COUNTER], check=True)
    return library


def _played(counter: Path, folder: Path, p256_share: float) -> dict[str, Any]:
    command = [sys.executable, CHILD, folder, str(p256_share)]
    env = {"LD_PRELOAD": preload(counter), "PYTHON_GIL": "0"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=CHILD_S)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["frames"] == result["published"] > 1500
    assert {"zlay-reader", "zlay-worker-", "zlay-log"} <= result["calls"].keys()
    return result


@pytest.mark.ordinary_build
def test_no_thread_allocates_for_a_frame(counter: Path, tmp_path: Path) -> None:
    """From its first byte to a consumer's socket no thread calls malloc for a frame, FRAME_ALLOC=pool.

    What a reader takes is room for the verdicts of the next 46 frames, where the collector has given back none yet.
    """
    result = _played(counter, tmp_path, p256_share=0)
    readers = result["calls"].pop("zlay-reader")
    assert not any(result["calls"].values()), result
    assert readers <= result["frames"] / SLOTS_PER_CHUNK + 4, result


@pytest.mark.ordinary_build
def test_openssl_alone_allocates_for_p256(counter: Path, tmp_path: Path) -> None:
    """The counter counts: a P-256 verification calls malloc, inside OpenSSL, a bounded number of times."""
    result = _played(counter, tmp_path, p256_share=1)
    workers = result["calls"]["zlay-worker-"]
    assert result["frames"] <= workers <= result["frames"] * OPENSSL_CALLS, result
    assert result["calls"]["zlay-log"] == 0
