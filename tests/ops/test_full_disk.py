"""A full, failing or read-only disk: ingest waits, consumers go on, the relay says why, and goes on by itself."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.e2e.ledger import Seen, difference, expected, seen
from tests.e2e.relay import RelayProcess, request
from tests.fixtures import ROOT
from tests.ops.command import log_lines, readiness, refusal, unready_because
from tests.preload import preload
from tests.reference.consumer import Collector
from tests.tmpfs import small_disk
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WAIT_S = 60.0
STOP_S = 6.0  # the promise is five seconds
TMPFS_BYTES = 48 << 20
RATE = 400
ENOUGH = 400  # events before the disk fills
# No key or host changes: a frame that waited for the disk would meet a newer document.
FLAGS = [
    *("--hosts", "3", "--accounts", "60", "--rate", str(RATE), "--text-bytes", "1000", "--settle-s", "600"),
    *("--mix", "rotate=0", "--mix", "migrate=0", "--mix", "deactivate=0"),
]


class Disk(Protocol):
    """A disk that a test can fill."""

    folder: Path
    env: dict[str, str]

    def fill(self) -> None:
        """No byte more from now on."""

    def free(self) -> None:
        """Room again."""


class Tmpfs:
    """A real, small file system. Needs the right to mount."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env: dict[str, str] = {}
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Write until nothing more goes."""
        block = bytes(1 << 16)
        with self._filler.open("ab", buffering=0) as file:
            while block:
                try:
                    while file.write(block) == len(block):
                        pass
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise
                block = block[: len(block) // 2]

    def free(self) -> None:
        """Take the filler away."""
        self._filler.unlink()


class Shim:
    """Calls on the log's segments fail by order, ENOSPC for writes unless told otherwise; what else is on the disk is
    not touched. `plan` is what failing_disk.c reads."""

    def __init__(self, folder: Path, plan: str = f"pwrite {errno.ENOSPC}") -> None:
        self.folder = folder
        self._failing = plan
        self._plan = folder / "plan"
        self._plan.write_bytes(b"")
        library = folder / "failing_disk.so"
        source = ROOT / "tests" / "_fast" / "failing_disk.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True, capture_output=True)
        self.env = {"LD_PRELOAD": preload(library), "FAIL_PLAN": str(self._plan)}

    def fill(self) -> None:
        """From the next write on."""
        self._plan.write_text(self._failing)

    def free(self) -> None:
        """As if nothing had been."""
        self._plan.write_bytes(b"")


@pytest.fixture(params=["tmpfs", "shim"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk that can be filled, empty."""
    if request.param == "shim":
        yield Shim(tmp_path)
        return
    with small_disk(tmp_path / "disk", TMPFS_BYTES):
        yield Tmpfs(tmp_path / "disk")


def log_stands_still(relay: RelayProcess) -> bool:
    """Whether the log reports a fault."""
    return unready_because(relay, "log")


def said(relay: RelayProcess, event: str) -> bool:
    """Whether the relay's log has a line that begins so."""
    return any(line["event"].startswith(event) for line in log_lines(relay))


def test_a_full_disk(disk: Disk, tmp_path: Path) -> None:
    """Disk full: events wait, consumers are served, stop and start are orderly; given room, every event comes once."""
    with SimProcess(*FLAGS, "--ledger", str(tmp_path / "ledger")) as sim:
        env = {**disk.env, "RELAY_RETENTION_BYTES": "0"}
        relay = RelayProcess(disk.folder / "data", plc_url=sim.plc, hosts=sim.hosts, env=env)
        relay.log_path = tmp_path / "relay.log"
        with relay, Collector(relay.port, 0, reconnect=True, keep=seen) as consumer:
            fill_it_twice(disk, sim, relay, consumer)


def fill_it_twice(disk: Disk, sim: SimProcess, relay: RelayProcess, consumer: Collector) -> None:
    """Once while it runs, once across a stop and a start."""
    fail_once(disk, relay, consumer, errno.ENOSPC)

    disk.fill()
    relay.wait_for(lambda: log_stands_still(relay), "the disk's fault again", WAIT_S)
    sim.pause()  # what it says while the relay is away must fit on the disk, however long that takes
    asked = time.monotonic()
    assert relay.terminate() == 0
    assert time.monotonic() - asked < STOP_S
    if isinstance(disk, Tmpfs):
        # Of the log, or of the state where cutting the log's torn end has freed a page for what the log had to write.
        assert "No space left on device" in refusal(relay) or "disk is full" in refusal(relay)
    disk.free()
    relay.start()
    before = len(consumer.frames)
    sim.resume()
    consumer.wait_for(lambda frames: len(frames) >= before + ENOUGH, "events after the second time", WAIT_S)
    all_came_once(sim, relay, consumer)


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        pytest.param(f"fdatasync {errno.EIO}", errno.EIO, id="sync fails"),
        pytest.param(f"change {errno.EROFS}", errno.EROFS, id="read-only"),
    ],
)
def test_a_failing_disk(tmp_path: Path, plan: str, error: int) -> None:
    """EIO from fdatasync, or a file system gone read-only: events wait, consumers are served, readiness says why; when
    it is mended the relay goes on by itself, the group in a new segment, every event once."""
    disk = Shim(tmp_path, plan)
    with SimProcess(*FLAGS, "--ledger", str(tmp_path / "ledger")) as sim:
        relay = RelayProcess(disk.folder / "data", plc_url=sim.plc, hosts=sim.hosts, env=disk.env)
        with relay, Collector(relay.port, 0, keep=seen) as consumer:
            published = fail_once(disk, relay, consumer, error)
            segments = sorted(path.stem for path in (relay.data_dir / "events").glob("*.index"))
            assert len(segments) == 2
            assert int(segments[1]) == published + 1
            all_came_once(sim, relay, consumer)


def fail_once(disk: Disk, relay: RelayProcess, consumer: Collector, error: int) -> int:
    """From events to a failing disk to events; the newest event that was published meanwhile."""
    consumer.wait_for(lambda frames: len(frames) >= ENOUGH, "events", WAIT_S)
    disk.fill()
    relay.wait_for(lambda: log_stands_still(relay), "the disk's fault", WAIT_S)
    status, reasons = readiness(relay)
    assert status == 503
    assert any(os.strerror(error) in reason for reason in reasons), reasons
    assert request(relay.metrics_port, "GET", "/_health")[0] == 200, "a failing disk is no reason to be restarted"
    published = int(relay.metrics()["relay_seq"])
    with Collector(relay.port, 0, keep=seen) as replaying:
        replaying.wait_count(published, WAIT_S)
    relay.wait_for(lambda: said(relay, "the log cannot be written"), "a line in the log", WAIT_S)
    disk.free()
    relay.wait_ready()
    relay.wait_for(lambda: said(relay, "the log is written again"), "a line in the log", WAIT_S)
    consumer.wait_for(lambda frames: len(frames) >= published + ENOUGH, "events after the first time", WAIT_S)
    return published


def all_came_once(sim: SimProcess, relay: RelayProcess, consumer: Collector) -> None:
    """The network ends, the relay stops: exactly what should have come has."""
    sim.finish()
    with sim.ledger() as ledger:
        events = expected(ledger)
    consumer.wait_count(len(events), WAIT_S)
    assert relay.terminate() == 0
    frames = [frame for frame in consumer.frames if isinstance(frame, Seen)]
    assert difference(events, frames) == ""
