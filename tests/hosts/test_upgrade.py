"""The upgrade as a client: any cuts, exact leftovers, limits, and every answer that is no upgrade."""

from __future__ import annotations

import re

import pytest
from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, Request

from zlay.hosts.upgrade import MAX_HEAD_BYTES, DialFailed, Upgrade

FRAMES = b"\x82\x03abc\x82\x7e\x00"


def begin(cursor: int | None = None, *, allow_relays: bool = False) -> Upgrade:
    """An upgrade that has sent its request."""
    return Upgrade("pds.example.com", cursor, "zlay/1.2 (atproto-relay)", allow_relays=allow_relays)


def answer_to(upgrade: Upgrade, headers: list[tuple[bytes, bytes]] | None = None) -> bytes:
    """What an honest server answers."""
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(upgrade.request)
    assert isinstance(next(server.events()), Request)
    return server.send(AcceptConnection(extra_headers=headers or []))


@pytest.mark.parametrize(
    ("cursor", "target"), [(None, b""), (0, b"?cursor=0"), (2**53 - 1, b"?cursor=9007199254740991")]
)
def test_request(cursor: int | None, target: bytes) -> None:
    """The request asks the right path with the cursor, names the host, and says that a relay is asking (A1, E16)."""
    request = begin(cursor).request
    assert request.startswith(b"GET /xrpc/com.atproto.sync.subscribeRepos" + target + b" HTTP/1.1\r\n")
    assert re.search(rb"\r\nhost: pds\.example\.com\r\n", request, re.IGNORECASE)
    assert re.search(rb"\r\nuser-agent: zlay/1\.2 \(atproto-relay\)\r\n", request, re.IGNORECASE)
    assert re.search(rb"\r\nsec-websocket-version: 13\r\n", request, re.IGNORECASE)
    assert b"Extensions" not in request


def test_every_cut_leaves_the_same() -> None:
    """Cut anywhere, inside CRLF too, the answer opens the stream and what follows is left over exactly."""
    head_bytes = len(answer_to(begin()))
    for cut in range(1, head_bytes + len(FRAMES)):
        upgrade = begin()
        data = answer_to(upgrade) + FRAMES
        if upgrade.feed(data[:cut]):
            assert cut >= head_bytes
            assert upgrade.leftover == data[head_bytes:cut]
        else:
            assert cut < head_bytes
            assert upgrade.feed(data[cut:])
            assert upgrade.leftover == FRAMES


def test_one_byte_at_a_time() -> None:
    """Byte by byte the stream opens with the last byte of the head, and nothing is left over."""
    upgrade = begin()
    data = answer_to(upgrade)
    opened = [upgrade.feed(data[i : i + 1]) for i in range(len(data))]
    assert opened == [False] * (len(data) - 1) + [True]
    assert upgrade.leftover == b""


def test_bare_line_feeds() -> None:
    """Servers that end lines with a bare line feed are understood."""
    upgrade = begin()
    assert upgrade.feed(answer_to(upgrade).replace(b"\r\n", b"\n") + FRAMES)
    assert upgrade.leftover == FRAMES


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "answered 404: no", id="404"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", "answered 200", id="200"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", "answered 302", id="redirect"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", "answered 100", id="100"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not an upgrade", id="another protocol"),
        pytest.param(b"\x16\x03\x01\x00\n\n", "not an upgrade", id="TLS"),
        pytest.param(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n", "not an upgrade", id="no accept"),
        pytest.param(
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n",
            "not an upgrade",
            id="wrong accept",
        ),
        pytest.param(
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: \xff\r\n\r\n",
            "not an upgrade",
            id="protocol not ASCII",
        ),
        pytest.param(b"\r\n\r\n", "not an upgrade", id="empty lines"),
    ],
)
def test_no_upgrade(answer: bytes, text: str) -> None:
    """Every other answer is a failure of kind http_upgrade that says what was answered; redirects are not followed."""
    with pytest.raises(DialFailed, match=text) as failed:
        begin().feed(answer)
    assert failed.value.kind == "http_upgrade"


def test_extension_nobody_asked_for() -> None:
    """A server that switches on an extension that was not offered is refused."""
    upgrade = begin()
    answer = answer_to(upgrade, [(b"Sec-WebSocket-Extensions", b"permessage-deflate")])
    with pytest.raises(DialFailed, match="permessage-deflate"):
        upgrade.feed(answer)


def test_retry_after_is_kept() -> None:
    """A 429 with Retry-After says how long to stay away; nonsense in it does not."""
    for value, seconds in ((b"120", 120.0), (b"9" * 30, 3600.0), (b"soon", None)):
        with pytest.raises(DialFailed) as failed:
            begin().feed(b"HTTP/1.1 429 Slow down\r\nRetry-After: " + value + b"\r\n\r\n")
        assert failed.value.retry_after_s == seconds


@pytest.mark.parametrize("piece", [1, 4096, MAX_HEAD_BYTES * 2])
def test_head_without_end(piece: int) -> None:
    """A head that does not end within its limit is given up, however it arrives."""
    upgrade = begin()
    data = b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n"
    at = 0
    while at + piece <= MAX_HEAD_BYTES:
        assert not upgrade.feed(data[at : at + piece])
        at += piece
    with pytest.raises(DialFailed, match="over 16384"):
        upgrade.feed(data[at : at + piece])


def test_a_relay_is_refused() -> None:
    """A host whose Server header says atproto-relay is refused, unless private hosts are allowed (E16)."""
    mark = [(b"Server", b"indigo (AtProto-Relay)")]
    upgrade = begin()
    with pytest.raises(DialFailed, match="relay itself") as failed:
        upgrade.feed(answer_to(upgrade, mark))
    assert failed.value.kind == "config"
    upgrade = begin(allow_relays=True)
    assert upgrade.feed(answer_to(upgrade, mark))


def test_a_name_that_cannot_be_asked_for() -> None:
    """A name no Host header can carry is a failure, not an exception of another module."""
    with pytest.raises(DialFailed):
        Upgrade("x" * 64 + ".example.com\u2028", None, "zlay", allow_relays=False)
