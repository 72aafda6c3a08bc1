"""What was said, and who saw it: the simulation's ledger and the consumers' streams, kept as digests.

`Truth` reads the ledger; `seen` is what is kept of a frame that a consumer got; `Restless` is a consumer that comes and
goes. Independent of zlay but for the ledger's own reader.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from tests.reference.consumer import ClosedError, RefusedError, StreamError, StrictConsumer
from tests.reference.frame_ref import Frame, FrameError, decode_frame
from zlay.sim.ledger import Expect, message_of

if TYPE_CHECKING:
    import random
    from collections.abc import Container, Sequence

    from zlay.sim.ledger import Ledger

__all__ = ["Restless", "Seen", "Truth", "digest", "seen"]


def digest(data: bytes) -> bytes:
    """16 bytes that stand for many."""
    return blake2b(data, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of a frame from the relay."""

    seq: int
    did: str
    kind: str
    rev: str
    head: bytes  # of a #commit, else empty
    status: str  # of an #account: "active" or why not, else empty
    normalized: bytes  # digest of the frame without its seq
    raw: bytes  # digest of the frame


def seen(frame: Frame) -> Seen:
    """The part of a frame that is compared."""
    said = frame.payload
    status = ""
    if frame.kind == "#account":
        status = "active" if said["active"] else said.get("status", "inactive")
    head = bytes(said["commit"]) if frame.kind == "#commit" else b""
    return Seen(
        frame.seq or 0,
        frame.did or "",
        frame.kind,
        said.get("rev", ""),
        head,
        status,
        digest(frame.normalized),
        digest(frame.raw),
    )


class Truth:
    """What the hosts have said so far. `read` goes on where it ended. One thread.

    Of the first few accounts, the `outlaws`, which are taken down now and then, only revs and places are known.
    """

    OUTLAWS = 3

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.by_did: dict[str, list[bytes]] = defaultdict(list)  # digests of what must come out, in order
        self.count = 0
        self.outlaws: list[str] = []
        self.passing: dict[int, list[list[int]]] = {}  # by host and epoch (from 0): upstream seqs that must come out
        self.last: dict[int, int] = {}  # by host: the last upstream seq of its present epoch

    def read(self) -> Truth:
        """Takes what the ledger has more."""
        for event in self._ledger.poll():
            epochs = self.passing.setdefault(event.host, [[]])
            if event.seq <= self.last.get(event.host, 0):
                epochs.append([])  # numbering starts again
            self.last[event.host] = event.seq
            if event.expect == Expect.PASS and not self._is_outlaw(event.did):
                epochs[-1].append(event.seq)
                self.by_did[event.did].append(digest(decode_frame(message_of(event.frame)).normalized))
                self.count += 1
        return self

    def _is_outlaw(self, did: str) -> bool:
        if did not in self.outlaws and did not in self.by_did and len(self.outlaws) < self.OUTLAWS:
            self.outlaws.append(did)
        return did in self.outlaws

    def host_names(self) -> dict[str, int]:
        """Numbers of the simulation's hosts by name."""
        return {name: number for number, name in self._ledger.hosts.items()}


class Restless:
    """A consumer that reads for a while, goes, and comes again a little before where it was; in a thread of its own.

    Every connection is strict: seqs above its cursor that go up; and what it sees again must be what it was before.
    `problem` is what ended it, None = nothing.
    """

    BACK = 60  # events that it goes back at most
    READ_S = (0.05, 1.5)

    def __init__(self, port: int, rng: random.Random) -> None:
        self._port = port
        self._rng = rng
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="restless", daemon=True)
        self.seen: dict[int, bytes] = {}  # digest by seq
        self.again = 0  # events seen more than once, each time the same
        self.problem: Exception | None = None
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        self._thread.join(10)

    def agrees(self, frames: Sequence[Seen], may_be_missing: Container[int]) -> None:
        """It got what the others got, and missed nothing, up to where it is, but for some that may be missing."""
        by_seq = {frame.seq: frame.raw for frame in frames}
        assert all(by_seq.get(seq, raw) == raw for seq, raw in self.seen.items())
        missing = set(range(1, max(self.seen) + 1)) - self.seen.keys()
        assert all(seq in may_be_missing for seq in missing), "a consumer that came again and again missed events"

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._connect()
            except (ClosedError, OSError):
                self._stopping.wait(0.05)
            except (FrameError, StreamError, RefusedError, AssertionError) as exc:
                if not isinstance(exc, RefusedError) or exc.status != 503:
                    self.problem = exc
                    return

    def _connect(self) -> None:
        last = max(self.seen, default=0)
        cursor = max(0, last - self._rng.randrange(self.BACK))
        with StrictConsumer(self._port, cursor, contiguous=False) as consumer:
            deadline = time.monotonic() + self._rng.uniform(*self.READ_S)
            while not self._stopping.is_set() and time.monotonic() < deadline:
                try:
                    frames = consumer.take(0.05)
                except TimeoutError:
                    continue
                for frame in frames:
                    self._take(frame)

    def _take(self, frame: Frame) -> None:
        assert frame.kind != "#info", "the window is too small for this test"
        assert frame.seq is not None
        now = digest(frame.raw)
        self.again += frame.seq in self.seen
        assert self.seen.setdefault(frame.seq, now) == now, f"seq {frame.seq} is another event than before"
