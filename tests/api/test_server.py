"""The HTTP server at its sockets: slow, rude, greedy and vanishing clients."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from tests.api.support import UPGRADE, WAIT_S, Client, Echo, Running, request_bytes, wait_until
from zlay.api import admission, conversations, listening, server
from zlay.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A server on two ports whose router tells what it was asked, and that looks at its deadlines often."""
    monkeypatch.setattr(server, "SWEEP_S", 0.05)
    with Running() as one:
        yield one


def echo(running: Running) -> Echo:
    """The router of `running`."""
    assert isinstance(running.router, Echo)
    return running.router


def refusals(running: Running) -> dict[str, int]:
    """What the server has counted as refused, by reason."""
    return {reason: n for reason, n in running.server.tally.refused.items() if n}


def reset(client: Client) -> None:
    """Ends a connection the rude way."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()


# --- requests, whole and in pieces ---


def test_a_request_is_answered_whatever_the_pieces_it_comes_in(running: Running) -> None:
    """A request with a body, one byte to a segment, is answered like a whole one, on a connection that stays open."""
    whole = request_bytes("POST", "/a%20b?c=d", {"Content-Type": "text/plain"}, b"hello")
    with running.client() as client:
        for _ in range(2):
            for n in range(len(whole)):
                client.send(whole[n : n + 1])
            told = client.answer()
            assert told.status == 200
            assert told.json == {
                "method": "POST",
                "path": "/a b",
                "query": "c=d",
                "body": "hello",
                "address": "127.0.0.1",
                "internal": False,
            }
        assert told.headers["server"].endswith("(atproto-relay)")
        assert told.headers["access-control-allow-origin"] == "*"


def test_each_port_knows_itself(running: Running) -> None:
    """The metrics port's requests are marked as internal, the public port's are not."""
    with running.client() as outside, running.client(internal=True) as inside:
        assert outside.request("GET", "/").json["internal"] is False
        assert inside.request("GET", "/").json["internal"] is True


def test_head_has_no_body(running: Running) -> None:
    """HEAD gets the headers of GET, its length included, and no body: the next answer follows at once."""
    with running.client() as client:
        told = client.request("HEAD", "/big/1000")
        assert (told.status, told.headers["content-length"], told.body) == (200, "1000", b"")
        assert client.request("GET", "/big/3").body == b"xxx"


def test_chunked_bodies_and_expect(running: Running) -> None:
    """A chunked body is put together, and a client that waits for 100 Continue gets it before its body is due."""
    with running.client() as client:
        client.send(request_bytes("POST", "/", {"Transfer-Encoding": "chunked"}) + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert client.answer().json["body"] == "abcde"
        client.send(request_bytes("POST", "/", {"Expect": "100-continue", "Content-Length": "2"}))
        assert client.answer().status == 100
        client.send(b"ok")
        assert client.answer().json["body"] == "ok"


def test_the_absolute_form_without_a_path(running: Running) -> None:
    """A target in the absolute form, in any case, may have no path."""
    with running.client() as client:
        assert client.request("GET", "HTTPS://relay.test").json["path"] == "/"


def test_connection_close_and_http_1_0_end_after_the_answer(running: Running) -> None:
    """A client that asks for the end, or speaks HTTP/1.0, gets its answer and then the end."""
    with running.client() as client:
        assert client.request("GET", "/", {"Connection": "close"}).status == 200
        assert client.at_end()
    with running.client() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.answer().status == 200
        assert client.at_end()


def test_a_half_closed_client_gets_its_answers(running: Running) -> None:
    """A client that sends its requests and then its end gets all answers before the server's end."""
    with running.client() as client:
        client.send(request_bytes("GET", "/1") + request_bytes("GET", "/now") + request_bytes("GET", "/2"))
        client.sock.shutdown(socket.SHUT_WR)
        assert client.answer().json["path"] == "/1"
        assert client.answer().json == {"now": True}
        assert client.answer().json["path"] == "/2"
        assert client.at_end()


# --- faults of ours ---


@pytest.mark.parametrize("path", ["/broken", "/now-broken"])
def test_a_handler_that_fails_costs_its_request(running: Running, path: str) -> None:
    """A fault of ours is a 500 with the error form, and connection and server go on."""
    with running.client() as client:
        told = client.request("GET", path)
        assert (told.status, told.json["error"]) == (500, "InternalServerError")
        assert "broken" not in told.json["message"]
        assert client.request("GET", "/").status == 200


