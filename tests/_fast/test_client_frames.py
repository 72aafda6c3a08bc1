"""What consumers send: judged byte by byte against RFC 6455."""

from __future__ import annotations

import random

import pytest

from zlay._fast.client_frames import Parser


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bytes | None = b"\x11\x22\x33\x44") -> bytes:
    """A client's frame; mask None = unmasked."""
    n = len(payload)
    head = bytes(((0x80 if fin else 0) | opcode,))
    masked = 0x80 if mask is not None else 0
    if n < 126:
        head += bytes((masked | n,))
    elif n < 65_536:
        head += bytes((masked | 126,)) + n.to_bytes(2, "big")
    else:
        head += bytes((masked | 127,)) + n.to_bytes(8, "big")
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


STREAM = (
    frame(1, b"hello")
    + frame(9, b"ping one")
    + frame(2, b"z" * 300, fin=False)
    + frame(9, b"")
    + frame(0, b"y" * 70_000)
    + frame(10, b"pong")
    + frame(9, b"p" * 125, mask=bytes(4))
    + frame(8, b"\x03\xe8bye")
)
EVENTS = [("ping", b"ping one"), ("ping", b""), ("ping", b"p" * 125), ("close", 1000)]


def test_a_stream_cut_anywhere_means_the_same() -> None:
    """Pings and closes are handed up, everything else is read past, wherever the bytes are cut."""
    assert Parser().feed(STREAM) == EVENTS
    short = STREAM[:500] + STREAM[70_000:]  # the same frames are long; cut the whole stream at random, often
    assert short
    rng = random.Random(5)
    for _ in range(200):
        parser, at, events = Parser(), 0, []
        while at < len(STREAM):
            n = rng.choice((1, 2, 3, 7, 50, 5_000))
            events += parser.feed(STREAM[at : at + n])
            at += n
        assert events == EVENTS


def test_one_byte_at_a_time() -> None:
    """Every single byte may come alone."""
    stream = frame(9, b"abc") + frame(1, b"t" * 200) + frame(8)
    parser = Parser()
    events = [event for i in range(len(stream)) for event in parser.feed(stream[i : i + 1])]
    assert events == [("ping", b"abc"), ("close", 0)]


@pytest.mark.parametrize(
    "bad",
    [
        frame(9, b"unmasked", mask=None),
        frame(1, b"unmasked", mask=None),
        b"\xc1" + frame(1, b"rsv1")[1:],
        b"\x91" + frame(1, b"rsv3")[1:],
        frame(3, b"unknown data opcode"),
        frame(7),
        frame(11, b"unknown control opcode"),
        frame(15),
        frame(9, b"fragmented ping", fin=False),
        frame(8, b"", fin=False),
        frame(9, b"l" * 126),
        frame(0, b"continues nothing"),
        frame(1, b"a", fin=False) + frame(1, b"begins inside another"),
        frame(8, b"\x03"),
        frame(8, b"\x03\xed"),
        frame(8, b"\x03\xe7"),
        frame(8, b"\x07\xd0"),
        b"\x82\xfe\x00\x05" + bytes(9),
        b"\x82\xff" + (65_535).to_bytes(8, "big") + bytes(4),
        b"\x82\xff" + (1 << 63).to_bytes(8, "big") + bytes(4),
    ],
)
def test_what_breaks_the_protocol_is_bad(bad: bytes) -> None:
    """Each way to break RFC 6455 is seen, at once or a byte at a time, and never later than the frame's end."""
    assert Parser().feed(bad)[-1] == ("bad", None)
    parser, events = Parser(), []
    for i in range(len(bad)):
        events = parser.feed(bad[i : i + 1])
        if events:
            break
    assert events == [("bad", None)]


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1014, 3000, 4999])
def test_close_codes_that_may_be_sent(code: int) -> None:
    """A valid close says its code."""
    assert Parser().feed(frame(8, code.to_bytes(2, "big") + b"reason")) == [("close", code)]


def test_random_bytes_never_crash() -> None:
    """Whatever comes, the parser answers."""
    rng = random.Random(11)
    for _ in range(3_000):
        parser = Parser()
        for _ in range(3):
            if ("bad", None) in parser.feed(rng.randbytes(rng.randrange(60))):
                break
