"""Numbered migrations: forward only, each in its own transaction, the same text for every database.

Pure but for reading the package's own files. Threads: the one that opens the store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources

from zlay.errors import StartError

__all__ = ["Migration", "migrations", "pending"]

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step: its number, its name and its statements."""

    version: int
    name: str
    statements: tuple[str, ...]


def migrations() -> list[Migration]:
    """All steps this version of zlay knows, in order; numbered from 1 without a gap."""
    found = []
    for entry in resources.files("zlay.state").joinpath("migrations").iterdir():
        match = _NAME.fullmatch(entry.name)
        if match is not None:
            text = entry.read_text(encoding="utf-8")
            found.append(Migration(int(match[1]), match[2], _statements(text)))
    found.sort(key=lambda step: step.version)
    if [step.version for step in found] != list(range(1, len(found) + 1)):
        raise StartError("the migrations of this installation of zlay are incomplete: reinstall it")
    return found


def pending(applied: int) -> list[Migration]:
    """The steps after `applied` (0 = a new database).

    StartError when the database is newer than this version of zlay: going back would need knowledge it cannot have.
    """
    known = migrations()
    if applied > len(known):
        raise StartError(
            f"the state was written by a newer zlay (schema {applied}, this one knows {len(known)}): "
            "run that version, or restore a backup"
        )
    return known[applied:]


def _statements(text: str) -> tuple[str, ...]:
    """Splits at semicolons outside comments; our migrations hold no literal with a semicolon or two dashes."""
    bare = re.sub(r"--[^\n]*", "", text)
    return tuple(part.strip() for part in bare.split(";") if part.strip())