def test_an_answer_that_cannot_be_sent_costs_its_connection(running: Running) -> None:
    """A header with a line break in it never reaches the wire; the other connections go on."""
    with running.client() as other, running.client() as client:
        assert other.request("GET", "/").status == 200
        client.send(request_bytes("GET", "/bad-header"))
        assert client.at_end()
        assert other.request("GET", "/").status == 200


# --- time ---


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1"],
    ids=["nothing", "a letter", "headers without end", "half a body"],
)
@pytest.mark.parametrize("is_internal", [False, True], ids=["public", "internal"])
def test_half_a_request_has_a_deadline(
    running: Running, monkeypatch: pytest.MonkeyPatch, sent: bytes, is_internal: bool
) -> None:
    """A client that stops in the middle of its first request is told so (408) and let go at the deadline; one that has
    sent nothing is let go."""
    monkeypatch.setattr(conversations, "REQUEST_DEADLINE_S", 0.3)
    with running.client(internal=is_internal) as client:
        client.send(sent)
        if sent:
            told = client.answer()
            assert (told.status, told.json["error"]) == (408, "RequestTimeout")
            assert told.headers["connection"] == "close"
        assert client.at_end()
    assert refusals(running) == {"slow_request" if sent else "silent": 1}
    wait_until(lambda: running.server.connections == 0, "the connection is counted no more")


@pytest.mark.parametrize("is_internal", [False, True], ids=["public", "internal"])
@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n", b"x"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["headers", "body", "chunks"],
)
def test_a_steady_drip_has_the_same_deadline(
    running: Running, monkeypatch: pytest.MonkeyPatch, head: bytes, drop: bytes, is_internal: bool
) -> None:
    """The deadline counts from a request's first byte, on connections that stay open too, however steady the drip."""
    monkeypatch.setattr(conversations, "REQUEST_DEADLINE_S", 0.3)
    with running.client(internal=is_internal) as client:
        assert client.request("GET", "/").status == 200
        began = time.monotonic()
        client.send(head)
        client.sock.settimeout(0.05)
        while not client.received:
            assert time.monotonic() - began < WAIT_S
            client.send(drop)
            with contextlib.suppress(TimeoutError):
                client.received += client.sock.recv(65536)
        client.sock.settimeout(WAIT_S)
        assert client.answer().status == 408
        assert client.at_end()
    assert refusals(running) == {"slow_request": 1}


