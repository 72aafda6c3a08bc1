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
from typing import TYPE_CHECKING

import psutil

from zlay.demo.check import Checker
from zlay.demo.consumer import Stream
from zlay.demo.relay import RelayChild
from zlay.demo.table import Figures, Table
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

__all__ = ["Demo", "add_parser", "run"]

FINISH_S = 30.0  # for the last events to come out
EXTRA_S = 0.3  # what must not come would come in this time


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
        except Exception as exc:  # noqa: BLE001 - whatever it was, what comes after it is not checked
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


def run(arguments: argparse.Namespace, start_relay: type[RelayChild] = RelayChild, finish_s: float = FINISH_S) -> int:
    """Runs the demo. 0 = all as it must be. `finish_s`: how long the last events may take to come out. Main thread."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _folder(arguments.keep) as folder, SimProcess(*_sim_flags(arguments, folder / "ledger")) as sim:
            password = secrets.token_urlsafe(12)
            settings = {
                "RELAY_UPSTREAM": "none",
                "RELAY_HOSTS": ",".join(sim.hosts),
                "RELAY_ALLOW_PRIVATE_HOSTS": "1",
                "RELAY_PLC_URL": sim.plc,
                "RELAY_ADMIN_PASSWORD": password,
            }
            with start_relay(folder, settings) as relay:
                return Demo(sim, relay, stop).run(arguments.seconds, password, finish_s)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Demo:
    """One run: network, relay and consumer, and what is found. Main thread."""

    def __init__(self, sim: SimProcess, relay: RelayChild, stop: threading.Event) -> None:
        self._sim, self._relay, self._stop = sim, relay, stop
        self._checker = Checker(sim.ledger())
        self._consumer = _Consumer(relay.firehose, self._checker)
        self._watch = _Watch(relay, self._consumer, self._checker)
        self._drops: dict[str, int] = {}

    def run(self, seconds: float, password: str, finish_s: float) -> int:
        """Shows it for so long (0 = until `stop`), then judges it: the exit status."""
        self._introduce(password)
        began = time.monotonic()
        ends = began + seconds if seconds else float("inf")
        table = Table()
        while self._goes_on() and time.monotonic() < ends:
            if self._stop.wait(min(1.0, max(0.0, ends - time.monotonic()))):
                break
            with contextlib.suppress(OSError, psutil.Error):  # busy, or gone: then it is told at the end
                table.draw(self._watch.figures())
        spent_s = time.monotonic() - began
        self._finish(finish_s)
        problems = self._end()
        for line in problems + (self._checker.complaints + self._checker.missing_sample() if problems else []):
            print(f"  ! {line}")
        matched = self._checker.matched
        print(
            f"\n{matched:,} events came out as they were sent, {matched / spent_s:,.0f}/s; "
            f"{sum(self._drops.values()):,} were dropped, each for the right reason; relay at most "
            f"{self._watch.peak_rss / 2**20:.0f} MiB"
            if not problems
            else f"\nFAILED after {matched:,} good events"
        )
        return 1 if problems else 0

    def _introduce(self, password: str) -> None:
        sim, relay = self._sim, self._relay
        print(f"firehose  {relay.firehose}?cursor=0")
        print(f"look at   {relay.internal}/metrics  /_stats  /_readyz  {relay.public}/xrpc/com.atproto.sync.listHosts")
        print(f"admin     curl -H 'Authorization: Bearer {password}' {relay.internal}/admin/hosts")
        print(f"network   {len(sim.hosts)} hosts, PLC {sim.plc}, control {sim.control}\n", flush=True)

    def _goes_on(self) -> bool:
        return self._consumer.problem is None and self._relay.process.poll() is None

    def _finish(self, finish_s: float) -> None:
        """Lets the network finish, and waits for the last event."""
        self._sim.finish()
        until = time.monotonic() + finish_s
        while self._goes_on() and time.monotonic() < until and not self._is_complete():
            time.sleep(0.05)
        time.sleep(EXTRA_S)
        self._ask_drops()

    def _is_complete(self) -> bool:
        self._ask_drops()
        with self._consumer.lock:
            missing = self._checker.missing()
            expected = sum(self._checker.expected_drops.values())
        return not missing and self._checker.ledger.ended and sum(self._drops.values()) >= expected

    def _ask_drops(self) -> None:
        with contextlib.suppress(OSError):  # busy, or gone: what it said last counts
            self._drops = self._relay.stats()["verdicts"].get("drop", {})

    def _end(self) -> list[str]:
        """Ends consumer and relay; what is wrong."""
        problems = [f"the consumer ended: {self._consumer.problem}"] if self._consumer.problem else []
        self._consumer.close()
        status = self._relay.close()
        problems += self._checker.problems(self._drops)
        self._checker.ledger.close()
        if status != 0:
            problems.append(f"the relay exited with {status}")
        return problems
