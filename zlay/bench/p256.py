"""`p256`: as `verify`, for accounts with P-256 keys, the key at hand or not.

Bound: OpenSSL's verification and SHA-256 of the frame's bytes; likewise with the key object made beforehand, or the
point of the DID document put into it for each event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zlay._fast.streams import Stream
from zlay.bench.inputs import add_corpus_arguments, corpus
from zlay.bench.report import Report, excess, in_turn, rate

if TYPE_CHECKING:
    import argparse

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = "verify for P-256 accounts, key object cached and not"

TARGET = 0.75


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--events, --accounts."""
    add_corpus_arguments(parser, 6000, 600)


def measure(arguments: argparse.Namespace) -> Report:
    """Events per second with the key cached (`p256`) and not (`p256.uncached`)."""
    found = corpus(events=arguments.events, accounts=arguments.accounts, p256_share=1.0, only_commits=True)
    stream = Stream(found.frames, found.keys)
    taken = in_turn(
        arguments.runs,
        {
            "own": stream.judge,
            "bound": stream.least,
            "own_uncached": lambda: stream.judge(parse_keys=True),
            "bound_uncached": lambda: stream.least(parse_keys=True),
        },
    )
    figures = []
    for name, own, bound in (("p256", "own", "bound"), ("p256.uncached", "own_uncached", "bound_uncached")):
        figure = rate(name, stream.events / taken[own], "events/s", stream.events / taken[bound], TARGET)
        figures += [figure, excess(figure, "us/event")]
    params = {"events": arguments.events, "accounts": arguments.accounts}
    return Report("p256", params, figures, arguments.runs)
