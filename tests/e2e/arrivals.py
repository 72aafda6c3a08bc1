"""A consumer for measuring: takes the stream as fast as it comes, notes when, and reads it only when asked.

A consumer that decodes as it receives is slower than the relay, and what waits for it would be measured with the relay.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from typing import Self

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Ping, Request

from tests.e2e.ledger import Seen, seen
from tests.reference.consumer import SUBSCRIBE
from tests.reference.frame_ref import decode_frame

RECV_BYTES = 1 << 20
POLL_S = 0.2


class Arrivals:
    """One connection from cursor 0. Its thread receives into `_chunks`; the rest belongs to the thread that asks."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), 10)
        self._sock.settimeout(POLL_S)
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._sock.sendall(self._ws.send(Request(host=f"127.0.0.1:{port}", target=f"{SUBSCRIBE}?cursor=0")))
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._part = b""
        self._seen: list[Seen] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._receive, name="arrivals", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join(10)
        self._sock.close()

    def frames(self) -> list[Seen]:
        """What has arrived, each with the unix time at which its last byte was received."""
        while self._chunks:
            at_s, data = self._chunks.popleft()
            self._ws.receive_data(data)
            for event in self._ws.events():
                self._take(event, at_s)
        return self._seen

    def _take(self, event: object, at_s: float) -> None:
        match event:
            case BytesMessage(data=data, message_finished=finished):
                self._part += bytes(data)
                if finished:
                    self._seen.append(seen(decode_frame(self._part), at_s))
                    self._part = b""
            case Ping():
                self._sock.sendall(self._ws.send(event.response()))
            case AcceptConnection():
                pass
            case _:
                raise AssertionError(f"not part of a stream: {event}")

    def _receive(self) -> None:
        while not self._stopping.is_set():
            try:
                data = self._sock.recv(RECV_BYTES)
            except TimeoutError:
                continue
            except OSError:  # the relay was killed
                return
            if not data:
                return
            self._chunks.append((time.time(), data))
