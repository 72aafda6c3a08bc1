"""The demo's consumer takes what a subscriber may rely on and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cbor2
import pytest

from tests.e2e.fakes import FakePds, Subscription
from zlay.demo.consumer import MAX_MESSAGE, Message, ProtocolBroken, Stream, read_message

if TYPE_CHECKING:
    import socket

DID = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"
PATH = "/xrpc/com.atproto.sync.subscribeRepos"


def message(seq: object = 1, *, header: object = None, **fields: object) -> bytes:
    """An #identity."""
    header = {"op": 1, "t": "#identity"} if header is None else header
    payload = {"did": DID, "seq": seq, "time": "2026-01-01T00:00:00.000Z", **fields}
    return cbor2.dumps(header) + cbor2.dumps({key: value for key, value in payload.items() if value is not None})


def frame(payload: bytes, first: int = 0x82) -> bytes:
    """A WebSocket frame in its shortest form."""
    if len(payload) < 126:
        return bytes((first, len(payload))) + payload
    return bytes((first, 126)) + len(payload).to_bytes(2, "big") + payload


class Server(FakePds):
    """Sends these bytes to whoever subscribes, piece by piece, and then a close frame."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__()
        self._pieces = pieces
        self.url = f"ws://127.0.0.1:{self.port}{PATH}"

    def upgraded(self, sock: socket.socket, head: bytes, target: str) -> None:
        """One subscriber."""
        subscription = Subscription(sock, head)
        for piece in (*self._pieces, b"\x88\x02\x03\xe8"):
            subscription.send_raw(piece)
        subscription.read_until_closed()


def received(*pieces: bytes) -> list[Message]:
    """What the consumer makes of these bytes; ProtocolBroken."""
    with Server(*pieces) as server:
        return [message for batch in Stream(server.url, 0).batches() for message in batch]


def test_messages_come_whole_however_they_are_cut() -> None:
    """Frames in one piece, in pieces, and a ping between them: the messages, in order, with what is read of them."""
    stream = frame(message(1)) + frame(b"life", 0x89) + frame(message(2, handle="x" * 300)) + frame(message(3))
    whole = received(stream)
    assert [(one.seq, one.kind, one.did) for one in whole] == [(seq, "#identity", DID) for seq in (1, 2, 3)]
    cut = received(*(stream[at : at + 7] for at in range(0, len(stream), 7)))
    assert (
        [one.data for one in cut]
        == [one.data for one in whole]
        == [message(1), message(2, handle="x" * 300), message(3)]
    )


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x82\x85\0\0\0\0hello", id="masked"),
        pytest.param(frame(b"hello", 0x81), id="text"),
        pytest.param(b"\x82\x7e\0\x05hello", id="length not shortest"),
        pytest.param(b"\x82\x7f" + (300).to_bytes(8, "big"), id="length of 8 bytes for 300"),
        pytest.param(b"\x82\x7f" + (MAX_MESSAGE + 1).to_bytes(8, "big"), id="too large"),
        pytest.param(frame(b"\x02" + message(), 0x02), id="fragment"),
    ],
)
def test_what_is_no_frame(raw: bytes) -> None:
    """A masked, text, fragmented, oversized or clumsily framed message breaks the protocol (A3, A8)."""
    with pytest.raises(ProtocolBroken):
        received(frame(message(1)), raw)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(message()[:-1], id="cut"),
        pytest.param(message() + b"\0", id="trailing"),
        pytest.param(b"\x80" + message(), id="header no map"),
        pytest.param(message(header={"op": 2, "t": "#identity"}), id="op 2"),
        pytest.param(message(header={"op": 1}), id="no t"),
        pytest.param(message(header={"op": 1, "t": "identity"}), id="t without #"),
        pytest.param(message(None), id="no seq"),
        pytest.param(message(0), id="seq 0"),
        pytest.param(message(-1), id="seq -1"),
        pytest.param(message("1"), id="seq a text"),
        pytest.param(message(did=None), id="no account"),
        pytest.param(message(did=7), id="account a number"),
        pytest.param(cbor2.dumps({"op": -1}) + cbor2.dumps({"error": "ConsumerTooSlow"}), id="error frame"),
    ],
)
def test_what_is_no_event(data: bytes) -> None:
    """Two items and no more; op 1 and a type; a seq from 1 and an account; an error frame ends the stream."""
    with pytest.raises(ProtocolBroken):
        read_message(data, 0)


def test_a_refused_upgrade_is_told() -> None:
    """A server that answers with an error is no stream."""

    class Refusing(Server):
        def upgraded(self, sock: socket.socket, head: bytes, target: str) -> None:
            sock.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    with Refusing() as server, pytest.raises(ProtocolBroken, match="503"):
        Stream(server.url, 0)
