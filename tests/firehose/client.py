"""A consumer for tests: a socket, and what comes out of it in WebSocket frames. Uses nothing of the code under test."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.eventlog.support import HEADER, WAIT_S, payload

if TYPE_CHECKING:
    from zlay.firehose.consumers import Consumers

_sockets: list[socket.socket] = []  # of this test, closed at its end

BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


def hang_up_all() -> None:
    """Close what the tests have left open."""
    for sock in _sockets:
        sock.close()
    _sockets.clear()


def masked(opcode: int, data: bytes = b"") -> bytes:
    """A client's frame, up to 125 bytes of payload, masked with zeros."""
    return bytes((0x80 | opcode, 0x80 | len(data), 0, 0, 0, 0)) + data


@dataclass(slots=True)
class Client:
    """One connected consumer; not thread-safe."""

    sock: socket.socket
    ident: int = 0
    _bytes: bytearray = field(default_factory=bytearray)

    @classmethod
    def connect(
        cls,
        consumers: Consumers,
        cursor: int | None = None,
        *,
        received: bytes = b"",
        address: str = "test",
        buffers: int = 0,
        tcp: bool = False,
    ) -> Client:
        """Connect through a socket pair or, with tcp, loopback; buffers: SO_SNDBUF and SO_RCVBUF."""
        if tcp:
            listener = socket.create_server(("127.0.0.1", 0))
            ours = socket.socket()
            if buffers:
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            ours.connect(listener.getsockname())
            theirs, _ = listener.accept()
            listener.close()
        else:
            ours, theirs = socket.socketpair()
        if buffers:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        ours.settimeout(WAIT_S)
        client = cls(ours)
        _sockets.append(ours)
        _sockets.append(theirs)
        consumers.admit(address)
        client.ident = consumers.accept(theirs.detach(), address, cursor, received)
        return client

    def _take(self, n: int) -> bytes:
        while len(self._bytes) < n:
            data = self.sock.recv(65_536)
            if not data:
                raise EOFError
            self._bytes += data
        taken = bytes(self._bytes[:n])
        del self._bytes[:n]
        return taken

    def frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload. EOFError at the end of the stream."""
        first, length = self._take(2)
        assert first & 0x70 == 0
        assert first & 0x80, "fragmented"
        assert not length & 0x80, "masked"
        if length == 126:
            length = int.from_bytes(self._take(2), "big")
            assert length >= 126
        elif length == 127:
            length = int.from_bytes(self._take(8), "big")
            assert length >= 65_536
        return first & 15, self._take(length)

    def seq(self) -> int:
        """The seq of the next frame, which is an event."""
        opcode, data = self.frame()
        assert opcode == BINARY, (opcode, data)
        assert data.startswith(HEADER), data
        seq = payload(data)["seq"]
        assert isinstance(seq, int)
        return seq

    def seqs(self, n: int) -> list[int]:
        """The next n events' seqs."""
        return [self.seq() for _ in range(n)]

    def close_code(self) -> int | None:
        """The code of the close frame that comes next, after which the stream ends; None = it ended without one."""
        try:
            opcode, data = self.frame()
        except (EOFError, ConnectionResetError):
            return None
        assert opcode == CLOSE, (opcode, data)
        try:
            self.sock.sendall(masked(CLOSE, data[:2]))
        except OSError:
            pass
        assert self.sock.recv(1) == b""
        return int.from_bytes(data[:2], "big") if data else 0

    def quiet(self, seconds: float = 0.05) -> bool:
        """Whether nothing comes for a while."""
        if self._bytes:
            return False
        self.sock.settimeout(seconds)
        try:
            self._bytes += self.sock.recv(65_536)
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(WAIT_S)
        return False

    def close(self) -> None:
        """Hang up without a word."""
        self.sock.close()

    def drain(self, seconds: float) -> None:
        """Read and forget for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.sock.recv(65_536)
