"""The WebSocket frame cutter: the same events whatever the cuts, strict as RFC 6455, equal to wsproto."""

from __future__ import annotations

import itertools
import random
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import events
from wsproto.connection import Connection, ConnectionType

from zlay._fast import ws
from zlay.hosts.wsproto_reader import WsprotoCutter

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
LIMIT = 5_000_000 - 18

Events = list[tuple[Any, ...]]


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = False, rsv: int = 0) -> bytes:
    """One frame in its shortest form."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    masked = 0x80 if mask else 0
    if len(payload) < 126:
        head = bytes([first, masked | len(payload)])
    elif len(payload) < 65536:
        head = struct.pack("!BBH", first, masked | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, masked | 127, len(payload))
    return head + (b"\0\0\0\0" if mask else b"") + payload


def whole(data: bytes, limit: int = LIMIT) -> Events:
    """All events of bytes fed at once."""
    return ws.MessageCutter(limit).feed(data)


def one_at_a_time(data: bytes, limit: int = LIMIT) -> Events:
    """All events of bytes fed one by one."""
    cutter = ws.MessageCutter(limit)
    return [event for i in range(len(data)) for event in cutter.feed(data[i : i + 1])]


def both(data: bytes) -> Events:
    """Events that are the same fed whole, byte by byte, and in every cut into two."""
    expected = whole(data)
    assert one_at_a_time(data) == expected
    if len(data) < 2000:
        for cut in range(len(data)):
            cutter = ws.MessageCutter()
            assert cutter.feed(data[:cut]) + cutter.feed(data[cut:]) == expected
    return expected


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70_000])
def test_every_length_form(size: int) -> None:
    """Messages on both sides of each length form come out whole."""
    data = random.Random(size).randbytes(size)
    assert both(frame(BINARY, data)) == [("message", data)]


def test_two_frames_in_one_piece() -> None:
    """Two messages that arrive together are two messages."""
    assert both(frame(BINARY, b"one") + frame(BINARY, b"two")) == [("message", b"one"), ("message", b"two")]


def test_fragments_with_pings_between() -> None:
    """A fragmented message with control frames between its fragments comes out whole, the control frames in place."""
    data = (
        frame(BINARY, b"ab", fin=False)
        + frame(PING, b"p")
        + frame(CONTINUATION, b"", fin=False)
        + frame(PONG)
        + frame(CONTINUATION, b"cd")
    )
    assert both(data) == [("ping", b"p"), ("pong", b""), ("message", b"abcd")]


def test_empty_last_fragment() -> None:
    """A message whose last fragment is empty is complete with it."""
    data = frame(BINARY, b"ab", fin=False) + frame(CONTINUATION, b"")
    assert both(data) == [("message", b"ab")]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(frame(BINARY, b"x", mask=True), 1002, id="masked"),
        pytest.param(frame(BINARY, b"x", rsv=4), 1002, id="rsv1"),
        pytest.param(frame(PING, b"x", rsv=1), 1002, id="rsv3"),
        pytest.param(frame(TEXT, b"x"), 1003, id="text"),
        pytest.param(frame(3, b"x"), 1002, id="opcode 3"),
        pytest.param(frame(11), 1002, id="opcode 11"),
        pytest.param(frame(15), 1002, id="opcode 15"),
        pytest.param(frame(CONTINUATION, b"x"), 1002, id="continuation of nothing"),
        pytest.param(frame(BINARY, b"x", fin=False) + frame(BINARY, b"y"), 1002, id="message in message"),
        pytest.param(frame(BINARY, b"x", fin=False) + frame(TEXT, b"y"), 1002, id="text in message"),
        pytest.param(frame(PING, b"x", fin=False), 1002, id="fragmented ping"),
        pytest.param(frame(PING, b"x" * 126), 1002, id="long ping"),
        pytest.param(b"\x82\x7e\x00\x7d" + b"x" * 125, 1002, id="2-byte length for 125"),
        pytest.param(b"\x82\x7f" + struct.pack("!Q", 65535) + b"x", 1002, id="8-byte length for 65535"),
        pytest.param(b"\x82\x7f" + struct.pack("!Q", 1 << 63) + b"x", 1002, id="length over 63 bits"),
        pytest.param(frame(CLOSE, b"\x03"), 1002, id="half a close code"),
        pytest.param(frame(CLOSE, struct.pack("!H", 999)), 1002, id="close 999"),
        pytest.param(frame(CLOSE, struct.pack("!H", 1005)), 1002, id="close 1005"),
        pytest.param(frame(CLOSE, struct.pack("!H", 1016)), 1002, id="close 1016"),
        pytest.param(frame(CLOSE, struct.pack("!H", 5000)), 1002, id="close 5000"),
        pytest.param(frame(CLOSE, struct.pack("!H", 1000) + b"\xc0\x80"), 1007, id="close reason no UTF-8"),
        pytest.param(frame(CLOSE, struct.pack("!H", 1000) + b"\xed\xa0\x80"), 1007, id="close reason surrogate"),
    ],
)
def test_violations_fail_with_their_code(data: bytes, code: int) -> None:
    """Each violation ends the connection with the close code that wsproto gives, and nothing after it counts."""
    good = frame(BINARY, b"before")
    told = both(good + data + frame(BINARY, b"after"))
    assert told[0] == ("message", b"before")
    assert [event[:2] for event in told[1:]] == [("fail", code)]
    oracle = WsprotoCutter()
    assert [event[:2] for event in oracle.feed(good + data + frame(BINARY, b"after"))][1:] == [("fail", code)]


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (b"", 1005, ""),
        (struct.pack("!H", 1000), 1000, ""),
        (struct.pack("!H", 1008) + "FutureCursor ü€𐍈".encode(), 1008, "FutureCursor ü€𐍈"),
        (struct.pack("!H", 4999), 4999, ""),
    ],
)
def test_close(payload: bytes, code: int, reason: str) -> None:
    """A close frame tells its code and reason, and is the last thing told."""
    assert both(frame(CLOSE, payload) + frame(PING)) == [("close", code, reason)]


def test_largest_message_passes() -> None:
    """A message of exactly the limit passes, in one frame or in two."""
    data = bytes(LIMIT)
    assert whole(frame(BINARY, data)) == [("message", data)]
    split = frame(BINARY, data[:-1], fin=False) + frame(CONTINUATION, data[-1:])
    assert whole(split) == [("message", data)]


@pytest.mark.parametrize("size", [LIMIT + 1, 5_000_001])
def test_too_large_costs_one_message(size: int) -> None:
    """A message over the limit, 5 MB + 1 included, is read past; the next one comes out (R6)."""
    data = frame(BINARY, bytes(size)) + frame(BINARY, b"next")
    assert whole(data) == [("skip",), ("skipped",), ("message", b"next")]


def test_too_large_by_fragments() -> None:
    """Fragments that together pass the limit are forgotten, control frames between them still count."""
    data = (
        frame(BINARY, b"x" * 6, fin=False)
        + frame(CONTINUATION, b"x" * 6, fin=False)
        + frame(PING, b"p")
        + frame(CONTINUATION, b"x" * 6)
        + frame(BINARY, b"next")
    )
    expected: Events = [("skip",), ("ping", b"p"), ("skipped",), ("message", b"next")]
    assert whole(data, 10) == one_at_a_time(data, 10) == expected


def test_far_too_large_ends_the_connection() -> None:
    """What announces more than is worth reading past ends the connection with 1009, before any of it is read."""
    told = whole(b"\x82\x7f" + struct.pack("!Q", 1 << 62))
    assert [event[:2] for event in told] == [("fail", 1009)]


def test_control_frames_we_send_are_what_wsproto_reads() -> None:
    """Pings, pongs and closes that the reader sends are masked and read by a server."""
    server = Connection(ConnectionType.SERVER)
    server.receive_data(ws.control_frame(PING, b"", 0x12345678))
    server.receive_data(ws.control_frame(PONG, b"x" * 125, 0xFFFFFFFF))
    server.receive_data(ws.close_frame(1002, "masked frame from a server", 7))
    assert list(server.events()) == [
        events.Ping(payload=b""),
        events.Pong(payload=b"x" * 125),
        events.CloseConnection(code=1002, reason="masked frame from a server"),
    ]


def test_close_text_is_cut_to_fit() -> None:
    """A close text longer than a control frame holds is cut."""
    assert len(ws.close_frame(1000, "x" * 500)) == 131


def comparable(told: Events) -> Events:
    """What both cutters must agree on: all but the moment a message is found too large, and the wording of failures."""
    return [event[:2] if event[0] == "fail" else event for event in told if event[0] != "skip"]


payloads = st.one_of(st.binary(max_size=20), st.integers(0, 300).map(lambda n: b"z" * n), st.just(b"y" * 66_000))
valid_frames = st.one_of(
    payloads.map(lambda p: frame(BINARY, p)),
    st.lists(payloads, min_size=2, max_size=4).map(
        lambda parts: b"".join(
            frame(CONTINUATION if i else BINARY, part, fin=i == len(parts) - 1) + (frame(PING, b"i") if i % 2 else b"")
            for i, part in enumerate(parts)
        )
    ),
    st.binary(max_size=125).map(lambda p: frame(PING, p)),
    st.binary(max_size=125).map(lambda p: frame(PONG, p)),
)
odd_frames = st.one_of(
    st.builds(
        frame,
        st.integers(0, 15).filter(lambda opcode: opcode != TEXT),
        st.binary(max_size=130),
        fin=st.booleans(),
        rsv=st.sampled_from([0, 0, 0, 1, 4]),
    ),
    st.builds(
        lambda code, reason: frame(CLOSE, struct.pack("!H", code) + reason),
        st.integers(0, 65535),
        st.binary(max_size=9),
    ),
    st.text(max_size=20).map(lambda text: frame(TEXT, text.encode())),
)


@settings(max_examples=400, deadline=None)
@given(
    frames=st.lists(st.one_of(valid_frames, valid_frames, valid_frames, odd_frames), max_size=8),
    cuts=st.lists(st.integers(0, 70_000), max_size=12),
)
def test_same_as_wsproto_at_random_cuts(frames: list[bytes], cuts: list[int]) -> None:
    """The same bytes cut at random places through the native cutter and through wsproto give the same events."""
    data = b"".join(frames)
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    native, oracle = ws.MessageCutter(70_000), WsprotoCutter(70_000)
    assert comparable([event for piece in pieces for event in native.feed(piece)]) == comparable(
        [event for piece in pieces for event in oracle.feed(piece)]
    )
