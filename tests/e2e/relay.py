"""The relay as a child process: the same command that an operator runs.

Promises: ports of its own; gone when the context manager ends; what it writes goes to a file, shown when something
fails. One test thread drives a `RelayProcess`; the HTTP helpers may be called from any thread.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from tests.fixtures import ROOT
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

START_S = 120.0
STOP_S = 30.0  # the promise is under 5 s; test machines are shared
LAST_WORDS_S = 10.0
ADMIN_PASSWORD = "rig"
ZLAY = [sys.executable, "-X", "faulthandler", "-m", "zlay"]
_LOG_SHOWN_BYTES = 12_000
# Settings of the tests' own environment that must not reach the relay under test.
_SETTINGS = ("RELAY_", "FRAME_", "HOST_", "RESOLVER_", "LOG_", "LEAK_", "COLLECTION_", "DATABASE_URL", "MALLOC_")
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(\{[^}]*\})?\s+(\S+)")


class RelayFailedError(AssertionError):
    """The relay did not do what was awaited; the text holds the end of its log."""


def request(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
) -> tuple[int, bytes]:
    """One HTTP request to 127.0.0.1: (status, body). `body` is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        connection.request(method, path, data, {**sent, **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class RelayProcess:
    """`zlay run` on a data directory. It can be started again after `terminate` or `kill`, on the same ports.

    Attributes: `port` (firehose, XRPC), `metrics_port`, `ws_url`, `log_path`; `prefix`, a command that runs the relay
    (such as setpriv), from the next start on.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        plc_url: str,
        hosts: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
    ) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self.data_dir = data_dir
        self.port = free_ports()
        self.metrics_port = free_ports()
        self.ws_url = f"ws://127.0.0.1:{self.port}"
        self.log_path = data_dir.parent / f"{data_dir.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.prefix: Sequence[str] = ()
        self._args = list(args)
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)},
            "RELAY_BIND": "127.0.0.1",
            "RELAY_PORT": str(self.port),
            "RELAY_METRICS_PORT": str(self.metrics_port),
            "RELAY_UPSTREAM": "none",
            "RELAY_HOSTS": ",".join(hosts),
            "RELAY_ALLOW_PRIVATE_HOSTS": "1",
            "RELAY_PLC_URL": plc_url,
            "RELAY_DATA_DIR": str(data_dir),
            "RELAY_ADMIN_PASSWORD": ADMIN_PASSWORD,
            "LOG_FORMAT": "json",
            **(env or {}),
        }

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: object, *exc: object) -> None:
        self.kill()
        if kind is not None:
            sys.stderr.write(f"--- the relay's log, {self.log_path} ---\n{self.log_tail()}\n")

    def start(self, *, ready: bool = True) -> Self:
        """Start the process; with `ready`, wait until it has opened log and state and serves."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *ZLAY, "run", *self._args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self._env, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            )
        if ready:
            self.wait_for(self._serves, "the end of its start", START_S)
        return self

    def terminate(self, timeout_s: float = STOP_S) -> int:
        """SIGTERM, and wait for the orderly end: the exit status (0 where all went well)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise RelayFailedError(f"did not stop within {timeout_s:.0f} s\n{self._last_words()}") from None

    def kill(self) -> None:
        """SIGKILL, and wait. Does nothing where the process has ended."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def wait_exit(self, timeout_s: float = STOP_S) -> int:
        """Wait for the process to end by itself; its exit status."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise RelayFailedError(f"did not end within {timeout_s:.0f} s\n{self._last_words()}") from None

    def wait_for(self, test: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Poll `test` until it is true; RelayFailedError with the log at the deadline or when the relay ends."""
        assert self.process is not None
        deadline = time.monotonic() + timeout_s
        while not test():
            if self.process.poll() is not None:
                raise RelayFailedError(f"ended with {self.process.returncode} before {what}\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise RelayFailedError(f"{what} did not come within {timeout_s:.0f} s\n{self._last_words()}")
            time.sleep(0.02)

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Wait until /_readyz says 200."""
        self.wait_for(lambda: self._answer("/_readyz")[0] == 200, "readiness", timeout_s)

    def wait_metric(self, name: str, at_least: float, timeout_s: float = 60.0) -> None:
        """Wait until a metric (see `metrics`) has reached a value."""
        self.wait_for(lambda: self.metrics().get(name, 0.0) >= at_least, f"{name} >= {at_least}", timeout_s)

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels as printed, and each family's sum by its bare name."""
        status, body = request(self.metrics_port, "GET", "/metrics")
        if status != 200:
            raise RelayFailedError(f"/metrics answered {status}\n{self.log_tail()}")
        result: dict[str, float] = {}
        for line in body.decode().splitlines():
            if match := _SAMPLE.match(line):
                name, labels, value = match[1], match[2], float(match[3])
                if labels:
                    result[name + labels] = value
                result[name] = result.get(name, 0.0) + value
        return result

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        """An admin request on the metrics port, with the password; its JSON answer. RelayFailedError unless 200."""
        status, raw = request(
            self.metrics_port, method, path, body, headers={"Authorization": f"Bearer {ADMIN_PASSWORD}"}
        )
        if status != 200:
            raise RelayFailedError(f"{method} {path} answered {status} {raw[:300]!r}")
        return json.loads(raw) if raw else None

    def xrpc(self, name: str, query: str = "") -> Any:
        """GET /xrpc/com.atproto.sync.NAME on the public port; its JSON answer. RelayFailedError unless 200."""
        status, raw = request(self.port, "GET", f"/xrpc/com.atproto.sync.{name}{'?' + query if query else ''}")
        if status != 200:
            raise RelayFailedError(f"{name}?{query} answered {status} {raw[:300]!r}")
        return json.loads(raw)

    def log_tail(self) -> str:
        """The end of what the relay has written."""
        return self.log_path.read_bytes()[-_LOG_SHOWN_BYTES:].decode(errors="replace")

    def _last_words(self) -> str:
        """What it has written, and with it where each of its threads stands; ends the process."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGABRT)  # faulthandler is on
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(LAST_WORDS_S)
        return self.log_tail()

    def _serves(self) -> bool:
        status, body = self._answer("/_readyz")
        return status != 0 and b'"starting' not in body

    def _answer(self, path: str) -> tuple[int, bytes]:
        try:
            return request(self.metrics_port, "GET", path, timeout_s=2.0)
        except (OSError, http.client.HTTPException):
            return 0, b""
