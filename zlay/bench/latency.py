"""`latency`: from a host's send to a consumer's receive, with each way of keeping the log.

A recording of commits is served at a steady rate by 16 hosts to a relay; the moment before each frame is handed to its
socket is noted, and the moment when the consumer's socket has brought its last byte. What comes in the first third, or
is the first event of its account, is left out: keys are resolved then.
Bounds: S is the time for write and sync of both files in the log's own pattern (the events that have come in the
meantime are written to .frames and .index, then both are synced), alone, at the same rate, on the same disk. An event
may wait for half a sync under way and for its own: the bound of the median is 1.5 S + 3 ms, that of the 99th percentile
2 S + 5 ms. With `os` there is no sync to wait for: 1 ms and 10 ms.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zlay._fast.commit import facts
from zlay._fast.writeback import sync
from zlay.bench.inputs import recording
from zlay.bench.processes import wait_subscribed
from zlay.bench.readers import upgraded_socket
from zlay.bench.report import Report, cost, in_turn
from zlay.demo.relay import RelayChild
from zlay.errors import LocalFault
from zlay.sim.pace import read_notes
from zlay.sim.process import SimProcess
from zlay.sim.recording import Recording

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["DESCRIPTION", "Cutter", "Percentiles", "add_arguments", "measure", "sync_alone"]

DESCRIPTION = "milliseconds from a host's send to a consumer's receive, with fsync and with os durability"

WARM_SHARE = 1 / 3  # of the events, not counted
P50, P99 = 0.5, 0.99
SYNC_P50, SYNC_P99 = 1.5, 2.0  # times S
MORE_P50_MS, MORE_P99_MS = 3.0, 5.0
OS_P50_MS, OS_P99_MS = 1.0, 10.0
SYNC_SHARE = 0.5  # of a run's seconds, to measure S
ENTRY_BYTES = 64
RECEIVE_BYTES = 1 << 20
LATE_S = 60.0  # for the last events
WS_HEAD = {126: 4, 127: 10}  # by the second byte; 2 for any other (RFC 6455 5.2)


class Percentiles(NamedTuple):
    """Milliseconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles:
        """ValueError: there are none."""
        ordered = sorted(values)
        if not ordered:
            raise ValueError("nothing to measure: too few events")
        return cls(ordered[int(len(ordered) * P50)], ordered[int(len(ordered) * P99)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--rate, --seconds, --hosts, --accounts."""
    parser.add_argument("--rate", type=float, default=700.0, help="events per second in all (default: 700)")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each run (default: 12)")
    parser.add_argument("--hosts", type=int, default=16, help="hosts, each a socket (default: 16)")
    parser.add_argument("--accounts", type=int, default=400, help="accounts in the recording (default: 400)")


def measure(arguments: argparse.Namespace) -> Report:
    """p50 and p99 of both ways, medians of the runs."""
    if arguments.rate <= 0 or arguments.seconds <= 0:
        raise ValueError("--rate and --seconds are above 0")
    with tempfile.TemporaryDirectory(prefix="zlay-bench-") as name:
        network = _Network(Path(name), arguments)
        tails: dict[str, list[float]] = {"fsync": [], "os": [], "bound": []}

        def run(durability: str) -> float:
            found = network.latency(durability)
            tails[durability].append(found.p99)
            return found.p50

        def alone() -> float:
            found = sync_alone(Path(name), arguments.rate, arguments.seconds * SYNC_SHARE, network.frame_bytes)
            tails["bound"].append(found.p99)
            return found.p50

        taken = in_turn(arguments.runs, {"fsync": lambda: run("fsync"), "os": lambda: run("os"), "bound": alone})
    p99 = {side: statistics.median(values) for side, values in tails.items()}
    p50_bound = SYNC_P50 * taken["bound"] + MORE_P50_MS
    figures = [
        cost("latency", taken["fsync"], "ms", p50_bound, 1.0),
        cost("latency.p50", taken["fsync"], "ms", p50_bound, 1.0),
        cost("latency.p99", p99["fsync"], "ms", SYNC_P99 * p99["bound"] + MORE_P99_MS, 1.0),
        cost("latency.os.p50", taken["os"], "ms", OS_P50_MS, 1.0),
        cost("latency.os.p99", p99["os"], "ms", OS_P99_MS, 1.0),
    ]
    params = {"rate": arguments.rate, "seconds": arguments.seconds, "hosts": arguments.hosts}
    params |= {"s50_ms": round(taken["bound"], 3), "s99_ms": round(p99["bound"], 3)}
    return Report("latency", params, figures, arguments.runs)


class _Network:
    """A recording, and what is needed to tell its events apart."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self._folder = folder
        self._path = folder / "recording"
        self._rate = arguments.rate
        self._hosts = arguments.hosts
        recording(
            self._path,
            events=max(int(arguments.rate * arguments.seconds), arguments.hosts),
            hosts=arguments.hosts,
            accounts=arguments.accounts,
            p256_share=0.2,
            only_commits=True,
            skew=0.0,
        )
        self._events: dict[bytes, tuple[int, int]] = {}  # (host, seq) by the commit's CID
        self._first: set[bytes] = set()  # commits that are their account's first
        sizes = []
        opened = Recording(self._path)
        try:
            for host in range(arguments.hosts):
                dids: set[str] = set()
                seqs = (seq for segment in opened.segments[host] for seq in segment.seqs)
                for seq, frame in zip(seqs, opened.frames(host), strict=True):
                    did, _, head, _ = facts(frame)
                    self._events[head] = (host, seq)
                    sizes.append(len(frame))
                    if did not in dids:
                        dids.add(did)
                        self._first.add(head)
        finally:
            opened.close()
        self.frame_bytes = sum(sizes) // len(sizes)

    def latency(self, durability: str) -> Percentiles:
        """One run. LocalFault."""
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            note = Path(name) / "sent"
            pace = ("--pace", str(self._rate), "--sent", str(note))
            with SimProcess("--serve", str(self._path), "--start", "paused", *pace) as sim:
                settings = {
                    "RELAY_UPSTREAM": "none",
                    "RELAY_HOSTS": ",".join(sim.hosts),
                    "RELAY_ALLOW_PRIVATE_HOSTS": "1",
                    "RELAY_PLC_URL": sim.plc,
                    "RELAY_DURABILITY": durability,
                }
                with RelayChild(Path(name), settings) as relay:
                    wait_subscribed(sim, self._hosts)
                    received = _receive(relay, sim, len(self._events), len(self._events) / self._rate + LATE_S)
            return self._judge(read_notes(note), received)

    def _judge(self, sent_ns: dict[tuple[int, int], int], received: list[tuple[int, bytes]]) -> Percentiles:
        counted_from = sorted(sent_ns.values())[int(len(sent_ns) * WARM_SHARE)]
        values = []
        for at_ns, message in received:
            head = facts(message)[2]
            began_ns = sent_ns[self._events[head]]
            if began_ns >= counted_from and head not in self._first:
                values.append((at_ns - began_ns) / 1e6)
        return Percentiles.of(values)


def _receive(relay: RelayChild, sim: SimProcess, count: int, most_s: float) -> list[tuple[int, bytes]]:
    """Lets the network go and takes its events: (nanoseconds when its last byte had come, message). LocalFault."""
    port = int(relay.public.rpartition(":")[2])
    with upgraded_socket(port, "/xrpc/com.atproto.sync.subscribeRepos?cursor=0") as sock:
        sock.settimeout(LATE_S)
        threading.Thread(target=sim.resume, daemon=True).start()
        left, deadline = count, time.monotonic() + most_s
        cutter = Cutter()
        found: list[tuple[int, bytes]] = []
        while left > 0:
            data = sock.recv(RECEIVE_BYTES)
            now_ns = time.monotonic_ns()
            if not data or time.monotonic() > deadline:
                raise LocalFault(f"{left} of {count} events did not come")
            messages = cutter.feed(data)
            left -= len(messages)
            found += [(now_ns, message) for message in messages]
    return found


class Cutter:
    """Whole messages of a stream of a server's unfragmented WebSocket frames; pings are left out. One thread."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that data completes."""
        buffer = self._buffer
        buffer += data
        found, at = [], 0
        while len(buffer) >= at + 2:
            width = WS_HEAD.get(buffer[at + 1], 2)
            if len(buffer) < at + width:
                break
            size = buffer[at + 1] if width == 2 else int.from_bytes(buffer[at + 2 : at + width], "big")
            if len(buffer) < at + width + size:
                break
            if buffer[at] == 0x82:
                found.append(bytes(buffer[at + width : at + width + size]))
            at += width + size
        del buffer[:at]
        return found


def sync_alone(folder: Path, rate: float, seconds: float, frame_bytes: int) -> Percentiles:
    """S: what a group takes, written and synced as the log does it, while events come at the rate."""
    frame, entry = os.urandom(frame_bytes), os.urandom(ENTRY_BYTES)
    took = []
    with tempfile.TemporaryDirectory(dir=folder) as name:
        frames, index = (os.open(Path(name) / kind, os.O_RDWR | os.O_CREAT) for kind in ("frames", "index"))
        try:
            written, began = 0, time.monotonic()
            while (now := time.monotonic()) < began + seconds:
                due = int((now - began) * rate)
                if due == written:
                    time.sleep(max(0.0, began + (written + 1) / rate - now))
                    continue
                before = time.monotonic()
                os.pwrite(frames, frame * (due - written), written * frame_bytes)
                os.pwrite(index, entry * (due - written), written * ENTRY_BYTES)
                sync(frames, index)
                took.append((time.monotonic() - before) * 1e3)
                written = due
        finally:
            os.close(frames)
            os.close(index)
    return Percentiles.of(took)
