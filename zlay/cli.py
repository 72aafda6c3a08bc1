"""The `zlay` command.

Each part is imported when its command is given, so that --help and errors in settings come at once. Main thread only.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from zlay import __version__, config
from zlay.errors import ZlayError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zlay", description="An AT Protocol relay.")
    parser.add_argument("--version", action="version", version=f"zlay {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run the relay",
        description="Run the relay. Every setting is an environment variable and a flag; the flag wins.",
    )
    config.add_flags(run)
    run.set_defaults(run=_run)
    from zlay.demo import cli as demo
    from zlay.sim import cli as sim

    sim.add_parser(commands)
    demo.add_parser(commands)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from zlay import logs
    from zlay.memory import allocator

    settings, warnings = config.from_environment(os.environ, config.flags_given(arguments))
    logs.configure("json" if settings.log_format == "json" else "text", settings.log_level)
    for warning in warnings:
        logs.get("config").warning(warning)
    allocator.ensure(settings.zlay_allocator)  # may replace this process by a new one
    from zlay import gil

    with gil.watch():
        from zlay import relay
    gil.check()
    return relay.main(settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 (a refusal or failure), 2 (a bad setting or flag)."""
    arguments = _parser().parse_args(argv)
    try:
        status = arguments.run(arguments)
    except ZlayError as exc:
        print(f"zlay: {exc}", file=sys.stderr)
        return exc.exit_code
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
