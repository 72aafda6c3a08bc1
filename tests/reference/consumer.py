"""A strict consumer of a firehose, on plain sockets, wsproto and the references.

Promises: whatever is not exactly the protocol raises: text messages, framing, canonical encoding, a `seq` that does
not go up (by exactly one, with `contiguous`). `StrictConsumer` belongs to one thread; `Collector` has a thread of
its own and may be asked from any other.
"""

from __future__ import annotations

import socket
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    RejectConnection,
    RejectData,
    Request,
)
from wsproto.utilities import RemoteProtocolError

from tests.reference.frame_ref import FRAME_MAX, Frame, FrameError, decode_frame

if TYPE_CHECKING:
    from collections.abc import Callable

SUBSCRIBE = "/xrpc/com.atproto.sync.subscribeRepos"
_RECV_BYTES = 256 * 1024


class ClosedError(Exception):
    """The server closed the stream: `code` of its close frame (None when the connection just ended), and the reason."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(f"closed with {code} {reason!r}")
        self.code = code
        self.reason = reason


class RefusedError(Exception):
    """The server answered the upgrade with an HTTP error: `status` and `body`."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body

    def __str__(self) -> str:
        return f"HTTP {self.status}: {self.body[:200]!r}"


class StreamError(Exception):
    """The server sent an error frame (A6): its `name` and `message`."""

    def __init__(self, name: str, message: str | None) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


