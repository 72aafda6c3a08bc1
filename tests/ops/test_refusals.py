"""What zlay refuses to start on: each in clear words, exit 1, with everything left as it was."""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
from typing import TYPE_CHECKING

import pytest

from tests.e2e.relay import RelayProcess, request
from tests.ops.command import NO_PLC, refusal
from tests.reference.consumer import Collector
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

EVENTS = 300
MIX = [
    word
    for kind in (
        "update",
        "delete",
        "multi",
        "empty",
        "sync",
        "import",
        "identity",
        "handle",
        "account",
        "deactivate",
        "rotate",
        "migrate",
        "remove",
        "birth",
    )
    for word in ("--mix", f"{kind}=0")
]  # single creates only: each of them comes out
WAIT_S = 30.0
INDEX_ENTRY = INDEX_HEADER = 64  # bytes, design 4


def files(folder: Path) -> set[str]:
    """Every name below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def segments(data: Path) -> dict[str, bytes]:
    """The log's segments with their bytes."""
    return {
        path.name: path.read_bytes() for path in (data / "events").iterdir() if path.suffix in (".frames", ".index")
    }


def same_ports(relay: RelayProcess, other: RelayProcess) -> RelayProcess:
    """Has `relay` listen where `other` does."""
    relay.port, relay.metrics_port = other.port, other.metrics_port
    relay._env |= {"RELAY_PORT": str(other.port), "RELAY_METRICS_PORT": str(other.metrics_port)}
    return relay


def test_a_second_relay(tmp_path: Path) -> None:
    """A taken port and a data directory in use are refused by name, and the relay that runs does not notice."""
    with RelayProcess(tmp_path / "first", plc_url=NO_PLC) as first:
        assert first.process is not None
        other_port = RelayProcess(tmp_path / "second", plc_url=NO_PLC)
        other_port._env["RELAY_PORT"] = str(first.port)
        said = refusal(other_port)
        assert f"port {first.port} on 127.0.0.1 is taken" in said
        assert files(tmp_path / "second") == set(), "something was left behind"

        other_port._env |= {"RELAY_PORT": "0", "RELAY_METRICS_PORT": str(first.metrics_port)}
        assert f"port {first.metrics_port} on 127.0.0.1 is taken" in refusal(other_port)
        assert files(tmp_path / "second") == set()

        before = files(tmp_path / "first")
        same_data = RelayProcess(tmp_path / "first", plc_url=NO_PLC)
        same_data.log_path = tmp_path / "third.log"
        said = refusal(same_data)
        assert f"{tmp_path / 'first'} is in use by another zlay (process {first.process.pid})" in said
        assert files(tmp_path / "first") == before
        assert request(first.metrics_port, "GET", "/_health")[0] == 200
        assert request(first.port, "GET", "/_health")[0] == 200
        assert first.terminate() == 0
        same_ports(same_data, first)
        same_data.start()  # both are free again
        assert same_data.terminate() == 0


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    """An address that this machine does not have is refused by name."""
    relay = RelayProcess(tmp_path / "data", plc_url=NO_PLC, env={"RELAY_BIND": "192.0.2.1"})
    assert "192.0.2.1" in refusal(relay)


