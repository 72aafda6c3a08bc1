"""zlay._fast.pumps: files to sockets by the least means, and readers that hold up nobody."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from zlay._fast.pumps import Pump, drain

if TYPE_CHECKING:
    from pathlib import Path

WAIT_S = 60.0
SIZE = 3_000_000  # more than a pair of sockets holds


Pairs = Callable[[int], tuple[list[socket.socket], list[socket.socket]]]


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    """Makes so many connected pairs of TCP: non-blocking senders, and readers."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:

        def make(n: int) -> tuple[list[socket.socket], list[socket.socket]]:
            senders, readers = [], []
            for _ in range(n):
                readers.append(stack.enter_context(socket.create_connection(listener.getsockname(), WAIT_S)))
                senders.append(stack.enter_context(listener.accept()[0]))
                senders[-1].setblocking(False)
            return senders, readers

        yield make


def received(sock: socket.socket, n: int) -> bytes:
    """Exactly n bytes."""
    parts = []
    while n:
        parts.append(sock.recv(min(n, 1 << 20)))
        assert parts[-1]
        n -= len(parts[-1])
    return b"".join(parts)


def test_every_socket_gets_every_piece(pairs: Pairs, tmp_path: Path) -> None:
    """The pieces come out whole and in order on each socket, however little one takes at a time."""
    data = os.urandom(SIZE)
    path = tmp_path / "file"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    senders, readers = pairs(3)
    got: dict[int, bytes] = {}

    def read(number: int) -> None:
        got[number] = received(readers[number], SIZE - 100 + 7)

    try:
        pump = Pump([sock.fileno() for sock in senders], [(fd, 100, SIZE), (fd, 0, 7)], 70_000)
        pump.fill()
        threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        assert 0 <= pump.run() < WAIT_S
        for thread in threads:
            thread.join(WAIT_S)
    finally:
        os.close(fd)
    assert list(got.values()) == [data[100:] + data[:7]] * 3


def test_a_pump_goes_step_by_step(pairs: Pairs, tmp_path: Path) -> None:
    """Each step brings every socket one piece; one that was full gets what it missed at a later step."""
    data = os.urandom(SIZE)
    path = tmp_path / "file"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    senders, readers = pairs(2)
    cuts = [0, 5, 6, SIZE - 9, SIZE]
    try:
        pieces = [(fd, start, end) for start, end in itertools.pairwise(cuts)]
        pump = Pump([sock.fileno() for sock in senders], pieces, SIZE)
        assert pump.step() >= 0
        assert [sock.recv(100) for sock in readers] == [data[:5]] * 2
        for _ in range(3):  # more than a socket holds
            pump.step()
        got = [b"", b""]
        while any(len(part) < SIZE - 5 for part in got):
            for number, sock in enumerate(readers):
                if len(got[number]) < SIZE - 5:
                    got[number] += sock.recv(1 << 20)
            pump.step()
    finally:
        os.close(fd)
    assert got == [data[5:]] * 2


def test_a_pump_says_when_a_socket_or_a_file_ends(pairs: Pairs, tmp_path: Path) -> None:
    """A socket whose reader has gone, or a file shorter than its piece, is an OSError, not a shorter run."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    fd = os.open(path, os.O_RDONLY)
    try:
        senders, _ = pairs(1)
        with pytest.raises(OSError, match="takes nothing"):
            Pump([senders[0].fileno()], [(fd, 0, 2000)], 500).fill()
        senders, _ = pairs(1)
        senders[0].shutdown(socket.SHUT_WR)
        with pytest.raises(OSError, match="takes nothing"):
            Pump([senders[0].fileno()], [(fd, 0, 1000)], 500).fill()
    finally:
        os.close(fd)


def test_draining_ends_when_every_socket_has_brought_its_share(pairs: Pairs) -> None:
    """Each socket is read up to what is wanted of it; one that wants nothing is left alone; an early end fails."""
    senders, readers = pairs(3)
    senders[0].send(b"a" * 10)
    writer = threading.Timer(0.05, lambda: senders[1].send(b"b" * 20))
    writer.start()
    senders[2].send(b"c")
    drain([sock.fileno() for sock in readers], [10, 20, 0])
    writer.join()
    assert readers[2].recv(10) == b"c"
    senders[0].close()
    with pytest.raises(OSError, match="broke off"):
        drain([readers[0].fileno()], [1])
