"""Relays for `zlay demo` whose stream is spoiled on its way to the consumer: what the demo must not overlook.

The demo's consumer reads a socket on which a fake host serves what a relay has sent, with one thing changed: from a
running relay (`TamperedRelay`), or from what was recorded of one (`Replay`, which takes a tenth of the time).
"""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.e2e.fakes import FakePds
from tests.reference.consumer import Collector
from tests.reference.frame_ref import Frame, decode_frame
from zlay.demo.relay import RelayChild
from zlay.sim.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

VICTIM = 20  # the frame that something happens to; those before it are as they were
WAIT_S = 60.0
GARBAGE = b"\xa2 not a message"
WELL_FORMED = ("bad_signature", "other_key", "stale_rev", "bad_tree", "wrong_host", "missing_record")


class Fault:
    """What happens to a stream: here nothing. `number` counts frames from 1. One stream each.

    `relay`: the one that sends it now, if one does.
    """

    def __init__(self) -> None:
        self.number = 0
        self.relay: TamperedRelay | None = None

    def prepare(self, folder: Path) -> None:
        """Before the first frame; `folder` is the demo's."""

    def spoil(self, frame: Frame) -> Iterator[Frame]:
        """What is sent in a frame's place; it is numbered afterwards."""
        yield frame

    def seq(self, seq: int) -> int:
        """The number that is sent for the one that is right."""
        return seq


class Lost(Fault):
    """An event does not come out."""

    def spoil(self, frame: Frame) -> Iterator[Frame]:
        """All but the victim."""
        if self.number != VICTIM:
            yield frame


class Doubled(Fault):
    """An event comes out twice."""

    def spoil(self, frame: Frame) -> Iterator[Frame]:
        """The victim again."""
        yield frame
        if self.number == VICTIM:
            yield frame


class Moved(Fault):
    """An event comes out after the next one of its account."""

    def __init__(self) -> None:
        super().__init__()
        self._late: Frame | None = None

    def spoil(self, frame: Frame) -> Iterator[Frame]:
        """The victim after the account's next."""
        if self.number == VICTIM:
            self._late = frame
            return
        yield frame
        if self._late is not None and self._late.did == frame.did:
            yield self._late
            self._late = None


class Changed(Fault):
    """A byte of an event is another one."""

    def spoil(self, frame: Frame) -> Iterator[Frame]:
        """The victim with a letter of its `time` changed."""
        if self.number == VICTIM:
            at = frame.raw.rindex(b"Z")
            frame = decode_frame(frame.raw[:at] + b"z" + frame.raw[at + 1 :])
        yield frame


class Invalid(Fault):
    """An event comes out that must not."""

    def prepare(self, folder: Path) -> None:
        """The first bad event of the ledger that has the form of a good one."""
        with Ledger(folder / "ledger") as ledger:
            self._bad = next(decode_frame(event.message) for event in ledger.poll() if event.fault in WELL_FORMED)

    def spoil(self, frame: Frame) -> Iterator[Frame]:
        """That one after the victim."""
        yield frame
        if self.number == VICTIM:
            yield self._bad


class Gap(Fault):
    """A number is left out."""

    def seq(self, seq: int) -> int:
        """One more from the victim on."""
        return seq + (seq >= VICTIM)


class LateStart(Fault):
    """The first number is not 1."""

    def seq(self, seq: int) -> int:
        """One more throughout."""
        return seq + 1


class Silent(Fault):
    """Nothing comes out."""

    def spoil(self, frame: Frame) -> Iterator[Frame]:
        """Nothing."""
        yield from ()


class Killed(Fault):
    """The relay dies at the victim."""

    def spoil(self, frame: Frame) -> Iterator[Frame]:
        """As it is."""
        if self.number == VICTIM:
            assert self.relay is not None
            self.relay.process.kill()
        yield frame


class Drop(Fault):
    """The relay drops something that the network never sent."""

    def prepare(self, folder: Path) -> None:
        """A host of ours, which sends rubbish."""
        assert self.relay is not None
        self.relay.admin("/admin/hosts/add", {"hostname": self.relay.host.host})
        self.relay.host.wait_subscribed(1, WAIT_S)
        self.relay.host.publish((1, GARBAGE))


class Front(FakePds):
    """What the demo's consumer reads, one thread at a time publishes: frames, spoiled and numbered from 1."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self._fault = fault
        self._seq = 0
        self.stats: dict[str, Any] = {}
        self.firehose = f"ws://127.0.0.1:{self.port}/xrpc/com.atproto.sync.subscribeRepos"

    def pass_on(self, frame: Frame) -> None:
        """One frame of a relay."""
        self._fault.number += 1
        for spoiled in self._fault.spoil(frame):
            self._seq += 1
            self.publish((self._seq, spoiled.with_seq(self._fault.seq(self._seq))))

    def answer(self, method: str, target: str) -> tuple[int, Any]:
        """The figures of a relay that is no more."""
        return 200, self.stats


class TamperedRelay(RelayChild):
    """A relay whose `firehose` is spoiled. `frames`: what it really sent; `host`: one that it may be told to read."""

    def __init__(self, folder: Path, settings: Mapping[str, str], fault: Fault) -> None:
        super().__init__(folder, settings)
        self._undo = contextlib.ExitStack()
        self._undo.callback(super().close)
        with contextlib.ExitStack() as failed:
            failed.callback(self._undo.close)
            self.frames: list[Frame] = []
            self.last_stats: dict[str, Any] = {}
            self.host = self._undo.enter_context(FakePds())
            self._password = settings["RELAY_ADMIN_PASSWORD"]
            self._front = self._undo.enter_context(Front(fault))
            port = urlsplit(self.firehose).port
            assert port is not None
            fault.relay = self
            fault.prepare(folder)
            self.firehose = self._front.firehose
            self._undo.enter_context(Collector(port, 0, keep=self._take))
            failed.pop_all()

    def admin(self, path: str, body: dict[str, Any]) -> None:
        """An admin request."""
        headers = {"Authorization": f"Bearer {self._password}", "Content-Type": "application/json"}
        asked = urllib.request.Request(self.internal + path, json.dumps(body).encode(), headers)
        urllib.request.urlopen(asked, timeout=WAIT_S).close()

    def stats(self) -> dict[str, Any]:
        """As the relay says them."""
        self.last_stats = super().stats()
        return self.last_stats

    def _take(self, frame: Frame) -> None:
        self.frames.append(frame)
        self._front.pass_on(frame)

    def close(self) -> int:
        """The relay's exit status."""
        self._undo.close()
        return super().close()


class PastNetwork:
    """What a finished simulation has left: its ledger in `folder`."""

    plc = control = ""
    hosts = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ledger(self) -> Ledger:
        """From its beginning."""
        return Ledger(self._folder / "ledger")

    def finish(self) -> None:
        """It has."""


class Replay(RelayChild):
    """What a relay sent and said at its end, once more, spoiled. A context manager."""

    def __init__(self, folder: Path, frames: Sequence[Frame], stats: dict[str, Any], fault: Fault) -> None:
        self._undo = contextlib.ExitStack()
        self.process = SimpleNamespace(pid=os.getpid(), poll=lambda: None)  # type: ignore[assignment]
        self._front = Front(fault)
        self._front.stats = stats
        self.firehose = self._front.firehose
        self.public = self.internal = f"http://127.0.0.1:{self._front.port}"
        fault.prepare(folder)
        for frame in frames:
            self._front.pass_on(frame)
        self._undo.enter_context(self._front)

    def close(self) -> int:
        """It ends in order."""
        self._undo.close()
        return 0
