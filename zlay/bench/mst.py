"""`mst`: undoing the ops of commits on their partial trees, alone.

Bound: SHA-256 of as many nodes of the same size as the inversion has to hash again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zlay._fast.message import decode
from zlay._fast.stages import times
from zlay.bench.inputs import add_corpus_arguments, corpus
from zlay.bench.report import Report, cost, excess

if TYPE_CHECKING:
    import argparse

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = "inversion of partial trees alone"

TARGET = 1 / 3  # within three times the bound


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--events, --accounts."""
    add_corpus_arguments(parser, 4000, 400)


def measure(arguments: argparse.Namespace) -> Report:
    """Microseconds per op. Both sides are taken on each frame in turn; a run is a pass over all frames.

    Of each frame and side the median of the runs counts.
    """
    found = corpus(events=arguments.events, accounts=arguments.accounts, p256_share=0.0, only_commits=True)
    keys = []
    for frame in found.frames:
        message = decode(frame)
        assert isinstance(message, dict)
        keys.append(found.keys[message["did"].encode()])
    taken = times(found.frames, keys, arguments.runs)
    ops = taken["ops"]
    figure = cost("mst", taken["invert"] / ops * 1e6, "us/op", taken["hash_nodes"] / ops * 1e6, TARGET)
    params = {"events": arguments.events, "accounts": arguments.accounts, "ops_per_commit": round(ops, 2)}
    return Report("mst", params, [figure, excess(figure, "us/op")], arguments.runs)
