"""Cursor rules A2 and A12 to A16, without sockets."""

from __future__ import annotations

import cbor2
import pytest

from tests.reference.log_ref import unwrap
from zlay.firehose.cursor import BadCursor, parse_cursor, place
from zlay.firehose.frames import error_frame, info_frame, websocket_message


@pytest.mark.parametrize(
    ("query", "cursor"),
    [
        ("", None),
        ("cursor=", None),
        ("other=1", None),
        ("cursor=0", 0),
        ("cursor=00012", 12),
        ("a=b&cursor=7&c=d", 7),
        ("cursor=1&cursor=x", 1),
        ("cursor=9007199254740991", 2**53 - 1),
        ("cursor=9007199254740992", 2**53),
        ("cursor=9999999999999999999", 9_999_999_999_999_999_999),
        ("cursor=" + "0" * 400 + "5", 5),
    ],
)
def test_cursors_of_queries(query: str, cursor: int | None) -> None:
    """A non-negative decimal integer is a cursor; none or an empty one is none."""
    assert parse_cursor(query) == cursor


@pytest.mark.parametrize(
    "value",
    ["-1", "%2B1", "+1", "1.0", "1e3", "0x10", "abc", "1_000", "%C2%B2", "%D9%A1", "1%20", "%00", "1" * 20, "NaN"],
)
def test_garbage_is_refused(value: str) -> None:
    """Negative and garbage cursors are HTTP 400 before the upgrade."""
    with pytest.raises(BadCursor):
        parse_cursor(f"cursor={value}")


def test_places() -> None:
    """Events with seq > cursor; OutdatedCursor only where something is missing; FutureCursor above the newest event."""
    oldest, head = 10, 20

    def at(cursor: int | None) -> tuple[int, bool, bool]:
        spot = place(cursor, oldest, head)
        return spot.next_seq, bool(spot.lead), spot.future

    assert at(None) == (21, False, False)
    assert at(0) == (10, False, False)
    assert [at(cursor) for cursor in (1, 8)] == [(10, True, False)] * 2
    assert at(9) == (10, False, False)
    assert at(10) == (11, False, False)
    assert at(20) == (21, False, False)
    assert [at(cursor)[1:] for cursor in (21, 2**53, 10**19)] == [(True, True)] * 3


def test_an_empty_log_has_no_window() -> None:
    """In a log that starts above another relay's numbers, an older cursor may have missed events and is told so."""
    assert place(0, 1, 0).next_seq == 1
    assert place(4_999, 5_000, 4_999).lead == b""
    assert b"OutdatedCursor" in place(4_000, 5_000, 4_999).lead


def test_frames_of_our_own() -> None:
    """#info and error frames are two DRISL items in one binary message, keys in canonical order (A4, A6, B7)."""
    info = unwrap(info_frame("OutdatedCursor", "why"))
    assert info == b"\xa2\x61t\x65#info\x62op\x01" + cbor2.dumps({"name": "OutdatedCursor", "message": "why"})
    error = unwrap(error_frame("FutureCursor", "why"))
    assert error == b"\xa1\x62op\x20" + cbor2.dumps({"error": "FutureCursor", "message": "why"})


@pytest.mark.parametrize("n", [0, 1, 125, 126, 65_535, 65_536])
def test_websocket_lengths(n: int) -> None:
    """Each form of the length is the shortest one."""
    assert unwrap(websocket_message(b"m" * n)) == b"m" * n
