"""`fanout`: what it costs the relay to send its log to many consumers at once, and how fast it is.

A relay that serves a prepared log is read from a cursor by so many consumers, in a process of their own that drains
their sockets. Counted is the processor time of the relay's process, user and system, from the moment when the
sockets' buffers are full and the readers begin to read, until each has all.
Bound: one thread that sends the same bytes of the same files by sendfile to as many sockets, watched by one epoll, in
pieces of the best of several sizes, from full buffers on, too.
`fanout` is the cost with 100 consumers, or the most that were asked for.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING, NamedTuple

from zlay._fast.pumps import Pump
from zlay.bench.inputs import add_corpus_arguments
from zlay.bench.processes import cpu_s
from zlay.bench.readers import Readers
from zlay.bench.report import Figure, Report, cost, in_turn, rate
from zlay.bench.serving import SETTLE_S, Listener, public_port, serving, wait_still

if TYPE_CHECKING:
    import argparse

    from zlay.bench.filled import FilledLog
    from zlay.demo.relay import RelayChild

__all__ = ["DESCRIPTION", "GB", "Spent", "add_arguments", "measure", "measure_readers"]

DESCRIPTION = "processor time of the relay for a gigabyte sent to many consumers"

TARGET = 1 / 1.25  # at most 1.25 times the bound
TARGET_RATE = 0.8
MAIN = 100  # consumers of the main figure
GB = 10**9
LEAST_BYTES = 20_000_000  # for each consumer: buffers that are full at the beginning hold up to 3 MB
PIECES = (64 << 10, 256 << 10, 1 << 20, 4 << 20)  # sizes that the bound tries


class Spent(NamedTuple):
    """Processor seconds, and seconds by the clock, for a gigabyte."""

    cpu_s: float
    wall_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--consumers, --gigabytes, and those of the recording."""
    parser.add_argument("--consumers", default="1,10,100,500", help="how many at once (default: 1,10,100,500)")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="sent to all of them, at least (default: 2)")
    add_corpus_arguments(parser, 4000, 400)


def measure(arguments: argparse.Namespace) -> Report:
    """Processor seconds of the relay for a gigabyte, and bytes a second."""
    counts = sorted({int(text) for text in arguments.consumers.split(",")})
    if not counts or counts[0] < 1:
        raise ValueError("--consumers: numbers from 1 on")
    total = int(arguments.gigabytes * GB)
    log_bytes = max(min(total, max(total // n, LEAST_BYTES)) for n in counts)
    main = MAIN if MAIN in counts else counts[-1]
    figures: dict[int, list[Figure]] = {}
    with serving(arguments.events, arguments.accounts, log_bytes) as (log, relay):
        for n in counts:
            name = "fanout" if n == main else f"fanout.{n}"
            each = min(total, max(total // n, LEAST_BYTES))
            figures[n] = measure_readers(name, log, relay, n, log.cursor_for(each), arguments.runs)
    ordered = figures.pop(main) + [figure for some in figures.values() for figure in some]
    params = {"consumers": counts, "gigabytes": arguments.gigabytes, "events": log.head}
    return Report("fanout", params, ordered, arguments.runs)


def measure_readers(name: str, log: FilledLog, relay: RelayChild, n: int, cursor: int, runs: int) -> list[Figure]:
    """The cost for n consumers that begin at a cursor, beside its bound, and the rate beside the bound's."""
    bound = _Bound(log, n, cursor)
    size = min(PIECES, key=lambda most: bound.spend(most).cpu_s)
    walls: dict[str, list[float]] = {"own": [], "bound": []}

    def own() -> float:
        spent = _serve(log, relay, n, cursor)
        walls["own"].append(spent.wall_s)
        return spent.cpu_s

    def least() -> float:
        spent = bound.spend(size)
        walls["bound"].append(spent.wall_s)
        return spent.cpu_s

    try:
        taken = in_turn(runs, {"own": own, "bound": least})
    finally:
        bound.close()
    rates = {side: GB / statistics.median(walls[side]) for side in walls}
    return [
        cost(name, taken["own"], "s/GB", taken["bound"], TARGET),
        rate(f"{name}.bytes_per_s", rates["own"], "bytes/s", rates["bound"], TARGET_RATE),
    ]


def _serve(log: FilledLog, relay: RelayChild, n: int, cursor: int) -> Spent:
    """One run of the relay. LocalFault."""
    each = log.bytes_after(cursor)
    target = f"/xrpc/com.atproto.sync.subscribeRepos?cursor={cursor}"
    wait_still(relay, 0)
    with Readers(public_port(relay), [target] * n, each) as readers:
        readers.connected()
        wait_still(relay, n)
        begun, began = cpu_s(relay.process.pid), time.monotonic()
        readers.go()
        readers.done()
        return _per_gb(cpu_s(relay.process.pid) - begun, time.monotonic() - began, n * each)


class _Bound:
    """The same bytes by the least means. One thread; `close` gives the files back."""

    def __init__(self, log: FilledLog, n: int, cursor: int) -> None:
        self._n = n
        self._bytes = log.bytes_after(cursor)
        self._pieces = [
            (os.open(path, os.O_RDONLY | os.O_CLOEXEC), start, end) for path, start, end in log.pieces(cursor)
        ]

    def spend(self, most_bytes: int) -> Spent:
        """One run. LocalFault, OSError."""
        with (
            Listener(self._n) as listener,
            Readers(listener.port, [""] * self._n, self._bytes) as readers,
        ):
            pump = Pump(listener.accept(), self._pieces, most_bytes)
            readers.connected()
            pump.fill()
            time.sleep(SETTLE_S)
            began = time.monotonic()
            readers.go()
            spent_s = pump.run()
            readers.done()
            wall_s = time.monotonic() - began
        return _per_gb(spent_s, wall_s, self._n * self._bytes)

    def close(self) -> None:
        """Closes the files."""
        for fd, _, _ in self._pieces:
            os.close(fd)


def _per_gb(cpu_s: float, wall_s: float, sent_bytes: int) -> Spent:
    return Spent(cpu_s * GB / sent_bytes, wall_s * GB / sent_bytes)
