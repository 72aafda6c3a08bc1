"""`ingest`: what an event costs the whole relay, from the hosts' sockets to the durable log.

A simulated network serves a recording on 64 hosts to `zlay run`; the processor time of the relay's process alone
counts, user and system, from the moment that half of the events are published (accounts and keys are known then) to the
one when the last is published and applied. `ingest.cold` is the same from the first event on, every account looked up.
Bounds: what `verify` takes for the same events, and `verify`'s own bound.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zlay._fast.streams import Stream
from zlay.bench.inputs import add_corpus_arguments, read_corpus, recording
from zlay.bench.report import Report, cost, in_turn
from zlay.demo.relay import RelayChild
from zlay.errors import LocalFault
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = "processor time of the relay for a published event, sockets to durable log"

TARGET_VERIFY = 1 / 1.5  # at most 1.5 times what verify takes
TARGET_BOUND = 1 / 2.0  # at most twice its bound
WARM_SHARE = 0.5  # of the events, published before the warm figure begins
POLL_S = 0.1  # asking is part of what is measured: some 0.5 ms each
CONNECT_S = 60.0
SERVE_S = 180.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--hosts, --events, --accounts."""
    parser.add_argument("--hosts", type=int, default=64, help="hosts, each a socket (default: 64)")
    add_corpus_arguments(parser, 60_000, 3000)


class _Cost(NamedTuple):
    """Processor seconds of the relay for an event."""

    warm: float
    cold: float


def measure(arguments: argparse.Namespace) -> Report:
    """Microseconds of the relay's processor time for an event."""
    with tempfile.TemporaryDirectory(prefix="zlay-bench-") as name:
        path = Path(name) / "recording"
        recording(
            path,
            events=arguments.events,
            hosts=arguments.hosts,
            accounts=arguments.accounts,
            p256_share=0.0,
            only_commits=True,
        )
        found = read_corpus(path)
        stream = Stream(found.frames, found.keys)
        del found
        cold: list[float] = []

        def serve() -> float:
            with _relay(path) as (sim, relay):
                spent = _serve(sim, relay, arguments.hosts, stream.events)
            cold.append(spent.cold)
            return spent.warm

        taken = in_turn(
            arguments.runs,
            {
                "own": serve,
                "verify": lambda: stream.judge() / stream.events,
                "bound": lambda: stream.least() / stream.events,
            },
        )
    own, verify, bound = (taken[side] * 1e6 for side in ("own", "verify", "bound"))
    cold_us = sorted(cold)[len(cold) // 2] * 1e6
    figures = [
        cost("ingest", own, "us/event", verify, TARGET_VERIFY),
        cost("ingest.of_bound", own, "us/event", bound, TARGET_BOUND),
        cost("ingest.cold", cold_us, "us/event", bound, TARGET_BOUND),
    ]
    params = {"hosts": arguments.hosts, "events": stream.events, "accounts": arguments.accounts}
    params["frame_bytes"] = round(stream.bytes / stream.events)
    return Report("ingest", params, figures, arguments.runs)


@contextmanager
def _relay(path: Path) -> Iterator[tuple[SimProcess, RelayChild]]:
    """A network that holds its frames back until it is told, and a new relay."""
    with (
        tempfile.TemporaryDirectory(prefix="zlay-bench-") as folder,
        SimProcess("--serve", str(path), "--start", "paused") as sim,
    ):
        settings = {
            "RELAY_UPSTREAM": "none",
            "RELAY_HOSTS": ",".join(sim.hosts),
            "RELAY_ALLOW_PRIVATE_HOSTS": "1",
            "RELAY_PLC_URL": sim.plc,
        }
        with RelayChild(Path(folder), settings) as relay:
            yield sim, relay


def _serve(sim: SimProcess, relay: RelayChild, hosts: int, events: int) -> _Cost:
    """Lets the network go and follows the relay until it is done. LocalFault when it is not in time."""
    _wait_subscribed(sim, hosts)
    warm_from = (0.0, 0)
    before = _cpu_s(relay.process.pid)
    sim.resume()
    deadline = time.monotonic() + SERVE_S
    while True:
        stats = relay.stats()
        spent = _cpu_s(relay.process.pid)
        if not warm_from[1] and stats["seq"] >= events * WARM_SHARE:
            warm_from = (spent, stats["seq"])
        if stats["applied_seq"] >= events:
            break
        if time.monotonic() > deadline:
            raise LocalFault(f"{stats['seq']} of {events} events after {SERVE_S:.0f} s: {stats['verdicts']}")
        time.sleep(POLL_S)
    cold = (spent - before) / events
    # So few events that they were all published between two looks: nothing to tell warm from cold.
    warm = (spent - warm_from[0]) / (events - warm_from[1]) if warm_from[1] < events else cold
    return _Cost(warm, cold)


def _wait_subscribed(sim: SimProcess, hosts: int) -> None:
    deadline = time.monotonic() + CONNECT_S
    while sim.stats()["subscribed_hosts"] < hosts:
        if time.monotonic() > deadline:
            raise LocalFault(f"the relay did not connect to {hosts} hosts within {CONNECT_S:.0f} s")
        time.sleep(POLL_S)


def _cpu_s(pid: int) -> float:
    """User and system time of a process, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
