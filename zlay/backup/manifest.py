"""`backup.json`: what makes a directory a backup. Written last: a copy that was cut short has none. One thread."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from zlay import __version__
from zlay.errors import BackupError
from zlay.eventlog.store import BACKUP_FILE, replace_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Manifest", "read_manifest", "write_manifest"]

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds."""

    store_id: str  # of the relay that it was taken of, in hex
    created_us: int
    first_seq: int  # 0 = no events
    last_seq: int  # as of which log and state are
    applied_seq: int  # the state knows the log up to here; the rest is applied at the first start
    next_seq: int  # the relay had given out nothing at or above it in earlier runs


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Declare a directory a whole backup. Raises OSError."""
    dir_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fields = {"format": FORMAT, "zlay": __version__, **asdict(manifest)}
        replace_file(dir_fd, BACKUP_FILE, json.dumps(fields, indent=1).encode() + b"\n")
    finally:
        os.close(dir_fd)


def read_manifest(folder: Path) -> Manifest:
    """What a backup holds. Raises BackupError."""
    path = folder / BACKUP_FILE
    try:
        fields = json.loads(path.read_bytes())
        version = fields.pop("format")
        fields.pop("zlay")
        manifest = Manifest(**fields)
    except FileNotFoundError:
        raise BackupError(f"{folder} is no backup, or not a whole one: there is no {BACKUP_FILE}") from None
    except OSError as exc:
        raise BackupError(f"{path}: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BackupError(f"{path} is damaged: {exc}") from exc
    if version != FORMAT:
        raise BackupError(f"{path} has format {version}, this zlay knows {FORMAT}")
    return manifest