class StrictConsumer:
    """One connection to `subscribeRepos`; `next` gives frame after frame. Not thread-safe.

    `seq` is that of the last frame with one (the cursor at first). With `contiguous` every frame's seq must be the one
    after it (from the second on where there was no cursor, or cursor 0).
    """

    def __init__(
        self,
        port: int,
        cursor: int | None = None,
        *,
        host: str = "127.0.0.1",
        contiguous: bool = True,
        timeout_s: float = 10,
    ) -> None:
        self.seq: int | None = cursor or None
        self._contiguous = contiguous
        self._parts: list[bytes] = []
        self._size = 0
        self._ready: list[Frame] = []
        self._end: Exception | None = None
        self._sock = socket.create_connection((host, port), timeout_s)
        self._ws = WSConnection(ConnectionType.CLIENT)
        target = SUBSCRIBE if cursor is None else f"{SUBSCRIBE}?cursor={cursor}"
        try:
            self._sock.sendall(self._ws.send(Request(host=f"{host}:{port}", target=target)))
            self._accepted = False
            self._rejected: RefusedError | None = None
            deadline = time.monotonic() + timeout_s
            while not self._accepted:
                self._receive(deadline)
                if self._end is not None and not self._accepted:
                    raise self._end
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def next(self, timeout_s: float) -> Frame:
        """The next frame; TimeoutError after `timeout_s`; ClosedError, StreamError or FrameError at the end."""
        deadline = time.monotonic() + timeout_s
        while not self._ready:
            if self._end is not None:
                raise self._end
            self._receive(deadline)
        return self._ready.pop(0)

    def take(self, timeout_s: float) -> list[Frame]:
        """All frames that have arrived, at least one; raises as `next` does."""
        frames = [self.next(timeout_s), *self._ready]
        self._ready = []
        return frames

    def close(self) -> None:
        """Close the socket without a word, as a crashed consumer would."""
        self._sock.close()

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no frame in time")
        self._sock.settimeout(left)
        try:
            data = self._sock.recv(_RECV_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            self._end = ClosedError(None, "")
            return
        try:
            self._ws.receive_data(data)
            for event in self._ws.events():
                self._handle(event)
        except (FrameError, StreamError) as exc:
            self._end = exc
        except RemoteProtocolError as exc:
            self._end = FrameError(f"WebSocket: {exc}")

    def _handle(self, event: object) -> None:
        match event:
            case BytesMessage(data=data, message_finished=finished):
                self._take_part(bytes(data), finished)
            case Message():
                raise FrameError("a text message")
            case Ping():
                self._sock.sendall(self._ws.send(event.response()))
            case AcceptConnection():
                self._accepted = True
            case CloseConnection(code=code, reason=reason):
                self._end = ClosedError(int(code), reason or "")
            case RejectConnection(status_code=status):
                self._rejected = RefusedError(status, b"")
                if not event.has_body:
                    self._end = self._rejected
            case RejectData(data=data, body_finished=finished):
                assert self._rejected is not None
                self._rejected.body += bytes(data)
                if finished:
                    self._end = self._rejected

    def _take_part(self, part: bytes, finished: bool) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size > FRAME_MAX:
            raise FrameError("over 5,000,000 bytes")
        if not finished:
            return
        frame = decode_frame(b"".join(self._parts))
        self._parts, self._size = [], 0
        if frame.op == -1:
            raise StreamError(frame.payload.get("error", ""), frame.payload.get("message"))
        if frame.kind != "#info":
            self._check_seq(frame)
        self._ready.append(frame)

    def _check_seq(self, frame: Frame) -> None:
        if frame.seq is None:
            raise FrameError(f"{frame.kind} without seq")
        if self.seq is not None and not (frame.seq == self.seq + 1 if self._contiguous else frame.seq > self.seq):
            raise FrameError(f"seq {frame.seq} after {self.seq}")
        self.seq = frame.seq


def _is_passing(problem: Exception) -> bool:
    """Whether a client comes back: after anything that ends a connection, and to a server that is starting."""
    if isinstance(problem, RefusedError):
        return problem.status == HTTPStatus.SERVICE_UNAVAILABLE
    return isinstance(problem, OSError | ClosedError)


class Collector:
    """A `StrictConsumer` in a thread of its own that keeps `keep(frame)` of every frame in `frames`.

    With `reconnect` it comes back with its cursor whenever the connection ends, as a client does; protocol errors
    always end it, and stand in `problem`. Lock `_arrived` guards `frames` (append only), `problem`, `seq`.
    """

    def __init__(
        self,
        port: int,
        cursor: int | None = 0,
        *,
        reconnect: bool = False,
        contiguous: bool = True,
        keep: Callable[[Frame], object] = lambda frame: frame,
    ) -> None:
        self.port = port
        self.frames: list[object] = []
        self.problem: Exception | None = None
        self.seq = cursor
        self._keep = keep
        self._reconnect = reconnect
        self._contiguous = contiguous
        self._arrived = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the thread; what was collected stays."""
        self._stopping.set()
        self._thread.join(10)

    def wait_for(self, test: Callable[[list[object]], bool], what: str, timeout_s: float) -> None:
        """Wait until `test(frames)`; AssertionError at the deadline or at a protocol error, TimeoutError never."""
        deadline = time.monotonic() + timeout_s
        with self._arrived:
            while not test(self.frames):
                if self.problem is not None:
                    raise AssertionError(f"the stream broke before {what}") from self.problem
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(
                        f"{what} did not come within {timeout_s:.0f} s ({len(self.frames)} frames came)"
                    )
                self._arrived.wait(left)

    def wait_count(self, count: int, timeout_s: float) -> list[object]:
        """Wait for `count` frames and return a copy of all."""
        self.wait_for(lambda frames: len(frames) >= count, f"frame {count}", timeout_s)
        return list(self.frames)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._consume()
            except (OSError, ClosedError, FrameError, StreamError, RefusedError) as exc:
                if not self._reconnect or not _is_passing(exc):
                    self._fail(exc)
                    return
                self._stopping.wait(0.05)

    def _consume(self) -> None:
        with StrictConsumer(self.port, self.seq, contiguous=self._contiguous) as consumer:
            while not self._stopping.is_set():
                try:
                    frames = consumer.take(0.2)
                except TimeoutError:
                    continue
                kept = [self._keep(frame) for frame in frames]
                with self._arrived:
                    self.frames += kept
                    self.seq = consumer.seq if consumer.seq is not None else self.seq
                    self._arrived.notify_all()

    def _fail(self, problem: Exception) -> None:
        with self._arrived:
            self.problem = problem
            self._arrived.notify_all()
