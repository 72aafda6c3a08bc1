"""The HTTP client against servers that are good, broken and hostile."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.net.fake_http import FakeHttp, Request, reply, reply_json
from zlay.errors import HttpFault
from zlay.hosts.addresses import is_public
from zlay.net.http_client import MAX_HEAD_BYTES, HttpClient, split_url

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 10_000
CERTIFICATE = Path(__file__).with_name("localhost.pem")


@pytest.fixture
def client() -> Iterator[HttpClient]:
    """A client that may dial loopback."""
    made = HttpClient(allow_address=lambda _: True)
    yield made
    made.close()


def get(client: HttpClient, server: FakeHttp, path: str = "/x", timeout_s: float = 5.0) -> bytes:
    """The body of a good answer."""
    response = client.get(server.url + path, timeout_s=timeout_s, max_body_bytes=LIMIT)
    assert response.status == 200
    return response.body


def fault_of(client: HttpClient, server: FakeHttp, timeout_s: float = 5.0) -> str:
    """The kind of fault that asking the server gives."""
    with pytest.raises(HttpFault) as caught:
        client.get(server.url + "/x", timeout_s=timeout_s, max_body_bytes=LIMIT)
    return caught.value.kind


def test_answer_is_complete(client: HttpClient) -> None:
    """Status, headers and body arrive whatever the status, and the server sees host, target and who we are."""
    with FakeHttp(lambda *_: reply_json({"a": 1}, 404, X_Thing="yes")) as server:
        response = client.get(f"{server.url}/p?q=1", timeout_s=5, max_body_bytes=LIMIT)
        assert (response.status, response.json(), response.headers["x-thing"]) == (404, {"a": 1}, "yes")
        (request,) = server.requests
        assert request.target == "/p?q=1"
        assert request.headers["host"] == f"127.0.0.1:{server.port}"
        assert "atproto-relay" in request.headers["user-agent"]


def test_connection_is_kept(client: HttpClient) -> None:
    """Requests one after the other use one connection."""
    with FakeHttp(lambda *_: reply(200, b"ok")) as server:
        for _ in range(5):
            assert get(client, server) == b"ok"
        assert {request.connection for request in server.requests} == {1}


def test_connection_is_not_kept_when_told_so() -> None:
    """Without keep-alive every request has a connection of its own."""
    client = HttpClient(allow_address=lambda _: True, keep_alive=False)
    with FakeHttp(lambda *_: reply(200, b"ok")) as server:
        get(client, server)
        get(client, server)
        assert [request.connection for request in server.requests] == [1, 2]
        assert server.requests[0].headers["connection"] == "close"


def test_idle_connection_closed_by_the_server(client: HttpClient) -> None:
    """A connection that the server has closed while idle costs no failed request."""

    def answer(request: Request, _: socket.socket) -> bytes | None:
        first_on_second = request.connection == 1 and len(server.requests) == 2
        return None if first_on_second else reply(200, str(request.connection).encode())

    with FakeHttp(answer) as server:
        assert get(client, server) == b"1"
        assert get(client, server) == b"2"


def test_machine_without_a_family(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of a family that this machine does not have costs a try; having none at all is an HttpFault."""
    without: set[socket.AddressFamily] = set()
    whole = socket.getaddrinfo
    real = socket.socket

    def both(host: str, port: int, **kwargs: int) -> list[object]:
        six = (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("::1", port, 0, 0))
        return [six, *whole(host, port, **kwargs)]

    def lacking(family: socket.AddressFamily, kind: int, proto: int = 0, fileno: int | None = None) -> socket.socket:
        if family in without and fileno is None:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, kind, proto, fileno)

    with FakeHttp(lambda *_: reply(200, b"ok")) as server:
        monkeypatch.setattr(socket, "getaddrinfo", both)
        monkeypatch.setattr(socket, "socket", lacking)
        without.add(socket.AF_INET6)
        assert get(client, server) == b"ok"
        client.close()
        without.add(socket.AF_INET)
        assert fault_of(client, server) == "connect"


