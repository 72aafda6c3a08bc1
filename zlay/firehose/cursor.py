"""The cursor of subscribeRepos: from query to position (protocol A2, A12 to A16, `seq > cursor`). Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

from zlay.errors import RemoteFault
from zlay.firehose.frames import error_frame, info_frame

__all__ = ["MAX_CURSOR", "OUTDATED_CURSOR", "BadCursor", "Place", "parse_cursor", "place"]

MAX_CURSOR = 2**53 - 1  # A11; a larger one is a number, and lies in the future
MAX_DIGITS = 19  # a longer one is not looked at
MAX_FIELDS = 100  # of a query; subscribeRepos has one

OUTDATED_CURSOR = info_frame("OutdatedCursor", "Requested cursor exceeded limit. Possibly missing events")
FUTURE_CURSOR = error_frame("FutureCursor", "Cursor in the future.")


class BadCursor(RemoteFault):
    """The query's cursor is not one: HTTP 400 before the upgrade (A2)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a consumer begins."""

    next_seq: int  # the first event it gets
    lead: bytes  # sent before it
    future: bool  # lead is an error frame: close after it
    any_start: bool = False  # it wants whatever is kept, or has been told that it misses some


def parse_cursor(query: str) -> int | None:
    """The cursor of a query string (without `?`); None = none, or empty. Raises BadCursor.

    Given twice, the first counts. Digits only, ASCII: no sign, blank, underscore or fraction.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise BadCursor("the query cannot be read") from None
    for name, value in pairs:
        if name != "cursor":
            continue
        if value == "":
            return None
        if not (value.isascii() and value.isdigit()) or len(value.lstrip("0")) > MAX_DIGITS:
            raise BadCursor("cursor is not a non-negative integer")
        return int(value)
    return None


def place(cursor: int | None, oldest: int, head: int) -> Place:
    """Where to begin, by the oldest seq kept (head + 1 when there is none) and the newest published one."""
    if cursor is None:
        return Place(head + 1, b"", False)
    if cursor > head:
        return Place(head + 1, FUTURE_CURSOR, True)
    if cursor == 0:
        return Place(oldest, b"", False, any_start=True)
    if cursor + 1 < oldest:
        return Place(oldest, OUTDATED_CURSOR, False, any_start=True)
    return Place(cursor + 1, b"", False)