def test_an_idle_connection_has_a_deadline_of_its_own(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between requests a connection may rest for longer than a request may take, and not for ever."""
    monkeypatch.setattr(conversations, "REQUEST_DEADLINE_S", 0.2)
    monkeypatch.setattr(conversations, "IDLE_DEADLINE_S", 1.5)
    with running.client() as client:
        assert client.request("GET", "/").status == 200
        client.sock.settimeout(0.7)  # past the request deadline and a sweep
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        assert client.request("GET", "/").status == 200
        client.sock.settimeout(WAIT_S)
        assert client.at_end()


# --- greed ---


def test_a_client_that_does_not_read_is_not_read(running: Running) -> None:
    """Pipelined requests whose answers are not taken stop being read: what the server holds for them is bounded."""
    with running.client() as client:
        client.sock.settimeout(1.0)
        block = request_bytes("GET", "/now") * 100
        sent = 0
        with pytest.raises(TimeoutError):  # noqa: PT012 - sends until TCP pushes back
            while sent < 1 << 28:
                sent += client.sock.send(block)
        client.sock.settimeout(WAIT_S)
        held = sum(len(one.out) for one in running.server._conversations._clients.values())
        assert held < 2 * conversations.RECEIVE_BYTES * 4  # what the requests of one read are answered
        with running.client() as other:
            assert other.request("GET", "/").status == 200
        for _ in range(1000):  # and it goes on where it stood
            assert client.answer().json == {"now": True}


def test_a_large_answer_reaches_a_slow_reader_whole(running: Running) -> None:
    """An answer larger than all buffers arrives whole at a client that reads late, and the connection goes on."""
    with running.client() as client:
        client.send(request_bytes("GET", "/big/20000000") + request_bytes("GET", "/after"))
        wait_until(lambda: any(one.out for one in running.server._conversations._clients.values()), "the answer waits")
        told = client.answer()
        assert len(told.body) == 20_000_000
        assert client.answer().json["path"] == "/after"


def test_an_answer_that_nobody_takes_has_a_deadline(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that never takes its answer is let go."""
    monkeypatch.setattr(conversations, "WRITE_DEADLINE_S", 0.3)
    with running.client() as client:
        client.send(request_bytes("GET", "/big/50000000"))
        wait_until(lambda: running.server.tally.requests == 1, "the request is read")
        wait_until(lambda: running.server.connections == 0, "the connection is gone")
        assert refusals(running) == {"slow_reader": 1}


def test_answers_nobody_takes_are_bounded_together(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the answers that wait for clients are too many bytes together, those that wait longest are let go."""
    unsent = running.server._conversations._unsent
    monkeypatch.setattr(unsent, "most", 50_000_000)
    clients = [running.client() for _ in range(4)]

    def answered() -> int:
        return 4 - running.server.connections + len(unsent._of)

    wait_until(lambda: running.server.connections == 4, "all are there")
    for count, client in enumerate(clients, 1):
        client.send(request_bytes("GET", "/big/20000000"))
        wait_until(lambda count=count: answered() == count, "it is answered")
        assert unsent.bytes < 50_000_000
    assert running.server.connections < 4
    assert refusals(running) == {"unsent_full": 4 - running.server.connections}
    assert len(clients[-1].answer().body) == 20_000_000
    with pytest.raises((EOFError, ConnectionResetError)):
        clients[0].answer()
    for client in clients:
        client.sock.close()
    wait_until(lambda: running.server.connections == 0, "all are gone")
    assert unsent.bytes == 0


def test_requests_over_what_the_pool_holds_are_told_so(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every handler busy and the queue full, a request gets 503 at once, health an answer, the metrics port its
    own handlers; later all is answered."""
    monkeypatch.setattr(running.server._pools[False], "_most_waiting", 20)
    busy = [running.client() for _ in range(20)]
    try:
        for client in busy:
            client.send(request_bytes("GET", "/wait"))
        for _ in range(server.HANDLERS):
            assert echo(running).at_gate.acquire(timeout=WAIT_S)
        wait_until(lambda: running.server.waiting == 20, "all requests are in")
        with running.client() as client:
            told = client.request("GET", "/")
            assert (told.status, told.json["error"], told.headers["retry-after"]) == (503, "ServiceUnavailable", "5")
            assert client.request("GET", "/now").status == 200
            client.send(request_bytes("GET", "/take", UPGRADE) + request_bytes("GET", "/") * 600)  # no deep recursion
            for _ in range(601):
                assert client.answer().status == 503
            assert refusals(running) == {"handlers_full": 602}
        with running.client(internal=True) as client:
            assert client.request("GET", "/").status == 200
        echo(running).gate.set()
        for client in busy:
            assert client.answer().status == 200
    finally:
        for client in busy:
            client.sock.close()
    wait_until(lambda: running.server.waiting == 0, "nothing waits")


def test_connections_have_limits_by_address_and_port(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection over a limit is told so and closed at once; a full public port leaves the metrics port open; who
    goes makes room."""
    monkeypatch.setattr(admission, "MAX_CONNECTIONS", 3)
    clients = [running.client() for _ in range(3)]
    for client in clients:
        assert client.request("GET", "/").status == 200
    with running.client() as over:
        told = over.answer()
        assert (told.status, told.json["error"], told.headers["retry-after"]) == (503, "ServiceUnavailable", "5")
        assert told.headers["access-control-allow-origin"] == "*"
        assert over.at_end()
    with running.client(internal=True) as inside:
        assert inside.request("GET", "/").status == 200
        monkeypatch.setattr(admission, "MAX_CONNECTIONS", 100)
        monkeypatch.setattr(admission, "MAX_CONNECTIONS_PER_CLIENT", 3)
        with running.client() as over:
            told = over.answer()
            assert (told.status, told.json["error"]) == (429, "RateLimitExceeded")
            assert over.at_end()
        with running.client(internal=True) as more:
            assert more.request("GET", "/").status == 200
    assert refusals(running) == {"port_full": 1, "address_full": 1}
    for client in clients:
        client.sock.close()
    wait_until(lambda: running.server.connections == 0, "all are gone")
    with running.client() as client:
        assert client.request("GET", "/").status == 200


def test_who_rests_makes_room(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new connection to a full port takes the place of the one that has rested for longest, silent or between
    requests, not of one in a request or one that has just been answered."""
    monkeypatch.setattr(admission, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(conversations, "REST_S", 60.0)
    half, idle, silent, busy = (running.client() for _ in range(4))
    half.send(b"GET / HTTP/1.1\r\n")
    assert idle.request("GET", "/").status == 200
    busy.send(request_bytes("GET", "/wait"))
    assert echo(running).at_gate.acquire(timeout=WAIT_S)
    wait_until(lambda: len(running.server._conversations._resting[False]) == 2, "two rest")
    with running.client() as over:
        assert over.answer().status == 503
    monkeypatch.setattr(conversations, "REST_S", 0.0)
    with running.client() as first, running.client() as second:
        assert first.request("GET", "/").status == 200
        assert second.request("GET", "/").status == 200
        assert silent.at_end()
        assert idle.at_end()
        assert refusals(running) == {"port_full": 1, "crowded_out": 2}
        half.send(b"Host: a\r\n\r\n")
        assert half.answer().status == 200
        echo(running).gate.set()
        assert busy.answer().status == 200
    for client in (half, idle, silent, busy):
        client.sock.close()
    wait_until(lambda: running.server.connections == 0, "all are gone")
    assert running.server._conversations._resting == {False: {}, True: {}}


def test_running_out_of_descriptors_pauses_accepting(running: Running) -> None:
    """With no descriptor left connections wait, what is open is served, and accepting goes on when there are some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with running.client() as early:
        assert early.request("GET", "/").status == 200
        late = socket.socket()
        late.settimeout(WAIT_S)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        spare: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):  # noqa: PT012 - takes all there are
                while True:
                    spare.append(os.open("/dev/null", os.O_RDONLY))
            late.connect(running.public)  # into the backlog
            late.sendall(request_bytes("GET", "/now"))
            wait_until(lambda: running.server._accept_after > 0, "accepting is paused")
            assert refusals(running).keys() == {"no_descriptors"}
            assert early.request("GET", "/").status == 200
        finally:
            for fd in spare:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert late.recv(100).startswith(b"HTTP/1.1 200")
        late.close()


def test_what_the_kernel_keeps_of_a_connection_is_bounded(running: Running) -> None:
    """A client that sends without reading, or asks for a large answer without reading, fills no more of the kernel's
    memory than is set; a consumer's socket has the system's own bound for what is to be sent."""
    with running.client() as client:
        client.send(request_bytes("GET", "/wait"))
        assert echo(running).at_gate.acquire(timeout=WAIT_S)
        (one,) = running.server._conversations._clients.values()
        received = one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert received == 2 * listening.RECEIVE_BUFFER_BYTES
        unsent = one.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        assert unsent == listening.MAX_KERNEL_UNSENT_BYTES
    with running.client() as client:
        client.send(request_bytes("GET", "/take", UPGRADE))
        wait_until(lambda: bool(echo(running).taken), "it is taken")
        assert echo(running).taken[0][0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 0


# --- vanishing clients, upgrades ---


def test_a_client_that_vanishes_while_it_is_answered(running: Running) -> None:
    """A reset while a handler works costs no CPU, no handler and no place."""
    client = running.client()
    client.send(request_bytes("GET", "/wait"))
    assert echo(running).at_gate.acquire(timeout=WAIT_S)
    reset(client)
    wait_until(
        lambda: all(one.interest < 0 for one in running.server._conversations._clients.values()),
        "epoll is done with it",
    )
    assert running.server.connections == 1
    echo(running).gate.set()
    wait_until(lambda: running.server.connections == 0, "it is counted no more")


def test_an_upgrade_leaves_with_its_socket_and_what_came_with_it(running: Running) -> None:
    """A socket that is taken over is the taker's, with the bytes that came behind the request, and out of the books."""
    with running.client() as client:
        client.send(request_bytes("GET", "/take", UPGRADE) + b"\x89\x80abcd")
        wait_until(lambda: bool(echo(running).taken), "it is taken")
        sock, leftover = echo(running).taken[0]
        wait_until(lambda: running.server.connections == 0, "it is out of the books")
        assert leftover == b"\x89\x80abcd"
        sock.sendall(b"from its new owner")
        assert client.sock.recv(100) == b"from its new owner"


def test_descriptors_of_upgrades_come_back_while_their_upgrade_is_not_over(running: Running) -> None:
    """Sockets that are taken over and closed at once, their descriptors in use again, confuse no counts."""
    for _ in range(50):
        with running.client() as client:
            client.send(request_bytes("GET", "/take", UPGRADE))
            wait_until(lambda: bool(echo(running).taken), "it is taken")
            sock, _ = echo(running).taken.pop()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 0
            sock.close()
            with running.client() as other:
                assert other.request("GET", "/now").status == 200
    wait_until(lambda: running.server.connections == 0, "none is counted")
    assert running.server._conversations._admission.clients == 0


def test_a_refused_upgrade_goes_on_as_http(running: Running) -> None:
    """An upgrade that is refused gets its answer, and the connection serves the next request."""
    with running.client() as client:
        assert client.request("GET", "/elsewhere", UPGRADE).json == {"refused": True}
        assert client.request("GET", "/").status == 200


# --- who asks ---


def test_forwarded_addresses_count_behind_trusted_proxies_only() -> None:
    """X-Forwarded-For names the client only when a trusted proxy says so, and only up to the first hop nobody vouches
    for, in one header line or in several."""
    ask = {"X-Forwarded-For": "1.1.1.1, 2.2.2.2"}
    with Running() as plain, plain.client() as client:
        assert client.request("GET", "/", ask).json["address"] == "127.0.0.1"
    with Running(trusted_proxies=("127.0.0.0/8", "3.3.3.3")) as behind, behind.client() as client:
        assert client.request("GET", "/", ask).json["address"] == "2.2.2.2"
        assert client.request("GET", "/", {"X-Forwarded-For": "2.2.2.2, 3.3.3.3"}).json["address"] == "2.2.2.2"
        assert client.request("GET", "/", {"X-Forwarded-For": "::ffff:2.2.2.2"}).json["address"] == "2.2.2.2"
        assert client.request("GET", "/", {"X-Forwarded-For": "2.2.2.2, rubbish"}).json["address"] == "127.0.0.1"
        assert client.request("GET", "/").json["address"] == "127.0.0.1"
        forged = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 2.2.2.2\r\n\r\n"
        client.send(forged)  # the client's own line above, the proxy's below
        assert client.answer().json["address"] == "2.2.2.2"


# --- start and stop ---


def test_a_taken_port_is_a_clear_refusal(running: Running) -> None:
    """A taken port, or an address that is not ours, is a StartError that names it; nothing stays open."""
    port = running.public[1]
    with pytest.raises(StartError, match=rf"port {port} on 127.0.0.1 is taken"):
        server.HttpServer(Echo(), [("127.0.0.1", 0, False), ("127.0.0.1", port, True)])
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1"):
        server.HttpServer(Echo(), [("192.0.2.1", 0, False)])


def test_both_families_are_served() -> None:
    """`::` serves IPv6 and IPv4, and an IPv4 client is known by its IPv4 address."""
    if not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("no IPv6 here")
    one = Running()
    one.server._listen("::", 0, is_internal=False)
    with one:
        port = one.server.addresses[2][1]
        for address in ("127.0.0.1", "::1"):
            with Client((address, port)) as client:
                assert client.request("GET", "/").json["address"] == address


def test_stop_lets_answers_under_way_out(running: Running) -> None:
    """A stop ends idle connections at once, refuses new ones, and lets a handler's answer out."""
    idle, busy = running.client(), running.client()
    busy.send(request_bytes("GET", "/wait"))
    assert echo(running).at_gate.acquire(timeout=WAIT_S)
    running.server.stop()
    assert idle.at_end()
    echo(running).gate.set()
    assert busy.answer().status == 200
    assert busy.at_end()
    with pytest.raises(ConnectionRefusedError):
        running.client()
    idle.sock.close()
    busy.sock.close()


def test_a_handler_that_ends_after_the_server_rings_nobody(running: Running) -> None:
    """A handler that is still at work when the server is closed does not write to a descriptor of somebody else."""
    client = running.client()
    client.send(request_bytes("GET", "/wait"))
    assert echo(running).at_gate.acquire(timeout=WAIT_S)
    running.server.stop()
    running._threads[0].join(WAIT_S)
    wake = running.server._wake
    running.server.close()
    mine = os.open("/dev/null", os.O_RDONLY)
    readable, writable = os.pipe()
    os.dup2(writable, wake) if wake not in (mine, readable, writable) else None
    os.set_blocking(readable, False)
    echo(running).gate.set()
    for thread in running._threads[1:]:
        thread.join(WAIT_S)
    with pytest.raises(BlockingIOError):
        os.read(readable, 1)
    for fd in {mine, readable, writable, wake}:
        os.close(fd)
    client.sock.close()
