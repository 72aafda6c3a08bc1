"""One connection's HTTP without sockets: every cut of the bytes, every bound."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api.support import UPGRADE, request_bytes
from tests.api.test_hostile import CHUNKED, PASSED, REFUSED
from zlay.api.connection import MAX_CHUNKS, MAX_HEADER_BYTES, HttpConnection, Upgrade
from zlay.api.conversations import RECEIVE_BYTES
from zlay.api.message import Request, Response, json_response


def new() -> HttpConnection:
    """A connection of a client whose address is taken as it is."""
    return HttpConnection("10.0.0.1", is_internal=False, client_address=lambda peer, _headers: peer)


STREAM = (
    request_bytes("GET", "/one")
    + request_bytes("POST", "/two", {"Content-Type": "a/b"}, b"body")
    + request_bytes("PUT", "/three", {"Transfer-Encoding": "chunked"})
    + b"2;x=y\r\nab\r\n1\r\nc\r\n0\r\nTrailer: z\r\n\r\n"
    + request_bytes("HEAD", "/four?q")
)
WANTED = [("GET", "/one", b""), ("POST", "/two", b"body"), ("PUT", "/three", b"abc"), ("HEAD", "/four", b"")]


def requests_in(pieces: list[bytes]) -> list[tuple[str, str, bytes]]:
    """What a connection makes of these pieces, each request answered when it comes."""
    http = new()
    out = []
    for piece in pieces:
        http.feed(piece)
        while (found := http.next()) is not None:
            assert isinstance(found, Request)
            out.append((found.method, found.path, found.body))
            assert http.answer(json_response({})).startswith(b"HTTP/1.1 200")
    assert not http.in_request
    return out


def test_every_cut_of_a_stream_gives_the_same_requests() -> None:
    """Requests do not depend on where the bytes are cut: at each place once, and at all places at once."""
    for n in range(1, len(STREAM)):
        assert requests_in([STREAM[:n], STREAM[n:]]) == WANTED
    assert requests_in([STREAM[n : n + 1] for n in range(len(STREAM))]) == WANTED


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, len(STREAM)))
def test_no_bytes_raise(rubbish: bytes, cut: int) -> None:
    """Whatever follows on whatever part of good requests, a connection gives requests, an error answer, or waits."""
    http = new()
    http.feed(STREAM[:cut] + rubbish)
    for _ in range(200):
        found = http.next()
        if found is None:
            return
        if isinstance(found, Response):
            assert found.status >= 400
            assert http.answer(found).startswith(b"HTTP/1.1 4") or found.status >= 500
            assert not http.keep_alive
            return
        assert isinstance(found, Request | Upgrade)
        http.answer(json_response({}))
    raise AssertionError("more requests than bytes")


@pytest.mark.parametrize("name", REFUSED)
def test_every_cut_of_what_is_refused_is_refused_alike(name: str) -> None:
    """Whatever the pieces a bad request comes in, it gets the same status, and the connection is to end."""
    sent, status, _, _ = REFUSED[name]
    for size in (1, 7, 4096):
        http = new()
        for at in range(0, len(sent), size):
            http.feed(sent[at : at + size])
            found = http.next()
            if found is not None:
                break
        assert isinstance(found, Response)
        assert found.status == status
        answer = http.answer(found)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert not http.keep_alive
        assert http.held_bytes <= len(sent)


def outcome(pieces: list[bytes]) -> list[tuple[str, str, bytes] | int | str]:
    """What a connection makes of these pieces: requests, then the status of a refusal, or "waits"."""
    http = new()
    out: list[tuple[str, str, bytes] | int | str] = []
    for piece in pieces:
        http.feed(piece)
        while (found := http.next()) is not None:
            if isinstance(found, Response):
                return [*out, found.status]
            request = found.request if isinstance(found, Upgrade) else found
            out.append((request.method, request.path, request.body))
            if isinstance(found, Upgrade):
                return [*out, "upgrades"]
            http.answer(json_response({}))
            if not http.keep_alive:
                return [*out, "ends"]
    return [*out, "waits" if http.in_request else "idle"]


ODD = [sent for sent, *_ in PASSED.values()]
BAD = [sent for sent, status, *_ in REFUSED.values() if len(sent) < 500 and status != 413]


DAMAGE = st.sampled_from([b"", b"\r", b"\n", b" ", b"\0", b"0", b":", b"%", b"\xff"])


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from([STREAM, *ODD, *BAD, request_bytes("GET", "/x", UPGRADE)]), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 600), DAMAGE), max_size=4),
    st.lists(st.integers(1, 600), max_size=8),
)
def test_mutants_mean_the_same_however_they_are_cut(
    parts: list[bytes], edits: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    """Good, odd and bad requests, joined and damaged, give the same requests and the same end in one piece, in single
    bytes, and in any other pieces."""
    stream = b"".join(parts)
    for at, new_byte in edits:
        stream = stream[:at] + new_byte + stream[at + 1 :]
    ends = sorted({cut for cut in cuts if cut < len(stream)} | {len(stream)})
    pieces = [stream[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    whole = outcome([stream])
    assert outcome(pieces) == whole
    single = outcome([stream[n : n + 1] for n in range(len(stream))])
    assert single == whole


COSTLY = {
    **{name: sent for name, (sent, *_) in REFUSED.items()},
    "a hundred headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"X:" + b" a" * 75 + b" \r\n") * 98 + b"\r\n",
    "a list": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: " + b"a," * 8_000 + b"\r\n\r\n",
    "percent signs": b"GET /" + b"%41" * 2_600 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "as many chunks as allowed": CHUNKED + b"1\r\nx\r\n" * MAX_CHUNKS + b"0\r\n\r\n",
    "trailers": CHUNKED + b"0\r\n" + b"a:\r\n" * 120 + b"\r\n",
    "blanks in a trailer": CHUNKED + b"0\r\nX:" + b" " * 500 + b"\0\r\n\r\n",
}


@pytest.mark.measures
@pytest.mark.parametrize("name", COSTLY)
def test_no_request_costs_more_than_its_share(name: str) -> None:
    """No piece that can be sent takes the thread that all wait for longer than a twentieth of a second."""
    stream = COSTLY[name]
    best = 1.0
    for _ in range(3):
        http = new()
        took = 0.0
        for at in range(0, len(stream), RECEIVE_BYTES):
            began = time.thread_time()
            http.feed(stream[at : at + RECEIVE_BYTES])
            found = http.next()
            took = max(took, time.thread_time() - began)
            if found is not None:
                break
        best = min(best, took)
    assert best < 0.05


def test_a_head_without_end_is_bounded_however_it_comes() -> None:
    """No more than the largest head and one piece is ever kept, and a byte costs no look at all that came before."""
    http = new()
    http.feed(b"GET / HTTP/1.1\r\nX: ")
    most = 0
    for _ in range(MAX_HEADER_BYTES):
        http.feed(b"a")
        if http.next() is not None:
            break
        most = max(most, http.held_bytes)
    assert MAX_HEADER_BYTES - 20 <= most <= MAX_HEADER_BYTES
    assert http.held_bytes == 0


def test_an_idle_connection_keeps_no_parser() -> None:
    """Between requests nothing of the last one is kept."""
    http = new()
    for method, body in (("POST", b"x" * 1000), ("GET", None)):
        http.feed(request_bytes(method, "/", None, body))
        assert isinstance(http.next(), Request)
        http.answer(json_response({}))
        assert http.next() is None
        assert (http._h11, http._head, len(http._body), http.held_bytes) == (None, None, 0, 0)


def test_in_request_begins_with_the_first_byte() -> None:
    """A request is under way from its first byte to its last, on a connection's first request and on later ones."""
    http = new()
    whole = request_bytes("POST", "/", None, b"12")
    for _ in range(2):
        assert not http.in_request
        for n in range(len(whole) - 1):
            http.feed(whole[n : n + 1])
            assert http.next() is None
            assert http.in_request
        http.feed(whole[-1:])
        assert isinstance(http.next(), Request)
        http.answer(json_response({}))


