"""`zlay demo` as a command that can fail: each thing that it promises to see makes its exit status another than 0."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.demo import tampered
from tests.demo.tampered import Fault, PastNetwork, Replay, TamperedRelay
from zlay.demo import cli

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.reference.frame_ref import Frame

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

FLAGS = ["--seconds", "1", "--rate", "400", "--hosts", "2", "--accounts", "12", "--faults", "600"]
SETTINGS = {
    "FRAME_ALLOC": "malloc",
    "ZLAY_ALLOCATOR": "glibc",
    "RELAY_PORT": "tcp://10.0.0.1:3000",
    "DATABASE_URL": "sqlite:/nowhere/state.sqlite",
    "LOG_LEVEL": "error",
}
PATIENCE_S = 60.0
IMPATIENCE_S = 2.0  # where the end will never come
LOST = "valid events did not come out"
WRONG = "came out that should not have, or changed, twice, or in the wrong order"
GAPS = "gaps in seq"


def arguments(*more: str) -> argparse.Namespace:
    """As `zlay demo` parses them."""
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    return parser.parse_args(["demo", *FLAGS, *more])


@dataclass
class Run:
    """What a run of the whole demo has left."""

    status: int
    output: str
    folder: Path
    environment: list[bytes]  # of the relay
    frames: list[Frame]  # that it sent
    stats: dict[str, Any]  # its last


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of network, relay and consumer with nothing spoiled, in an environment full of settings."""
    folder = tmp_path_factory.mktemp("demo") / "kept"
    relays: list[TamperedRelay] = []
    environment: list[bytes] = []

    def start(*args: Any) -> TamperedRelay:
        relays.append(TamperedRelay(*args, Fault()))
        environment.extend(Path(f"/proc/{relays[0].process.pid}/environ").read_bytes().split(b"\0"))
        return relays[0]

    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        status = cli.run(arguments("--keep", str(folder)), start, PATIENCE_S)
    return Run(status, output.getvalue(), folder, environment, relays[0].frames, relays[0].last_stats)


def test_a_good_run(good: Run) -> None:
    """With nothing spoiled it is 0, although all events pass through the same hands as below."""
    assert good.status == 0, good.output
    assert re.search(r"^[1-9][0-9,]* events came out as they were sent", good.output, re.MULTILINE)
    assert re.search(r"[1-9][0-9,]* were dropped, each for the right reason", good.output)
    assert len(good.frames) > 10 * tampered.VICTIM


def test_settings_for_experiments_reach_its_relay(good: Run) -> None:
    """FRAME_ALLOC and its like pass from the demo's environment to its relay; addresses, data and log lines do not."""
    assert good.stats["pool"]["allocator_calls_total"] >= len(good.frames), "FRAME_ALLOC=malloc: one for each frame"
    assert b"ZLAY_ALLOCATOR=glibc" in good.environment
    for name in ("RELAY_PORT", "DATABASE_URL", "LOG_LEVEL"):
        assert f"{name}={SETTINGS[name]}".encode() not in good.environment


def replayed(good: Run, fault: Fault) -> int:
    """The exit status of a demo whose relay sends what that of the good run sent, spoiled."""
    with Replay(good.folder, good.frames, good.stats, fault) as relay:
        demo = cli.Demo(PastNetwork(good.folder), relay, threading.Event())  # type: ignore[arg-type]
        return demo.run(0.01, "", IMPATIENCE_S)


def test_a_good_run_once_more(good: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """What was recorded is as good as what was sent: what follows is about what is spoiled in it."""
    assert replayed(good, Fault()) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "told", "not_told"),
    [
        (tampered.Lost, f"1 {LOST}", [WRONG, GAPS]),
        (tampered.Doubled, f"1 {WRONG}", [LOST, GAPS]),
        (tampered.Moved, WRONG, [GAPS]),
        (tampered.Changed, WRONG, [GAPS]),
        (tampered.Invalid, f"1 {WRONG}", [LOST, GAPS]),
        (tampered.Gap, f"1 {GAPS}", [LOST, WRONG]),
        (tampered.LateStart, f"1 {GAPS}", [LOST, WRONG]),
        (tampered.Silent, "nothing came out", [WRONG, GAPS]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "told",
)
def test_a_spoiled_stream_is_seen(
    fault: Callable[[], Fault], told: str, not_told: list[str], good: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """An event lost, doubled, moved, changed, one too many, a gap in seq: the status is 1, and the output says what."""
    status = replayed(good, fault())
    said = capsys.readouterr().out
    assert status == 1, said
    assert "FAILED" in said
    assert f"  ! {told}" in said or (told == WRONG and WRONG in said), said
    for other in not_told:
        assert other not in said, said


@pytest.mark.parametrize("change", [-1, +1])
def test_a_wrong_count_of_drops_is_seen(change: int, good: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """One drop too few or too many for a reason: 1."""
    drops = good.stats["verdicts"]["drop"]
    reason, count = next(iter(drops.items()))
    drops[reason] = count + change
    try:
        assert replayed(good, Fault()) == 1
    finally:
        drops[reason] = count
    assert f"  ! dropped as {reason}: {count + change}, expected {count}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (tampered.Drop, r"  ! dropped as \w+: \d+, expected \d+\n"),
        (tampered.Killed, rf"  ! the relay exited with -{signal.SIGKILL:d}\n"),
    ],
    ids=["Drop", "Killed"],
)
def test_what_befalls_a_running_relay_is_seen(
    fault: Callable[[], Fault], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A relay that dies, or drops what the network did not send: 1, and the signal handlers are as they were."""
    before = signal.getsignal(signal.SIGTERM)
    status = cli.run(arguments(), lambda folder, settings: TamperedRelay(folder, settings, fault()), PATIENCE_S)
    said = capsys.readouterr().out
    assert status == 1, said
    assert re.search(told, said), said
    assert "Traceback" not in said
    assert signal.getsignal(signal.SIGTERM) is before
