"""One question, asked of directories and did:web hosts that are slow, dead or hostile."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import closing
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

from tests.identity.test_resolver import PATIENCE_S, ask, document, found
from tests.net.fake_http import FakeHttp, Request, reply, reply_json
from tests.state.support import did
from zlay.identity.directory import MAX_DOCUMENT_BYTES, Asker, Directories
from zlay.sim.tls import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator

HUNDRED_MB = 100 << 20
TAKEN_MOST = 16 << 20  # by the sockets' buffers, beside what is read


@pytest.mark.parametrize("chunked", [False, True])
def test_endless_document(chunked: bool) -> None:
    """Of a document of 100 MB no more is read than a document may have, whatever its length is said to be."""
    sent = 0
    ended = threading.Event()

    def answer(_: Request, connection: socket.socket) -> None:
        nonlocal sent
        block = b" " * MAX_DOCUMENT_BYTES
        connection.settimeout(PATIENCE_S)
        try:
            how = b"Transfer-Encoding: chunked" if chunked else b"Connection: close"
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + how + b"\r\n\r\n")
            while sent < HUNDRED_MB:
                connection.sendall(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
                sent += len(block)
        except OSError:
            pass  # it has hung up
        ended.set()

    with FakeHttp(answer) as plc, ask(plc) as resolve:
        identity = resolve(did(1))
        assert (identity.outcome, "larger than" in identity.detail) == ("failed", True)
        assert ended.wait(PATIENCE_S)
        assert sent < TAKEN_MOST


def test_silent_directory_is_left_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that takes questions and never answers costs its time-out, and then the next one is asked."""
    monkeypatch.setattr("zlay.identity.directory.REQUEST_TIMEOUT_S", 0.2)

    def silent(_: Request, __: socket.socket) -> None:
        plc.ended.wait(PATIENCE_S)

    with FakeHttp(silent) as plc, FakeHttp(found) as good, ask(plc, good) as resolve:
        assert resolve(did(1)).outcome == "ok"
        assert [len(plc.requests), len(good.requests)] == [1, 1]
        plc.ended.set()


@pytest.mark.parametrize("who", ["did:plc", "did:web"])
def test_stop_while_a_directory_is_silent(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop ends a question that is under way at once, and what was given up says nothing of the DID."""
    monkeypatch.setattr("zlay.identity.directory.REQUEST_TIMEOUT_S", 10 * PATIENCE_S)
    monkeypatch.setattr("zlay.identity.directory.RESOLVE_LIMIT_S", 10 * PATIENCE_S)
    asked = threading.Event()

    def silent(_: Request, __: socket.socket) -> None:
        asked.set()
        plc.ended.wait(PATIENCE_S)

    with FakeHttp(silent) as plc:
        directories = Directories([plc.url])
        with closing(Asker(directories, allow_private=True)) as asker:
            closer = threading.Thread(target=lambda: (asked.wait(PATIENCE_S), directories.close()))
            closer.start()
            began = time.monotonic()
            identity = asker.resolve(did(1) if who == "did:plc" else f"did:web:localhost%3A{plc.port}")
            assert time.monotonic() - began < PATIENCE_S
            closer.join()
        assert (identity.outcome, identity.is_own) == ("failed", False)
        plc.ended.set()


def test_one_directory_of_two_is_dead() -> None:
    """Where nobody serves the first directory any more, every question is answered by the second."""
    with FakeHttp(found) as dead:
        pass
    with FakeHttp(found) as good, ask(dead, good) as resolve:
        assert {resolve(did(n)).outcome for n in range(20)} == {"ok"}


def test_retry_after_may_be_a_date() -> None:
    """A directory that names a moment is left alone until then, by its own clock."""
    now = 1_000_000_000
    later = reply(503, Retry_After=formatdate(now + 60, usegmt=True), Date=formatdate(now, usegmt=True))
    with FakeHttp(lambda *_: later) as plc, ask(plc) as resolve:
        assert resolve(did(1)).postponed
        assert resolve(did(2)).postponed
        assert len(plc.requests) == 1


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    """Who signs for did:web hosts here."""
    made = Authority()
    yield made
    made.close()


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name leads to loopback."""

    def here(_: str, port: int, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", here)


def web_asker(authority: Authority, server: FakeHttp, monkeypatch: pytest.MonkeyPatch, *, private: bool) -> Asker:
    """Trusts the authority, and finds the port of HTTPS at the server's."""
    monkeypatch.setattr("zlay.net.http_client._DEFAULT_PORTS", {"https": server.port})
    trusted = ssl.create_default_context(cafile=str(authority.path))
    return Asker(Directories([]), allow_private=private, context=trusted)


@pytest.mark.usefixtures("anywhere")
def test_did_web_by_https(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A did:web is asked by HTTPS of the host that it names, whose certificate must be for that name."""

    def answer(request: Request, _: socket.socket) -> bytes:
        assert (request.target, request.headers["host"]) == ("/.well-known/did.json", "one.test")
        return reply_json(document("did:web:one.test"))

    context = authority.context([("DNS", "one.test")])
    with FakeHttp(answer, context) as web, closing(web_asker(authority, web, monkeypatch, private=True)) as asker:
        assert asker.resolve("did:web:one.test").outcome == "ok"
        refused = asker.resolve("did:web:two.test")
        assert (refused.outcome, "TLS" in refused.detail) == ("failed", True)
        assert len(web.requests) == 1


@pytest.mark.usefixtures("anywhere")
def test_did_web_redirect(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A did:web host's redirect is not followed, and says nothing about the DID."""
    context = authority.context([("DNS", "one.test")])
    away = reply(301, Location="https://one.test/elsewhere")
    with FakeHttp(lambda *_: away, context) as web:
        with closing(web_asker(authority, web, monkeypatch, private=True)) as asker:
            assert asker.resolve("did:web:one.test").outcome == "failed"
        assert len(web.requests) == 1


@pytest.mark.usefixtures("anywhere")
def test_did_web_inside(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A did:web whose name leads to a private address is not dialled."""
    context = authority.context([("DNS", "one.com")])
    with FakeHttp(found, context) as web, closing(web_asker(authority, web, monkeypatch, private=False)) as asker:
        began = time.monotonic()
        refused = asker.resolve("did:web:one.com")
        assert (refused.outcome, "no address" in refused.detail) == ("failed", True)
        assert time.monotonic() - began < PATIENCE_S
        assert not web.requests
