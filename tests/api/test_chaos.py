"""Hundreds of clients that do anything at all, for a moment: then nothing of them is left."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import time

from tests.api.support import UPGRADE, Echo, Running, request_bytes, wait_until
from tests.api.test_hostile import HALVES, PASSED, REFUSED
from zlay.api.connection import MAX_BODY_BYTES

SECONDS = 1.5
CLIENTS = 200
STREAMS = [
    *(sent for sent, *_ in REFUSED.values()),
    *(sent for sent, *_ in PASSED.values()),
    *HALVES.values(),
    request_bytes("GET", "/now") * 50,
    request_bytes("GET", "/1") + request_bytes("POST", "/2", body=b"x" * 5000) + request_bytes("HEAD", "/now"),
    request_bytes("POST", "/", body=b"x" * MAX_BODY_BYTES),
    request_bytes("GET", "/big/300000", {"Accept-Encoding": "gzip"}),
    request_bytes("GET", "/big/3000000"),
    request_bytes("GET", "/broken") + request_bytes("GET", "/now-broken"),
    request_bytes("GET", "/bad-header"),
    request_bytes("GET", "/take", UPGRADE) + b"\x81\x80abcd",
    request_bytes("GET", "/else", UPGRADE) + request_bytes("GET", "/after"),
]
RESET = struct.pack("ii", 1, 0)


def act(chance: random.Random, clients: list[tuple[socket.socket, bytes]], port: int) -> None:
    """One client sends some more, reads some, says its end, goes, or vanishes; another one may come."""
    if not clients or (len(clients) < CLIENTS and chance.random() < 0.3):
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        sock.setblocking(False)
        clients.append((sock, b"".join(chance.choices(STREAMS, k=chance.randint(0, 3)))))
        return
    number = chance.randrange(len(clients))
    sock, rest = clients[number]
    with contextlib.suppress(OSError):
        match chance.choices(("send", "read", "end", "close", "reset"), (60, 25, 3, 6, 6))[0]:
            case "send":
                size = chance.choice((1, 10, 1000, 100_000))
                clients[number] = (sock, rest[sock.send(rest[:size]) :] if rest else chance.choice(STREAMS))
            case "read":
                sock.recv(chance.choice((1, 1000, 1 << 20)))
            case "end":
                sock.shutdown(socket.SHUT_WR)
            case "close":
                clients.pop(number)[0].close()
            case "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                clients.pop(number)[0].close()


def test_nothing_is_left_of_clients_that_do_anything() -> None:
    """Whatever hundreds of clients send, read, cut off and reset, beside them everything is answered right, and when
    they are gone no connection, byte, request, place or descriptor of theirs is kept, and nothing was a fault of ours
    but what the test has made one."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    router = Echo()
    before = len(os.listdir("/proc/self/fd"))
    with Running(router) as running:
        clients: list[tuple[socket.socket, bytes]] = []
        started = len(os.listdir("/proc/self/fd"))
        until = time.monotonic() + SECONDS
        number = 0
        with running.client(internal=True) as right:
            while time.monotonic() < until or running.server.tally.requests < 100:
                number += 1
                for port in (running.public[1], running.internal[1]):
                    act(chance, clients, port)
                if number % 20 == 0:
                    assert right.request("GET", f"/{number}").json["path"] == f"/{number}"
                while router.taken:
                    router.taken.pop()[0].close()
        for sock, _ in clients:
            sock.close()
        server, kept = running.server, running.server._conversations
        wait_until(lambda: (server.connections, server.waiting) == (0, 0), "all are gone")
        while router.taken:
            router.taken.pop()[0].close()
        assert (kept._held.bytes, kept._unsent.bytes, kept._admission.clients) == (0, 0, 0)
        assert (kept._resting, len(kept._leaving), kept.has_queued) == ({False: {}, True: {}}, 0, False)
        faults = sum(n for (route, _), n in server.tally.answers.items() if route == "/bad-header")
        assert server.tally.refused["fault"] == faults
        with running.client() as client:
            assert client.request("GET", "/").status == 200
        wait_until(lambda: server.connections == 0, "it is gone, too")
        assert len(os.listdir("/proc/self/fd")) <= started
    assert len(os.listdir("/proc/self/fd")) <= before
