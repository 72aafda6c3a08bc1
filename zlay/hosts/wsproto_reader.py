"""HOST_READER=wsproto: one attached Python thread per host runs wsproto for the whole connection.

The naive shape, kept for comparison in the lab and as the oracle of the native frame cutter: the same bytes through
both give the same messages and the same end. Its messages are copied into the same pool frames and go through the same
checks and the same submit function as the native reader's (`zlay._fast.reader.Attached`), credit included.

Threads: each `WsprotoReader` runs in a thread of its own; `stop` of `zlay._fast.reader` ends it as it ends the native
ones, by shutdown of the socket.
"""

from __future__ import annotations

import errno
import select
import threading
import time
from typing import TYPE_CHECKING, Any

from wsproto import events
from wsproto.connection import Connection, ConnectionState, ConnectionType

from zlay._fast import reader, tls, ws

if TYPE_CHECKING:
    import socket

__all__ = ["WsprotoCutter", "WsprotoReader"]

_GOING_AWAY = 1001  # RFC 6455 7.4.1
_UNSUPPORTED_DATA = 1003
_TOO_BIG = 1009
_RECEIVE_BYTES = 65536


class WsprotoCutter:
    """Bytes in, the tuples of `ws.MessageCutter.feed` out, by wsproto. One thread.

    wsproto does not tell the announced length, so a message over the limit is noticed when that much has come, not when
    it is announced: `("skip",)` comes later than from the native cutter, all else at the same bytes.
    """

    def __init__(self, limit: int = ws.DEFAULT_LIMIT) -> None:
        self._limit = limit
        self._connection = Connection(ConnectionType.CLIENT)
        self._message = bytearray()
        self._received = 0  # of the current message, skipped bytes included
        self._ended = False

    def feed(self, data: bytes) -> list[tuple[Any, ...]]:
        """What `data` completes; nothing any more after a "close" or "fail"."""
        told: list[tuple[Any, ...]] = []
        if self._ended or not data:
            return told
        self._connection.receive_data(data)
        for event in self._connection.events():
            self._tell(event, told)
            if told and told[-1][0] in ("close", "fail"):
                break
        return told

    def _tell(self, event: events.Event, told: list[tuple[Any, ...]]) -> None:
        match event:
            case events.BytesMessage():
                self._data(event, told)
            case events.TextMessage():
                self._fail(_UNSUPPORTED_DATA, "text message", told)
            case events.Ping():
                told.append(("ping", bytes(event.payload)))
            case events.Pong():
                told.append(("pong", bytes(event.payload)))
            case events.CloseConnection() if self._connection.state is ConnectionState.REMOTE_CLOSING:
                self._ended = True
                told.append(("close", int(event.code), event.reason or ""))
            case events.CloseConnection():
                self._fail(int(event.code), event.reason or "", told)

    def _fail(self, code: int, text: str, told: list[tuple[Any, ...]]) -> None:
        self._ended = True
        told.append(("fail", code, text))

    def _data(self, event: events.BytesMessage, told: list[tuple[Any, ...]]) -> None:
        was_within = self._received <= self._limit
        self._received += len(event.data)
        within = self._received <= self._limit
        if within:
            self._message += event.data
        elif was_within:
            self._message.clear()
            told.append(("skip",))
        if self._received > reader.SKIP_BYTES:
            self._fail(_TOO_BIG, "message far over the limit", told)
        elif event.message_finished:
            told.append(("message", bytes(self._message)) if within else ("skipped",))
            self._message.clear()
            self._received = 0


