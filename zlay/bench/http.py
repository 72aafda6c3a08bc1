"""`http`: what thousands of idle and slow HTTP clients cost a relay, and what they do to others.

So many clients connect to a relay without hosts, from several addresses of this machine. `http` is the 99th percentile
of health answers on the metrics port while each of them sends a letter of a request every second; `http.greedy` the
median while 200 of them pipeline requests on the public port as fast as they are answered, and take a core for that.
`http.cpu` is the relay's processor time in a second of the former, `http.idle_memory` and `http.slow_memory` the
resident memory of its process with clients that wait between two requests, and with such that drip, less what it was
before, for each; `threads_more` in the parameters says how many threads they cost. Bounds: what an orchestrator
forgives; a core; 4 KiB. Buffers of sockets are the kernel's and do not count.
"""

from __future__ import annotations

import contextlib
import http.client
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

from zlay.bench.crowd import Crowd
from zlay.bench.processes import cpu_s, pause
from zlay.bench.report import Report, cost
from zlay.demo.relay import RelayChild

if TYPE_CHECKING:
    import argparse

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = "health answers, memory and processor time beside thousands of idle and slow clients"

SETTINGS = {"RELAY_UPSTREAM": "none", "RELAY_ALLOW_PRIVATE_HOSTS": "1", "RELAY_PLC_URL": "http://127.0.0.1:9"}
HEALTH_MS = 50.0
MEMORY_KIB = 4.0
KIB = 1024
ASK_EVERY_S = 0.005
GREEDY = 200  # clients; as few as one keep the server's thread busy
COUNT_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--clients, --seconds."""
    parser.add_argument("--clients", type=int, default=9900, help="connected at once (default: 9900)")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured of each run (default: 3)")


def measure(arguments: argparse.Namespace) -> Report:
    """Milliseconds, KiB and processor seconds; each a median."""
    if arguments.clients < 1 or arguments.seconds <= 0:
        raise ValueError("--clients and --seconds are above 0")
    idle = [_Run("idle", arguments) for _ in range(arguments.runs)]
    slow = [_Run("slow", arguments) for _ in range(arguments.runs)]
    greedy = [_Run("greedy", arguments, GREEDY) for _ in range(arguments.runs)]
    figures = [
        cost("http", statistics.median(run.health_ms for run in slow), "ms", HEALTH_MS, 1.0),
        cost("http.greedy", statistics.median(run.median_ms for run in greedy), "ms", HEALTH_MS, 1.0),
        cost("http.cpu", statistics.median(run.cpu_per_s for run in slow), "cpu s/s", 1.0, 1.0),
        cost("http.idle_memory", statistics.median(run.memory_kib for run in idle), "KiB", MEMORY_KIB, 1.0),
        cost("http.slow_memory", statistics.median(run.memory_kib for run in slow), "KiB", MEMORY_KIB, 1.0),
    ]
    params = {"clients": arguments.clients, "threads_more": max(run.threads for run in (*idle, *slow))}
    return Report("http", params, figures, arguments.runs)


class _Run:
    """One relay and one crowd before it. Raises LocalFault when not all can be connected, or stay."""

    def __init__(self, kind: str, arguments: argparse.Namespace, most: int = sys.maxsize) -> None:
        clients = min(most, arguments.clients)
        with (
            tempfile.TemporaryDirectory(prefix="zlay-bench-") as folder,
            RelayChild(Path(folder), SETTINGS) as relay,
            contextlib.closing(_Asker(relay.internal)) as asker,
        ):
            process = psutil.Process(relay.process.pid)
            asker.milliseconds(arguments.seconds / 10)
            before, threads = process.memory_info().rss, process.num_threads()
            port = urlsplit(relay.public).port
            assert port is not None
            with Crowd(port, clients, kind):
                asker.wait_connections(clients)
                begun, began = cpu_s(relay.process.pid), time.monotonic()
                taken = asker.milliseconds(arguments.seconds)
                self.median_ms, self.health_ms = statistics.median(taken), statistics.quantiles(taken, n=100)[-1]
                self.cpu_per_s = (cpu_s(relay.process.pid) - begun) / (time.monotonic() - began)
                self.memory_kib = (process.memory_info().rss - before) / KIB / clients
                self.threads = process.num_threads() - threads
                asker.wait_connections(clients)  # none has been let go meanwhile


class _Asker:
    """One client of the metrics port. One thread."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=COUNT_S)

    def close(self) -> None:
        """Ends its connection."""
        self._connection.close()

    def _get(self, path: str) -> bytes:
        self._connection.request("GET", path)
        return self._connection.getresponse().read()

    def milliseconds(self, seconds: float) -> list[float]:
        """Of health answers, asked for steadily for so long."""
        self.close()  # it may have been idle for too long
        taken: list[float] = []
        until = time.monotonic() + seconds
        while time.monotonic() < until or len(taken) < 100:
            began = time.perf_counter()
            self._get("/_health")
            taken.append((time.perf_counter() - began) * 1000)
            time.sleep(ASK_EVERY_S)
        return taken

    def wait_connections(self, count: int) -> None:
        """Until the relay has so many HTTP connections, or more. LocalFault."""
        self.close()
        deadline = time.monotonic() + COUNT_S
        while self._connections() < count:
            pause(deadline, f"the relay does not hold {count} connections")

    def _connections(self) -> float:
        for line in self._get("/metrics").splitlines():
            if line.startswith(b"relay_http_connections "):
                return float(line.split()[1])
        return 0.0
