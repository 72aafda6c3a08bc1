"""Who gets gzip, and of what."""

from __future__ import annotations

import gzip
import threading
import zlib
from typing import TYPE_CHECKING

import pytest

from tests.api.support import Running, request_bytes
from zlay.api.compression import MIN_BYTES, compressed, takes_gzip
from zlay.api.message import Request, Response, error_response

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = Response(body=b'{"hosts":[]}' * 1000)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A server whose /big/N answers N bytes."""
    with Running() as one:
        yield one


def request(accept: str | None) -> Request:
    """A request with this Accept-Encoding."""
    headers = {} if accept is None else {"accept-encoding": accept}
    return Request("GET", "/", "", headers, b"", "10.0.0.1", is_internal=False)


@pytest.mark.parametrize(
    ("accept", "gets_gzip", "takes_plain"),
    [
        ("gzip", True, True),
        ("GZIP", True, True),
        ("x-gzip", True, True),
        ("deflate, gzip;q=1.0, *;q=0.5", True, True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True, True),
        ("*", True, True),
        ("gzip;q=0.001", True, True),
        ("gzip ; q=0.5", True, True),
        ("gzip;q=0.5, identity;q=0.5", True, True),
        ("gzip;q=0.4, identity;q=0.5", False, True),
        ("", False, True),
        ("br", False, True),
        ("identity", False, True),
        ("gzip;q=0", False, True),
        ("gzip;q=0.0, *", False, True),
        ("gzip;q=2", False, True),
        ("gzip;q=-1", False, True),
        ("gzip;q=nan", False, True),
        ("gzip;q=x", False, True),
        ("gzip;level=9", False, True),
        ("gzip, identity;q=0", True, False),
        ("gzip, *;q=0", True, False),
        ("*, identity;q=0", True, False),
        ("*;q=0", False, True),  # nothing is acceptable: better something than nothing (RFC 9110 12.5.3)
        ("identity;q=0", False, True),
        ("a," * 20 + "gzip", False, True),  # so many are not looked at
    ],
)
def test_accept_encoding(accept: str, gets_gzip: bool, takes_plain: bool) -> None:
    """Weights, wildcards and exclusions of Accept-Encoding mean what RFC 9110 says."""
    assert takes_gzip({"accept-encoding": accept}) == (gets_gzip, takes_plain)


def test_without_the_header_the_answer_goes_out_as_it_is() -> None:
    """A client that says nothing gets no gzip, and caches learn that others may."""
    told = compressed(request(None), LARGE)
    assert (told.body, told.headers) == (LARGE.body, (("Vary", "Accept-Encoding"),))


def test_large_text_is_compressed_and_says_so() -> None:
    """JSON and text of some size are compressed, the same each time, beside the headers that they have."""
    for kind in ("application/json; charset=utf-8", "text/plain; version=0.0.4; charset=utf-8"):
        told = compressed(request("gzip"), Response(200, LARGE.body, kind, (("X-Other", "y"),)))
        assert gzip.decompress(told.body) == LARGE.body
        assert len(told.body) < len(LARGE.body) / 10
        assert told.headers == (("X-Other", "y"), ("Vary", "Accept-Encoding"), ("Content-Encoding", "gzip"))
        assert told.body == compressed(request("gzip"), LARGE).body


def test_errors_are_compressed_like_answers() -> None:
    """A long error, too."""
    told = compressed(request("gzip"), error_response(400, "InvalidRequest", "x" * MIN_BYTES))
    assert told.status == 400
    assert b"InvalidRequest" in gzip.decompress(told.body)


@pytest.mark.parametrize(
    "response",
    [
        Response(body=b"x" * (MIN_BYTES - 1)),
        Response(204),
        Response(302, b"", "text/plain; charset=utf-8", (("Location", "https://pds/"),)),
        Response(body=b"x" * 10_000, content_type="application/vnd.ipld.car"),
    ],
    ids=["small", "no content", "a redirect", "no text"],
)
def test_what_is_not_worth_it_stays_as_it_is(response: Response) -> None:
    """Small, empty and binary answers are left alone."""
    assert compressed(request("gzip"), response) is response


def test_who_takes_gzip_only_gets_small_answers_in_it() -> None:
    """`identity;q=0` is respected where there is a body."""
    told = compressed(request("gzip, identity;q=0"), Response(body=b"{}"))
    assert gzip.decompress(told.body) == b"{}"
    assert compressed(request("gzip, identity;q=0"), Response(204)).body == b""


def test_over_the_wire(running: Running) -> None:
    """GET gets gzip with its length, HEAD the same headers without the body, others the plain answer."""
    with running.client() as client:
        plain = client.request("GET", "/big/50000")
        assert (len(plain.body), plain.headers["vary"]) == (50_000, "Accept-Encoding")
        assert "content-encoding" not in plain.headers
        told = client.request("GET", "/big/50000", {"Accept-Encoding": "br, gzip"})
        assert gzip.decompress(told.body) == plain.body
        assert int(told.headers["content-length"]) == len(told.body) < 1000
        head = client.request("HEAD", "/big/50000", {"Accept-Encoding": "br, gzip"})
        assert head.body == b""
        assert {**head.headers, "date": ""} == {**told.headers, "date": ""}
        assert client.request("GET", "/big/50000").body == plain.body


def test_the_epoll_thread_compresses_nothing(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compression happens in handler threads: others' answers do not wait for it."""
    threads: list[str] = []
    make = zlib.compressobj

    def noted(*given: int) -> object:
        threads.append(threading.current_thread().name)
        return make(*given)

    monkeypatch.setattr(zlib, "compressobj", noted)
    with running.client() as client:
        client.send(request_bytes("GET", "/big/50000", {"Accept-Encoding": "gzip"}) * 3)
        client.send(request_bytes("GET", "/now", {"Accept-Encoding": "gzip"}))
        for _ in range(3):
            assert client.answer().headers["content-encoding"] == "gzip"
        assert "content-encoding" not in client.answer().headers
    assert len(threads) == 3
    assert all(name.startswith("http-handler-") for name in threads)
