"""Consumers over real sockets: every cursor, live and replay, control frames, slow and bad ones, shutdown."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.eventlog.support import WAIT_S, append, fill, message, opened, payload, until
from tests.firehose.client import BINARY, CLOSE, PING, PONG, Client, hang_up_all, masked
from tests.firehose.serving import ended, error_of, info_of, serving
from zlay._fast import log as core
from zlay._fast import segments
from zlay.firehose.consumers import Consumers, TooManyConsumers

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 4096  # bytes: the pieces in which the kernel takes a file's pages for a socket


def test_every_cursor_of_five_segments(tmp_path: Path) -> None:
    """Each cursor in and around a log of five segments gets exactly the events above it, then live ones, no gap, no
    duplicate; below the window OutdatedCursor comes first, above it FutureCursor ends the stream."""
    with serving(tmp_path) as (log, consumers):
        fill(log, 35)
        segments.retain(0, 1, 0, 11, 0)  # events 1 to 10 fall out: segments 11, 16, 21, 26, 31 are left
        assert log.oldest_seq == 11
        clients: dict[int, tuple[Client, int]] = {}
        for cursor in range(40):
            client = Client.connect(consumers, cursor)
            if cursor > 35:
                assert error_of(client.frame()[1]) == "FutureCursor"
                assert client.close_code() == 1008
                continue
            if 0 < cursor < 10:
                assert info_of(client.frame()[1]) == "OutdatedCursor"
            first = max(cursor + 1, 11)
            assert client.seqs(36 - first) == list(range(first, 36))
            clients[cursor] = client, first
        live = Client.connect(consumers, None)
        assert live.quiet()
        fill(log, 7)
        for client, _ in clients.values():
            assert client.seqs(7) == list(range(36, 43))
        assert live.seqs(7) == list(range(36, 43))
        by_id = {row.id: row for row in consumers.stats()}
        for client, first in clients.values():
            row = by_id[client.ident]
            assert (row.first_seq, row.next_seq, row.lag, row.events) == (first, 43, 0, 43 - first)
        assert consumers.disconnects()["future_cursor"] >= 4


def test_bytes_are_those_of_the_log(tmp_path: Path) -> None:
    """Frames of every size come through whole, byte for byte, over TCP."""
    with serving(tmp_path) as (log, consumers):
        sizes = [0, 100, 126, 65_536, 3_000_000, 5, 70_000, 4_900_000, 1]
        texts = [str(i) * size for i, size in enumerate(sizes)]
        client = Client.connect(consumers, 0, tcp=True)
        for text in texts:
            append(log, text)
        for i, text in enumerate(texts):
            assert client.frame() == (BINARY, message(i + 1, text))


def test_replay_meets_live_without_gap_or_duplicate(tmp_path: Path) -> None:
    """Consumers that join while events are being logged, from anywhere, see each event above their cursor once."""
    with serving(tmp_path) as (log, consumers):
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                append(log, "x" * 300)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            until("no events", lambda: log.published_end > 50)
            for cursor in (0, 1, 25, log.published_end, log.published_end - 1):
                client = Client.connect(consumers, cursor)
                assert client.seqs(400) == list(range(cursor + 1, cursor + 401))
                client.close()
            live = Client.connect(consumers)
            first = live.seq()
            assert live.seqs(200) == list(range(first + 1, first + 201))
        finally:
            stop.set()
            writer.join()


@pytest.mark.parametrize("tick_ms", [0, 2, None])
def test_many_consumers_all_get_everything(tmp_path: Path, tick_ms: float | None) -> None:
    """Sixty consumers, woken at once or by the tick, all follow to the head."""
    with serving(tmp_path, tick_ms=tick_ms) as (log, consumers):
        clients = [Client.connect(consumers, 0 if i % 2 else None) for i in range(60)]
        for round_ in range(5):
            fill(log, 10)
            for client in clients:
                assert client.seqs(10) == list(range(round_ * 10 + 1, round_ * 10 + 11))
        assert consumers.count() == 60
        assert consumers.totals()["wakes"] >= 1


def test_a_log_that_starts_high_and_gaps(tmp_path: Path) -> None:
    """A cursor inside numbers that were left out goes on after them."""
    with opened(tmp_path, durability="os") as log:
        fill(log, 5)
    (tmp_path / "events" / "run.json").unlink()
    with serving(tmp_path) as (log, consumers):
        client = Client.connect(consumers, 500)
        replay = Client.connect(consumers, 3)
        assert replay.seqs(2) == [4, 5]
        fill(log, 2)
        assert client.seqs(2) == replay.seqs(2) == [1_000_006, 1_000_007]
        assert Client.connect(consumers, 500).seqs(1) == [1_000_006]


def test_damaged_events_are_passed_over(tmp_path: Path) -> None:
    """An event that cannot be read costs consumers that event only."""
    with serving(tmp_path) as (log, consumers):
        fill(log, 12)
        path = tmp_path / "events" / f"{6:020}.index"
        data = bytearray(path.read_bytes())
        data[64 * 2] ^= 1
        path.write_bytes(data)
        (tmp_path / "events" / f"{1:020}.index").unlink()
        assert Client.connect(consumers, 0).seqs(6) == [6, 8, 9, 10, 11, 12]


def test_a_log_that_cannot_be_read_ends_the_stream(tmp_path: Path) -> None:
    """Where a file of the log cannot be read just now, or ends in the middle of an event, a consumer is let go, closed
    with 1011 where that is possible; it is counted as ours, and others read on elsewhere in the log."""
    with serving(tmp_path) as (log, consumers):
        before = consumers.disconnects()["log_error"]
        fill(log, 12)
        events = tmp_path / "events"
        (events / f"{1:020}.index").unlink()
        (events / f"{1:020}.index").mkdir()
        assert Client.connect(consumers, 0).close_code() == 1011
        ended(consumers, "log_error", before + 1)
        frames = events / f"{6:020}.frames"
        os.truncate(frames, frames.stat().st_size - 1)
        cut = Client.connect(consumers, 5)
        assert cut.seqs(4) == [6, 7, 8, 9]
        while cut.sock.recv(1_000):
            pass
        ended(consumers, "log_error", before + 2)
        assert Client.connect(consumers, 10).seqs(2) == [11, 12]


def test_wake_ups_are_coalesced(tmp_path: Path) -> None:
    """However many groups are published, consumers are woken once a tick at most, and get all."""
    tick_ms = 100
    with serving(tmp_path, tick_ms=tick_ms) as (log, consumers):
        clients = [Client.connect(consumers) for _ in range(3)]
        begin, wakes, groups = time.monotonic(), consumers.totals()["wakes"], log.status()["groups"]
        for _ in range(200):
            assert log.wait_synced(append(log, "x"), WAIT_S)
        for client in clients:
            assert client.seqs(200) == list(range(1, 201))
        most = (time.monotonic() - begin) * 1000 / tick_ms + 2
        assert 1 <= consumers.totals()["wakes"] - wakes <= most
        assert int(str(log.status()["groups"])) - int(str(groups)) == 200


def test_cursor_0_of_a_log_whose_first_events_are_not_written_yet(tmp_path: Path) -> None:
    """Who comes while the very first events are still in the buffer gets them, too."""
    for attempt in range(10):
        with serving(tmp_path / f"{attempt}") as (log, consumers):
            for _ in range(3):
                append(log, "x")
            assert Client.connect(consumers, 0).seqs(3) == [1, 2, 3]


# ---- control frames -------------------------------------------------------------------------------------------------


def test_pings_are_answered_between_frames(tmp_path: Path) -> None:
    """A pong stands at a frame boundary, answers the latest ping, and loses no event."""
    with serving(tmp_path) as (log, consumers):
        texts = ["x" * 400_000] * 12
        client = Client.connect(consumers, 0, buffers=8_192)
        for text in texts:
            append(log, text)
        until("the consumer is not behind", lambda: any(row.blocked_s > 0 for row in consumers.stats()))
        client.sock.sendall(masked(PING, b"first") + masked(PING, b"second"))
        frames = []
        while len(frames) < 13:
            frames.append(client.frame())
        pongs = [data for opcode, data in frames if opcode == PONG]
        assert b"second" in pongs
        assert next(data for opcode, data in frames if opcode == BINARY) == message(1, texts[0])
        while sum(opcode == BINARY for opcode, _ in frames) < 12:
            frames.append(client.frame())
        events = [data for opcode, data in frames if opcode == BINARY]
        assert events == [message(i + 1, text) for i, text in enumerate(texts)]
        # The pong did not wait for the end of the backlog.
        assert frames[-1][0] == BINARY


@pytest.mark.parametrize(("events", "size"), [(64, 600), (65, 600), (448, 600), (449, 600), (1000, 600), (700, 3000)])
def test_large_ranges_hold_whole_frames_and_are_cut_at_one(tmp_path: Path, events: int, size: int) -> None:
    """However many events stand in one piece, a consumer that pings now and then gets each once, pongs between them."""
    with serving(tmp_path, segment_entries=10_000) as (log, consumers):
        sent = fill(log, events, size=size)
        client = Client.connect(consumers, 0, buffers=8_192)
        got, pongs = [], 0
        while len(got) < events:
            if len(got) % 50 == 0:
                client.sock.sendall(masked(PING, b"?"))
            opcode, data = client.frame()
            assert opcode in (BINARY, PONG)
            pongs += opcode == PONG
            got += [data] if opcode == BINARY else []
        assert got == sent
        if not pongs:  # all had been sent before the first ping
            assert client.frame() == (PONG, b"?")
        assert Client.connect(consumers, 0).seqs(events) == list(range(1, events + 1))


def test_a_cut_at_a_frames_end_sends_nothing_twice(tmp_path: Path) -> None:
    """Where a socket has taken frames up to the very end of one when a ping cuts what follows, the next one comes
    next."""
    with opened(tmp_path) as log:
        frames = 120
        for seq in range(1, frames + 1):  # each ends where a block of the file does
            room = BLOCK - 4 - (64 if seq == 1 else 0)
            text = "x" * (room - len(message(seq, "x" * 3000)) + 3000)
            append(log, text)
        assert log.wait_synced(frames, WAIT_S)
        assert all((sum(e.length for e in log.scan(1, n)) + 64) % BLOCK == 0 for n in (1, 2, frames))
        consumers = Consumers()
        consumers.start()
        try:
            client = Client.connect(consumers, 0, buffers=BLOCK * 2)
            seqs = []
            while len(seqs) < frames:
                until("its socket is full", lambda: consumers.stats()[0].blocked_s > 0 or consumers.stats()[0].lag == 0)
                client.sock.sendall(masked(PING, b"x"))
                for _ in range(min(2, frames - len(seqs))):
                    opcode, data = client.frame()
                    while opcode == PONG:
                        opcode, data = client.frame()
                    seqs.append(payload(data)["seq"])
            assert seqs == list(range(1, frames + 1))
            assert consumers.stats()[0].events <= frames
        finally:
            hang_up_all()  # or they would be waited for
            consumers.stop(1001, 2.0)


def test_idle_consumers_are_pinged(tmp_path: Path) -> None:
    """A ping goes out only when nothing was written for a while; a pong is read past."""
    with serving(tmp_path, ping_s=0.2) as (log, consumers):
        client = Client.connect(consumers)
        assert client.frame() == (PING, b"")
        client.sock.sendall(masked(PONG))
        begin = time.monotonic()
        while time.monotonic() - begin < 0.6:
            append(log, "busy")
            opcode, _ = client.frame()
            assert opcode == BINARY
        assert client.frame() == (PING, b"")


def test_the_consumers_close_is_answered(tmp_path: Path) -> None:
    """The close handshake: same code back, end of stream, counted as the consumer's own wish."""
    with serving(tmp_path) as (_log, consumers):
        before = consumers.disconnects()["client_closed"]
        client = Client.connect(consumers)
        client.sock.sendall(masked(CLOSE, b"\x0f\xa0mine"))
        assert client.frame() == (CLOSE, b"\x0f\xa0")
        assert client.sock.recv(1) == b""
        client.close()
        ended(consumers, "client_closed", before + 1)
        bare = Client.connect(consumers)
        bare.sock.sendall(masked(CLOSE))
        assert bare.frame() == (CLOSE, b"")


