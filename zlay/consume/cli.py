"""`zlay consume`: the command's flags. What it does: zlay.consume.follow."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Mounts `consume`."""
    parser = commands.add_parser(
        "consume",
        help="follow a relay's firehose",
        description="Follow a relay's firehose; comes back with its cursor when the connection ends. Ctrl-C ends it "
        "and prints the last cursor.",
    )
    parser.add_argument("url", metavar="URL", help="such as wss://relay.example or localhost:3000")
    parser.add_argument(
        "--cursor", type=int, metavar="N", help="events above seq N; 0 = all that is kept; default: live"
    )
    parser.add_argument("--json", action="store_true", help="events as JSON lines on standard output")
    parser.add_argument(
        "--verify", action="store_true", help="check encoding, signatures and trees; exit 1 on a bad one"
    )
    parser.add_argument(
        "--plc",
        metavar="URL",
        default=os.environ.get("RELAY_PLC_URL", "https://plc.directory"),
        help="directories for --verify, comma-separated [RELAY_PLC_URL, default: https://plc.directory]",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="end after N events")
    parser.add_argument("--once", action="store_true", help="end when the connection does, with exit status 1")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from zlay.consume.follow import Follower
    from zlay.consume.stream import parse_target
    from zlay.terminal import reader_may_leave

    follower = Follower(
        parse_target(arguments.url),
        cursor=arguments.cursor,
        as_json=arguments.json,
        plc_urls=[url for url in arguments.plc.split(",") if url] if arguments.verify else [],
        limit=arguments.limit,
        once=arguments.once,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: follower.stop())
    with reader_may_leave():
        follower.run()
    return follower.finish()
