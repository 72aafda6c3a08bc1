"""What hostile and broken clients send, on both ports: the exact answer, the connection's end, and nobody else hurt."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import pytest

from tests.api.support import UPGRADE, Client, Echo, Running, request_bytes, wait_until
from zlay.api import admission, connection, conversations
from zlay.api.message import Request, Response, json_response

if TYPE_CHECKING:
    from collections.abc import Iterator

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
MIB = 1 << 20


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One server for all: whatever one client does, it goes on."""
    with Running() as one:
        yield one


def refusals(running: Running) -> dict[str, int]:
    """What the server has counted as refused, by reason."""
    return dict(running.server.tally.refused)


REFUSED = {  # name: (sent, status, error, counted as)
    "no HTTP": (b"NONSENSE\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "TLS to a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "InvalidRequest", "malformed"),
    "a space before the method": (b" " + GET + b"\r\n", 400, "InvalidRequest", "malformed"),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "HTTP/2 without asking": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HttpVersionNotSupported", "unsupported"),
    "a version to come": (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, "HttpVersionNotSupported", "unsupported"),
    "a tunnel": (b"CONNECT b:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501, "NotImplemented", "unsupported"),
    "no colon": (GET + b"No Colon\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "a space before the colon": (GET + b"X : a\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "two Hosts": (GET + b"Host: b\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "a folded header": (GET + b"X: a\r\n b\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "a header folded with a tab": (GET + b"X: a\r\n\tb\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "NUL in a header": (GET + b"X: a\0b\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "NUL in the target": (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "CR alone in a header": (GET + b"X: a\rY: b\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "LF alone": (GET + b"X: a\nContent-Length: 3\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "LF alone everywhere": (b"GET / HTTP/1.1\nHost: a\n\n", 400, "InvalidRequest", "malformed"),
    "bytes that are no ASCII in the target": (
        "GET /é HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 400, "InvalidRequest", "malformed",
    ),
    "half a percent sequence": (b"GET /%2 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "no percent sequence": (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "%00 in the path": (b"GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "%0D%0A in the path": (b"GET /a%0D%0Ab HTTP/1.1\r\nHost: a\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "no UTF-8 in the path": (b"GET /%FF HTTP/1.1\r\nHost: a\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "a slash in disguise": (b"GET /admin%2Fhosts HTTP/1.1\r\nHost: a\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "a request line without end": (b"GET /" + b"a" * 20_000, 414, "UriTooLong", "headers"),
    "a long request line": (
        b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "UriTooLong", "headers",
    ),
    "one huge header": (GET + b"X: " + b"a" * 20_000, 431, "HeadersTooLarge", "headers"),
    "many headers": (GET + b"X: b\r\n" * 100 + b"\r\n", 431, "HeadersTooLarge", "headers"),
    "headers without end": (GET + b"a:\r\n" * 3_000, 431, "HeadersTooLarge", "headers"),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "two lengths in one line": (POST + b"Content-Length: 1, 2\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "a signed length": (POST + b"Content-Length: +1\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "a length that is none": (POST + b"Content-Length: 0x10\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "an endless length": (POST + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "a huge length": (POST + b"Content-Length: 99999999999\r\n\r\n", 413, "PayloadTooLarge", "body"),
    "a length over the limit": (
        POST + f"Content-Length: {connection.MAX_BODY_BYTES + 1}\r\n\r\n".encode(), 413, "PayloadTooLarge", "body",
    ),
    "a huge length, waiting for 100": (
        POST + b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n", 413, "PayloadTooLarge", "body",
    ),
    "length and chunks": (
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "InvalidRequest", "malformed",
    ),
    "chunks and length": (
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, "InvalidRequest", "malformed",
    ),
    "chunks in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "InvalidRequest", "malformed",
    ),
    "another coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501, "NotImplemented", "unsupported"),
    "two codings": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "NotImplemented", "unsupported"),
    "a coding in disguise": (POST + b"Transfer-Encoding: xchunked\r\n\r\n", 501, "NotImplemented", "unsupported"),
    "a chunk without a size": (CHUNKED + b"zz\r\n", 400, "InvalidRequest", "malformed"),
    "a negative chunk": (CHUNKED + b"-1\r\n", 400, "InvalidRequest", "malformed"),
    "a chunk of more bytes than there are": (CHUNKED + b"F" * 30 + b"\r\n", 400, "InvalidRequest", "malformed"),
    "a chunk longer than it says": (CHUNKED + b"1\r\nab\r\n0\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "a chunk's line without end": (CHUNKED + b"1" + b";x" * 10_000, 431, "HeadersTooLarge", "headers"),
    "small chunks": (CHUNKED + b"1\r\nx\r\n" * 1_100, 413, "PayloadTooLarge", "body"),
    "small chunks with much beside": (
        CHUNKED + (b"1;" + b"x" * 400 + b"\r\nx\r\n") * 400, 413, "PayloadTooLarge", "body",
    ),
    "trailers without end": (CHUNKED + b"0\r\n" + b"X: a\r\n" * 4_000, 431, "HeadersTooLarge", "headers"),
    "blanks and NUL": (GET + b"X:" + b" " * 16_000 + b"\0\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "blanks and CR": (GET + b"X:" + b" " * 16_000 + b"\r\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "blanks and a form feed": (GET + b"X:" + b"\t" * 16_000 + b"\f\r\n\r\n", 400, "InvalidRequest", "malformed"),
    "a trailer of blanks": (CHUNKED + b"0\r\nX:" + b" " * 16_000 + b"\0\r\n\r\n", 431, "HeadersTooLarge", "headers"),
    "a trailer that is none": (CHUNKED + b"0\r\nNo Colon\r\n\r\n", 400, "InvalidRequest", "malformed"),
}  # fmt: skip


@pytest.mark.parametrize("is_internal", [False, True], ids=["public", "internal"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_to_be_read_is_refused(running: Running, name: str, is_internal: bool) -> None:
    """Broken, ambiguous and oversized requests get their status in the error form, readable for browsers, and the end;
    they are counted by reason, no handler sees them, and the next client is served."""
    sent, status, error, reason = REFUSED[name]
    before, requests = refusals(running), running.server.tally.requests
    with running.client(internal=is_internal) as client:
        client.send(sent)
        told = client.answer()
        assert (told.status, set(told.json), told.json["error"]) == (status, {"error", "message"}, error)
        assert told.headers["content-type"] == "application/json; charset=utf-8"
        assert told.headers["access-control-allow-origin"] == "*"
        assert told.headers["connection"] == "close"
        assert client.at_end()
    changed = {key: n - before[key] for key, n in refusals(running).items() if n != before[key]}
    assert changed == {reason: 1}
    assert running.server.tally.requests == requests
    with running.client(internal=is_internal) as client:
        assert client.request("GET", "/").status == 200


PASSED = {  # odd, and meant so: name: (sent, path, query, body)
    "empty lines first": (b"\r\n\r\n" + GET + b"\r\n", "/", "", ""),
    "the absolute form": (b"GET http://b/c?d HTTP/1.1\r\nHost: a\r\n\r\n", "/c", "d", ""),
    "dots": (b"GET /xrpc/../admin/hosts HTTP/1.1\r\nHost: a\r\n\r\n", "/xrpc/../admin/hosts", "", ""),
    "dots in disguise": (b"GET /xrpc/%2e%2e/x HTTP/1.1\r\nHost: a\r\n\r\n", "/xrpc/../x", "", ""),
    "twice encoded": (b"GET /%252Fa HTTP/1.1\r\nHost: a\r\n\r\n", "/%2Fa", "", ""),
    "a query that is no UTF-8": (b"GET /?a=%FF HTTP/1.1\r\nHost: a\r\n\r\n", "/", "a=%FF", ""),
    "another upgrade": (GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "/", "", ""),
    "the same length twice": (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab", "/", "", "ab"),
    "chunks with extensions": (CHUNKED + b'2;a=b;c="d"\r\nab\r\n0\r\nX: y\r\n\r\n', "/", "", "ab"),
}


@pytest.mark.parametrize("name", PASSED)
def test_what_is_odd_and_clear_is_served(running: Running, name: str) -> None:
    """What RFC 9112 allows is taken for what it says, never resolved into another path, and the connection goes on."""
    sent, path, query, body = PASSED[name]
    with running.client() as client:
        client.send(sent)
        told = client.answer().json
        assert (told["path"], told["query"], told["body"]) == (path, query, body)
        assert client.request("GET", "/after").json["path"] == "/after"


# --- requests that end before they are whole ---

HALVES = {
    "a letter": b"G",
    "half a head": GET + b"X: y\r\n",
    "half a body": POST + b"Content-Length: 10\r\n\r\n12345",
    "half a chunk": CHUNKED + b"5\r\nab",
    "no last chunk": CHUNKED + b"2\r\nab\r\n",
}


@pytest.mark.parametrize("name", HALVES)
def test_a_request_cut_short_is_told_so(running: Running, name: str) -> None:
    """A client that says in the middle of a request that no more comes gets 400 and the end."""
    before = refusals(running)["cut_short"]
    with running.client() as client:
        client.send(HALVES[name])
        client.sock.shutdown(socket.SHUT_WR)
        told = client.answer()
        assert (told.status, told.json["error"]) == (400, "InvalidRequest")
        assert client.at_end()
    assert refusals(running)["cut_short"] == before + 1


@pytest.mark.parametrize("name", HALVES)
def test_a_request_broken_off_leaves_nothing(running: Running, name: str) -> None:
    """A reset in the middle of a request is counted, and leaves no connection and no byte behind."""
    before = refusals(running)["cut_short"]
    client = running.client()
    client.send(HALVES[name])
    held = running.server._conversations._held
    wait_until(lambda: held.bytes >= min(5, len(HALVES[name])), "it is read")
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()
    wait_until(lambda: refusals(running)["cut_short"] == before + 1, "it is counted")
    wait_until(lambda: (running.server.connections, held.bytes) == (0, 0), "nothing is left")


def test_a_body_without_end_is_cut_off(running: Running) -> None:
    """A chunked body that grows beyond the limit is answered 413 while it is still being sent."""
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    with running.client() as client, pytest.raises((ConnectionResetError, BrokenPipeError, EOFError)):  # noqa: PT012
        client.send(CHUNKED)
        for _ in range(1 + connection.MAX_BODY_BYTES // 0x8000):
            client.send(chunk)
        assert client.answer().status == 413
        assert client.at_end()
        raise EOFError


def test_a_body_as_long_as_allowed_passes(running: Running) -> None:
    """The longest body is taken, by length and in chunks."""
    body = b"x" * connection.MAX_BODY_BYTES
    with running.client() as client:
        assert len(client.request("POST", "/", body=body).json["body"]) == len(body)
        client.send(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert len(client.answer().json["body"]) == len(body)


def test_halves_are_bounded_together(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """When requests that are not whole are too many bytes together, those that have been so for longest are let go."""
    held = running.server._conversations._held
    monkeypatch.setattr(held, "most", 100_000)
    before = refusals(running)["halves_full"]
    clients = [running.client() for _ in range(8)]
    half = GET + b"X: " + b"a" * 15_000
    for client in clients:
        expected = held.bytes + len(half)
        client.send(half)
        wait_until(lambda expected=expected: held.bytes == expected or held.bytes <= 50_000, "it is read")
    wait_until(lambda: refusals(running)["halves_full"] > before, "some are let go")
    gone = refusals(running)["halves_full"] - before
    assert 0 < gone < len(clients)
    for client in clients[:gone]:
        assert client.at_end()
    clients[-1].send(b"\r\n\r\n")
    assert clients[-1].answer().status == 200
    for client in clients:
        client.sock.close()
    wait_until(lambda: (running.server.connections, held.bytes) == (0, 0), "nothing is left")


# --- many requests of one client ---


def test_pipelines_keep_their_order_whatever_is_in_them(running: Running) -> None:
    """GET, POST with a body, HEAD, OPTIONS and a refused upgrade in one go are answered one by one, in their order."""
    with running.client() as client:
        client.send(
            request_bytes("GET", "/1")
            + request_bytes("POST", "/2", body=b"two")
            + request_bytes("HEAD", "/3")
            + CHUNKED
            + b"4\r\nfour\r\n0\r\n\r\n"
            + request_bytes("GET", "/now")
            + request_bytes("GET", "/5", UPGRADE)
            + request_bytes("GET", "/6")
        )
        assert client.answer().json["path"] == "/1"
        assert client.answer().json["body"] == "two"
        assert client.answer(head_only=True).status == 200
        assert client.answer().json["body"] == "four"
        assert client.answer().json == {"now": True}
        assert client.answer().json == {"refused": True}
        assert client.answer().json["path"] == "/6"


def test_an_upgrade_in_a_pipeline_comes_last() -> None:
    """What stands before an upgrade is answered first, and what stands behind it is the new protocol's."""
    with Running() as running, running.client() as client:
        client.send(
            request_bytes("GET", "/1")
            + request_bytes("POST", "/2", body=b"two")
            + request_bytes("GET", "/take", UPGRADE)
            + request_bytes("GET", "/none")
        )
        assert client.answer().json["path"] == "/1"
        assert client.answer().json["body"] == "two"
        assert isinstance(running.router, Echo)
        wait_until(lambda: bool(running.router.taken), "it is taken")
        sock, leftover = running.router.taken[0]
        assert leftover == request_bytes("GET", "/none")
        sock.sendall(b"from its new owner")
        assert client.sock.recv(100) == b"from its new owner"


class Turns(Echo):
    """A router that notes who is answered, and waits at the first."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def instant(self, request: Request) -> Response | None:
        """In the epoll thread."""
        self.seen.append(request.query)
        if len(self.seen) == 1:
            self.at_gate.release()
            assert self.gate.wait(10)
        return json_response({})


def test_one_client_does_not_take_the_turns_of_others() -> None:
    """Who sends hundreds of requests in one go is answered a few of them before another client's one, and all in the
    end."""
    router = Turns()
    with Running(router) as running, running.client() as greedy, running.client() as other:
        wait_until(lambda: running.server.connections == 2, "both are there")
        greedy.send(request_bytes("GET", "/?a") * 300)
        assert router.at_gate.acquire(timeout=10)
        other.send(request_bytes("GET", "/?b"))
        router.gate.set()
        assert other.answer().status == 200
        for _ in range(300):
            assert greedy.answer().status == 200
        assert router.seen.index("b") <= 2 * conversations.REQUESTS_AT_ONCE
        assert len(router.seen) == 301


def test_one_client_does_not_take_all_handlers(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with too many requests waiting is told so (429) on one more connection; others, and the metrics port,
    are served."""
    router = running.router
    assert isinstance(router, Echo)
    router.gate.clear()
    monkeypatch.setattr(admission, "MAX_WAITING_PER_CLIENT", 2)
    clients = [running.client() for _ in range(3)]
    for client in clients[:2]:
        client.send(request_bytes("GET", "/wait"))
        assert router.at_gate.acquire(timeout=10)
    told = clients[2].request("GET", "/")
    assert (told.status, told.json["error"], told.headers["retry-after"]) == (429, "RateLimitExceeded", "5")
    assert clients[2].request("GET", "/now").status == 200
    assert refusals(running)["client_full"] == 1
    with _client_from("127.0.0.2", running.public) as other:
        assert other.request("GET", "/").status == 200
    with running.client(internal=True) as inside:
        assert inside.request("GET", "/").status == 200
    router.gate.set()
    for client in clients[:2]:
        assert client.answer().status == 200
    assert clients[2].request("GET", "/").status == 200
    for client in clients:
        client.sock.close()
    wait_until(lambda: running.server._conversations._admission.clients == 0, "nobody is counted any more")


def _client_from(source: str, address: tuple[str, int]) -> Client:
    sock = socket.create_connection(address, timeout=10, source_address=(source, 0))
    client = Client.__new__(Client)
    client.sock, client.received = sock, bytearray()
    return client
