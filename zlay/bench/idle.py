"""`idle`: what a thousand connected consumers cost the relay while 700 events a second come, and how much memory.

A recording is served at a steady rate by 16 hosts to a relay. `idle` is the processor time of the relay's process in a
second with so many live consumers, each drained, less what it takes without any.
Bound: one thread that sends as many bytes a second of a file to as many sockets, in as many pieces as the relay woke
its consumers in its last run, at an even pace.
`idle.memory` is the resident memory of a relay's process with the consumers connected, less what it was before, for
each; `idle.memory_behind` the same for consumers that do not read, at every distance behind, from cursor 0 on to the
newest event. Buffers of sockets are the kernel's and do not count.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from zlay._fast.pumps import Pump
from zlay.bench.fanout import GB
from zlay.bench.inputs import recording
from zlay.bench.processes import cpu_s, wait_subscribed
from zlay.bench.readers import Readers
from zlay.bench.report import Report, cost, in_turn
from zlay.bench.serving import SETTINGS, Listener, public_port, serving, wait_consumers, wait_still
from zlay.demo.relay import RelayChild
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    import argparse

__all__ = ["DESCRIPTION", "add_arguments", "measure", "memory_kib"]

DESCRIPTION = "processor time and memory of a thousand connected consumers at 700 events a second"

TARGET = 0.5  # the bound wakes nobody: a consumer's thread is woken for each piece
MEMORY_KIB = 40.0  # for a consumer, at any distance behind
WARM_S = 2.0  # keys are resolved
CONNECT_S = 15.0  # for a thousand upgrades; events go on for as long
FILE_BYTES = 1 << 20
KIB = 1024
TARGET_OF_CURSOR = "/xrpc/com.atproto.sync.subscribeRepos?cursor={}"
LIVE = "/xrpc/com.atproto.sync.subscribeRepos"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--consumers, --rate, --seconds, --durability, --gigabytes, --hosts, --accounts."""
    parser.add_argument("--consumers", type=int, default=1000, help="connected at once (default: 1000)")
    parser.add_argument("--rate", type=float, default=700.0, help="events per second in all (default: 700)")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured of each run, twice (default: 5)")
    parser.add_argument("--durability", choices=("fsync", "os"), default="fsync", help="of the log (default: fsync)")
    parser.add_argument(
        "--gigabytes", type=float, default=0.5, help="between the first and the last of them, for memory"
    )
    parser.add_argument("--hosts", type=int, default=16, help="hosts, each a socket (default: 16)")
    parser.add_argument("--accounts", type=int, default=400, help="accounts in the recording (default: 400)")


def measure(arguments: argparse.Namespace) -> Report:
    """Processor seconds a second for all consumers, and KiB for each."""
    if arguments.consumers < 1 or arguments.rate <= 0 or arguments.seconds <= 0:
        raise ValueError("--consumers, --rate and --seconds are above 0")
    with tempfile.TemporaryDirectory(prefix="zlay-bench-") as name:
        path = Path(name) / "recording"
        recording(
            path,
            events=max(int(arguments.rate * (WARM_S + CONNECT_S + 2 * arguments.seconds)), arguments.hosts),
            hosts=arguments.hosts,
            accounts=arguments.accounts,
            p256_share=0.2,
            only_commits=True,
            skew=0.0,
        )
        run = _Run(Path(name), path, arguments)
        taken = in_turn(arguments.runs, {"own": run.relay, "bound": run.bound})
    memory = memory_kib(arguments.consumers, int(arguments.gigabytes * GB))
    figures = [
        cost("idle", taken["own"], "cpu s/s", taken["bound"], TARGET),
        cost("idle.memory", statistics.median(run.memory), "KiB", MEMORY_KIB, 1.0),
        cost("idle.memory_behind", memory, "KiB", MEMORY_KIB, 1.0),
    ]
    params = {"consumers": arguments.consumers, "rate": arguments.rate, "wakes_per_s": round(run.wakes_per_s)}
    return Report("idle", params, figures, arguments.runs)


