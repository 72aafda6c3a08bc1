"""`zlay demo`: a network, a relay and a consumer that believes nothing.

Exit status 0 only if every valid event of the simulation's ledger and no other came out, with its own bytes, exactly
once, in order per account, seq going up by one, and every bad one was dropped for the right reason.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from zlay.demo.check import Checker
from zlay.demo.consumer import ProtocolBroken, Stream
from zlay.demo.relay import RelayChild
from zlay.demo.table import Figures, Table
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

__all__ = ["add_parser", "run"]

FINISH_S = 30.0  # for the last events to come out
CONNECT_S = 30.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Mounts `demo`."""
    parser = subparsers.add_parser("demo", help="see it work: a simulated network, a relay, a strict consumer")
    parser.add_argument("--seconds", type=float, default=0, help="stop after so long, check, exit (0 = until Ctrl-C)")
    parser.add_argument("--rate", type=float, default=2500, help="events per second of the network (default: 2500)")
    parser.add_argument("--hosts", type=int, default=24, help="PDS hosts (default: 24)")
    parser.add_argument("--accounts", type=int, default=1200, help="accounts in all (default: 1200)")
    parser.add_argument("--faults", type=int, default=40, help="deliberately bad events in 10,000 (default: 40)")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation (default: 1)")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep data, ledger and logs in this new directory")
    parser.set_defaults(run=run)


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="zlay-demo-") as name:
        yield Path(name)


class _Consumer:
    """The strict consumer's thread. `problem` says why it ended early."""

    def __init__(self, url: str, checker: Checker) -> None:
        self._stream = Stream(url, 0)
        self._checker = checker
        self.lock = threading.Lock()  # guards the checker
        self.problem: str | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._consume, name="consumer", daemon=True)
        self._thread.start()

    def _consume(self) -> None:
        try:
            for batch in self._stream.batches():
                with self.lock:
                    for message in batch:
                        self._checker.take(message)
        except (ProtocolBroken, OSError) as exc:
            self.problem = f"{type(exc).__name__}: {exc}"
        else:
            if not self._closing:
                self.problem = "the relay closed the stream"

    def close(self) -> None:
        self._closing = True
        self._stream.close()
        self._thread.join(10)


class _Watch:
    """Figures of each second, from the relay's own and the checker's."""

    def __init__(self, relay: RelayChild, consumer: _Consumer, checker: Checker) -> None:
        self._relay, self._consumer, self._checker = relay, consumer, checker
        self._process = psutil.Process(relay.process.pid)
        self._began = self._last = time.monotonic()
        self._frames = self._published = 0
        self.peak_rss = 0

    def figures(self) -> Figures:
        stats = self._relay.stats()
        now = time.monotonic()
        span = max(now - self._last, 1e-3)
        frames, published = stats["hosts"]["frames"], stats["seq"]
        with self._consumer.lock:
            p50, p99 = self._checker.latency_ms()
            verified, wrong = self._checker.matched, self._checker.wrong + self._checker.gaps
        rss = self._process.memory_info().rss
        self.peak_rss = max(self.peak_rss, rss)
        found = Figures(
            seconds=now - self._began,
            events_in=(frames - self._frames) / span,
            events_out=(published - self._published) / span,
            published=published,
            verified=verified,
            wrong=wrong,
            dropped=stats["verdicts"].get("drop", {}),
            held=stats["held"],
            hosts=stats["hosts"].get("active", 0),
            consumers=stats["consumers"]["connected"],
            p50_ms=p50,
            p99_ms=p99,
            rss_bytes=rss,
            cpu_percent=self._process.cpu_percent(),
        )
        self._last, self._frames, self._published = now, frames, published
        return found


def _sim_flags(arguments: argparse.Namespace, ledger: Path) -> list[str]:
    flags = ["--hosts", arguments.hosts, "--accounts", arguments.accounts, "--rate", arguments.rate]
    flags += ["--seed", arguments.seed, "--ledger", ledger]
    if arguments.faults:
        flags += ["--fault", f"any={arguments.faults}"]
    return [str(flag) for flag in flags]


