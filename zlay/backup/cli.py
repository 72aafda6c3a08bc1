"""`zlay backup` and `zlay restore`. Where data and state are is told as to `zlay run`. Main thread only."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from zlay.terminal import time_text

if TYPE_CHECKING:
    import argparse

    from zlay.config import Config

__all__ = ["add_backup", "add_restore"]

SETTINGS = ("relay_data_dir", "database_url")

type _Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_backup(commands: _Commands) -> None:
    """Mounts `backup`."""
    parser = commands.add_parser(
        "backup",
        help="copy a relay's data, while it runs",
        description="Copy log and state of a relay, running or stopped, as of one seq.",
    )
    parser.add_argument("dir", metavar="DIR", type=Path, help="a new or empty directory")
    _add_settings(parser)
    parser.set_defaults(run=_backup)


def add_restore(commands: _Commands) -> None:
    """Mounts `restore`."""
    parser = commands.add_parser(
        "restore",
        help="make a backup a relay's data",
        description="Check a backup and copy it to where a relay finds its data. Nothing of a relay may be there yet.",
        epilog="The restored relay is another one than that of the backup: it has a store id of its own, and leaves "
        "out the numbers that the other one may have given out since.",
    )
    parser.add_argument("dir", metavar="DIR", type=Path, help="what `zlay backup` has made")
    parser.add_argument(
        "--next-seq",
        type=int,
        metavar="N",
        help="the first seq to give out; above the last one that consumers may have [default: by the backup's age]",
    )
    parser.add_argument("--accept-damage", action="store_true", help="restore a log that is damaged, as it is")
    _add_settings(parser)
    parser.set_defaults(run=_restore)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    from zlay import config

    config.add_flags(parser, SETTINGS)


def _config(arguments: argparse.Namespace) -> Config:
    from zlay import config

    return config.from_environment(os.environ, config.flags_given(arguments))[0]


def _backup(arguments: argparse.Namespace) -> int:
    from zlay.backup.take import take_backup
    from zlay.state.places import place_of

    settings = _config(arguments)
    manifest = take_backup(settings.relay_data_dir, place_of(settings), arguments.dir)
    span = f"seq {manifest.first_seq:,} to {manifest.last_seq:,}" if manifest.first_seq else "no events"
    print(f"backup of store {manifest.store_id} in {arguments.dir}: {span}, taken {time_text(manifest.created_us)}")
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from zlay.backup.restore import restore_backup
    from zlay.state.places import place_of

    def on_segment(done: int, of: int) -> None:
        if sys.stderr.isatty():
            print(f"\rchecked {done} of {of} segments\x1b[K", end="", file=sys.stderr, flush=True)

    settings = _config(arguments)
    restored = restore_backup(
        arguments.dir,
        settings.relay_data_dir,
        place_of(settings),
        next_seq=arguments.next_seq,
        accept_damage=arguments.accept_damage,
        on_segment=on_segment,
    )
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    manifest = restored.manifest
    span = f"seq {manifest.first_seq:,} to {manifest.last_seq:,}" if manifest.first_seq else "no events"
    print(
        f"restored into {settings.relay_data_dir}: {span}, of {time_text(manifest.created_us)}; "
        f"it goes on with seq {restored.next_seq:,} as store {restored.store_id.hex()}"
    )
    return 0
