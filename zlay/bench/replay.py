"""`replay`: what it costs the relay to send its whole log to one consumer that has been away, and how fast it is.

One consumer reads from cursor 0; how it is counted, and the bound, are those of `fanout`.
`replay.of_limit` is the same cost beside the most that it may be on any machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zlay.bench.fanout import GB, measure_readers
from zlay.bench.inputs import add_corpus_arguments
from zlay.bench.report import Report, cost
from zlay.bench.serving import serving

if TYPE_CHECKING:
    import argparse

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = "processor time of the relay for a gigabyte of the log replayed to one consumer"

LIMIT_S = 0.5  # for a gigabyte


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--gigabytes, and those of the recording."""
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the log that is replayed (default: 2)")
    add_corpus_arguments(parser, 4000, 400)


def measure(arguments: argparse.Namespace) -> Report:
    """Processor seconds of the relay for a gigabyte, and bytes a second."""
    with serving(arguments.events, arguments.accounts, int(arguments.gigabytes * GB)) as (log, relay):
        own, speed = measure_readers("replay", log, relay, 1, 0, arguments.runs)
        params = {"gigabytes": round(log.bytes_after(0) / GB, 3), "events": log.head}
    figures = [own, cost("replay.of_limit", own.value, own.unit, LIMIT_S, 1.0), speed]
    return Report("replay", params, figures, arguments.runs)
