"""Frames recorded to a file, and read from it without looking at each.

Format: MAGIC, then for each stretch of one host's frames: the WebSocket frames back to back, the seqs as u64, the ends
of the frames (from the stretch's begin) as u32; at the end of the file JSON, the JSON's offset as u64, MAGIC. All
little endian. The JSON: `ledger` (path of the ledger written beside), `hosts`: [{"accounts": n, "segments":
[[offset, bytes, frames], ...]}, ...], `profiles`: [[did, handle, multikey, host], ...].

Promises: the documents say what held at the end, so keys and hosts do not change in a recording (`RECORDED_MIX`).
One thread for each object.
"""

from __future__ import annotations

import json
import os
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zlay.sim.directory import Directory, Profile
from zlay.sim.keys import SigningKey
from zlay.sim.messages import error_frame
from zlay.sim.subscriber import SEND_BYTES
from zlay.sim.tls import TlsSocket

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zlay.sim.actors import Host
    from zlay.sim.network import Network

__all__ = ["RECORDED_MIX", "RecordedSource", "Recording", "record"]

MAGIC = b"ZLAYREC1"
SEGMENT_BYTES = 4 << 20  # a host's frames are written out when so many have gathered ...
TOTAL_BYTES = 256 << 20  # ... or everybody's when all hosts together have so many
SENDFILE_BYTES = 1 << 20  # handed to a socket at a time
_WS_HEAD_BYTES = {126: 4, 127: 10}  # by the second byte; 2 for any other (RFC 6455, 5.2)
RECORDED_MIX = {"rotate": 0, "migrate": 0, "handle": 0}  # what would make a document that is served later untrue


@dataclass(slots=True)
class _Segment:
    """A stretch of one host's frames. `start`: bytes of the host's stream before it."""

    offset: int
    start: int
    size: int
    seqs: array[int]
    ends: array[int]


class _Writer:
    def __init__(self, path: Path, hosts: int) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed by finish()
        self._file.write(MAGIC)
        self._frames: list[list[bytes]] = [[] for _ in range(hosts)]
        self._seqs: list[array[int]] = [array("Q") for _ in range(hosts)]
        self._sizes = [0] * hosts
        self.segments: list[list[list[int]]] = [[] for _ in range(hosts)]

    def add(self, host: int, seq: int, frame: bytes) -> None:
        self._frames[host].append(frame)
        self._seqs[host].append(seq)
        self._sizes[host] += len(frame)
        if self._sizes[host] >= SEGMENT_BYTES:
            self._write(host)

    def relieve(self) -> None:
        if sum(self._sizes) >= TOTAL_BYTES:
            for host in range(len(self._frames)):
                self._write(host)

    def _write(self, host: int) -> None:
        frames = self._frames[host]
        if not frames:
            return
        ends = array("I")
        end = 0
        for frame in frames:
            end += len(frame)
            ends.append(end)
        self.segments[host].append([self._file.tell(), end, len(frames)])
        self._file.write(b"".join(frames))
        self._file.write(self._seqs[host].tobytes())
        self._file.write(ends.tobytes())
        self._frames[host] = []
        self._seqs[host] = array("Q")
        self._sizes[host] = 0

    def finish(self, trailer: dict[str, Any]) -> None:
        for host in range(len(self._frames)):
            self._write(host)
        at = self._file.tell()
        trailer["hosts"] = [
            {"accounts": accounts, "segments": segments}
            for accounts, segments in zip(trailer["hosts"], self.segments, strict=True)
        ]
        self._file.write(json.dumps(trailer).encode())
        self._file.write(at.to_bytes(8, "little") + MAGIC)
        self._file.close()


def record(network: Network, events: int, path: Path) -> None:
    """Generates `events` events and writes them to a recording; the network's ledger gets them too."""
    writer = _Writer(path, len(network.hosts))
    positions = [host.window.end for host in network.hosts]
    while network.generated < events:
        network.step()
        for host in network.changed:
            _drain(network, host, positions, writer)
        network.changed.clear()
        writer.relieve()
        if network.ledger.pending_bytes > SEGMENT_BYTES:
            network.ledger.flush()
    network.ledger.append_end()
    network.ledger.flush()
    index = {host.url: host.index for host in network.hosts}
    profiles = [[p.did, p.handle, p.key, index[p.pds]] for p in network.directory.profiles.values()]
    hosts = [len(host.accounts) for host in network.hosts]
    writer.finish({"ledger": str(network.ledger.path.resolve()), "hosts": hosts, "profiles": profiles})


def _drain(network: Network, host: Host, positions: list[int], writer: _Writer) -> None:
    """Moves what a host has said since the last call to the recording."""
    window = host.window
    while positions[host.index] < window.end:
        for frame in window.read(positions[host.index], SEGMENT_BYTES, network.ledger.fd):
            writer.add(host.index, window.seq_at(positions[host.index]), frame)
            positions[host.index] += 1


