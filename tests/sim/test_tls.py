"""Hosts of the simulation that speak TLS: their certificates hold, for those who trust the sim's authority."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from zlay.sim.process import SimProcess
from zlay.sim.tls import NAMES_PER_CERTIFICATE, Authority

DEADLINE_S = 20.0


def ask(port: int, name: str, ca: str) -> bytes:
    """The answer to describeServer, by the strictest TLS that Python has."""
    context = ssl.create_default_context(cafile=ca)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as raw,
        context.wrap_socket(raw, server_hostname=name) as sock,
    ):
        sock.sendall(b"GET /xrpc/com.atproto.server.describeServer HTTP/1.1\r\nHost: x\r\n\r\n")
        return sock.recv(4096)


def test_hosts_serve_https_and_the_rest_http() -> None:
    """Every host answers by https for its name and address, is listed by its URL, and the authority goes in the end."""
    with SimProcess("--tls", "--hosts", "2", "--accounts", "4") as sim:
        assert sim.ca is not None
        ports = [int(url.removeprefix("https://localhost:")) for url in sim.hosts]
        for port in ports:
            for name in ("localhost", "127.0.0.1"):
                assert ask(port, name, sim.ca).startswith(b"HTTP/1.1 200 OK")
        assert sim.upstream.startswith("http://")
        assert sim.stats()["hosts"] == 2
    assert not Path(sim.ca).exists()


def test_a_certificate_for_many_addresses() -> None:
    """Hosts with addresses of their own share certificates, each of which holds for all of its names and no other."""
    authority = Authority()
    names = [f"127.1.0.{number}" for number in range(1, NAMES_PER_CERTIFICATE + 1)]
    server = authority.context([("IP", name) for name in names])
    trusting = ssl.create_default_context(cafile=authority.path)
    authority.close()
    for name in (names[0], names[-1]):
        shake_hands(server, trusting, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, trusting, "127.1.1.1")


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """A handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        try:
            ends[0].do_handshake()
            ends.pop(0)
        except ssl.SSLWantReadError:
            ends.reverse()
