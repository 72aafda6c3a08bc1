"""What the benchmarks of log and fan-out are made of: a prepared log, readers, a cutter of messages."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.reference.log_ref import LogReader
from zlay.bench.filled import filled_log, recorded_batch
from zlay.bench.latency import Cutter, Percentiles, sync_alone
from zlay.bench.readers import Readers, upgraded_socket
from zlay.errors import LocalFault

if TYPE_CHECKING:
    from pathlib import Path


def test_a_prepared_log_knows_what_a_cursor_gets(tmp_path: Path) -> None:
    """Pieces and bytes after a cursor are those of the frames above it, as an independent reader finds them."""
    batch, frame_bytes = recorded_batch(40, 8)
    log = filled_log(tmp_path / "data", batch, frame_bytes, 100 * frame_bytes)
    frames = [event.websocket for event in LogReader.of(tmp_path / "data" / "events")]
    assert log.head == len(frames) == 100
    for cursor in (0, 1, 57, 99, 100):
        after = b"".join(frames[cursor:])
        assert log.bytes_after(cursor) == len(after)
        pieces = []
        for path, start, end in log.pieces(cursor):
            with path.open("rb") as file:
                pieces.append(os.pread(file.fileno(), end - start, start))
        assert b"".join(pieces) == after
    wanted = len(b"".join(frames[57:]))
    assert log.cursor_for(wanted) == 57
    assert log.cursor_for(wanted + 1) == 56
    assert log.cursor_for(10**12) == 0
    with pytest.raises(ValueError, match="no commits"):
        recorded_batch(0, 8)


def test_messages_are_cut_from_a_stream_however_it_comes() -> None:
    """Every message comes out once, whole, whatever the pieces; pings are left out."""
    messages = [b"a", b"b" * 125, b"c" * 126, b"d" * 70_000]
    stream = b""
    for message in messages:
        n = len(message)
        head = bytes([n]) if n < 126 else b"\x7e" + n.to_bytes(2) if n < 65_536 else b"\x7f" + n.to_bytes(8)
        stream += b"\x89\x01p" + b"\x82" + head + message
    for size in (1, 3, 1000, len(stream)):
        cutter, found = Cutter(), []
        for at in range(0, len(stream), size):
            found += cutter.feed(stream[at : at + size])
        assert found == messages


def test_percentiles_need_something_to_measure() -> None:
    """The 99th of a hundred is the greatest but one; of nothing there is none."""
    assert Percentiles.of([float(i) for i in range(100)]) == (50.0, 99.0)
    with pytest.raises(ValueError, match="nothing to measure"):
        Percentiles.of([])


def test_the_disk_alone_is_measured(tmp_path: Path) -> None:
    """Writing and syncing groups takes some time, and nothing of it is left behind."""
    found = sync_alone(tmp_path, 500.0, 0.2, 1000)
    assert 0 < found.p50 <= found.p99
    assert list(tmp_path.iterdir()) == []


def test_readers_drain_what_they_are_sent() -> None:
    """The child's sockets take what is wanted of them once it is told to, and it says so; an early end is a fault."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with Readers(port, ["", ""], 1000) as readers:
            sockets = [listener.accept()[0] for _ in range(2)]
            readers.connected()
            readers.go()
            for sock in sockets:
                sock.sendall(b"x" * 1000)
            readers.done()
            readers.go()  # it may end
        with Readers(port, [""], 1000) as readers:
            sock = listener.accept()[0]
            readers.connected()
            readers.go()
            sock.close()
            with pytest.raises(LocalFault, match="says nothing"):
                readers.done()
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize(
    ("answer", "problem"), [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "refused"), (b"HTTP/1.1 101 ", "not answered")]
)
def test_an_upgrade_that_is_not_granted_is_an_error(answer: bytes, problem: str) -> None:
    """Another status than 101, or none at all, is told as such; nothing is measured on it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock = listener.accept()[0]
            while b"\r\n\r\n" not in sock.recv(4096):
                pass
            sock.sendall(answer)
            sock.close()

        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(OSError, match=problem):
            upgraded_socket(listener.getsockname()[1], "/x")
        server.join()


def test_an_upgrade_leaves_what_follows_it() -> None:
    """Bytes that come with the answer to the upgrade are still there to be read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock = listener.accept()[0]
            sock.recv(4096)
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nx: y\r\n\r\nframes")
            sock.close()

        server = threading.Thread(target=serve)
        server.start()
        with upgraded_socket(listener.getsockname()[1], "/x") as sock:
            server.join()
            assert sock.recv(100) == b"frames"