class Recording:
    """An open recording. Raises ValueError for a file that is none, OSError for one that cannot be read."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(self.fd).st_size
        tail = os.pread(self.fd, 8 + len(MAGIC), max(0, size - 8 - len(MAGIC)))
        if tail[8:] != MAGIC:
            raise ValueError(f"{path}: not a recording of zlay sim")
        at = int.from_bytes(tail[:8], "little")
        trailer = json.loads(os.pread(self.fd, size - 8 - len(MAGIC) - at, at))
        self.ledger: str = trailer["ledger"]
        self.account_counts: list[int] = [host["accounts"] for host in trailer["hosts"]]
        self._profiles: list[tuple[str, str, str, int]] = trailer["profiles"]
        self.segments = [self._host_segments(host["segments"]) for host in trailer["hosts"]]

    def _host_segments(self, entries: list[list[int]]) -> list[_Segment]:
        segments = []
        start = 0
        for offset, size, count in entries:
            seqs, ends = array("Q"), array("I")
            seqs.frombytes(os.pread(self.fd, 8 * count, offset + size))
            ends.frombytes(os.pread(self.fd, 4 * count, offset + size + 8 * count))
            segments.append(_Segment(offset, start, size, seqs, ends))
            start += size
        return segments

    @property
    def events(self) -> int:
        """Number of frames in all."""
        return sum(len(segment.seqs) for segments in self.segments for segment in segments)

    def frames(self, host: int) -> Iterator[bytes]:
        """The messages of one host in order, without their WebSocket heads."""
        for segment in self.segments[host]:
            raw = os.pread(self.fd, segment.size, segment.offset)
            at = 0
            for end in segment.ends:
                yield raw[at + _WS_HEAD_BYTES.get(raw[at + 1], 2) : end]
                at = end

    def directory(self, urls: list[str]) -> Directory:
        """The directory of the recorded accounts, with their hosts where they are served now."""
        directory = Directory(SigningKey("k256", b"recording"))
        for did, handle, key, host in self._profiles:
            directory.profiles[did] = Profile(did, handle, key, urls[host])
        return directory

    def close(self) -> None:
        """Closes the file."""
        os.close(self.fd)


class RecordedSource:
    """Serves one host's recorded frames; positions are bytes of its stream. One thread.

    Without a cursor everything is sent, from the first frame: a recording has no past. `open_gate` says when to begin.
    """

    def __init__(self, recording: Recording, host: int, open_gate: Callable[[], bool]) -> None:
        self._fd = recording.fd
        self._segments = recording.segments[host]
        self._starts = [segment.start for segment in self._segments]
        self._open_gate = open_gate
        self.end = self._segments[-1].start + self._segments[-1].size if self._segments else 0
        self._released = self.end  # what stands above it is kept back
        self.last_seq = self._segments[-1].seqs[-1] if self._segments else 0
        self.subscribed = False
        self.sent = 0  # bytes handed to sockets or to be so at once

    def begin(self, cursor: int | None) -> tuple[int, bytes, bool]:
        """Cursor rules A13, A14 and A16; no cursor is 0."""
        self.subscribed = True
        if cursor is not None and cursor > self.last_seq:
            return self.end, error_frame(b"FutureCursor", b"Cursor in the future."), True
        for segment in self._segments:
            if cursor is None or segment.seqs[-1] > cursor:
                count = bisect_right(segment.seqs, cursor) if cursor else 0
                return segment.start + (segment.ends[count - 1] if count else 0), b"", False
        return self.end, b"", False

    def pending(self, position: int) -> bool:
        """Whether frames are left that may go, once the gate is open."""
        return position < self._released and self._open_gate()

    def keep_back(self) -> None:
        """Nothing goes but what `release` lets go; before anybody subscribes."""
        self._released = 0

    def release(self) -> int | None:
        """Lets the next frame go; its seq, None = there is none."""
        if self._released == self.end:
            return None
        segment = self._segments[bisect_right(self._starts, self._released) - 1]
        index = bisect_right(segment.ends, self._released - segment.start)
        self._released = segment.start + segment.ends[index]
        return segment.seqs[index]

    def peek(self, position: int) -> bytes:
        """Recordings are not cut inside a frame on order. Raises NotImplementedError."""
        raise NotImplementedError("a recording does not misbehave")

    def send(self, sock: socket.socket | TlsSocket, position: int) -> tuple[int, bytes | memoryview]:
        """One sendfile, or what TLS has for it. The rest of a frame that was begun is read for the caller to send."""
        segment = self._segments[bisect_right(self._starts, position) - 1]
        inside = position - segment.start
        try:
            offset = segment.offset + inside
            most = min(SENDFILE_BYTES, segment.size - inside, self._released - position)
            if isinstance(sock, TlsSocket):
                sent = sock.send(os.pread(self._fd, min(most, SEND_BYTES), offset))
            else:
                sent = os.sendfile(sock.fileno(), self._fd, offset, most)
        except BlockingIOError:
            return position, b""
        inside += sent
        self.sent += sent
        index = bisect_right(segment.ends, inside)
        if index == len(segment.ends) or (index > 0 and segment.ends[index - 1] == inside):
            return segment.start + inside, b""
        rest = segment.ends[index] - inside
        self.sent += rest
        return segment.start + segment.ends[index], os.pread(self._fd, rest, segment.offset + inside)

    def left(self, position: int, cursor: int | None) -> None:
        """Nothing is kept of a subscriber."""