def test_text_and_any_other_messages_are_ignored(tmp_path: Path) -> None:
    """A consumer may talk; nobody listens, and its stream goes on (A3)."""
    with serving(tmp_path) as (log, consumers):
        client = Client.connect(consumers, received=masked(1, b"early")[:3])
        client.sock.sendall(masked(1, b"early")[3:] + masked(1, b"{}") + masked(2, bytes(100)))
        for i in range(20):
            client.sock.sendall(masked(1, b"t" * 100))
            append(log, "x")
            assert client.seq() == i + 1


@pytest.mark.parametrize("bad", [b"\x89\x00", b"\x83\x80\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 50])
def test_bad_frames_end_the_connection_with_1002(tmp_path: Path, bad: bytes) -> None:
    """What breaks RFC 6455 (unmasked, unknown opcodes, garbage) is closed with 1002 and counted."""
    with serving(tmp_path) as (_log, consumers):
        before = consumers.disconnects()["protocol_error"]
        client = Client.connect(consumers)
        client.sock.sendall(bad)
        assert client.close_code() == 1002
        ended(consumers, "protocol_error", before + 1)


def test_bytes_that_came_with_the_upgrade_count(tmp_path: Path) -> None:
    """Frames that the consumer sent together with its request are heard."""
    with serving(tmp_path) as (_log, consumers):
        client = Client.connect(consumers, received=masked(PING, b"early"))
        assert client.frame() == (PONG, b"early")
        assert Client.connect(consumers, received=b"\x89\x00").close_code() == 1002


def test_a_consumer_that_hangs_up_is_let_go(tmp_path: Path) -> None:
    """End of stream and reset, idle or behind, end the thread; nobody else notices."""
    with serving(tmp_path) as (log, consumers):
        before = consumers.disconnects()["client_gone"]
        other = Client.connect(consumers)
        Client.connect(consumers).close()
        ended(consumers, "client_gone", before + 1)
        for _ in range(20):
            append(log, "x" * 300_000)
        behind = Client.connect(consumers, 0, tcp=True, buffers=65_536)
        behind.frame()
        behind.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        behind.close()
        ended(consumers, "client_gone", before + 2)
        assert other.seqs(20) == list(range(1, 21))
        assert consumers.count() == 1


# ---- slow ones -----------------------------------------------------------------------------------------------------


def test_a_consumer_that_never_reads_is_too_slow(tmp_path: Path) -> None:
    """No progress while behind, for long enough: ended, counted; a consumer that reads is not touched."""
    with serving(tmp_path, slow_s=0.3, error_s=0.2) as (log, consumers):
        before = consumers.disconnects()["too_slow"]
        stuck = Client.connect(consumers, buffers=4_096)
        reader = Client.connect(consumers)
        for i in range(30):
            append(log, "x" * 300_000)
            assert reader.seq() == i + 1
        ended(consumers, "too_slow", before + 1)
        assert consumers.count() == 1
        stuck.close()


def test_too_slow_is_said_where_it_can_be(tmp_path: Path) -> None:
    """When the consumer reads again in time, it gets the rest of its frame, the error frame, and close 1008 (A18)."""
    with serving(tmp_path, slow_s=0.2, error_s=WAIT_S) as (log, consumers):
        client = Client.connect(consumers, buffers=4_096)
        for _ in range(10):
            append(log, "x" * 500_000)
        until("not finishing", lambda: any(row.state == "finishing" for row in consumers.stats()))
        opcode, data = client.frame()
        expected = 1
        while error := data == message(expected, "x" * 500_000):
            expected += 1
            opcode, data = client.frame()
        assert not error
        assert opcode == BINARY
        assert error_of(data) == "ConsumerTooSlow"
        assert client.close_code() == 1008


def test_slow_but_steady_is_not_too_slow(tmp_path: Path) -> None:
    """Progress counts, however little: a consumer that takes some bytes now and then stays."""
    with serving(tmp_path, slow_s=0.5) as (log, consumers):
        before = consumers.disconnects()["too_slow"]
        client = Client.connect(consumers, buffers=4_096)
        for _ in range(20):
            append(log, "x" * 100_000)
        begin = time.monotonic()
        while time.monotonic() - begin < 1.5:
            client.sock.recv(20_000)
            time.sleep(0.05)  # the consumer's own slowness
        assert consumers.disconnects()["too_slow"] == before
        assert consumers.count() == 1


def test_a_position_that_fell_out_of_the_window_is_too_slow(tmp_path: Path) -> None:
    """A consumer so far behind that its next event is gone ends with ConsumerTooSlow; the segment it was reading is
    read to its end."""
    with serving(tmp_path) as (log, consumers):
        before = consumers.disconnects()["retention"]
        for _ in range(30):
            append(log, "x" * 200_000)
        assert log.wait_synced(30, WAIT_S)
        client = Client.connect(consumers, 0, buffers=4_096)
        assert client.seq() == 1
        segments.retain(0, 1, 0, 2**64 - 1, 0)
        assert log.oldest_seq == 26
        assert client.seqs(4) == [2, 3, 4, 5]
        assert error_of(client.frame()[1]) == "ConsumerTooSlow"
        assert client.close_code() == 1008
        ended(consumers, "retention", before + 1)
        assert log.status()["segments_held_bytes"] == 0


@pytest.mark.parametrize("cursor", [0, 2, 4, 9, None])
def test_retention_takes_the_place_of_one_who_comes(
    cursor: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where retention takes a consumer's first event away while it connects, it begins where the window now does; it is
    told OutdatedCursor, once, unless it asked for whatever there is (A15, A16)."""
    with serving(tmp_path) as (log, consumers):
        before = consumers.disconnects()["retention"]
        for _ in range(10 if cursor is not None else 5):
            append(log, "x" * 2_000)
        assert log.wait_synced(log.appended_end, WAIT_S)
        status = core.status()  # as `accept` saw it
        for _ in range(30 - log.appended_end):
            append(log, "x" * 2_000)
        assert log.wait_synced(30, WAIT_S)
        if cursor == 2:  # one that had been outdated already
            status |= {"oldest_seq": 6}
        monkeypatch.setattr("zlay.firehose.consumers._log", SimpleNamespace(status=lambda: status))
        segments.retain(0, 1, 0, 2**64 - 1, 0)
        assert log.oldest_seq == 26
        client = Client.connect(consumers, cursor)
        if cursor != 0:
            assert info_of(client.frame()[1]) == "OutdatedCursor"
        assert client.seqs(5) == [26, 27, 28, 29, 30]
        append(log, "live")
        assert client.seq() == 31
        assert consumers.disconnects()["retention"] == before


def test_a_flood_of_pings_costs_one_pong_at_a_time(tmp_path: Path) -> None:
    """A consumer that pings without reading is bounded by TCP and ends as too slow; one that reads is served on."""
    with serving(tmp_path, slow_s=0.5, error_s=0.2) as (log, consumers):
        flood = Client.connect(consumers, tcp=True, buffers=65_536)
        flood.sock.settimeout(0.2)
        other = Client.connect(consumers)
        served: list[int] = []
        reading = threading.Thread(target=lambda: served.extend(other.seqs(30)))
        reading.start()
        for _ in range(30):
            append(log, "x" * 200_000)
        sent = 0
        begin = time.monotonic()
        while time.monotonic() - begin < 10:
            try:
                sent += flood.sock.send(masked(PING, b"p" * 125) * 100)
            except (TimeoutError, OSError):
                break
        reading.join(WAIT_S)
        assert served == list(range(1, 31))
        until("the flood goes on", lambda: consumers.count() == 1)
        flood.close()


def test_chatter_is_throttled_not_the_stream(tmp_path: Path) -> None:
    """More input than the limit is left to TCP for the rest of a second, while events still go out."""
    with serving(tmp_path) as (log, consumers):
        client = Client.connect(consumers)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        chatter = threading.Thread(target=client.sock.sendall, args=(masked(1, b"t" * 125) * 1_500,))
        chatter.start()
        for i in range(10):
            append(log, "x")
            assert client.seq() == i + 1
        chatter.join(WAIT_S)
        assert not chatter.is_alive()


# ---- limits, shutdown ---------------------------------------------------------------------------------------------


def test_limits_in_all_and_per_address(tmp_path: Path) -> None:
    """A consumer beyond a limit is refused before its upgrade; a place is free again when one has ended."""
    with serving(tmp_path, limit=3, per_address=2) as (_log, consumers):
        a = Client.connect(consumers, address="a")
        Client.connect(consumers, address="a")
        with pytest.raises(TooManyConsumers, match="address"):
            consumers.admit("a")
        consumers.admit("b")
        with pytest.raises(TooManyConsumers):
            consumers.admit("c")
        consumers.release("b")
        Client.connect(consumers, address="b")
        a.close()

        def place_free() -> bool:
            try:
                consumers.admit("a")
            except TooManyConsumers:
                return False
            return True

        until("the place is not given back", place_free)


@pytest.mark.parametrize("code", [1001, 1012])
def test_shutdown_closes_everybody(tmp_path: Path, code: int) -> None:
    """At shutdown each consumer gets the rest of its frame and a close; who does not read is cut at the deadline."""
    with serving(tmp_path) as (log, consumers):
        before = consumers.disconnects()["shutdown"]
        idle = Client.connect(consumers)
        behind = Client.connect(consumers, buffers=4_096)
        for _ in range(10):
            append(log, "x" * 300_000)
        assert idle.seqs(10) == list(range(1, 11))
        assert behind.frame() == (BINARY, message(1, "x" * 300_000))
        begin = time.monotonic()
        stopper = threading.Thread(target=consumers.stop, args=(code, 1.0))
        stopper.start()
        assert idle.close_code() == code
        stopper.join(WAIT_S)
        assert not stopper.is_alive()
        assert time.monotonic() - begin < 3
        assert consumers.count() == 0
        assert consumers.disconnects()["shutdown"] == before + 2
        with pytest.raises(RuntimeError):
            Client.connect(consumers)


def rss() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * BLOCK


@pytest.mark.measures
def test_consumers_behind_cost_the_same_however_far(tmp_path: Path) -> None:
    """Consumers that do not read cost under 40 KiB of memory each at any distance behind, as much as those close by."""
    from zlay._fast import mem

    each, buffers = 150, 8 << 10
    resident, allocated = [], []
    with serving(tmp_path) as (log, consumers):
        fill(log, 1000, size=20_000)  # 20 MB; a socket takes some of the last events
        Client.connect(consumers, 0, buffers=buffers)
        for first, span in ((980, 10), (0, 980)):
            before = rss(), mem.usage()["consumer"][0]
            for i in range(each):
                Client.connect(consumers, first + span * i // each, buffers=buffers)
            until("all are blocked", lambda: all(row.blocked_s > 0 for row in consumers.stats()))
            resident.append((rss() - before[0]) / each)
            allocated.append(mem.usage()["consumer"][0] - before[1])
    assert max(resident) < 40 * 1024 + 12 * 1024  # the test's own socket and objects come on top
    assert allocated[0] == allocated[1] < each * 40 * 1024


@pytest.mark.measures
def test_consumers_cost_a_known_amount(tmp_path: Path) -> None:
    """Three hundred idle consumers cost under 40 KiB of memory each, and nothing is left when they have gone."""
    from zlay._fast import mem

    with serving(tmp_path) as (log, consumers):
        fill(log, 50)
        Client.connect(consumers, 0).seqs(50)
        before = rss()
        clients = [Client.connect(consumers, 0) for _ in range(300)]
        for client in clients:
            client.seqs(50)
        assert (rss() - before) / len(clients) < 40 * 1024 + 12 * 1024  # the test's own socket and objects come on top
        for client in clients:
            client.close()
        until("consumers left", lambda: consumers.count() == 1)
        consumers.stats()
    assert mem.usage()["consumer"][0] == 0
