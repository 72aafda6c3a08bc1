"""Consumers that mean harm, or whose network does: each costs its own connection only, and not for ever."""

from __future__ import annotations

import ctypes
import random
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.eventlog.support import WAIT_S, append, message, until
from tests.firehose.client import BINARY, CLOSE, PING, Client, masked
from tests.firehose.serving import ended, error_of, serving
from zlay._fast import segments
from zlay.firehose.consumers import TooManyConsumers

if TYPE_CHECKING:
    from pathlib import Path

    from zlay.eventlog.log import EventLog
    from zlay.firehose.consumers import Consumers

SO_ATTACH_FILTER = 26  # socket(7)
TCP_WINDOW_CLAMP = 10
# A packet filter of one instruction, `ret #0`: no byte of any packet passes (linux/filter.h).
DROP_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0), 8)


def go_silent(sock: socket.socket) -> None:
    """As if the cable were cut: every packet that comes for the socket is dropped, so nothing is acknowledged."""
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(DROP_ALL)))


def served_beside(log: EventLog, consumers: Consumers, n: int = 10) -> None:
    """A good consumer that joins now gets what is logged now."""
    until("what was logged before is published", lambda: log.published_end == log.appended_end)
    good = Client.connect(consumers)
    first = log.published_end + 1
    for _ in range(n):
        append(log, "beside")
    assert good.seqs(n) == list(range(first, first + n))
    good.close()


@pytest.mark.parametrize("behind", [False, True])
def test_a_half_open_connection_is_found_out(tmp_path: Path, behind: bool) -> None:
    """A consumer whose packets all vanish, idle or with events under way, is gone once nothing is acknowledged for
    too long; the ping that finds it out is the only traffic it costs."""
    with serving(tmp_path, ping_s=0.1, dead_s=0.5) as (log, consumers):
        before = consumers.disconnects()["client_gone"]
        client = Client.connect(consumers, tcp=True)
        append(log, "seen")
        assert client.seq() == 1
        go_silent(client.sock)
        if behind:
            append(log, "never seen")
        ended(consumers, "client_gone", before + 1)
        served_beside(log, consumers)


def test_a_half_closed_connection_ends(tmp_path: Path) -> None:
    """A consumer that ends its own direction without a close frame has gone (RFC 6455 7.1.4): its end of stream is
    the end of ours."""
    with serving(tmp_path) as (log, consumers):
        before = consumers.disconnects()["client_gone"]
        client = Client.connect(consumers, tcp=True)
        client.sock.shutdown(socket.SHUT_WR)
        ended(consumers, "client_gone", before + 1)
        assert client.sock.recv(1) == b""
        served_beside(log, consumers)


def test_a_window_of_next_to_nothing_is_no_progress(tmp_path: Path) -> None:
    """A consumer that clamps its window and takes a byte now and then makes no progress that a write could see: it
    ends as too slow, while others get everything."""
    with serving(tmp_path, slow_s=0.5, error_s=0.2) as (log, consumers):
        before = consumers.disconnects()["too_slow"]
        drip = Client.connect(consumers, tcp=True, buffers=4_096)
        drip.sock.setsockopt(socket.IPPROTO_TCP, TCP_WINDOW_CLAMP, 1)
        for _ in range(10):
            append(log, "x" * 200_000)
        stop = threading.Event()

        def sip() -> None:
            while not stop.is_set():
                try:
                    if not drip.sock.recv(1):
                        return
                except OSError:
                    return
                stop.wait(0.02)

        sipping = threading.Thread(target=sip)
        sipping.start()
        try:
            served_beside(log, consumers)
            ended(consumers, "too_slow", before + 1)
        finally:
            stop.set()
            drip.sock.shutdown(socket.SHUT_RDWR)
            sipping.join(WAIT_S)


