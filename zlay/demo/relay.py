"""A relay as a child process: started on free ports, watched, asked for its figures, stopped. One thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Self

from zlay.errors import LocalFault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["RelayChild"]

START_S = 60.0
STOP_S = 15.0
ASK_S = 5.0
# Settings of the environment that the relay of a demo must not see: whose addresses, data and log lines they are for.
# The others are for experiments, and reach it.
NOT_FOR_IT = ("RELAY_", "DATABASE_URL", "COLLECTION_", "LOG_")


class RelayChild:
    """`zlay run` with settings for a simulated network. A context manager; `close` ends it gracefully."""

    def __init__(self, folder: Path, settings: Mapping[str, str], *, metrics_port: int = 0) -> None:
        """Starts it and waits until all of it runs. Raises LocalFault with the relay's own words when it does not.

        `metrics_port` 0: any; one that is given answers for its health before that.
        """
        self.log_path = folder / "relay.log"
        environment = {k: v for k, v in os.environ.items() if not k.startswith(NOT_FOR_IT)}
        environment |= settings
        environment |= {
            "RELAY_BIND": "127.0.0.1",
            "RELAY_PORT": "0",
            "RELAY_METRICS_PORT": str(metrics_port),
            "RELAY_DATA_DIR": str(folder / "data"),
            "LOG_FORMAT": "json",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zlay", "run"], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        self._ports: list[int] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read_log, name="relay-log", daemon=True)
        self._reader.start()
        if not self._listening.wait(START_S) or len(self._ports) < 2:
            self.close()
            raise LocalFault(f"the relay did not start: {self.log_path.read_text(errors='replace')[-2000:]}")
        self.firehose = f"ws://127.0.0.1:{self._ports[0]}/xrpc/com.atproto.sync.subscribeRepos"
        self.public = f"http://127.0.0.1:{self._ports[0]}"
        self.internal = f"http://127.0.0.1:{self._ports[1]}"

    def _read_log(self) -> None:
        """Copies the relay's log to a file and looks for the ports in it."""
        assert self.process.stderr is not None
        with open(self.log_path, "wb", buffering=0) as copy:
            for line in self.process.stderr:
                copy.write(line)
                if len(self._ports) < 2 and b'"listening"' in line:
                    self._ports.append(int(json.loads(line)["port"]))
                    if len(self._ports) == 2:
                        self._listening.set()
        self._listening.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stats(self) -> dict[str, Any]:
        """`/_stats`. Raises OSError."""
        try:
            with urllib.request.urlopen(self.internal + "/_stats", timeout=ASK_S) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except (HTTPException, ValueError) as exc:  # an answer that broke off
            raise OSError(str(exc)) from exc

    def close(self) -> int:
        """SIGTERM, and SIGKILL when that does not do. The exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        status = self.process.wait()
        self._reader.join(5)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return status
