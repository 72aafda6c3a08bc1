"""What the documents say of endpoints and metrics is what a running relay answers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.docs import tables
from tests.e2e.relay import ADMIN_PASSWORD, RelayProcess, request
from zlay.api.admin import ADMIN
from zlay.api.xrpc import PROCEDURES, QUERIES

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

README = tables.ROOT / "README.md"
OPERATIONS = tables.ROOT / "docs" / "operations.md"
NOT_THERE = {404, 405, 501}
SHUTDOWN = "/admin/shutdown"
ROUNDED_MB = 3  # hash buckets are powers of two for each worker, and workers are as many as cores
ADMIN_HEADERS = {"Authorization": f"Bearer {ADMIN_PASSWORD}"}


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """A relay without hosts."""
    with RelayProcess(tmp_path_factory.mktemp("docs") / "data", plc_url=tables.NO_PLC) as running:
        yield running


def endpoints() -> list[tuple[str, str, str]]:
    """(on, method, path) of each endpoint in the README's table."""
    found = []
    for on, method, cell in re.findall(
        r"^\| (both|metrics) \| `(GET|POST) (/.*?) \|", README.read_text(), re.MULTILINE
    ):
        found += [(on, method, path.split("?")[0]) for path in re.findall(r"(/[\w/.?=&]*)", cell)]
    return found


def test_every_endpoint_is_listed() -> None:
    """No endpoint of the code is missing in the README's table, and none there is of another method."""
    listed = {(method, path) for _, method, path in endpoints()}
    methods = [("GET", QUERIES), ("POST", PROCEDURES)]
    coded = {(method, f"/xrpc/{nsid}") for method, table in methods for nsid in table}
    assert coded | set(ADMIN) <= listed
    ours = {(method, path) for method, path in listed if path.startswith(("/xrpc/com.", "/admin/"))}
    assert ours == coded | set(ADMIN) | {("GET", "/xrpc/com.atproto.sync.subscribeRepos")}


def test_every_listed_endpoint_answers(relay: RelayProcess) -> None:
    """What the README lists is there, on the ports it says and on no other."""
    for on, method, path in endpoints():
        if path == SHUTDOWN:
            continue
        body = {} if method == "POST" else None
        internal, _ = request(relay.metrics_port, method, path, body, headers=ADMIN_HEADERS)
        public, _ = request(relay.port, method, path, body, headers=ADMIN_HEADERS)
        assert internal not in NOT_THERE, path
        assert (public in NOT_THERE) == (on == "metrics"), path


def test_admin_is_closed_without_the_password(relay: RelayProcess) -> None:
    """Admin wants the password, as Bearer or as Basic."""
    assert request(relay.metrics_port, "GET", "/admin/hosts")[0] == 401
    basic = {"Authorization": "Basic YWRtaW46cmln"}  # admin:rig
    assert request(relay.metrics_port, "GET", "/admin/hosts", headers=basic)[0] == 200


def test_metrics(relay: RelayProcess) -> None:
    """The table of metrics is what a relay exports, and no page names a metric that is not there."""
    exposition = request(relay.metrics_port, "GET", "/metrics")[1].decode()
    assert tables.table_in(OPERATIONS, "metrics") == tables.metrics(exposition), "run -m tests.docs.tables"
    known = set(tables.exported(exposition))
    for document in tables.DOCUMENTS:
        named = set(re.findall(r"`(relay_\w+)", document.read_text()))
        assert named <= known, (document.name, named - known)


def test_size_of_the_tables(relay: RelayProcess) -> None:
    """The account tables take as much memory with default settings as the operations page says."""
    said = re.search(r'`relay_core_bytes\{tag="account"\}`\s+says\s+(\d+)\s+MB', OPERATIONS.read_text())
    assert said is not None
    measured = relay.metrics()['relay_core_bytes{tag="account"}'] / 1e6
    assert abs(measured - int(said[1])) <= ROUNDED_MB, measured


def zlay(relay: RelayProcess, *words: str, password: str = ADMIN_PASSWORD) -> subprocess.CompletedProcess[str]:
    """A command as an operator gives it beside a relay."""
    return subprocess.run(
        [sys.executable, "-m", "zlay", *words],
        cwd=tables.ROOT,
        env={**os.environ, "RELAY_METRICS_PORT": str(relay.metrics_port), "RELAY_ADMIN_PASSWORD": password},
        capture_output=True,
        text=True,
    )


def test_an_operator_at_a_shell(relay: RelayProcess) -> None:
    """`zlay admin` finds the relay by its setting; what it cannot do is one line and a status of its own."""
    assert zlay(relay, "admin", "hosts").stdout == zlay(relay, "hosts").stdout != ""
    assert "resident memory" in zlay(relay, "memory").stdout
    refused = zlay(relay, "admin", "shutdown", password="wrong")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert zlay(relay, "admin", "block", "nobody.example.com").returncode == 1
    assert zlay(relay, "admin", "block").returncode == 2
    assert zlay(relay, "memory", "--url", tables.NO_PLC).returncode == 3


def test_shutdown(relay: RelayProcess) -> None:
    """`zlay admin shutdown` ends the relay in order, with exit status 0."""
    assert zlay(relay, "admin", "shutdown").returncode == 0
    assert relay.wait_exit() == 0
