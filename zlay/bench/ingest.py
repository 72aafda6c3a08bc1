"""`ingest`: what an event costs the whole relay, from the hosts' sockets to the durable log.

A simulated network serves a recording on 64 hosts to `zlay run`; the processor time of the relay's process alone
counts, user and system. The network stops when it has sent a part and goes on when the relay is through with that:
accounts and keys are known then, and what follows until the last event is published and applied is the figure.
`ingest.cold` counts from the first event on.
Bounds: what `verify` takes for the same events, and `verify`'s own bound.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zlay._fast.streams import Stream
from zlay.bench.inputs import add_corpus_arguments, read_corpus, recording
from zlay.bench.processes import cpu_s, pause, wait_subscribed
from zlay.bench.report import Report, cost, excess, in_turn
from zlay.demo.relay import RelayChild
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = "processor time of the relay for a published event, sockets to durable log"

TARGET_VERIFY = 1 / 1.5  # at most 1.5 times what verify takes
TARGET_BOUND = 1 / 2.0  # at most twice its bound
COLD_SHARE = 0.4  # of the bytes, sent before the network stops: the small hosts' all, which come as fast as others'
RELAY_POLL_S = 0.25  # each time some 1 ms of what is measured
SERVE_S = 180.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--hosts, --events, --accounts."""
    parser.add_argument("--hosts", type=int, default=64, help="hosts, each a socket (default: 64)")
    parser.add_argument("--tls", action="store_true", help="hosts speak wss://")
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
            with _relay(path, tls=arguments.tls) as (sim, relay):
                spent = _serve(sim, relay, hosts=arguments.hosts, events=stream.events)
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
    figure = cost("ingest", own, "us/event", verify, TARGET_VERIFY)
    figures = [
        figure,
        excess(figure, "us/event"),
        cost("ingest.of_bound", own, "us/event", bound, TARGET_BOUND),
        cost("ingest.cold", cold_us, "us/event", bound, TARGET_BOUND),
    ]
    params = {"hosts": arguments.hosts, "tls": arguments.tls, "events": stream.events, "accounts": arguments.accounts}
    params["frame_bytes"] = round(stream.bytes / stream.events)
    return Report("ingest", params, figures, arguments.runs)


@contextmanager
def _relay(path: Path, *, tls: bool) -> Iterator[tuple[SimProcess, RelayChild]]:
    """A network that holds its frames back until it is told, and a new relay."""
    with (
        tempfile.TemporaryDirectory(prefix="zlay-bench-") as folder,
        SimProcess("--serve", str(path), "--start", "paused", *(["--tls"] if tls else [])) as sim,
    ):
        settings = {
            "RELAY_UPSTREAM": "none",
            "RELAY_HOSTS": ",".join(sim.hosts),
            "RELAY_ALLOW_PRIVATE_HOSTS": "1",
            "RELAY_PLC_URL": sim.plc,
            **({} if sim.ca is None else {"SSL_CERT_FILE": sim.ca}),
        }
        with RelayChild(Path(folder), settings) as relay:
            yield sim, relay


def _serve(sim: SimProcess, relay: RelayChild, *, hosts: int, events: int) -> _Cost:
    """Lets the network go and follows the relay until it is done. LocalFault when it is not in time."""
    wait_subscribed(sim, hosts)
    begun_s = cpu_s(relay.process.pid)
    deadline = time.monotonic() + SERVE_S
    sim.resume()
    _wait_sent(sim, COLD_SHARE, deadline)
    sim.pause()
    known = _wait_applied(relay, deadline)
    warm_s = cpu_s(relay.process.pid)
    sim.resume()
    _wait_sent(sim, 1.0, deadline)
    while _wait_applied(relay, deadline) < events:
        pause(deadline, f"fewer than {events} events are published", RELAY_POLL_S)
    ended_s = cpu_s(relay.process.pid)
    cold = (ended_s - begun_s) / events
    # So few events that all were sent before the network could stop: nothing tells warm from cold.
    return _Cost((ended_s - warm_s) / (events - known) if known < events else cold, cold)


def _wait_sent(sim: SimProcess, share: float, deadline: float) -> None:
    """Until the network has sent a share of its bytes. LocalFault."""
    while (stats := sim.stats())["sent_bytes"] < share * stats["bytes"]:
        pause(deadline, "the relay does not take the network's frames")


def _wait_applied(relay: RelayChild, deadline: float) -> int:
    """Until the relay is through with all it has received; how many events that are. LocalFault."""
    while True:
        stats = relay.stats()
        if stats["hosts"]["frames"] == stats["applied_seq"]:
            return int(stats["applied_seq"])
        pause(deadline, f"{stats['applied_seq']} of {stats['hosts']['frames']} frames are published", RELAY_POLL_S)
