"""The orderly stop: SIGTERM, SIGINT and POST /admin/shutdown, with 3,000 hosts; and the second signal."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.e2e.fakes import FakePds
from tests.e2e.relay import ADMIN_PASSWORD, RelayFailedError, RelayProcess, request
from tests.ops.command import NO_PLC, log_lines
from tests.reference.consumer import ClosedError, StrictConsumer
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

HOSTS = 3000
STOP_S = 5.0  # issue and design: an orderly stop with 3,000 hosts takes less
RSS_MAX = 600 << 20  # with 3,000 hosts: 25 KiB a reader (R2), slabs of a quiet network, and the interpreter
GOING_AWAY = 1001
WAIT_S = 60.0


class Stopping:
    """A relay that has been asked to stop: whether /_readyz ever said 200 since, and how the consumers ended."""

    def __init__(self, relay: RelayProcess) -> None:
        self.relay = relay
        self.answers: list[tuple[int, Any]] = []
        self._thread = threading.Thread(target=self._watch, name="readiness", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while True:
            try:
                status, body = request(self.relay.metrics_port, "GET", "/_readyz", timeout_s=2)
                self.answers.append((status, json.loads(body)))
            except (OSError, RelayFailedError, ValueError):
                return  # it no longer listens

    def end(self) -> list[tuple[int, Any]]:
        """Answers until there were none."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        return self.answers


def end_of(consumer: StrictConsumer) -> tuple[int, ClosedError]:
    """Read a consumer to its end: the last seq and the close frame."""
    while True:
        try:
            consumer.next(WAIT_S)
        except ClosedError as exc:
            assert consumer.seq is not None
            return consumer.seq, exc


def connected(relay: RelayProcess) -> int:
    """Hosts that stream."""
    return int(relay.metrics().get('relay_hosts{status="active"}', 0))


@pytest.fixture(scope="module")
def network() -> Iterator[SimProcess]:
    """3,000 hosts, each at an address of its own."""
    flags = ("--hosts", str(HOSTS), "--accounts", str(HOSTS), "--repo-size", "2", "--skew", "0", "--spread")
    with SimProcess(*flags, "--rate", "300", "--start", "now") as sim:
        yield sim


def stop_by_signal(relay: RelayProcess, number: signal.Signals) -> None:
    """As a supervisor or a terminal does."""
    assert relay.process is not None
    relay.process.send_signal(number)


