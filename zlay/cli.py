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

    type _Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["main"]


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for a command line: of the command that it begins with alone, else (--help, errors) of all."""
    parser = argparse.ArgumentParser(prog="zlay", description="An AT Protocol relay.")
    parser.add_argument("--version", action="version", version=f"zlay {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    adders = {
        "run": _add_run,
        "admin": _add_admin,
        "hosts": _add_hosts,
        "memory": _add_memory,
        "log": _add_log,
        "consume": _add_consume,
        "backup": _add_backup,
        "restore": _add_restore,
        "sim": _add_sim,
        "demo": _add_demo,
    }
    for name in given[:1] if given[:1] and given[0] in adders else adders:
        adders[name](commands)
    return parser


def _add_run(commands: _Commands) -> None:
    run = commands.add_parser(
        "run",
        help="run the relay",
        description="Run the relay. Every setting is an environment variable and a flag; the flag wins.",
    )
    config.add_flags(run)
    run.set_defaults(run=_run)


def _add_admin(commands: _Commands) -> None:
    from zlay.admin import cli as admin

    admin.add_admin(commands)


def _add_hosts(commands: _Commands) -> None:
    from zlay.admin import cli as admin

    admin.add_hosts(commands)


def _add_memory(commands: _Commands) -> None:
    from zlay.admin import cli as admin

    admin.add_memory(commands)


def _add_log(commands: _Commands) -> None:
    from zlay.eventlog import cli as log

    log.add_parser(commands)


def _add_consume(commands: _Commands) -> None:
    from zlay.consume import cli as consume

    consume.add_parser(commands)


def _add_backup(commands: _Commands) -> None:
    from zlay.backup import cli as backup

    backup.add_backup(commands)


def _add_restore(commands: _Commands) -> None:
    from zlay.backup import cli as backup

    backup.add_restore(commands)


def _add_sim(commands: _Commands) -> None:
    from zlay.sim import cli as sim

    sim.add_parser(commands)


def _add_demo(commands: _Commands) -> None:
    from zlay.demo import cli as demo

    demo.add_parser(commands)


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
    """Runs one command; returns the exit status: 0, 1 (a refusal or failure), 2 (a bad setting or flag), 3 (no relay is
    there to be asked)."""
    given = sys.argv[1:] if argv is None else argv
    arguments = _parser(given).parse_args(given)
    try:
        status = arguments.run(arguments)
    except ZlayError as exc:
        print(f"zlay: {exc}", file=sys.stderr)
        return exc.exit_code
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
