"""What a disk may hold after a power loss, from the record of what a process did to it (recorder.c).

The model: a sync makes safe what was done to that file, or to the entries of that directory, before it began. Of all
else each page of 4 KiB is, by itself, as written last, as written at some time before, zeroed (what was safe in it
stays), or as it was; a file's size is any that it has had since; each directory entry is there or not. Only a
truncation orders what is done to one file: pages written after it are new only where it happened.

Reads nothing of zlay. One thread.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Directory", "Disk", "File", "Mood", "Record", "records"]

PAGE = 4096
_HEAD = struct.Struct("<B3xIQQ")


@dataclass(frozen=True, slots=True)
class Record:
    """One thing done; see recorder.c for the letters."""

    what: str
    a: int
    b: int
    data: bytes


def records(trace: Path) -> Iterator[Record]:
    """The records of a trace, in their order."""
    data = trace.read_bytes()
    at = 0
    while at < len(data):
        what, n, a, b = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        yield Record(chr(what), a, b, data[at : at + n])
        at += n


@dataclass(frozen=True, slots=True)
class Mood:
    """Chances of one power loss: that a page or entry is as written last, or zeroed; otherwise older."""

    kept: float
    zeroed: float

    @classmethod
    def draw(cls, rng: random.Random) -> Mood:
        """From a disk that loses all to one that loses next to nothing."""
        kept = rng.choice((0.0, 0.1, 0.5, 0.9, 0.98, 1.0))
        return cls(kept, rng.choice((0.0, 0.5, 1.0)) * (1.0 - kept))


@dataclass(slots=True, eq=False)
class File:
    """`safe`: what a power loss leaves for certain; `now`: what the process sees; `pending`: what lies between."""

    safe: bytearray = field(default_factory=bytearray)
    now: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data), or (size, None)
    synced: int = 0  # changes that have become safe

    def change(self, at: int, data: bytes | None) -> None:
        """A write, or a truncation to `at` bytes."""
        self.pending.append((at, data))
        _apply(self.now, at, data)

    def mark(self) -> int:
        """All changes so far: for `make_safe`."""
        return self.synced + len(self.pending)

    def make_safe(self, mark: int) -> None:
        """The changes up to `mark` are on disk."""
        n = max(0, mark - self.synced)
        for at, data in self.pending[:n]:
            _apply(self.safe, at, data)
        del self.pending[:n]
        self.synced += n

    def after_crash(self, rng: random.Random, mood: Mood) -> bytearray:
        """What may be left of it."""
        left = bytearray(self.safe)
        writes: list[tuple[int, bytes]] = []
        for at, data in self.pending:
            if data is not None:
                writes.append((at, data))
                continue
            _lay(left, writes, rng, mood)
            if rng.random() >= mood.kept:
                return left
            _apply(left, at, None)
            writes = []
        _lay(left, writes, rng, mood)
        return left


def _apply(content: bytearray, at: int, data: bytes | None) -> None:
    if data is None:
        del content[at:]
        data = b""
    if len(content) < at:
        content += bytes(at - len(content))
    content[at : at + len(data)] = data


def _lay(left: bytearray, writes: list[tuple[int, bytes]], rng: random.Random, mood: Mood) -> None:
    """Puts pages of some of the writes into what is left."""
    full, safe_size = bytearray(left), len(left)
    sizes = [safe_size]
    versions: dict[int, list[bytes]] = {}
    for at, data in writes:
        _apply(full, at, data)
        sizes.append(len(full))
        for page in range(at // PAGE, (at + max(1, len(data)) - 1) // PAGE + 1):
            versions.setdefault(page, []).append(bytes(full[page * PAGE : (page + 1) * PAGE]))
    for page, found in versions.items():
        dice, begin = rng.random(), page * PAGE
        if dice < mood.kept:
            _apply(left, begin, found[-1])
        elif dice < mood.kept + mood.zeroed:
            begin, end = max(begin, safe_size), begin + len(found[-1])
            _apply(left, begin, bytes(max(0, end - begin)))
        elif rng.random() < 0.5:
            _apply(left, begin, rng.choice(found))
    size = sizes[-1] if rng.random() < mood.kept else rng.choice(sizes)
    _apply(left, size, None)


@dataclass(slots=True, eq=False)
class Directory:
    """Entries by name, as a `File` has bytes. A rename is one change of two names."""

    safe: dict[str, File | Directory] = field(default_factory=dict)
    now: dict[str, File | Directory] = field(default_factory=dict)
    pending: list[list[tuple[str, File | Directory | None]]] = field(default_factory=list)
    synced: int = 0

    def change(self, *entries: tuple[str, File | Directory | None]) -> None:
        """Entries that come, or go (None), at once."""
        self.pending.append(list(entries))
        _set_entries(self.now, entries)

    def mark(self) -> int:
        """All changes so far: for `make_safe`."""
        return self.synced + len(self.pending)

    def make_safe(self, mark: int) -> None:
        """The changes up to `mark` are on disk."""
        n = max(0, mark - self.synced)
        for entries in self.pending[:n]:
            _set_entries(self.safe, entries)
        del self.pending[:n]
        self.synced += n

    def after_crash(self, target: Path, rng: random.Random, mood: Mood) -> None:
        """Makes what may be left of it, files and all, in an empty folder."""
        left = dict(self.safe)
        for entries in self.pending:
            if rng.random() < mood.kept:
                _set_entries(left, entries)
        for name, node in left.items():
            if isinstance(node, Directory):
                (target / name).mkdir()
                node.after_crash(target / name, rng, mood)
            else:
                (target / name).write_bytes(node.after_crash(rng, mood))


def _set_entries(
    names: dict[str, File | Directory],
    entries: list[tuple[str, File | Directory | None]] | tuple[tuple[str, File | Directory | None], ...],
) -> None:
    for name, node in entries:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Disk:
    """Follows a trace from the state in which `root` is when this is made: all of that is safe."""

    def __init__(self, root: Path, *, leave_out: Callable[[str], bool] = lambda name: False) -> None:
        """`leave_out` says which files are not on the disk (shared memory)."""
        self._root = os.path.realpath(root)
        self._leave_out = leave_out
        self._files: dict[int, File] = {}
        self._directories: dict[str, Directory] = {}
        self._syncs: dict[int, tuple[File | Directory, int]] = {}
        self.root = self._load(self._root)

    def _load(self, path: str) -> Directory:
        directory = self._directories[path] = Directory()
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir():
                    node: File | Directory = self._load(entry.path)
                else:
                    with open(entry.path, "rb") as file:
                        data = file.read()
                    node = self._files[entry.inode()] = File(bytearray(data), bytearray(data))
                directory.safe[entry.name] = directory.now[entry.name] = node
        return directory

    def file(self, inode: int) -> File:
        """The file that had this inode last."""
        return self._files[inode]

    def directory(self, name: str) -> Directory:
        """A directory by its path under the root."""
        return self._directories[os.path.join(self._root, name)]

    def take(self, record: Record) -> None:
        """Follows one record."""
        match record.what:
            case "C":
                parent, name = self._entry(record.data)
                node = self._files[record.a] = File()
                if not self._leave_out(name):
                    parent.change((name, node))
            case "D":
                parent, name = self._entry(record.data)
                made = self._directories[record.data.decode()] = Directory()
                parent.change((name, made))
            case "W":
                self._files[record.a].change(record.b, record.data)
            case "T":
                self._files[record.a].change(record.b, None)
            case "U":
                parent, name = self._entry(record.data)
                parent.change((name, None))
            case "R":
                old, new = record.data.split(b"\0")
                parent, name = self._entry(old)
                to, new_name = self._entry(new)
                assert parent is to, "a rename between directories"
                parent.change((name, None), (new_name, parent.now[name]))
            case "B":
                synced = self._directories[record.data.decode()] if record.data else self._files[record.a]
                self._syncs[record.b] = (synced, synced.mark())
            case "E":
                synced, mark = self._syncs.pop(record.b)
                synced.make_safe(mark)

    def _entry(self, path: bytes) -> tuple[Directory, str]:
        parent, name = os.path.split(path.decode())
        return self._directories[parent], name

    def after_crash(self, target: Path, rng: random.Random) -> None:
        """Makes one of the states that a power loss now may leave, in an empty folder."""
        self.root.after_crash(target, rng, Mood.draw(rng))
