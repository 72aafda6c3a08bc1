"""`start`: how long after its process a relay streams 95 % of its living hosts, and how it answers for its health then.

--hosts simulated hosts, each at an address of 127/8 (or a port of 127.0.0.1, with --one-address), a tenth of them dead:
half of these refuse connections, a quarter takes them and is silent, a quarter drops SYNs. The relay learns of all by
its upstream's listHosts. Every round trip takes --rtt-ms longer, in the simulation's own code, as not every kernel can
delay loopback: a dial pays for DNS and TCP together before its first byte is looked at, then for TLS, and for the
upgrade. The time goes from just before the process is started to the answer to the upgrade of that host. Bound: 10 s.
`start.health` is the longest that any of the questions for /_health or /_readyz took, asked all along from the start of
the process until all living hosts stream. Bound: 50 ms. What the same questions to a server that does nothing else took
meanwhile is among the params: so long the machine itself, which runs the simulation too, makes anybody wait.
`start.restart` and `start.restart.health` are the same of a second process that goes on with the first one's data: its
hosts have said more meanwhile.
`start.queries` counts what the first one asked of upstream and hosts, but for subscriptions; bound: the pages of one
listHosts. `start.wrong` counts subscriptions of the second that did not go on after the last event that the first one
had of the host, and events that are missing, changed, or twice in what a consumer gets at last; bound: none.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zlay.bench.health import BareServer, Health, free_port
from zlay.bench.processes import pause
from zlay.bench.report import Report, cost
from zlay.demo.check import Checker
from zlay.demo.consumer import Stream
from zlay.demo.relay import RelayChild
from zlay.errors import LocalFault
from zlay.hosts.seeds import PAGE_HOSTS
from zlay.sim.dead import dead_among
from zlay.sim.ledger import Ledger
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from zlay.sim.ledger import Event

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = "time until 95 % of the living hosts stream, at a start and at a restart"

DEAD = 10  # one host of so many
RTT_MS = 150.0
PART = 0.95
MOST_S = 10.0
MOST_MS = 50.0
NONE = 0.5  # as a bound of what is counted
SAID = 2  # events of each host before the restart, and after it
CONNECT_S = 120.0
FINISH_S = 240.0  # thousands of accounts that nobody knows yet are looked up in a distant directory
POLL_S = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--hosts, --tls, --rtt-ms, --one-address."""
    parser.add_argument("--hosts", type=int, default=3000, help="living and dead (default: 3000)")
    parser.add_argument("--tls", action="store_true", help="hosts speak wss://")
    parser.add_argument("--rtt-ms", type=float, default=RTT_MS, help="added to every round trip (default: 150)")
    parser.add_argument("--one-address", action="store_true", help="a port for each host, not an address")


def measure(arguments: argparse.Namespace) -> Report:
    """Seconds and milliseconds of both starts, medians over the runs. LocalFault when hosts do not come at all."""
    if arguments.hosts < DEAD or arguments.rtt_ms < 0:
        raise LocalFault(f"--hosts must be at least {DEAD}, and --rtt-ms not negative")
    runs = [_run(arguments) for _ in range(arguments.runs)]
    pages = math.ceil(arguments.hosts / PAGE_HOSTS)

    def median(values: Iterator[float]) -> float:
        return statistics.median(values)

    figures = [
        cost("start", median(run.first.streaming_s for run in runs), "s", MOST_S, 1.0),
        cost("start.health", median(run.first.health_ms for run in runs), "ms", MOST_MS, 1.0),
        cost("start.restart", median(run.second.streaming_s for run in runs), "s", MOST_S, 1.0),
        cost("start.restart.health", median(run.second.health_ms for run in runs), "ms", MOST_MS, 1.0),
        cost("start.queries", median(float(run.queries) for run in runs), "", pages, 1.0),
        cost("start.wrong", max(float(run.wrong) for run in runs), "", NONE, 1.0),
    ]
    params = {"hosts": arguments.hosts, "dead": arguments.hosts // DEAD, "tls": arguments.tls} | {
        "rtt_ms": arguments.rtt_ms,
        "first": [run.first.as_json() for run in runs],
        "second": [run.second.as_json() for run in runs],
    }
    return Report("start", params, figures, arguments.runs)


