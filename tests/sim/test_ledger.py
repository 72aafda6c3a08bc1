"""The ledger's file and the window of a host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zlay.sim.ledger import Expect, Kind, Ledger, LedgerWriter, message_of, same_but_seq
from zlay.sim.messages import account_frame, identity_frame, seq_offset, ws_frame
from zlay.sim.window import TAIL_FRAMES, Window

if TYPE_CHECKING:
    from pathlib import Path

DID = b"did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
TIME = b"2025-06-15T00:00:00.000Z"


def write_some(path: Path, count: int) -> list[bytes]:
    """A ledger with one host, one account and `count` events; their frames."""
    writer = LedgerWriter(path, 5)
    writer.append_host(0, "localhost:1", "http://localhost:1", 1)
    writer.append_account(0, DID.decode())
    frames = []
    for seq in range(1, count + 1):
        frame = account_frame(seq, DID, TIME, True, None)
        writer.append_event(Kind.ACCOUNT, Expect.PASS, 0, 0, 0, seq, 0, 1000 + seq, seq_offset(), frame)
        frames.append(frame)
    writer.append_link(0, True, None, 3, 9)
    writer.append_link(0, False, None, 7, 10)
    writer.append_end()
    writer.close()
    return frames


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Events, names, links and the end come back as they were."""
    frames = write_some(tmp_path / "l", 40)
    with Ledger(tmp_path / "l") as ledger:
        events = list(ledger.poll())
        assert [event.frame for event in events] == frames
        assert [event.seq for event in events] == list(range(1, 41))
        assert {event.did for event in events} == {DID.decode()}
        assert (ledger.hosts, ledger.seed, ledger.ended) == ({0: "localhost:1"}, 5, True)
        assert [(link.after_seq, link.until_seq) for link in ledger.links] == [(3, 7)]
        assert list(ledger.poll()) == []


def test_a_reader_takes_whole_records_only(tmp_path: Path) -> None:
    """However the file grows, each event is given once, when it is complete."""
    frames = write_some(tmp_path / "l", 3)
    data = (tmp_path / "l").read_bytes()
    growing = tmp_path / "growing"
    growing.write_bytes(b"")
    with Ledger(growing) as ledger, growing.open("ab", buffering=0) as out:
        got = []
        for at in range(len(data)):
            out.write(data[at : at + 1])
            got += [event.frame for event in ledger.poll()]
        assert got == frames
        assert ledger.ended


def test_another_file_is_refused(tmp_path: Path) -> None:
    """A file that is no ledger is an error, not an empty ledger."""
    (tmp_path / "x").write_bytes(b"something else altogether")
    with Ledger(tmp_path / "x") as ledger, pytest.raises(ValueError, match="not a ledger"):
        list(ledger.poll())


@pytest.mark.parametrize("seq", [1, 23, 24, 255, 256, 65535, 65536, 2**32, 2**53 - 1])
def test_frames_are_compared_in_all_but_seq(seq: int) -> None:
    """Another seq is told and accepted; any other change is not."""
    sent = message_of(identity_frame(77, DID, TIME, b"a.test"))
    offset = seq_offset()
    received = message_of(identity_frame(seq, DID, TIME, b"a.test"))
    assert same_but_seq(sent, received, offset) == seq
    for at in range(len(received)):
        changed = received[:at] + bytes([received[at] ^ 0x80]) + received[at + 1 :]
        assert same_but_seq(sent, changed, offset) != seq
    assert same_but_seq(sent, received[:-1], offset) is None
    assert same_but_seq(sent, received + b"\x00", offset) is None
    assert same_but_seq(sent, b"", offset) is None


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_messages_come_out_of_their_websocket_frames(size: int) -> None:
    """Every form of the WebSocket head is understood."""
    message = bytes(size)
    assert message_of(ws_frame(message)) == message


def test_a_window_reads_old_frames_from_the_file(tmp_path: Path) -> None:
    """Frames that have left memory come from the ledger's file, with the same bytes; those out of the window do not."""
    writer = LedgerWriter(tmp_path / "l", 1)
    window = Window(max_events=TAIL_FRAMES * 2)
    frames = []
    for seq in range(1, TAIL_FRAMES * 5 + 1):
        frame = account_frame(seq, DID, TIME, True, None)
        offset = writer.append_event(Kind.ACCOUNT, Expect.PASS, 0, 0, 0, seq, 0, 0, seq_offset(), frame)
        window.append(seq, frame, offset)
        frames.append(frame)
    writer.flush()
    assert window.first > 0
    assert window.lost_seq == window.first
    got: list[bytes] = []
    while window.first + len(got) < window.end:
        stretch = window.read(window.first + len(got), 10_000, writer.fd)
        assert 1 <= len(stretch) <= 10_000 // len(stretch[0]) + 1
        got += stretch
    assert got == frames[window.first :]
    assert window.position_after(window.lost_seq) == window.first
    assert window.seq_at(window.end - 1) == TAIL_FRAMES * 5
    writer.close()


def test_a_window_without_a_file_is_what_is_in_memory() -> None:
    """With nowhere to read back from, only frames in memory can be sent again, and memory is bounded."""
    window = Window(max_events=1000, tail_bytes=1000, backed=False)
    frames = [b"%0100d" % seq for seq in range(1, 51)]
    for seq, frame in enumerate(frames, 1):
        window.append(seq, frame, 0)
    assert window.read(0, 1 << 20, -1) == frames[-10:]
    assert (window.first, window.lost_seq, window.end) == (40, 40, 50)


def test_a_ledger_knows_what_nobody_was_there_for(tmp_path: Path) -> None:
    """Events before the first subscriber without a cursor were offered to nobody."""
    write_some(tmp_path / "l", 6)
    with Ledger(tmp_path / "l") as ledger:
        events = list(ledger.poll())
        assert [ledger.offered(event) for event in events] == [False] * 3 + [True] * 3
