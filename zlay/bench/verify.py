"""`verify`: everything a worker checks of a chained stream of commits, with a warm cache (design 5).

Bound: one libsecp256k1 verification and SHA-256 of the frame's bytes for each event. With --threads 2 the accounts are
parted as among workers, and the bound is how much the bound itself gains from the second thread.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from zlay._fast.message import decode
from zlay._fast.streams import Stream
from zlay.bench.inputs import Corpus, add_corpus_arguments, corpus
from zlay.bench.report import Report, excess, in_turn, rate

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = "all checks of a chained stream of commits, warm cache"

TARGET = 0.75
EXCESS_US = 12.0  # over the bound, at most, for an event
TARGET_THREADS = 0.9  # of the bound's own scaling


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--threads, --events, --accounts."""
    parser.add_argument("--threads", type=int, default=1, help="threads, each with its own accounts (default: 1)")
    add_corpus_arguments(parser, 10_000, 1000)


def measure(arguments: argparse.Namespace) -> Report:
    """Events per second beside the bound; with threads, what they gain beside what the bound gains."""
    found = corpus(events=arguments.events, accounts=arguments.accounts, p256_share=0.0, only_commits=True)
    params = {"threads": arguments.threads, "events": arguments.events, "accounts": arguments.accounts}
    if arguments.threads > 1:
        return _scaling(found, params, arguments.threads, arguments.runs)
    stream = Stream(found.frames, found.keys)
    params["frame_bytes"] = round(stream.bytes / stream.events)
    taken = in_turn(arguments.runs, {"own": stream.judge, "bound": stream.least})
    figure = rate("verify", stream.events / taken["own"], "events/s", stream.events / taken["bound"], TARGET)
    return Report("verify", params, [figure, excess(figure, "us/event", EXCESS_US)], arguments.runs)


def _parts(found: Corpus, count: int) -> list[Stream]:
    """Streams of as many events as can be, each account in one."""
    by_did: dict[str, list[bytes]] = {}
    for frame in found.frames:
        message = decode(frame)
        assert isinstance(message, dict)
        by_did.setdefault(message["did"], []).append(frame)
    parts: list[list[bytes]] = [[] for _ in range(count)]
    for frames in sorted(by_did.values(), key=len, reverse=True):
        min(parts, key=len).extend(frames)
    return [Stream(part, found.keys) for part in parts]


def _scaling(found: Corpus, params: dict[str, int], threads: int, runs: int) -> Report:
    """Wall time: what several threads do at once, less what waiting for one another costs."""
    parts = _parts(found, threads)
    events = sum(part.events for part in parts)

    def one(work: Callable[[Stream], float]) -> Callable[[], float]:
        return lambda: sum(work(part) for part in parts)

    def many(work: Callable[[Stream], float]) -> Callable[[], float]:
        return lambda: _at_once(work, parts)

    taken = in_turn(
        runs,
        {
            "own_one": one(Stream.judge),
            "bound_one": one(Stream.least),
            "own": many(Stream.judge),
            "bound": many(Stream.least),
        },
    )
    value = events / taken["own"]
    bound = events / taken["own_one"] * taken["bound_one"] / taken["bound"]
    return Report("verify", params, [rate("verify", value, "events/s", bound, TARGET_THREADS)], runs)


def _at_once(work: Callable[[Stream], float], parts: list[Stream]) -> float:
    """Seconds until every part is done, each by a thread of its own."""
    begin = threading.Barrier(len(parts) + 1)

    def run(part: Stream) -> None:
        begin.wait()
        work(part)

    threads = [threading.Thread(target=run, args=(part,), name=f"part-{i}") for i, part in enumerate(parts)]
    for thread in threads:
        thread.start()
    begin.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started