def test_dead_address_leaves_time_for_the_next(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose first address never answers is reached by its second one, within the same time."""
    with contextlib.ExitStack() as keep, FakeHttp(lambda *_: reply(200, b"here")) as server:
        dead = keep.enter_context(socket.create_server(("127.0.0.2", server.port), backlog=0))
        for _ in range(4):  # its queue is full: the kernel drops what comes
            waiting = keep.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(dead.getsockname())
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, server.port))
            for address in ("127.0.0.2", "127.0.0.1")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        url = f"http://two.example:{server.port}/"
        assert client.get(url, timeout_s=4.0, max_body_bytes=LIMIT).body == b"here"


def test_nothing_said_unasked_is_an_answer(client: HttpClient) -> None:
    """Bytes after an answer are not taken for the answer to the next question."""
    with FakeHttp(lambda request, _: reply(200, request.path.encode()) + reply(200, b"/lie")) as server:
        assert get(client, server, "/a") == b"/a"
        assert get(client, server, "/b") == b"/b"


def test_body_without_length(client: HttpClient) -> None:
    """A body that ends with the connection, and a chunked one, are read to their end."""
    with FakeHttp(lambda *_: b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end") as server:
        assert get(client, server) == b"until the end"
    with FakeHttp(lambda *_: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n") as server:
        assert get(client, server) == b"abc"
        assert get(client, server) == b"abc"
        assert {request.connection for request in server.requests} == {1}


def test_answer_one_byte_at_a_time(client: HttpClient) -> None:
    """An answer that comes byte by byte, split inside CRLF too, is the same answer."""

    def answer(_: Request, connection: socket.socket) -> bytes:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in reply(200, b"slow"):
            connection.sendall(bytes([byte]))
        return b""

    with FakeHttp(answer) as server:
        assert get(client, server) == b"slow"


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, b"x" * (LIMIT + 1)),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * (LIMIT + 1),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1000\r\n" + b"x" * 4096 + b"\r\n" * 1 + (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 3,
    ],
    ids=["honest", "announced", "until-close", "chunked"],
)
def test_large_body_is_refused(client: HttpClient, answer: bytes) -> None:
    """A body over the limit is refused however it is framed, without waiting for its end."""
    with FakeHttp(lambda *_: answer) as server:
        assert fault_of(client, server) == "too_large"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * (2 * MAX_HEAD_BYTES), "protocol"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nabc", "protocol"),
        (None, "closed"),
    ],
    ids=["not-http", "endless-head", "upgrade", "cut-short", "silent-close"],
)
def test_broken_answer(client: HttpClient, answer: bytes | None, kind: str) -> None:
    """What is no answer is a fault of its kind, and the client goes on."""
    with FakeHttp(lambda *_: answer) as server:
        assert fault_of(client, server) == kind
    with FakeHttp(lambda *_: reply(200, b"ok")) as server:
        assert get(client, server) == b"ok"


@pytest.mark.parametrize("trickle", [False, True], ids=["silent", "trickling"])
def test_time_is_bounded(client: HttpClient, trickle: bool) -> None:
    """A server that says nothing, or a byte now and then, is given up when the time is over."""

    def answer(_: Request, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" if trickle else b"")
        while not server.ended.wait(0.02):
            if trickle:
                connection.sendall(b"x")

    with FakeHttp(answer) as server:
        started = time.monotonic()
        assert fault_of(client, server, timeout_s=0.3) == "timeout"
        assert time.monotonic() - started < 3


def test_private_address_is_not_dialled() -> None:
    """A name that leads to a private address is refused before any connection."""
    client = HttpClient(allow_address=is_public)
    with FakeHttp(lambda *_: reply(200)) as server:
        with pytest.raises(HttpFault) as caught:
            client.get(f"http://localhost:{server.port}/", timeout_s=5, max_body_bytes=LIMIT)
        assert caught.value.kind == "address"
        assert not server.requests


def test_nobody_listens(client: HttpClient) -> None:
    """A refused connection is a fault of its own kind."""
    with FakeHttp(lambda *_: reply(200)) as server:
        pass
    assert fault_of(client, server) == "connect"


def tls_server() -> ssl.SSLContext:
    """A server's side, with a certificate for localhost that only our own tests trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def test_tls() -> None:
    """A server whose certificate is trusted and names it is asked over TLS, over one connection."""
    client = HttpClient(allow_address=lambda _: True, context=ssl.create_default_context(cafile=str(CERTIFICATE)))
    with FakeHttp(lambda *_: reply(200, b"x" * LIMIT), tls_server()) as server:
        for _ in range(3):
            response = client.get(f"https://localhost:{server.port}/", timeout_s=5, max_body_bytes=LIMIT)
            assert response.body == b"x" * LIMIT
        assert {request.connection for request in server.requests} == {1}
    client.close()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_tls_with_the_wrong_certificate(name: str) -> None:
    """An unknown issuer and a name that is not in the certificate are refused before anything is asked."""
    trusted = ssl.create_default_context(cafile=str(CERTIFICATE)) if name == "127.0.0.1" else None
    client = HttpClient(allow_address=lambda _: True, context=trusted)
    with FakeHttp(lambda *_: reply(200), tls_server()) as server:
        with pytest.raises(HttpFault) as caught:
            client.get(f"https://{name}:{server.port}/", timeout_s=5, max_body_bytes=LIMIT)
        assert caught.value.kind == "tls"
        assert not server.requests


def test_redirect_is_not_followed(client: HttpClient) -> None:
    """A redirect is an answer like others."""
    with FakeHttp(lambda *_: reply(302, Location="/elsewhere")) as server:
        assert client.get(server.url, timeout_s=5, max_body_bytes=LIMIT).status == 302
        assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["ftp://a/", "http://", "a.example", "http://u@a/", "http://a:99999/", "http://[::1/"])
