"""From a directory of files to the segment table: what is kept, what is cut, what is reported (design 4).

The argument why only the last segment is read through: a segment is born only after everything before it has been
synced, so its name alone says that all earlier events were on disk; what is not sure stands in the last one. Earlier
segments are looked at when somebody first reads them.

Used by the one thread that opens the log, under the directory's lock.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from itertools import pairwise

from zlay._fast import crash
from zlay._fast import recovery as _recovery
from zlay._fast import segments as _segments
from zlay.errors import StartError

__all__ = [
    "ENTRY_BYTES",
    "HEADER_BYTES",
    "Recovered",
    "find_segments",
    "foreign",
    "read_header",
    "recover",
    "segment_name",
]

NAME = re.compile(r"(\d{20})\.(frames|index)")
HEADER_BYTES = 64
ENTRY_BYTES = 64
VERSION = 1


@dataclass(slots=True)
class Recovered:
    """What opening found and did; everything in seqs."""

    rows: list[tuple[int, int, int]] = field(default_factory=list)  # (first, last, bytes of .frames), oldest first
    last_seq: int = 0  # the highest one in the log, 0 = empty
    continue_last: bool = False  # the last segment can be written on
    newest_us: int = 0  # receive time of the newest event in the last segment
    floor: int = 0  # known to have been on disk
    cut_entries: int = 0  # torn tail: index entries and bytes taken off
    cut_bytes: int = 0
    rewritten: int = 0  # kept above the floor, written once more
    damaged: int = 0  # events below the floor that cannot be read
    damage: list[tuple[int, int]] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)  # seqs that are missing between segments
    removed: list[str] = field(default_factory=list)  # files of a torn birth or of a half-done retirement
    orphans: list[str] = field(default_factory=list)  # files without their other half, left alone


def find_segments(dir_fd: int) -> tuple[list[int], list[int], list[int]]:
    """First seqs of whole pairs, of .frames alone, of .index alone; each ascending."""
    kinds: dict[str, set[int]] = {"frames": set(), "index": set()}
    with os.scandir(dir_fd) as entries:
        for entry in entries:
            match = NAME.fullmatch(entry.name)
            if match and int(match[1]) > 0:
                kinds[match[2]].add(int(match[1]))
    frames, index = kinds["frames"], kinds["index"]
    return sorted(frames & index), sorted(frames - index), sorted(index - frames)


def segment_name(first_seq: int, kind: str) -> str:
    """The name of a segment's `frames` or `index`."""
    return f"{first_seq:020}.{kind}"