@dataclass(frozen=True, slots=True)
class _Start:
    """One start. Seconds after the process was begun."""

    streaming_s: float  # PART of the living hosts stream
    all_s: float  # all of them
    answers_s: float  # the first answer for its health
    health_ms: float  # the longest
    health_p99_ms: float
    bare_ms: float  # the longest of a server that does nothing else

    def as_json(self) -> dict[str, float]:
        """What of it a report shows beside its figures."""
        return {name: round(value, 2) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class _Both:
    """What one run found."""

    first: _Start
    second: _Start
    queries: int
    wrong: int


class _HeardLedger(Ledger):
    """Of the ledger, what somebody may have heard: nothing is heard of dead hosts. One thread."""

    def __init__(self, path: Path, dead: frozenset[int]) -> None:
        super().__init__(path)
        self._dead = dead
        self.events = 0  # polled
        self.last: dict[int, int] = {}  # the highest seq of each host

    def poll(self) -> Iterator[Event]:
        """As a Ledger's."""
        for event in super().poll():
            if event.host not in self._dead:
                self.last[event.host] = event.seq
                self.events += 1
                yield event

    def read(self) -> None:
        """Takes in what has been appended."""
        for _ in self.poll():
            pass


class _Network:
    """The hosts, and what they and the relays that read them say of each other. One thread."""

    def __init__(self, sim: SimProcess, hosts: int, dead: int) -> None:
        self._sim = sim
        self._living = hosts - dead
        self._dead = frozenset(dead_among(hosts, dead))
        self._ledger = _HeardLedger(sim.ledger_path, self._dead)

    def close(self) -> None:
        """Closes the ledger."""
        self._ledger.close()

    @contextmanager
    def started(self, folder: Path, settings: Mapping[str, str]) -> Iterator[tuple[RelayChild, _Start]]:
        """A relay that streams from all living hosts, and how it came to. LocalFault."""
        self._ledger.read()
        links = len(self._ledger.links)
        port = free_port()
        began_s, began_us = time.monotonic(), time.time_ns() // 1000
        with ExitStack() as stack:
            with BareServer() as bare, Health(bare.port) as bare_health, Health(port) as health:
                relay = stack.enter_context(RelayChild(folder, settings, metrics_port=port))
                self._wait_streaming()
                for one in (health, bare_health):
                    one.stop()
            self._ledger.read()
            first_us: dict[int, int] = {}
            for link in self._ledger.links[links:]:
                first_us.setdefault(link.host, link.since_us)
            after_s = sorted((us - began_us) / 1e6 for us in first_us.values())
            yield (
                relay,
                _Start(
                    streaming_s=after_s[math.ceil(PART * self._living) - 1],
                    all_s=after_s[-1],
                    answers_s=(health.first_s or math.inf) - began_s,
                    health_ms=health.worst_ms(),
                    health_p99_ms=health.p99_ms(),
                    bare_ms=bare_health.worst_ms(),
                ),
            )

    def _wait_streaming(self) -> None:
        deadline = time.monotonic() + CONNECT_S
        while (connected := self._sim.stats()["subscribers"]) < self._living:
            pause(deadline, f"{connected} of {self._living} living hosts are connected", POLL_S)

    def queries(self) -> int:
        """What upstream and hosts were asked, but for subscriptions."""
        stats = self._sim.stats()
        return int(stats["upstream_requests"]) + int(stats["host_requests"])

    def speak(self) -> None:
        """Every host says SAID commits at once."""
        self._sim.misbehave("flood", count=SAID)
        self._ledger.read()

    def wait_published(self, relay: RelayChild) -> int:
        """Until the relay has published as many events as were said, and its last seq then. LocalFault."""
        deadline = time.monotonic() + FINISH_S
        while (seq := int(relay.stats()["seq"])) < self._ledger.events:
            pause(deadline, f"{seq} of {self._ledger.events} events have been published", POLL_S)
        return seq

    def last_seqs(self) -> dict[int, int]:
        """The last that each living host has said, by its number."""
        return dict(self._ledger.last)

    def not_after(self, seqs: Mapping[int, int]) -> int:
        """How many living hosts were not subscribed to last with that cursor."""
        cursors = {link.host: link.cursor for link in self._ledger.links}
        return sum(cursors.get(host) != seq for host, seq in seqs.items())

    def wrong(self, relay: RelayChild, head: int) -> int:
        """How much of what a consumer gets from cursor 0 to `head` is not what was said, just once. OSError."""
        ledger = _HeardLedger(self._sim.ledger_path, self._dead)
        checker = Checker(ledger)
        stream = Stream(relay.firehose, 0)
        try:
            for batch in stream.batches():
                for message in batch:
                    checker.take(message)
                if checker.last_seq >= head:
                    break
            return checker.missing() + checker.wrong + checker.gaps
        finally:
            stream.close()
            ledger.close()


def _run(arguments: argparse.Namespace) -> _Both:
    """A start, a stop while hosts go on, a restart. LocalFault, OSError."""
    hosts, dead = arguments.hosts, arguments.hosts // DEAD
    flags: list[object] = ["--hosts", hosts, "--accounts", hosts, "--repo-size", 1, "--start", "paused"]
    flags += ["--rtt-ms", arguments.rtt_ms, "--dead", dead]
    flags += ["--tls"] if arguments.tls else []
    flags += [] if arguments.one_address else ["--spread"]
    with (
        tempfile.TemporaryDirectory(prefix="zlay-bench-") as name,
        SimProcess(*map(str, flags)) as sim,
        closing(_Network(sim, hosts, dead)) as network,
    ):
        settings = {
            "RELAY_UPSTREAM": sim.upstream,
            "RELAY_ALLOW_PRIVATE_HOSTS": "1",
            "RELAY_PLC_URL": sim.plc,
            **({} if sim.ca is None else {"SSL_CERT_FILE": sim.ca}),
        }
        with network.started(Path(name), settings) as (relay, first):
            queries = network.queries()
            network.speak()
            network.wait_published(relay)
        said = network.last_seqs()
        network.speak()
        with network.started(Path(name), settings) as (relay, second):
            wrong = network.not_after(said)
            wrong += network.wrong(relay, network.wait_published(relay))
    return _Both(first, second, queries, wrong)