def test_urls_that_are_none(url: str) -> None:
    """What is no http URL is refused."""
    with pytest.raises(HttpFault):
        split_url(url)


def test_url_parts() -> None:
    """Default ports and paths are filled in."""
    assert split_url("https://A.example") == ("https", "a.example", 443, "/")
    assert split_url("http://a.example:81/b?c=d#e") == ("http", "a.example", 81, "/b?c=d")


@pytest.mark.parametrize("silent", ["after the request", "in the body", "before the connection"])
def test_a_stop_ends_the_waiting(silent: str) -> None:
    """Whatever a server keeps a request waiting for, a stop from another thread ends it at once."""
    stop, asked = threading.Event(), threading.Event()
    client = HttpClient(allow_address=lambda _: True, stop=stop)

    def answer(_request: Request, sock: socket.socket) -> bytes | None:
        if silent == "in the body":
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        asked.set()
        server.ended.wait(60)
        return None

    full = socket.create_server(("127.0.0.1", 0), backlog=0)  # which takes one connection, and leaves others waiting
    waiting = socket.create_connection(full.getsockname())
    with FakeHttp(answer) as server, full, waiting:
        url = server.url
        if silent == "before the connection":
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            asked.set()
        stopper = threading.Thread(target=lambda: asked.wait(60) and stop.set())
        stopper.start()
        with pytest.raises(HttpFault) as caught:
            client.get(url, timeout_s=120.0, max_body_bytes=LIMIT)
        stopper.join()
        assert caught.value.kind == "stopped"


def test_a_post(client: HttpClient) -> None:
    """A POST carries its body as JSON, and the headers given, as UTF-8; its answer comes whatever the status."""

    def answer(request: Request, _connection: socket.socket) -> bytes:
        said = {"method": request.method, "body": request.body.decode(), "by": request.headers["authorization"]}
        return reply_json(said | {"type": request.headers["content-type"]}, status=409)

    with FakeHttp(answer) as server:
        told = client.post(
            server.url + "/x", b"{}" * 50_000, timeout_s=5, max_body_bytes=200_000, headers=[("Authorization", "wörd")]
        )
        assert told.status == 409
        assert told.json() == {"method": "POST", "body": "{}" * 50_000, "by": "wörd", "type": "application/json"}


def test_a_post_is_never_sent_twice(client: HttpClient) -> None:
    """A POST goes out on a connection of its own, also where one is kept open, and once where that is cut."""
    seen: list[str] = []

    def answer(request: Request, _connection: socket.socket) -> bytes | None:
        seen.append(request.method)
        return reply(200, b"x") if request.method == "GET" else None

    with FakeHttp(answer) as server:
        get(client, server)
        with pytest.raises(HttpFault) as caught:
            client.post(server.url + "/x", b"{}", timeout_s=5, max_body_bytes=LIMIT)
        assert caught.value.kind == "closed"
    assert seen == ["GET", "POST"]
    assert client.connects == 2


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_slow_answers_are_waited_for(secure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that comes in pieces, each later than a stop is looked for, is read whole; the connection is kept."""
    monkeypatch.setattr("zlay.net.http_client.STOP_LOOK_S", 0.01)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if secure else None
    if theirs is not None:
        theirs.load_cert_chain(CERTIFICATE)

    def answer(_: Request, sock: socket.socket) -> bytes:
        for piece in (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n", b"\r\nbody"):
            sock.sendall(piece)
            time.sleep(0.05)
        return b"body"

    ours = ssl.create_default_context(cafile=str(CERTIFICATE))
    client = HttpClient(allow_address=lambda _: True, context=ours)
    with FakeHttp(answer, theirs) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        for _ in range(2):
            assert client.get(url, timeout_s=30.0, max_body_bytes=LIMIT).body == b"bodybody"
        assert client.connects == 1
        client.close()