def read_header(dir_fd: int, first_seq: int, kind: str) -> tuple[int, bytes, int, int, int] | None:
    """(version, store id, first seq, highest seq before it, time of creation); None where it is damaged."""
    fd = os.open(segment_name(first_seq, kind), os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        data = os.pread(fd, HEADER_BYTES, 0)
    finally:
        os.close(fd)
    return _segments.check_header(data, kind == "frames")


def _header(dir_fd: int, first_seq: int, kind: str, store_id: bytes) -> bool:
    """Whether the header is whole. Raises StartError when it is, and says another store, version or place."""
    header = read_header(dir_fd, first_seq, kind)
    if header is None:
        return False
    refusal = foreign(header, first_seq, kind, store_id)
    if refusal is not None:
        raise StartError(refusal)
    return True


def foreign(header: tuple[int, bytes, int, int, int], first_seq: int, kind: str, store_id: bytes) -> str | None:
    """Why nothing may be read from a segment with this whole header; None = it is of this log."""
    version, store, first = header[:3]
    name = f"events/{segment_name(first_seq, kind)}"
    if version != VERSION:
        return f"{name} has format version {version}, this zlay knows {VERSION}"
    if store != store_id:
        return f"{name} belongs to another store ({store.hex()}, not {store_id.hex()})"
    if first != first_seq:
        return f"{name} was renamed: it begins with seq {first}"
    return None


def _both_headers(dir_fd: int, first_seq: int, store_id: bytes) -> bool:
    frames = _header(dir_fd, first_seq, "frames", store_id)
    return _header(dir_fd, first_seq, "index", store_id) and frames


def _remove(dir_fd: int, first_seq: int, kinds: tuple[str, ...], found: Recovered) -> None:
    for kind in kinds:
        crash.point("remove.before")
        os.unlink(segment_name(first_seq, kind), dir_fd=dir_fd)
        crash.point("remove.after")
        found.removed.append(segment_name(first_seq, kind))
    os.fsync(dir_fd)


def _size(dir_fd: int, first_seq: int, kind: str) -> int:
    return os.stat(segment_name(first_seq, kind), dir_fd=dir_fd).st_size


def _drop_torn_birth(dir_fd: int, store_id: bytes, pairs: list[int], found: Recovered) -> int:
    """Take away a last segment whose creation was not finished. Returns what its name proves to have been on disk.

    Headers are synced before the first event, so a damaged one means that nothing was ever synced into the segment,
    unless an entry says otherwise: then the header is damaged, and the segment stays.
    """
    first = pairs[-1]
    if _both_headers(dir_fd, first, store_id):
        return 0
    tail = _recovery.repair_tail(dir_fd, first, first - 1, False)
    if tail["floor"] >= first:
        return 0
    _remove(dir_fd, first, ("index", "frames"), found)
    pairs.pop()
    return first - 1


def _left_out(dir_fd: int, last: int, following: int) -> bool:
    """Whether the numbers between two segments were never given to events that are kept: the newer one says so."""
    headers = [read_header(dir_fd, following, kind) for kind in ("index", "frames")]
    return any(header is not None and header[3] <= last for header in headers)


def _settle_half_pairs(
    dir_fd: int, pairs: list[int], only_frames: list[int], only_index: list[int], repair: bool, found: Recovered
) -> int:
    """Removes halves of unfinished births and retirements, reports others. Returns what births prove to be on disk."""
    floor = 0
    for first, kind in sorted(
        [(first, "frames") for first in only_frames] + [(first, "index") for first in only_index]
    ):
        older = bool(pairs) and first < pairs[0]
        newer = not pairs or first > pairs[-1]
        entries = max(0, _size(dir_fd, first, kind) - HEADER_BYTES) // ENTRY_BYTES if kind == "index" else 0
        if newer and entries:  # entries come when the birth is complete: .frames has been lost
            newer = False
        elif newer:  # a birth that got no further; everything before it was on disk
            floor = max(floor, first - 1)
        if (older or newer) and repair:
            _remove(dir_fd, first, (kind,), found)
            continue
        found.orphans.append(segment_name(first, kind))
        found.last_seq = max(found.last_seq, first - 1 + entries if entries else 0)
    return floor


def _recover_last(dir_fd: int, store_id: bytes, first: int, floor: int, repair: bool, found: Recovered) -> None:
    whole = _both_headers(dir_fd, first, store_id)
    tail = _recovery.repair_tail(dir_fd, first, max(floor, first - 1), repair)
    found.floor = tail["floor"]
    found.last_seq = max(tail["last_seq"], found.last_seq)
    found.newest_us = tail["newest_us"]
    found.rewritten = tail["rewritten"]
    found.damaged = tail["damaged"]
    found.damage = tail["damage"]
    found.continue_last = whole and tail["damaged"] == 0 and tail["last_seq"] == found.last_seq and repair
    found.cut_entries = max(0, tail["entries"] - (tail["last_seq"] + 1 - first))
    frames_end = tail["frames_end"] or tail["frames_bytes"]
    found.cut_bytes = max(0, tail["frames_bytes"] - frames_end)
    found.rows.append((first, tail["last_seq"], frames_end))


def recover(dir_fd: int, store_id: bytes, *, repair: bool = True) -> Recovered:
    """Examine the directory; with repair, mend the end of the log and sync it.

    Raises StartError (segments of another store or version) and OSError.
    """
    found = Recovered()
    pairs, only_frames, only_index = find_segments(dir_fd)
    floor = _settle_half_pairs(dir_fd, pairs, only_frames, only_index, repair, found)
    if pairs and repair:
        floor = max(floor, _drop_torn_birth(dir_fd, store_id, pairs, found))
    found.last_seq = max(found.last_seq, floor)
    for first, following in pairwise(pairs):
        entries = max(0, (_size(dir_fd, first, "index") - HEADER_BYTES) // ENTRY_BYTES)
        last = min(first - 1 + entries, following - 1)
        found.rows.append((first, last, _size(dir_fd, first, "frames")))
        if last + 1 < following and not _left_out(dir_fd, last, following):
            found.gaps.append((last + 1, following - 1))
    if pairs:
        _header(dir_fd, pairs[0], "index", store_id)
        _recover_last(dir_fd, store_id, pairs[-1], floor, repair, found)
    if repair:
        os.fsync(dir_fd)
    return found
