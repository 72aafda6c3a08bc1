"""The strict consumer is strict: each thing that a server must not do ends it."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.e2e.fakes import FakePds
from tests.reference.consumer import ClosedError, Collector, RefusedError, StreamError, StrictConsumer
from tests.reference.drisl_ref import encode
from tests.reference.frame_ref import FrameError

HEADER = encode({"op": 1, "t": "#identity"})


def identity(seq: int) -> bytes:
    """A small event."""
    return HEADER + encode({"seq": seq, "did": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa", "time": "2026-01-01T00:00:00Z"})


@pytest.mark.parametrize(
    ("frame", "error", "reason"),
    [
        (identity(7), FrameError, "seq 7 after 5"),
        (identity(5), FrameError, "seq 5 after 5"),
        (identity(6) + b"\x00", FrameError, "two items"),
        (HEADER + encode({"did": "x"}), FrameError, "without seq"),
        (encode({"op": -1}) + encode({"error": "ConsumerTooSlow"}), StreamError, "ConsumerTooSlow"),
    ],
)
def test_what_a_server_must_not_say_ends_the_stream(frame: bytes, error: type[Exception], reason: str) -> None:
    """A gap, a repetition, bad framing, a missing seq and an error frame each end the consumer with the reason."""
    with FakePds() as pds, StrictConsumer(pds.port, 4) as consumer:
        pds.wait_subscribed()
        pds.publish((5, identity(5)), (6, frame))
        assert consumer.next(10).seq == 5
        with pytest.raises(error, match=reason):
            consumer.next(10)


def test_gaps_are_taken_where_they_are_allowed() -> None:
    """A consumer of a host, whose numbers may have gaps, takes them, but no number that does not go up."""
    with FakePds() as pds, StrictConsumer(pds.port, None, contiguous=False) as consumer:
        pds.wait_subscribed()
        pds.publish((5, identity(5)), (9, identity(9)), (9, identity(9)))
        assert [consumer.next(10).seq for _ in range(2)] == [5, 9]
        with pytest.raises(FrameError, match="seq 9 after 9"):
            consumer.next(10)


class Raw:
    """A server that accepts one WebSocket upgrade by hand and then sends these bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Raw:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()
        self._thread.join(5)

    def _run(self) -> None:
        sock, _ = self._listener.accept()
        with sock:
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(4096)
            key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
            sock.sendall(self._answer.replace(b"@ACCEPT@", accept_of(key.split(b":")[1].strip())))
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass


def accept_of(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a key (RFC 6455, 4.2.2)."""
    import base64
    import hashlib

    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


UPGRADE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: @ACCEPT@\r\n\r\n"
)


def test_a_text_message_ends_the_stream() -> None:
    """Only binary messages are frames (A3)."""
    answer = UPGRADE + b"\x81\x02hi"
    with Raw(answer) as server, StrictConsumer(server.port) as consumer, pytest.raises(FrameError, match="text"):
        consumer.next(10)


def test_how_a_stream_ended_is_told() -> None:
    """A close frame's code and reason are told apart from a connection that just ends."""
    answer = UPGRADE + b"\x88\x06\x03\xf4gone"
    with (
        Raw(answer) as server,
        StrictConsumer(server.port) as consumer,
        pytest.raises(ClosedError, match="1012 'gone'"),
    ):
        consumer.next(10)
    for cut in (0, 20, len(UPGRADE) - 2):
        with Raw(UPGRADE[:cut]) as server, pytest.raises(ClosedError, match="None"):
            StrictConsumer(server.port)
    with Raw(UPGRADE) as server, StrictConsumer(server.port) as consumer, pytest.raises(ClosedError, match="None"):
        consumer.next(10)


def test_a_refused_upgrade_gives_status_and_body() -> None:
    """An HTTP error in place of an upgrade is given with its body."""
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\nwrong"
    with Raw(answer) as server, pytest.raises(RefusedError, match="400: b'wrong'"):
        StrictConsumer(server.port, -1)


def test_a_collector_comes_back_with_its_cursor() -> None:
    """With `reconnect` a collector goes on behind the last event it has; without, the end is its problem."""
    with FakePds() as pds:
        pds.publish(*[(seq, identity(seq)) for seq in range(1, 4)])
        with Collector(pds.port, 0, reconnect=True) as faithful, Collector(pds.port, 0) as fickle:
            faithful.wait_count(3, 10)
            fickle.wait_count(3, 10)
            pds.drop_connections()
            pds.publish((4, identity(4)))
            faithful.wait_count(4, 10)
            with pytest.raises(AssertionError, match="broke before"):
                fickle.wait_for(lambda frames: len(frames) > 4, "a fifth frame", 10)
            assert pds.cursors[-1] == 3