class _Run:
    """One recording, its relays and bounds. `memory`: KiB for a consumer in each run. One thread."""

    def __init__(self, folder: Path, path: Path, arguments: argparse.Namespace) -> None:
        self._folder = folder
        self._path = path
        self._arguments = arguments
        self.memory: list[float] = []
        self.wakes_per_s = 0.0
        self._piece = 0  # bytes for a consumer at each wake-up

    def relay(self) -> float:
        """Processor seconds a second of the relay's process with all consumers, less those without. LocalFault."""
        n, seconds, rate = self._arguments.consumers, self._arguments.seconds, self._arguments.rate
        with (
            tempfile.TemporaryDirectory(dir=self._folder) as name,
            SimProcess("--serve", str(self._path), "--start", "paused", "--pace", str(rate)) as sim,
        ):
            settings = SETTINGS | {
                "RELAY_HOSTS": ",".join(sim.hosts),
                "RELAY_ALLOW_PRIVATE_HOSTS": "1",
                "RELAY_PLC_URL": sim.plc,
                "RELAY_DURABILITY": self._arguments.durability,
            }
            with RelayChild(Path(name), settings) as relay:
                wait_subscribed(sim, self._arguments.hosts)
                sim.resume()
                time.sleep(WARM_S)
                alone = _cpu_per_s(relay, seconds)
                before = _resident_kib(relay)
                with Readers(public_port(relay), [LIVE] * n) as readers:
                    readers.connected()
                    wait_consumers(relay, n)
                    readers.go()
                    begun = relay.stats()["consumers"]
                    together = _cpu_per_s(relay, seconds)
                    ended = relay.stats()["consumers"]
                    self.memory.append((_resident_kib(relay) - before) / n)
        wakes = max(1, ended["wakes"] - begun["wakes"])
        self.wakes_per_s = wakes / seconds
        self._piece = max(1, (ended["bytes"] - begun["bytes"]) // n // wakes)
        return together - alone

    def bound(self) -> float:
        """Processor seconds a second of a thread that sends the same to as many sockets. LocalFault, OSError.

        As the relay last did; made once for itself if it is the first.
        """
        if not self._piece:
            self.relay()
        n, seconds, piece = self._arguments.consumers, self._arguments.seconds, self._piece
        with (
            tempfile.NamedTemporaryFile(dir=self._folder) as file,
            Listener(n) as listener,
            Readers(listener.port, [""] * n) as readers,
        ):
            size = max(FILE_BYTES, 2 * piece)
            file.write(os.urandom(size))
            file.flush()
            steps = max(1, int(seconds * self.wakes_per_s))
            starts = [piece * i % (size - piece) for i in range(steps)]
            pump = Pump(listener.accept(), [(file.fileno(), at, at + piece) for at in starts], piece)
            readers.connected()
            readers.go()
            began, spent = time.monotonic(), 0.0
            for i in range(steps):
                time.sleep(max(0.0, began + i / self.wakes_per_s - time.monotonic()))
                spent += pump.step()
        return float(spent / seconds)


def memory_kib(consumers: int, log_bytes: int) -> float:
    """KiB for a consumer that does not read, of so many at every distance behind in a log of that size. LocalFault."""
    with serving(4000, 400, log_bytes) as (log, relay):
        before = _resident_kib(relay)
        targets = [TARGET_OF_CURSOR.format(log.head * i // consumers) for i in range(consumers)]
        with Readers(public_port(relay), targets) as readers:
            readers.connected()
            wait_still(relay, consumers)
            return (_resident_kib(relay) - before) / consumers


def _cpu_per_s(relay: RelayChild, seconds: float) -> float:
    begun, began = cpu_s(relay.process.pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_s(relay.process.pid) - begun) / (time.monotonic() - began)


def _resident_kib(relay: RelayChild) -> float:
    return float(psutil.Process(relay.process.pid).memory_info().rss) / KIB
