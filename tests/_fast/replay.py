"""A recording of the simulation played to the real pipeline: a socket and a reader thread for each of its hosts.

The directory's answers come from the recording; what the workers have changed is what the loader answers. One test
thread; a sender thread per host.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

from tests._fast.actor import now_us
from zlay._fast import host, reader
from zlay.bench.inputs import recording
from zlay.identity.multibase import decode_multikey
from zlay.pipeline.types import AccountRow, Identity
from zlay.sim.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests._fast.pipe import Pipe

FIRST_ID = 800_000
CREDIT = 8 << 20
ALIVE_S = 30.0


def record(path: Path, *, events: int, hosts: int, accounts: int, p256_share: float = 0.0) -> None:
    """Records commits that follow from one another, of a simulated network."""
    recording(path, events=events, hosts=hosts, accounts=accounts, p256_share=p256_share, only_commits=True)


class _Wire:
    """One host: the reader's end of a socket is the reader's, the sender's is ours."""

    def __init__(self, name: str, number: int) -> None:
        self.id = FIRST_ID + number
        self.index = host.new(self.id, name, CREDIT)
        host.set_epoch(self.index, 1, 0)
        self.ours, theirs = socket.socketpair()
        reader.start(self.index, theirs.detach())
        self.sender: threading.Thread | None = None

    def close(self) -> None:
        """The connection ends."""
        self.ours.close()
        if self.sender is not None:
            self.sender.join(ALIVE_S)


class Replay:
    """The recording's hosts as feeds of a pipe. Close the pipe first, then this."""

    _made = 0

    def __init__(self, pipe: Pipe, path: Path) -> None:
        self.recording = Recording(path)
        self.pipe = pipe
        names = [f"replay-{Replay._made + i}" for i in range(len(self.recording.segments))]
        self.wires = [_Wire(name, Replay._made + i) for i, name in enumerate(names)]
        Replay._made += len(names)
        pipe.feeds.update(zip(names, self.wires, strict=True))  # type: ignore[arg-type]
        for profile in self.recording.directory(names).profiles.values():
            key = decode_multikey(profile.key)
            assert key is not None
            pipe.identities[profile.did] = self._answer(profile.did, profile.pds, *key)

    @staticmethod
    def _answer(did: str, pds: str, key_type: int, point: bytes) -> Callable[[], Identity]:
        return lambda: Identity(did, "ok", pds, key_type, point, now_us())

    @property
    def events(self) -> int:
        """Frames in all."""
        return self.recording.events

    def play(self, until_byte: float = 1.0, from_byte: float = 0.0) -> None:
        """Sends a part of each host's bytes, given as shares of them; returns at once. Frames may be cut."""
        for number, wire in enumerate(self.wires):
            if wire.sender is not None:
                wire.sender.join(ALIVE_S)
            wire.sender = threading.Thread(target=self._send, args=(number, from_byte, until_byte), daemon=True)
            wire.sender.start()

    def _send(self, number: int, first: float, last: float) -> None:
        segments = self.recording.segments[number]
        total = segments[-1].start + segments[-1].size if segments else 0
        at, end = int(total * first), int(total * last)
        try:
            for segment in segments:
                while segment.start <= at < min(end, segment.start + segment.size):
                    inside = at - segment.start
                    most = min(segment.size - inside, end - at)
                    at += os.sendfile(
                        self.wires[number].ours.fileno(), self.recording.fd, segment.offset + inside, most
                    )
        except OSError:  # the connection was ended by the test
            return

    def received(self) -> int:
        """Frames that the readers have cut."""
        return sum(host.stats(wire.index)["frames"] for wire in self.wires)

    def apply(self) -> None:
        """What the applier does; the loader answers from it."""
        for delta in self.pipe.apply():
            known = self.pipe.identities[delta.did]
            identity = known() if callable(known) else known
            row = (delta.upstream_status, delta.local_status, delta.rev, delta.data, delta.head, delta.last_seq)
            self.pipe.rows[delta.did] = AccountRow(delta.did, delta.host_id, *row, identity, delta.desynchronized)

    def close(self) -> None:
        """Closes the recording."""
        self.recording.close()