def run(arguments: argparse.Namespace) -> int:
    """Runs the demo. 0 = all as it must be."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with _folder(arguments.keep) as folder:
        ledger_path = folder / "ledger"
        with SimProcess(*_sim_flags(arguments, ledger_path)) as sim:
            password = secrets.token_urlsafe(12)
            settings = {
                "RELAY_UPSTREAM": "none",
                "RELAY_HOSTS": ",".join(sim.hosts),
                "RELAY_ALLOW_PRIVATE_HOSTS": "1",
                "RELAY_PLC_URL": sim.plc,
                "RELAY_ADMIN_PASSWORD": password,
            }
            with RelayChild(folder, settings) as relay:
                return _show(arguments, sim, relay, password, stop)


def _show(
    arguments: argparse.Namespace, sim: SimProcess, relay: RelayChild, password: str, stop: threading.Event
) -> int:
    print(f"firehose  {relay.firehose}?cursor=0")
    print(f"look at   {relay.internal}/metrics  /_stats  /_readyz  {relay.public}/xrpc/com.atproto.sync.listHosts")
    print(f"admin     curl -H 'Authorization: Bearer {password}' {relay.internal}/admin/hosts")
    print(f"network   {len(sim.hosts)} hosts, PLC {sim.plc}, control {sim.control}\n", flush=True)
    checker = Checker(sim.ledger())
    consumer = _Consumer(relay.firehose, checker)
    watch = _Watch(relay, consumer, checker)
    table = Table()
    ends = time.monotonic() + arguments.seconds if arguments.seconds else float("inf")
    while time.monotonic() < ends and consumer.problem is None and relay.process.poll() is None:
        if stop.wait(min(1.0, max(0.0, ends - time.monotonic()))):
            break
        table.draw(watch.figures())
    return _verdict(sim, relay, consumer, checker, watch)


def _verdict(sim: SimProcess, relay: RelayChild, consumer: _Consumer, checker: Checker, watch: _Watch) -> int:
    """Lets the network finish, waits for the last event, and says what is wrong."""
    spent = time.monotonic() - watch._began
    sim.finish()
    until = time.monotonic() + FINISH_S
    drops: dict[str, int] = {}
    while consumer.problem is None and relay.process.poll() is None and time.monotonic() < until:
        with consumer.lock:
            missing = checker.missing()
        drops = relay.stats()["verdicts"].get("drop", {})
        if not missing and checker.ledger.ended and sum(drops.values()) >= sum(checker.expected_drops.values()):
            break
        time.sleep(0.05)
    consumer_problem = consumer.problem
    time.sleep(0.3)  # what must not come would come now
    consumer.close()
    status = relay.close()
    problems = _problems(checker, drops)
    if consumer_problem:
        problems.insert(0, f"the consumer ended: {consumer_problem}")
    if status != 0:
        problems.append(f"the relay exited with {status}")
    for line in problems + checker.complaints + (checker.missing_sample() if problems else []):
        print(f"  ! {line}")
    rate = checker.matched / spent if spent else 0.0
    print(
        f"\n{checker.matched:,} events came out as they were sent, {rate:,.0f}/s; "
        f"{sum(drops.values()):,} were dropped, each for the right reason; relay at most "
        f"{watch.peak_rss / 2**20:.0f} MiB"
        if not problems
        else f"\nFAILED after {checker.matched:,} good events"
    )
    return 1 if problems else 0


def _problems(checker: Checker, drops: dict[str, Any]) -> list[str]:
    out = []
    missing = checker.missing()
    if missing:
        out.append(f"{missing} valid events did not come out")
    if checker.wrong:
        out.append(f"{checker.wrong} came out that should not have, or changed, twice, or in the wrong order")
    if checker.gaps:
        out.append(f"{checker.gaps} gaps in seq")
    if not checker.matched:
        out.append("nothing came out")
    for reason in sorted(drops.keys() | checker.expected_drops.keys()):
        dropped, expected = drops.get(reason, 0), checker.expected_drops.get(reason, 0)
        if dropped != expected:
            out.append(f"dropped as {reason}: {dropped}, expected {expected}")
    return out
