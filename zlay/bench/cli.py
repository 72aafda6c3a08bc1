"""The command line of the benchmarks: `scripts/bench NAME [--json]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import TYPE_CHECKING, Protocol

from zlay.bench import (
    append,
    decode,
    fanout,
    hosts,
    http,
    idle,
    ingest,
    latency,
    listrepos,
    mst,
    p256,
    replay,
    resolve,
    start,
    state,
    verify,
)
from zlay.bench.report import MIN_RUNS
from zlay.errors import ZlayError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zlay.bench.report import Report

__all__ = ["BENCHMARKS", "main"]

RUNS = 7  # odd, so that a median is a run
EXIT_NOT_MEASURED = 1
EXIT_MISSED = 3


class Benchmark(Protocol):
    """A module of this package."""

    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Its own flags."""

    def measure(self, arguments: argparse.Namespace) -> Report:
        """The figures."""
        ...


BENCHMARKS: Mapping[str, Benchmark] = {
    "decode": decode,
    "verify": verify,
    "mst": mst,
    "p256": p256,
    "ingest": ingest,
    "append": append,
    "fanout": fanout,
    "replay": replay,
    "latency": latency,
    "idle": idle,
    "state": state,
    "hosts": hosts,
    "http": http,
    "start": start,
    "listrepos": listrepos,
    "resolve": resolve,
}


def _runs(text: str) -> int:
    runs = int(text)
    if runs < MIN_RUNS:
        raise argparse.ArgumentTypeError(f"at least {MIN_RUNS}")
    return runs


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints. 0 = it measured, whatever it found; 1 = it could not; 2 = wrong usage; with --check
    3 = it measured, and a target is missed.
    """
    parser = argparse.ArgumentParser(prog="scripts/bench", description="every figure beside its own bound")
    names = parser.add_subparsers(dest="benchmark", required=True, metavar="NAME")
    for name, module in BENCHMARKS.items():
        one = names.add_parser(name, help=module.DESCRIPTION, description=module.__doc__)
        one.add_argument("--json", action="store_true", help="print one object of JSON")
        one.add_argument("--check", action="store_true", help="exit with 3 when a target is missed")
        one.add_argument("--runs", type=_runs, default=RUNS, help=f"figures are medians of so many (default: {RUNS})")
        module.add_arguments(one)
    arguments = parser.parse_args(argv)
    try:
        report = BENCHMARKS[arguments.benchmark].measure(arguments)
    except (ZlayError, OSError, ValueError, subprocess.SubprocessError) as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return EXIT_NOT_MEASURED
    print(report.as_json() if arguments.json else report.as_text())
    missed = any(not figure.met for figure in report.figures)
    return EXIT_MISSED if arguments.check and missed else 0
