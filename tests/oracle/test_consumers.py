"""Consumers of others read what we pass on: npm @atproto/sync and the Python SDK; and take it for what it is."""

from __future__ import annotations

import json
import random
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests import fixtures
from tests._fast import wild
from tests._fast.frames import frame, identity
from tests._fast.test_message import ACCEPTED
from tests.e2e.deps import npm_environment
from tests.fixtures import ROOT
from zlay._fast import message

if TYPE_CHECKING:
    from tests.oracle.conftest import Oracle

FRAMES = 400
METHOD = "com.atproto.sync.subscribeRepos"


def passing() -> list[bytes]:
    """Frames that we pass on: recorded ones, every legal shape, and wild ones."""
    rng = random.Random(3)
    found = [*fixtures.recorded_frames(), *ACCEPTED.values()]
    while len(found) < FRAMES:
        raw = wild.frame(rng)
        if isinstance(message.decode(raw), dict):
            found.append(raw)
    return found


def ask_npm(frames: list[bytes]) -> list[dict[str, Any]]:
    """What @atproto/sync makes of each frame (read_frames.mjs)."""
    done = subprocess.run(
        ["node", str(ROOT / "tests" / "oracle" / "read_frames.mjs")],
        input=b"".join(raw.hex().encode() + b"\n" for raw in frames),
        capture_output=True,
        check=True,
        timeout=240,
        env=npm_environment(),
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_typescript_consumers_read_what_passes() -> None:
    """npm @atproto/sync reads every such frame; it takes for events what we have checked as such, and nothing else."""
    frames = passing()
    for raw, answer in zip(frames, ask_npm(frames), strict=True):
        got = message.decode(raw)
        assert isinstance(got, dict)
        assert answer == {"type": METHOD + got["type"], "event": got["kind"] != "unknown"}, raw.hex()[:400]


def test_what_typescript_consumers_would_take_for_events() -> None:
    """A message under its type's whole name is an event to @atproto/sync, so it must not pass unchecked (A4)."""
    named = frame(identity(), f"{METHOD}#identity")
    assert ask_npm([named]) == [{"type": f"{METHOD}#identity", "event": True}]
    assert message.decode(named) == "frame_header"


def test_python_consumers_read_what_passes(oracle: Oracle) -> None:
    """The Python SDK reads every such frame, and the model of every message of a known type."""
    frames = passing()
    answers = oracle.ask("read_frames", cases=[raw.hex() for raw in frames])
    for raw, answer in zip(frames, answers, strict=True):
        got = message.decode(raw)
        assert isinstance(got, dict)
        known = got["kind"] != "unknown"
        assert answer == (got["kind"] if known else "unknown"), raw.hex()[:400]


@pytest.mark.parametrize("kind", ["commit", "sync", "identity", "account"])
def test_wild_frames_are_of_every_kind(kind: str) -> None:
    """The frames of these tests are of every kind, each often."""
    kinds = [got["kind"] for got in map(message.decode, passing()) if isinstance(got, dict)]
    assert kinds.count(kind) > 20
