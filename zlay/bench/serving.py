"""A relay that serves a prepared log to as many consumers as come, and the sockets of its bounds. One thread."""

from __future__ import annotations

import socket
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from zlay.bench.filled import FilledLog, filled_log, recorded_batch
from zlay.demo.relay import RelayChild
from zlay.errors import LocalFault

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SETTINGS", "SETTLE_S", "Listener", "public_port", "serving", "wait_consumers", "wait_still"]

SETTLE_S = 0.1  # nothing more is sent: the buffers are full
FILL_S = 60.0
SETTINGS = {
    "RELAY_UPSTREAM": "none",
    "RELAY_RETENTION_HOURS": "1000",
    "RELAY_RETENTION_BYTES": "0",
    "RELAY_MAX_CONSUMERS": "10000",
    "RELAY_MAX_CONSUMERS_PER_IP": "10000",
}


@contextmanager
def serving(events: int, accounts: int, log_bytes: int) -> Iterator[tuple[FilledLog, RelayChild]]:
    """A log of so many bytes, and a relay that serves it and reads no host."""
    batch, frame_bytes = recorded_batch(events, accounts)
    with tempfile.TemporaryDirectory(prefix="zlay-bench-") as name:
        log = filled_log(Path(name) / "data", batch, frame_bytes, log_bytes)
        with RelayChild(Path(name), SETTINGS) as relay:
            yield log, relay


def public_port(relay: RelayChild) -> int:
    """Where consumers connect."""
    return int(relay.public.rpartition(":")[2])


def wait_still(relay: RelayChild, consumers: int) -> None:
    """Until so many consumers are connected and nothing more is sent to them: their sockets are full."""
    deadline = time.monotonic() + FILL_S
    before = None
    while time.monotonic() < deadline:
        found = relay.stats()["consumers"]
        if found == before and found["connected"] == consumers:
            return
        before = found
        time.sleep(SETTLE_S)
    raise LocalFault(f"the relay does not have {consumers} consumers with full sockets")


def wait_consumers(relay: RelayChild, consumers: int) -> None:
    """Until exactly so many consumers are connected. LocalFault."""
    deadline = time.monotonic() + FILL_S
    while relay.stats()["consumers"]["connected"] != consumers:
        if time.monotonic() > deadline:
            raise LocalFault(f"the relay does not have {consumers} consumers")
        time.sleep(SETTLE_S)


class Listener:
    """Where readers of a bound connect. A context manager, which closes what it has accepted; one thread."""

    def __init__(self, count: int) -> None:
        """For so many. OSError."""
        self._count = count
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=count)
        self.port: int = self._listener.getsockname()[1]

    def accept(self) -> list[int]:
        """All of them, set up as the relay sets up its consumers' sockets. OSError."""
        while len(self._sockets) < self._count:
            sock = self._listener.accept()[0]
            self._sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return [sock.fileno() for sock in self._sockets]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (*self._sockets, self._listener):
            sock.close()
