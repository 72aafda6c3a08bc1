"""Stopped or killed and started again on the same data: every host goes on where it was, whatever the log's end is."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest

from tests.e2e.ledger import Seen, difference, expected, seen
from tests.e2e.relay import RelayProcess
from tests.ops.command import log_lines, state_stands_still
from tests.reference.consumer import Collector
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WAIT_S = 60.0
MORE = 150  # events between two ends
ENTRY_BYTES = 64
DUPLICATES = 'relay_events_total{reason="duplicate",verdict="drop"}'
# No key or host changes: what was said before one is judged by the new document when it is read again after it.
FLAGS = [
    *("--hosts", "5", "--accounts", "100", "--rate", "400", "--mix", "rotate=0", "--mix", "migrate=0"),
    *("--fault", "bad_signature=200", "--fault", "enc_trailing=200"),
]


def last_segment(data: Path) -> tuple[Path, Path]:
    """The newest .frames and its .index."""
    frames = max((data / "events").glob("*.frames"))
    return frames, frames.with_suffix(".index")


def append(path: Path, data: bytes) -> None:
    """Put bytes behind the end of a file, as a write that was torn leaves them."""
    with path.open("ab") as file:
        file.write(data)


def garbage_frames(data: Path) -> None:
    """Half a message that no entry tells of."""
    append(last_segment(data)[0], b"\x82\x7e\x10\x00" + os.urandom(777))


def garbage_index(data: Path) -> None:
    """Entries that are zeros, noise, and a piece of one; no message belongs to them."""
    append(last_segment(data)[1], bytes(ENTRY_BYTES * 2) + os.urandom(ENTRY_BYTES) + os.urandom(13))


def repeated_entry(data: Path) -> None:
    """A whole, valid entry a second time: right by its own checksum, wrong in its place."""
    index = last_segment(data)[1]
    append(index, index.read_bytes()[-ENTRY_BYTES:])


def unfinished_segment(data: Path) -> None:
    """A segment whose birth was cut short: names, and half a header."""
    _, index = last_segment(data)
    following = int(index.stem) + (index.stat().st_size - ENTRY_BYTES) // ENTRY_BYTES
    for kind in ("frames", "index"):
        (data / "events" / f"{following:020}.{kind}").write_bytes(b"zlay"[: 3 if kind == "index" else 4])


def cut_last_byte(data: Path) -> None:
    """The last message lacks its last byte."""
    frames, _ = last_segment(data)
    os.truncate(frames, frames.stat().st_size - 1)


def cut_to_first_byte(data: Path) -> None:
    """Of the last message only the first byte is there."""
    frames, index = last_segment(data)
    (offset,) = struct.unpack_from("<Q", index.read_bytes(), index.stat().st_size - ENTRY_BYTES)
    os.truncate(frames, offset + 1)


def cut_entry(data: Path) -> None:
    """The last message is whole, its entry is not."""
    _, index = last_segment(data)
    os.truncate(index, index.stat().st_size - 31)


def cut_both(data: Path) -> None:
    """Neither the last message nor its entry is whole."""
    cut_last_byte(data)
    cut_entry(data)


def zeroed_page(data: Path) -> None:
    """The last message is as long as its entry says, but its bytes never reached the disk."""
    frames, index = last_segment(data)
    (offset,) = struct.unpack_from("<Q", index.read_bytes(), index.stat().st_size - ENTRY_BYTES)
    with frames.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(frames.stat().st_size - offset))


def torn_ends(relay: RelayProcess) -> int:
    """How often recovery said that it cut something off."""
    return sum(line["event"] == "a torn end of the log was cut off" for line in log_lines(relay))


def wait_more(relay: RelayProcess) -> None:
    """MORE events beyond what is published now."""
    relay.wait_metric("relay_seq", relay.metrics()["relay_seq"] + MORE, WAIT_S)


def is_quiet(relay: RelayProcess) -> bool:
    """Whether every frame received has its verdict."""
    figures = relay.metrics()
    return figures["relay_held_frames"] == 0 and figures["relay_frames_received_total"] == sum(
        figures[f'relay_validation_total{{result="{result}"}}'] for result in ("validated", "failed")
    )


def test_stopped_and_started_again(tmp_path: Path) -> None:
    """After an orderly stop every host goes on at its cursor, nothing comes again in vain; torn ends change nothing."""
    spoils: list[Callable[[Path], None]] = [garbage_frames, garbage_index, repeated_entry, unfinished_segment]
    data = tmp_path / "data"
    with (
        SimProcess(*FLAGS, "--ledger", str(tmp_path / "ledger")) as sim,
        RelayProcess(data, plc_url=sim.plc, hosts=sim.hosts) as relay,
        Collector(relay.port, 0, reconnect=True, keep=seen) as consumer,
    ):
        wait_more(relay)
        sim.pause()
        relay.wait_for(
            lambda: is_quiet(relay), "a verdict on everything", WAIT_S
        )  # else frames are let go, and come again
        assert relay.terminate() == 0
        relay.start()
        sim.resume()
        wait_more(relay)
        assert relay.metrics().get(DUPLICATES, 0) == 0, "a host began below its cursor"
        for number, spoil in enumerate(spoils):
            assert relay.terminate() == 0
            spoil(data)
            relay.start()
            assert torn_ends(relay) == number + 1, spoil.__name__
            wait_more(relay)
        sim.finish()
        with sim.ledger() as ledger:
            events = expected(ledger)
        consumer.wait_count(len(events), WAIT_S)
        assert relay.terminate() == 0
        assert difference(events, [frame for frame in consumer.frames if isinstance(frame, Seen)]) == ""


def test_killed_with_a_torn_end(tmp_path: Path) -> None:
    """After a kill that tore the last event the log loses that one at most, and its host sends it again."""
    spoils: list[Callable[[Path], None]] = [cut_last_byte, cut_to_first_byte, cut_entry, cut_both, zeroed_page]
    data = tmp_path / "data"
    with (
        SimProcess(*FLAGS, "--ledger", str(tmp_path / "ledger")) as sim,
        RelayProcess(data, plc_url=sim.plc, hosts=sim.hosts) as relay,
    ):
        wait_more(relay)
        for number, spoil in enumerate(spoils):
            with state_stands_still(data):
                wait_more(relay)
                relay.kill()
            spoil(data)
            relay.start()
            assert torn_ends(relay) == number + 1, spoil.__name__
            wait_more(relay)
            assert relay.metrics().get(DUPLICATES, 0) > 0, "nothing was sent again: the state did not stand still"
        sim.finish()
        with sim.ledger() as ledger:
            events = expected(ledger)
        with Collector(relay.port, 0, keep=seen) as consumer:
            consumer.wait_count(len(events), WAIT_S)
            assert relay.terminate() == 0
            assert difference(events, [frame for frame in consumer.frames if isinstance(frame, Seen)]) == ""
        assert not [line for line in log_lines(relay) if line["level"] == "error"]
