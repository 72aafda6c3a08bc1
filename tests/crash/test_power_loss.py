"""Power loss at random moments of a busy log, with the real recovery: nothing that a consumer had is gone, no hole.

$ZLAY_POWER_LOSSES: how many states each test tries.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.crash.disk import Disk
from tests.crash.power import Losses, build_recorder, environment
from tests.eventlog.support import append, opened
from tests.fixtures import ROOT
from tests.reference.log_ref import LogReader
from zlay.eventlog import store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.crash.power import Loss

pytestmark = pytest.mark.slow

CHILD = Path(__file__).with_name("log_child.py")
SEED = int(os.environ.get("ZLAY_POWER_SEED", "20261121"))
STATES = int(os.environ.get("ZLAY_POWER_LOSSES", "100"))
EVENTS = 300  # of each opening
AGAIN = 8  # states that are recovered under the recorder, and lose power again meanwhile
MEMORY = Path("/dev/shm")  # hundreds of recoveries sync, and nothing of them is to last
SYNC_US = 500


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled recorder."""
    return build_recorder(tmp_path_factory.mktemp("recorder"))


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the machine has one."""
    folder = Path(tempfile.mkdtemp(prefix="zlay-power-", dir=MEMORY if MEMORY.is_dir() else tmp_path))
    yield folder
    shutil.rmtree(folder)


def record(recorder: Path, root: Path, durability: str, events: int, *data_dirs: Path) -> tuple[Disk, Path]:
    """Runs the child under the recorder: the disk as it was before, and the trace, beside `root`."""
    disk, trace = Disk(root), root.with_suffix(".trace")
    done = subprocess.run(
        [sys.executable, CHILD, durability, str(SEED), str(events), *data_dirs],
        env={**os.environ, **environment(recorder, root, trace, SYNC_US)},
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return disk, trace


def read_all(loss: Loss) -> list[int]:
    """Every seq that a consumer with cursor 0 gets from the recovered log; each is what it was when it was written."""
    seqs = []
    with opened(loss.data_dir) as log:
        found = log.recovered
        assert (found.damage, found.gaps, found.orphans) == ([], [], []), loss
        for entry in log.scan(1):
            assert entry.frame is not None
            known = loss.sent.get(entry.seq) or loss.written.get(entry.seq)
            assert known is None or known.endswith(entry.frame), loss
            seqs.append(entry.seq)
    return seqs


def go_on(loss: Loss) -> list[int]:
    """The log takes events after all that; every seq in it as an independent reader sees it, and none is bad."""
    with opened(loss.data_dir, segment_entries=5) as log:
        for i in range(3):
            seq = append(log, f"after {i}")
        assert log.wait_synced(seq, 20)
    reader = LogReader.of(loss.data_dir / "events")
    seqs = [event.seq for event in reader]
    assert reader.bad == []
    assert seqs[-1] == seq
    return seqs


def check_fsync(loss: Loss) -> None:
    """All that was sent is there, bytes and numbers; no hole, no damage; the next number follows on."""
    if not loss.sent and not loss.data_dir.is_dir():
        return  # the directory itself was not yet there
    seqs = read_all(loss)
    if loss.sent:
        assert seqs, loss
        assert seqs[0] <= loss.oldest, loss
        assert seqs[-1] >= loss.sent_end, loss
    first = seqs[0] if seqs else 1
    assert seqs == list(range(first, first + len(seqs))), loss
    assert go_on(loss) == list(range(first, first + len(seqs) + 3)), loss


def test_no_consumer_had_what_is_gone(recorder: Path, work: Path) -> None:
    """Whichever pages and directory entries a power loss takes, no consumer had an event that is gone, and no hole
    stays; nor when power fails a second time, while the log is recovered and goes on."""
    root, again = work / "root", work / "again"
    root.mkdir()
    again.mkdir()
    disk, trace = record(recorder, root, "fsync", EVENTS, root / "data", root / "data")
    losses = Losses(disk, trace, work, seed=SEED, count=STATES)
    sent_before: dict[str, dict[int, bytes]] = {}
    for loss in losses:
        if loss.sent and loss.number % (STATES // (2 * AGAIN)) == 0 and len(sent_before) < AGAIN:
            name = f"{loss.number}"
            shutil.copytree(loss.data_dir, again / name)
            sent_before[name] = dict(loss.sent)
        check_fsync(loss)
    assert loss.sent_end > EVENTS

    assert len(sent_before) == AGAIN
    disk, trace = record(recorder, again, "fsync", 8, *(again / name for name in sent_before))
    for name, sent in sent_before.items():
        for loss in Losses(disk, trace, work, name=name, sent=sent, seed=SEED, count=STATES // AGAIN):
            check_fsync(loss)


def test_os_mode_gives_no_number_twice(recorder: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In `os` mode a power loss may take events that consumers had; their numbers are never given to others, and what
    is left has no hole."""
    root = work / "root"
    root.mkdir()
    disk, trace = record(recorder, root, "os", EVENTS, root / "data", root / "data")
    monkeypatch.setattr(store, "BOOT_ID_FILE", work / "boot")
    (work / "boot").write_text("another\n")
    lost = 0
    for loss in Losses(disk, trace, work, seed=SEED, count=STATES):
        if not loss.data_dir.is_dir():
            assert not loss.sent
            continue
        seqs = read_all(loss)
        assert not seqs or seqs == list(range(seqs[0], seqs[-1] + 1)), loss
        lost += not seqs or seqs[-1] < loss.sent_end
        after = go_on(loss)
        assert after[: len(seqs)] == seqs, loss
        assert after[len(seqs)] > max(loss.written, default=0), loss
    assert lost > 0, "no state lost what a consumer had: the test is too kind"