def test_a_steady_sipper_does_not_hold_what_retention_took(tmp_path: Path) -> None:
    """A consumer that reads on slowly in a segment that retention has taken away is given a while, not the rest of its
    life: then it ends with ConsumerTooSlow, and the disk space is free."""
    with serving(tmp_path, grace_s=0.5) as (log, consumers):
        before = consumers.disconnects()["retention"]
        texts = ["x" * 2_000_000] * 6
        for text in texts:
            append(log, text)
        assert log.wait_synced(6, WAIT_S)
        client = Client.connect(consumers, 0, buffers=4_096)
        client._bytes += client.sock.recv(1_000)
        segments.retain(0, 1, 0, 2**64 - 1, 0)
        assert log.oldest_seq == 6
        assert int(str(log.status()["segments_held_bytes"])) > 10_000_000
        finishing = time.monotonic() + WAIT_S
        while not any(row.state == "finishing" for row in consumers.stats()):
            assert time.monotonic() < finishing, "it may read for ever"
            client._bytes += client.sock.recv(1_000)
            time.sleep(0.001)  # the consumer's own slowness
        assert client.frame() == (BINARY, message(1, texts[0]))  # the frame that was under way is whole
        assert error_of(client.frame()[1]) == "ConsumerTooSlow"
        assert client.close_code() == 1008
        ended(consumers, "retention", before + 1)
        until("the segment is still held", lambda: log.status()["segments_held_bytes"] == 0)


def test_masked_garbage_ends_the_connection_or_means_nothing(tmp_path: Path) -> None:
    """Random bytes, masked or not, are read past or end their own connection with 1002; never more than that."""
    rng = random.Random(7)
    with serving(tmp_path, error_s=0.3) as (log, consumers):
        before = consumers.disconnects()
        clients = []
        for i in range(60):
            clients.append(Client.connect(consumers))
            payload = rng.randbytes(rng.randrange(1, 125))
            if i % 3 == 0:
                garbage = rng.randbytes(300)
            elif i % 3 == 1:
                garbage = bytes((rng.randrange(256), 0x80 | len(payload))) + rng.randbytes(4) + payload
            else:
                garbage = masked(rng.choice((1, 2, 9, 10)), payload) + masked(rng.randrange(16), payload)
            clients[-1].sock.sendall(garbage)
        served_beside(log, consumers)
        for client in clients:
            client.close()
        until("consumers are left", lambda: consumers.count() == 0)
        after = consumers.disconnects()
        assert after["protocol_error"] > before["protocol_error"]
        assert {name for name in after if after[name] > before[name]} <= {
            *("protocol_error", "client_gone", "client_closed"),
        }


def test_a_text_message_without_end(tmp_path: Path) -> None:
    """A message of 2^40 bytes is read past as it comes, throttled, and nothing of it is kept; events still come."""
    with serving(tmp_path) as (log, consumers):
        client = Client.connect(consumers, tcp=True)
        client.sock.sendall(b"\x81\xff" + (1 << 40).to_bytes(8, "big") + bytes(4))
        stop = threading.Event()

        def talk() -> None:
            client.sock.settimeout(0.2)
            while not stop.is_set():
                try:
                    client.sock.send(b"t" * 65_536)
                except TimeoutError:
                    continue

        talking = threading.Thread(target=talk)
        talking.start()
        try:
            for _ in range(10):
                append(log, "x")
            until("no events come", lambda: [row.events for row in consumers.stats()] == [10])
            served_beside(log, consumers)
        finally:
            stop.set()
            talking.join(WAIT_S)


def test_pings_beyond_count_while_served(tmp_path: Path) -> None:
    """Thousands of pings from a consumer that reads are answered at most one for a frame or a look at the socket, and
    its events come in order between them."""
    with serving(tmp_path) as (log, consumers):
        client = Client.connect(consumers, tcp=True)
        client.sock.sendall(masked(PING, b"!") * 5_000)
        for _ in range(50):
            append(log, "x")
        seqs, pongs = [], 0
        while len(seqs) < 50:
            opcode, data = client.frame()
            if opcode == BINARY:
                seqs.append(len(seqs) + 1)
                assert data == message(seqs[-1], "x")
            else:
                pongs += 1
                assert data == b"!"
        assert pongs < 1_000
        client.sock.sendall(masked(CLOSE, b"\x03\xe8"))


def test_an_ipv6_customer_is_one_client(tmp_path: Path) -> None:
    """The addresses of one IPv6 /64 share their places; another /64, and every IPv4 address, has its own."""
    with serving(tmp_path, per_address=2) as (_log, consumers):
        first = Client.connect(consumers, address="2001:db8::1")
        Client.connect(consumers, address="2001:db8::ffff:2")
        with pytest.raises(TooManyConsumers, match="address"):
            consumers.admit("2001:db8::3")
        Client.connect(consumers, address="2001:db8:0:1::1")
        Client.connect(consumers, address="192.0.2.1")
        first.close()
        until("the place is not given back", lambda: consumers.count() == 3)
        Client.connect(consumers, address="2001:db8::4")