class WsprotoReader:
    """Reads one open connection to its end in a Python thread. Takes over `sock`, the TLS on it, and what was read.

    OSError where there is no thread; both then are still the caller's.
    """

    def __init__(
        self,
        host_index: int,
        sock: socket.socket,
        leftover: bytes,
        cursor: int | None,
        session: tls.Session | None = None,
    ) -> None:
        self._sock = sock
        self._session = session
        self._leftover = leftover
        self._cutter = WsprotoCutter()
        self._wire = Connection(ConnectionType.CLIENT)  # makes what is sent
        self._unanswered = 0
        self._sock.setblocking(False)
        self._attached = reader.Attached(host_index, sock.fileno(), cursor)
        self._thread = threading.Thread(target=self._run, name=f"wsproto-{host_index}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as exc:
            self._attached.finish("internal", 0, str(exc))
            raise OSError(errno.EAGAIN, str(exc)) from exc

    def _run(self) -> None:
        try:
            cause, code, text = self._read()
        except tls.TlsError as exc:
            cause, code, text = "tls", 0, str(exc)
        except OSError as exc:
            cause, code, text = "io", exc.errno or 0, exc.strerror or str(exc)
        except Exception as exc:  # noqa: BLE001 - whatever it was, the host must not be lost
            cause, code, text = "internal", 0, f"{type(exc).__name__}: {exc}"
        self._farewell(cause, code, text)
        self._attached.finish(cause, code, text)
        if self._session is not None:
            self._session.close()
        self._sock.close()

    def _farewell(self, cause: str, code: int, text: str) -> None:
        """The close frame that the cause asks for, if the host still takes it."""
        try:
            if cause == "stopped":
                self._send(events.CloseConnection(code=_GOING_AWAY))
            elif cause == "protocol":
                self._send(events.CloseConnection(code=code, reason=text))
            elif cause == "closed":
                self._send(events.CloseConnection(code=code))
            if self._session is not None:
                self._session.finish()
        except OSError:
            pass  # it is the end either way

    def _read(self) -> tuple[str, int, str]:
        """Reads until the end; (cause, code, text) of it, as in `reader.ConnectionEnd`."""
        data = self._leftover
        next_ping = time.monotonic() + reader.PING_S
        while True:
            if self._attached.stopping():
                return "stopped", 0, ""
            self._attached.received(len(data))
            for event in self._cutter.feed(data):
                end = self._take(event)
                if end is not None:
                    return end
            now = time.monotonic()
            if now >= next_ping:
                if self._unanswered >= reader.MISSED_PINGS:
                    return "silent", 0, "no answer to pings"
                self._unanswered += 1
                next_ping = now + reader.PING_S
                self._send(events.Ping())
            try:
                data = self._receive(next_ping)
            except TimeoutError:
                data = b""
                continue
            except OSError:
                if self._attached.stopping():  # which shuts the socket down
                    continue
                raise
            if not data and not self._attached.stopping():
                return "eof", 0, ""
            self._unanswered = 0

    def _take(self, event: tuple[Any, ...]) -> tuple[str, int, str] | None:
        """One event of the cutter; the connection's end, or None."""
        match event:
            case ("message", data):
                return self._attached.submit(data)
            case ("skipped",):
                self._attached.too_large()
            case ("ping", payload):
                self._send(events.Pong(payload=payload))
            case ("close", code, reason):
                return "closed", code, reason
            case ("fail", code, text):
                return "protocol", code, text
        return None

    def _send(self, event: events.Event) -> None:
        data = self._wire.send(event)
        until = time.monotonic() + reader.FLUSH_S
        while data:
            try:
                data = data[(self._session or self._sock).send(data) :]
            except BlockingIOError as exc:
                self._wait(exc, select.POLLOUT, until)

    def _receive(self, until: float) -> bytes:
        """What has come, b"" at the end. TimeoutError when nothing has at `until`."""
        while True:
            try:
                return (self._session or self._sock).recv(_RECEIVE_BYTES)
            except BlockingIOError as exc:
                self._wait(exc, select.POLLIN, until)

    def _wait(self, exc: BlockingIOError, events_wanted: int, until: float) -> None:
        if isinstance(exc, tls.WantRead | tls.WantWrite):
            events_wanted = select.POLLIN if isinstance(exc, tls.WantRead) else select.POLLOUT
        waiting = select.poll()
        waiting.register(self._sock, events_wanted)
        if not waiting.poll(max(0.0, until - time.monotonic()) * 1000):
            raise TimeoutError("nothing to read, or no room to write, in time")
