"""The simulation as a child process: started, steered and stopped by tests and the demo.

One thread per object. The child is ended by `stop` or `__exit__`.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zlay.sim.ledger import Ledger

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["SimProcess", "SimStartError"]

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
CONTROL_TIMEOUT_S = 30.0


class SimStartError(RuntimeError):
    """The simulation ended before it was ready, or took too long."""


class SimProcess:
    """A running `zlay sim`. Flags are given as on the command line; a context manager.

    Without a `--ledger` the ledger is in a temporary directory that `__exit__` removes; `stop` leaves it.
    `plc`, `control`, `upstream`: URLs. `hosts`: names as in DID documents, with --tls as URLs; `ca`: then
    what SSL_CERT_FILE must name. `ledger_path`: where the truth stands.
    """

    def __init__(self, *flags: str, timeout_s: float = START_TIMEOUT_S) -> None:
        self._own_directory = tempfile.TemporaryDirectory(prefix="zlay-sim-")
        ledger = Path(self._own_directory.name) / "ledger"
        command = [sys.executable, "-m", "zlay.sim", "--ledger", str(ledger), *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            ready = self._wait_ready(timeout_s)
        except BaseException:
            self.process.kill()
            self.__exit__(None, None, None)
            raise
        self.plc: str = ready.get("plc", "")
        self.control: str = ready.get("control", "")
        self.upstream: str = ready.get("upstream", "")
        self.hosts: list[str] = ready.get("hosts", [])
        self.ca: str | None = ready.get("ca")
        self.ledger_path = Path(ready.get("ledger") or "")

    def _wait_ready(self, timeout_s: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        line = self.process.stdout.readline() if readable else ""
        if not line:
            raise SimStartError(f"zlay sim is not ready after {timeout_s} s (exit status {self.process.poll()})")
        ready: dict[str, Any] = json.loads(line)
        return ready

    def __enter__(self) -> SimProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._own_directory.cleanup()

    def stop(self) -> int:
        """SIGTERM, then the exit status (0 after an orderly end). May be called again."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.process.returncode

    def ledger(self) -> Ledger:
        """A new reader of the ledger, from its beginning."""
        return Ledger(self.ledger_path)

    # --- control ---

    def _call(self, path: str, arguments: dict[str, object] | None = None) -> dict[str, Any]:
        data = None if arguments is None else json.dumps(arguments).encode()
        with urllib.request.urlopen(self.control + path, data, timeout=CONTROL_TIMEOUT_S) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def stats(self) -> dict[str, Any]:
        """Counters of the simulation."""
        return self._call("/sim/stats")

    def profiles(self, after: int) -> list[tuple[str, str, str]]:
        """DID, multikey and URL of the host of accounts after so many; none at the end."""
        return [(did, key, url) for did, key, url in self._call(f"/sim/profiles?after={after}")["profiles"]]

    def pause(self) -> dict[str, Any]:
        """Stops generating."""
        return self._call("/sim/pause", {})

    def resume(self) -> dict[str, Any]:
        """Starts generating, or goes on."""
        return self._call("/sim/resume", {})

    def finish(self) -> dict[str, Any]:
        """Stops generating for good; the ledger is complete afterwards and sockets stay open."""
        return self._call("/sim/stop", {})

    def set_rate(self, rate: float) -> dict[str, Any]:
        """Events per second from now on."""
        return self._call("/sim/rate", {"rate": rate})

    def misbehave(self, kind: str, host: str | int | None = None, count: int = 1, seconds: float = 1.0) -> int:
        """Orders misbehaviour on one host or on all (None); how many events or subscribers it touched."""
        arguments: dict[str, object] = {"host": host, "kind": kind, "count": count, "seconds": seconds}
        return int(self._call("/sim/misbehave", arguments)["touched"])

    def set_plc(self, mode: str, ms: int = 0, dids: list[str] | None = None) -> dict[str, Any]:
        """Has the directory fail (endpoints.PLC_MODES), for all DIDs or for some."""
        return self._call("/sim/plc", {"mode": mode, "ms": ms, "dids": dids or []})

    def wait_generated(self, count: int, timeout_s: float) -> dict[str, Any]:
        """Waits until so many events were generated or it has finished; the counters then. TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while True:
            stats = self.stats()
            if stats["generated"] >= count or stats["state"] == "finished":
                return stats
            if time.monotonic() > deadline:
                raise TimeoutError(f"{stats['generated']} of {count} events after {timeout_s} s")
            time.sleep(0.05)