def test_a_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """No directory, no permission, a file in its place: refused with the path and the system's words."""
    relay = RelayProcess(tmp_path / "data", plc_url=NO_PLC)
    (tmp_path / "file").write_text("not a directory")
    for path, words in (
        (tmp_path / "file", "exists"),
        (tmp_path / "file" / "data", "Not a directory"),
        ("/proc/zlay/data", "No such file"),
    ):
        relay._env["RELAY_DATA_DIR"] = str(path)
        said = refusal(relay)
        assert str(path) in said
        assert words in said
    relay._env["RELAY_DATA_DIR"] = str(tmp_path / "data")
    if os.geteuid() == 0:  # permissions bind root too once it has let this right go
        relay.prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    (tmp_path / "data").chmod(stat.S_IRUSR | stat.S_IXUSR)
    said = refusal(relay)
    assert str(tmp_path / "data") in said
    assert "Permission denied" in said
    (tmp_path / "data").chmod(stat.S_IRWXU)
    relay.start()
    assert relay.terminate() == 0
    (tmp_path / "data" / "state.sqlite").chmod(stat.S_IRUSR)
    assert "state.sqlite" in refusal(relay)
    (tmp_path / "data" / "state.sqlite").chmod(stat.S_IRUSR | stat.S_IWUSR)
    (tmp_path / "data" / "events").chmod(stat.S_IRUSR | stat.S_IXUSR)
    said = refusal(relay)
    assert str(tmp_path / "data" / "events") in said
    assert "Permission denied" in said
    (tmp_path / "data" / "events").chmod(stat.S_IRWXU)
    relay.start()
    assert relay.terminate() == 0


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a relay that has published EVENTS events and stopped."""
    folder = tmp_path_factory.mktemp("stopped")
    with (
        SimProcess("--hosts", "2", "--accounts", "40", "--rate", "0", "--events", str(EVENTS), *MIX) as sim,
        RelayProcess(folder / "data", plc_url=sim.plc, hosts=sim.hosts) as relay,
        Collector(relay.port, 0, keep=lambda frame: frame.seq) as consumer,
    ):
        consumer.wait_count(EVENTS, WAIT_S)
        assert relay.terminate() == 0
    return folder / "data"


def _first(events: Path, kind: str) -> Path:
    return next(iter(sorted(events.glob(f"*.{kind}"))))


def _foreign_state(data: Path) -> None:
    (data / "state.sqlite").unlink()
    with RelayProcess(data.parent / "another", plc_url=NO_PLC) as another:
        assert another.terminate() == 0
    shutil.copy(data.parent / "another" / "state.sqlite", data)


def _no_state(data: Path) -> None:
    (data / "state.sqlite").unlink()


def _shorter_log(data: Path) -> None:
    index = _first(data / "events", "index")
    os.truncate(index, INDEX_HEADER + INDEX_ENTRY * (EVENTS // 2))
    (offset, length) = struct.unpack_from("<QI", index.read_bytes(), INDEX_HEADER + INDEX_ENTRY * (EVENTS // 2 - 1))
    os.truncate(_first(data / "events", "frames"), offset + length)


def _no_log(data: Path) -> None:
    for path in (data / "events").glob("*.[fi]*"):
        path.unlink()
    (data / "events" / "run.json").unlink()


def _no_store_file(data: Path) -> None:
    (data / "events" / "store.json").unlink()


def _damaged_store_file(data: Path) -> None:
    (data / "events" / "store.json").write_text("{")


def _damaged_run_file(data: Path) -> None:
    (data / "events" / "run.json").write_text("[]")


def _foreign_segment(data: Path) -> None:
    path = data / "events" / "store.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "store_id": "00" * 16}))


def _later_format(data: Path) -> None:
    path = data / "events" / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))


def _state_that_is_no_database(data: Path) -> None:
    (data / "state.sqlite").write_bytes(b"this is no database " * 500)


CASES: list[tuple[Callable[[Path], None], list[str]]] = [
    (_foreign_state, ["log and state are of two stores", "RELAY_DATA_DIR", "DATABASE_URL"]),
    (_no_state, [f"events up to seq {EVENTS}", "the state is new", "RELAY_INITIAL_SEQ"]),
    (_shorter_log, [f"the state is ahead of the log (seq {EVENTS} and {EVENTS // 2})", "RELAY_INITIAL_SEQ"]),
    (_no_log, ["the state is ahead of the log", "backup"]),
    (_no_store_file, ["store.json", "backup"]),
    (_damaged_store_file, ["store.json is damaged", "backup"]),
    (_damaged_run_file, ["run.json is damaged"]),
    (_foreign_segment, ["belongs to another store"]),
    (_later_format, ["format 2"]),
    (_state_that_is_no_database, ["state.sqlite", "not a database"]),
]


@pytest.mark.parametrize(("spoil", "words"), CASES, ids=[spoil.__name__.strip("_") for spoil, _ in CASES])
def test_data_that_does_not_belong_together(
    spoil: Callable[[Path], None], words: list[str], stopped: Path, tmp_path: Path
) -> None:
    """Log and state of two stores, one without the other, ahead of the other or damaged: refused, with what to do."""
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    spoil(data)
    before = segments(data)
    said = refusal(RelayProcess(data, plc_url=NO_PLC))
    for word in words:
        assert word in said
    assert segments(data) == before, "a refusal must leave the log as it was"


def test_a_stopped_relay_starts_again(stopped: Path, tmp_path: Path) -> None:
    """The same directory, untouched, is taken: the refusals above are about what was done to it."""
    data = tmp_path / "data"
    shutil.copytree(stopped, data)
    with (
        RelayProcess(data, plc_url=NO_PLC) as relay,
        Collector(relay.port, 0, keep=lambda frame: frame.seq) as consumer,
    ):
        assert consumer.wait_count(EVENTS, WAIT_S) == list(range(1, EVENTS + 1))
        assert relay.terminate() == 0