@pytest.mark.ordinary_build
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "shutdown"])
def test_three_thousand_hosts(
    how: str, network: SimProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 3,000 streaming hosts a stop takes under 5 s, closes consumers with 1001, loses nothing and exits with 0."""
    with RelayProcess(tmp_path / "data", plc_url=network.plc, hosts=network.hosts) as relay:
        assert relay.process is not None
        began = time.monotonic()
        relay.wait_for(lambda: connected(relay) >= HOSTS, f"{HOSTS} hosts", WAIT_S)
        dialled_s = time.monotonic() - began
        relay.wait_metric("relay_seq", 300, WAIT_S)
        process = psutil.Process(relay.process.pid)
        rss = process.memory_info().rss
        with StrictConsumer(relay.port, 0) as replaying, StrictConsumer(relay.port) as live:
            replaying.next(WAIT_S)
            live.next(WAIT_S)
            watch = Stopping(relay)
            asked = time.monotonic()
            if how == "shutdown":
                assert relay.admin("POST", "/admin/shutdown") == {"stopping": True}
            else:
                stop_by_signal(relay, signal.Signals[how])
            status = relay.wait_exit()
            took_s = time.monotonic() - asked
            ends = [end_of(replaying), end_of(live)]
        with capsys.disabled():
            print(
                f"\n{how}: {HOSTS} hosts dialled in {dialled_s:.1f} s, RSS {rss >> 20} MiB, stopped in {took_s:.2f} s"
            )
        assert status == 0, relay.log_tail()
        assert took_s < STOP_S
        assert rss < RSS_MAX
        assert [closed.code for _, closed in ends] == [GOING_AWAY, GOING_AWAY]
        answers = watch.end()
        said = [reasons for code, reasons in answers if code == 503]
        assert all("stopping" in answer["reasons"] for answer in said)
        codes = [code for code, _ in answers]
        assert codes == sorted(codes), "ready again after the stop had begun"
        lines = list(log_lines(relay))
        assert [line["reason"] for line in lines if line["event"] == "stopping"] == [
            "POST /admin/shutdown" if how == "shutdown" else how
        ]
        (stopped,) = [line for line in lines if line["event"] == "stopped"]
        assert (stopped["readers_left"], stopped["synced"], stopped["applied"], stopped["threads_left"]) == (
            0,
            True,
            True,
            0,
        )
        assert not [line for line in lines if line["level"] == "error"]


def basic(user: str, password: str) -> dict[str, str]:
    """Basic credentials."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(password: str) -> dict[str, str]:
    """The password as a token."""
    return {"Authorization": f"Bearer {password}"}


def has_said(relay: RelayProcess, event: str) -> bool:
    """Whether the log has a line for this event."""
    return any(line["event"] == event for line in log_lines(relay))


def test_only_an_admin_may_stop_it(tmp_path: Path) -> None:
    """POST /admin/shutdown wants the password, as Bearer or as Basic of `admin`, on the metrics port only."""
    path = "/admin/shutdown"
    with RelayProcess(tmp_path / "data", plc_url=NO_PLC) as relay:
        for wrong in ({}, bearer("wrong"), basic("admin", "wrong"), basic("root", ADMIN_PASSWORD), bearer("")):
            status, _ = request(relay.metrics_port, "POST", path, headers=wrong)
            assert status == 401, wrong
        assert request(relay.port, "POST", path, headers=bearer(ADMIN_PASSWORD))[0] in (403, 404)
        assert request(relay.metrics_port, "GET", path, headers=bearer(ADMIN_PASSWORD))[0] in (404, 405)
        assert request(relay.metrics_port, "GET", "/_health")[0] == 200
        assert not has_said(relay, "stopping")
        status, body = request(relay.metrics_port, "POST", path, headers=basic("admin", ADMIN_PASSWORD))
        assert (status, json.loads(body)) == (200, {"stopping": True})
        assert relay.wait_exit() == 0
    relay._env["RELAY_ADMIN_PASSWORD"] = ""
    with relay:
        assert request(relay.metrics_port, "POST", path, headers=bearer(""))[0] == 403, "closed without a password"
        assert relay.terminate() == 0


AT_ONCE_S = 1.0


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """While a stop waits for a locked database: one signal after /admin/shutdown changes nothing, a second ends it."""
    relay = RelayProcess(tmp_path / "data", plc_url=NO_PLC)
    with FakePds() as pds:
        for first in ("POST /admin/shutdown", "SIGINT"):
            relay.log_path = tmp_path / f"{first[:4]}.log"
            with relay, contextlib.closing(sqlite3.connect(tmp_path / "data" / "state.sqlite")) as database:
                assert relay.process is not None
                relay.admin("POST", "/admin/hosts/add", {"hostname": pds.host})
                relay.wait_for(lambda: connected(relay) == 1, "the host", WAIT_S)
                database.execute("BEGIN IMMEDIATE")  # somebody's shell: the stop waits for it for a while
                if first == "SIGINT":
                    relay.process.send_signal(signal.SIGINT)
                else:
                    relay.admin("POST", "/admin/shutdown")
                relay.wait_for(lambda: has_said(relay, "stopping"), "the begin of the stop", WAIT_S)
                asked = time.monotonic()
                relay.process.send_signal(signal.SIGTERM)
                status = relay.wait_exit()
                took_s = time.monotonic() - asked
                if first == "SIGINT":
                    assert status == 128 + signal.SIGTERM
                    assert took_s < AT_ONCE_S
                    assert not has_said(relay, "stopped")
                else:
                    assert status == 0
                    assert took_s < STOP_S
                    assert has_said(relay, "stopped")
                    assert not has_said(relay, "stopped at once")


def test_signals_before_it_serves(tmp_path: Path) -> None:
    """SIGTERM and SIGUSR1 in the middle of the start are kept: no report, an orderly end, nothing torn."""
    for name in ("first", "second", "third"):
        relay = RelayProcess(tmp_path / name, plc_url=NO_PLC)
        relay.start(ready=False)
        assert relay.process is not None
        relay.wait_for((tmp_path / name / "events").exists, "the log's directory", WAIT_S)  # made after the handlers
        relay.process.send_signal(signal.SIGUSR1)
        assert relay.terminate() == 0, relay.log_tail()
        assert "Traceback" not in relay.log_tail()