def test_headers_of_the_most_allowed_length_pass() -> None:
    """Headers as long as allowed pass, and a few bytes more do not, even without an end."""
    room = MAX_HEADER_BYTES - len(request_bytes("GET", "/", {"X": ""}))
    http = new()
    http.feed(request_bytes("GET", "/", {"X": "a" * room})[:-1])
    assert http.next() is None
    http.feed(b"\n")
    found = http.next()
    assert isinstance(found, Request)
    assert found.headers["x"] == "a" * room
    http = new()
    http.feed(request_bytes("GET", "/", {"X": "a" * (room + 2)})[:-1])
    refused = http.next()
    assert isinstance(refused, Response)
    assert refused.status == 431


def test_lines_of_one_header_are_one_list() -> None:
    """Header lines of one name are joined in their order, names in any case."""
    http = new()
    http.feed(b"GET / HTTP/1.1\r\nHost: a\r\nX-List: a\r\nx-list: b\r\n\r\n")
    found = http.next()
    assert isinstance(found, Request)
    assert found.headers["x-list"] == "a, b"


def test_an_upgrade_carries_what_came_behind_it() -> None:
    """An upgrade is told from a request, and has the bytes that came with it, wherever the stream was cut."""
    stream = request_bytes("GET", "/x?cursor=1", UPGRADE) + b"\x81\x00\r\n\r\n"
    head = len(stream) - 6
    for n in range(1, head):
        http = new()
        http.feed(stream[:n])
        assert http.next() is None
        http.feed(stream[n:])
        found = http.next()
        assert isinstance(found, Upgrade)
        assert (found.request.path, found.request.query, found.leftover) == ("/x", "cursor=1", b"\x81\x00\r\n\r\n")
        assert (b"upgrade", b"websocket") in found.raw_headers


def test_no_content_has_no_length() -> None:
    """204 comes without Content-Length, and the connection goes on."""
    http = new()
    http.feed(request_bytes("OPTIONS", "*"))
    assert isinstance(http.next(), Request)
    sent = http.answer(Response(204))
    assert b"content-length" not in sent.lower()
    assert sent.endswith(b"\r\n\r\n")
    http.feed(request_bytes("GET", "/"))
    assert isinstance(http.next(), Request)
