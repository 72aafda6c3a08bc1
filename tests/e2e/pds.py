"""A real PLC directory and real PDSes in one Node child, and third parties' consumers as children.

Promises: everything runs on free ports of this machine and is gone when the context manager ends, files included. One
test thread drives each object.
"""

from __future__ import annotations

import itertools
import shutil
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from tests.e2e.children import ChildFailedError, JsonChild, Line
from tests.e2e.deps import npm_environment, oracle_environment, oracle_python
from tests.fixtures import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

START_S = 90.0  # loading the PDS's packages takes seconds, and test machines are busy
COMMAND_S = 60.0

_E2E = ROOT / "tests" / "e2e"


class RealNetwork:
    """A PLC and `pds_count` PDSes, running; `command` drives their accounts.

    Attributes: `plc_url`, `pds_urls` (http://localhost:PORT), `pds_hosts` (localhost:PORT).
    """

    def __init__(self, work_dir: Path, *, pds_count: int = 1, crawlers: Sequence[str] = ()) -> None:
        temporary = work_dir / "network-tmp"
        temporary.mkdir(parents=True)
        self._temporary = temporary
        argv = ["node", str(_E2E / "npm" / "network.mjs"), "--pds", str(pds_count)]
        for url in crawlers:
            argv += ["--crawler", url]
        env = {**npm_environment(), "TMPDIR": str(temporary), "LOG_ENABLED": "false"}
        self._ids = itertools.count(1)
        self.child = JsonChild("network", argv, work_dir, env)
        try:
            ready = self.child.wait_ready(START_S)
        except BaseException:
            self.child.stop()
            raise
        self.plc_url: str = ready["plc"]
        self.pds_urls: list[str] = ready["pds"]
        self.pds_hosts = [urlsplit(url).netloc for url in self.pds_urls]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.child.stop()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def command(self, name: str, **params: Any) -> Any:
        """Run one command of network.mjs and return its result; ChildFailedError when the PDS refuses."""
        number = next(self._ids)
        self.child.send({"id": number, "cmd": name, **params})
        self.child.wait_for(lambda lines: lines[-1].get("id") == number, f"an answer to {name}", COMMAND_S)
        answer = self.child.lines[-1]
        if not answer["ok"]:
            raise ChildFailedError(f"{name} failed: {answer['error']}")
        return answer["result"]

    def create_account(self, name: str, pds: int = 0) -> str:
        """A new account `name`.test; returns its DID."""
        did: str = self.command("createAccount", handle=f"{name}.test", pds=pds)["did"]
        return did


class Consumer(JsonChild):
    """A third party's consumer of a firehose; `events` and `errors` are what it has said so far."""

    def __init__(self, name: str, argv: Sequence[str], log_dir: Path, env: dict[str, str]) -> None:
        super().__init__(name, argv, log_dir, env)
        try:
            self.wait_ready(START_S)
        except BaseException:
            self.stop()
            raise

    @property
    def events(self) -> list[Line]:
        """The events seen, in order."""
        return [line for line in self.lines if "seq" in line and "error" not in line]

    @property
    def errors(self) -> list[Line]:
        """What the consumer complained about, connection failures included."""
        return [line for line in self.lines if "error" in line or "noise" in line]

    def wait_seq(self, seq: int, timeout_s: float = 60.0) -> None:
        """Wait until an event with this sequence number or a later one has been seen (or complained about)."""
        self.wait_for(
            lambda lines: any((line.get("seq") or 0) >= seq for line in reversed(lines)), f"seq {seq}", timeout_s
        )


def npm_consumer(ws_url: str, plc_url: str, log_dir: Path, cursor: int | None = None) -> Consumer:
    """npm @atproto/sync with verification on (consumers/strict.mjs), subscribed to `ws_url` (ws://host:port)."""
    argv = ["node", str(_E2E / "consumers" / "strict.mjs"), ws_url, plc_url]
    return Consumer("npm-sync", _with_cursor(argv, cursor), log_dir, npm_environment())


def sdk_consumer(ws_url: str, plc_url: str, log_dir: Path, cursor: int | None = None) -> Consumer:
    """PyPI `atproto` in the oracle's interpreter (consumers/sdk.py), subscribed to `ws_url` (ws://host:port)."""
    argv = [str(oracle_python()), str(_E2E / "consumers" / "sdk.py"), ws_url, plc_url]
    return Consumer("python-sdk", _with_cursor(argv, cursor), log_dir, oracle_environment())


def _with_cursor(argv: list[str], cursor: int | None) -> list[str]:
    return argv if cursor is None else [*argv, str(cursor)]
