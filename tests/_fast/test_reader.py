"""Reader threads over real sockets, native and wsproto: cutting, order, credit, pings, deadlines, endings, cost."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import cbor2
import pytest
from wsproto import events
from wsproto.connection import Connection, ConnectionType

from tests._fast.test_ws import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame
from zlay._fast import host, pool, reader, verdicts
from zlay.hosts.wsproto_reader import WsprotoReader

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
DEADLINE_S = 20.0
DID = "did:plc:" + "a" * 24
_ids = itertools.count(500_000)

Row = tuple[int, int, bytes, bytes]
_taken: list[Row] = []  # taken out while sending
_open: list[socket.socket] = []  # closed after each test


@pytest.fixture(autouse=True)
def intake() -> Iterator[None]:
    """A pool and a collecting sink, and nothing left of either at the end."""
    pool.init(64 * MIB)
    reader.collect_here()
    _taken.clear()
    yield
    assert reader.stop_all(10) == 0
    reader.take_ends()
    reader.collected()
    reader.set_times()
    while _open:
        _open.pop().close()
    assert pool.stats()["used_bytes"] == 0
    pool.close()


@pytest.fixture(params=["native", "wsproto"])
def kind(request: pytest.FixtureRequest) -> str:
    """Both readers must pass."""
    return str(request.param)


class Server:
    """The PDS's end of an upgraded connection."""

    def __init__(
        self,
        kind: str = "native",
        leftover: bytes = b"",
        cursor: int | None = None,
        credit: int = 8 * MIB,
        *,
        new: bool = False,
    ) -> None:
        self.index = host.new(next(_ids), "pds.example.com", credit)
        if not new:
            host.set_epoch(self.index, 1, cursor or 0)  # a host whose cursor has been saved
        self.connect(kind, leftover, cursor)

    def connect(self, kind: str, leftover: bytes = b"", cursor: int | None = None) -> None:
        """One more connection to the host; the last one has ended."""
        self.sock, client = socket.socketpair()
        _open.append(self.sock)
        self.sock.settimeout(DEADLINE_S)
        self.wire = Connection(ConnectionType.SERVER)
        if kind == "native":
            reader.start(self.index, client.detach(), leftover, cursor)
        else:
            WsprotoReader(self.index, client, leftover, cursor)

    def send(self, data: bytes) -> None:
        """Sends all of it, taking what comes out meanwhile, as a pipeline would."""
        deadline = time.monotonic() + DEADLINE_S
        self.sock.setblocking(False)
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                _taken.extend(reader.collected())
                select.select([], [self.sock], [], 0.001)
            assert time.monotonic() < deadline
        self.sock.settimeout(DEADLINE_S)

    def receive(self) -> events.Event:
        """The next thing the relay says."""
        while True:
            for event in self.wire.events():
                return event
            data = self.sock.recv(65536)
            assert data, "closed"
            self.wire.receive_data(data)

    def end(self) -> reader.ConnectionEnd:
        """This connection's end record."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            for end in _ends_of(deadline):
                if end.host_index == self.index:
                    return end


def _ends_of(deadline: float) -> list[reader.ConnectionEnd]:
    ready, _, _ = select.select([reader.event_fd()], [], [], max(0.0, deadline - time.monotonic()))
    assert ready, "no end record in time"
    return reader.take_ends()


def _collect(n: int) -> list[Row]:
    """The next `n` frames that come out."""
    rows = list(_taken)
    _taken.clear()
    deadline = time.monotonic() + DEADLINE_S
    while len(rows) < n:
        rows += reader.collected()
        assert time.monotonic() < deadline, f"{len(rows)} of {n} frames in time"
        time.sleep(0.001)
    assert len(rows) == n
    return rows


def event(seq: int, size: int = 0) -> bytes:
    """An #identity message, padded with an unknown field."""
    payload = {"did": DID, "seq": seq, "time": "2026-01-01T00:00:00Z"}
    if size:
        payload["zpadding"] = "x" * size
    return cbor2.dumps({"t": "#identity", "op": 1}, canonical=True) + cbor2.dumps(payload, canonical=True)


def message(seq: int, size: int = 0) -> bytes:
    """The same in a WebSocket frame."""
    return frame(BINARY, event(seq, size))


def test_messages_come_out_once_in_order(kind: str) -> None:
    """Complete messages come out with their seq and DID, in the order sent, large ones included."""
    server = Server(kind)
    sizes = [0, 10, 5_000, 70_000, 0, 900_000, 4_900_000, 1]
    for seq, size in enumerate(sizes, 1):
        server.send(message(seq, size))
    rows = _collect(len(sizes))
    assert [row[1] for row in rows] == list(range(1, len(sizes) + 1))
    assert [row[2] for row in rows] == [event(seq, size) for seq, size in enumerate(sizes, 1)]
    assert {row[3] for row in rows} == {DID.encode()}
    stats = host.stats(server.index)
    assert (stats["frames"], stats["last_seq"], stats["credit_used_bytes"]) == (len(sizes), len(sizes), 0)


def test_one_byte_at_a_time(kind: str) -> None:
    """Bytes that arrive one by one give the same messages."""
    server = Server(kind)
    server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    data = message(1) + frame(BINARY, event(2)[:20], fin=False) + frame(PING, b"x") + frame(CONTINUATION, event(2)[20:])
    for i in range(len(data)):
        server.send(data[i : i + 1])
    assert [row[2] for row in _collect(2)] == [event(1), event(2)]
    assert server.receive() == events.Pong(payload=b"x")


def test_leftover_of_the_upgrade_comes_first(kind: str) -> None:
    """What arrived with the answer to the upgrade is read before the socket, a frame cut in two by it included."""
    data = message(1) + message(2)
    server = Server(kind, leftover=data[:-7])
    server.send(data[-7:])
    assert [row[1] for row in _collect(2)] == [1, 2]


def test_random_cuts_give_what_was_sent(kind: str) -> None:
    """A long stream cut at random places, with fragments and pings, comes out as sent."""
    rng = random.Random(11)
    server = Server(kind)
    data = bytearray()
    for seq in range(1, 301):
        body = event(seq, int(2 ** rng.uniform(0, 14)))
        cuts = sorted(rng.sample(range(len(body)), rng.randrange(3)))
        parts = [body[a:b] for a, b in itertools.pairwise([0, *cuts, len(body)])]
        for i, part in enumerate(parts):
            data += frame(CONTINUATION if i else BINARY, part, fin=i == len(parts) - 1)
            if rng.random() < 0.2:
                data += frame(PING, b"p")
    at = 0
    while at < len(data):
        n = int(2 ** rng.uniform(0, 15))
        server.send(bytes(data[at : at + n]))
        at += n
        server.sock.setblocking(False)
        try:
            server.sock.recv(65536)  # pongs
        except BlockingIOError:
            pass
        server.sock.settimeout(DEADLINE_S)
    rows = _collect(300)
    assert [row[1] for row in rows] == list(range(1, 301))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(frame(BINARY, b"x", mask=True), 1002, id="masked"),
        pytest.param(frame(TEXT, b"x"), 1003, id="text"),
        pytest.param(frame(CONTINUATION, b"x"), 1002, id="continuation of nothing"),
    ],
)
def test_protocol_errors_end_with_their_code(kind: str, data: bytes, code: int) -> None:
    """A violation is answered with its close code and ends the connection, after all good messages before it."""
    server = Server(kind)
    server.send(message(1) + data)
    answer = server.receive()
    assert isinstance(answer, events.CloseConnection)
    assert answer.code == code
    end = server.end()
    assert (end.cause, end.code, end.last_seq, end.frames) == ("protocol", code, 1, 1)
    assert len(_collect(1)) == 1


def test_five_megabytes_and_one(kind: str) -> None:
    """A message of 5,000,001 bytes costs itself alone: counted, not kept, and the next one comes out."""
    server = Server(kind)
    counted = _count("frame_too_large")
    server.send(frame(BINARY, bytes(5_000_001)) + message(7))
    assert [row[1] for row in _collect(1)] == [7]
    assert _count("frame_too_large") == counted + 1
    assert reader.alive(server.index)


def _count(reason: str) -> int:
    return sum(n for (_, label), n in verdicts.counts().items() if label == reason)


def test_peer_close_is_answered_and_told(kind: str) -> None:
    """A close frame is answered with its code; code and reason are in the end record."""
    server = Server(kind)
    server.send(frame(CLOSE, struct.pack("!H", 1012) + b"restarting"))
    assert server.receive() == events.CloseConnection(code=1012, reason="")
    end = server.end()
    assert (end.cause, end.code, end.text) == ("closed", 1012, "restarting")


def test_peer_vanishes(kind: str) -> None:
    """A socket that closes in the middle of a message ends with `eof`, and the partial message is given back."""
    server = Server(kind)
    server.send(message(1) + message(2, 100_000)[:50_000])
    server.sock.close()
    end = server.end()
    assert (end.cause, end.last_seq, end.good) == ("eof", 1, True)
    _collect(1)


def test_error_frame_ends_the_connection(kind: str) -> None:
    """An error frame (op -1) ends the connection; its name and message are in the end record."""
    server = Server(kind)
    body = {"error": "FutureCursor", "message": "Cursor in the future."}
    server.send(frame(BINARY, cbor2.dumps({"op": -1}) + cbor2.dumps(body, canonical=True)))
    end = server.end()
    assert (end.cause, end.error, end.text) == ("error_frame", "FutureCursor", "Cursor in the future.")


def test_error_frame_without_words_ends_the_connection(kind: str) -> None:
    """An error frame that has neither name nor message is one all the same (fuzzing: nothing was copied from NULL)."""
    server = Server(kind)
    server.send(frame(BINARY, cbor2.dumps({"op": -1}) + cbor2.dumps({})))
    end = server.end()
    assert (end.cause, end.error, end.text) == ("error_frame", "", "")


def test_outdated_cursor_is_counted(kind: str) -> None:
    """#info OutdatedCursor is counted for the host and goes on its way."""
    server = Server(kind)
    info = cbor2.dumps({"t": "#info", "op": 1}, canonical=True) + cbor2.dumps({"name": "OutdatedCursor"})
    server.send(frame(BINARY, info) + message(1))
    assert [row[1] for row in _collect(2)] == [0, 1]
    assert host.stats(server.index)["outdated_cursors"] == 1


def test_seq_that_goes_back_is_dropped(kind: str) -> None:
    """A seq not above the last on the socket drops that message and keeps the connection (A19)."""
    server = Server(kind)
    dropped = _count("seq_regression")
    server.send(message(5) + message(5) + message(3) + message(6))
    assert [row[1] for row in _collect(2)] == [5, 6]
    assert _count("seq_regression") == dropped + 2
    assert host.stats(server.index)["credit_used_bytes"] == 0


def test_event_at_the_cursor_is_dropped(kind: str) -> None:
    """A host that resends the event at the cursor itself is understood: the event does not come twice."""
    server = Server(kind, cursor=10)
    server.send(message(10) + message(11))
    assert [row[1] for row in _collect(1)] == [11]


def test_first_event_below_the_cursor_ends(kind: str) -> None:
    """When the first event lies below the cursor asked for, numbering has started again: the end record says so."""
    server = Server(kind, cursor=1_000)
    server.send(message(3))
    end = server.end()
    assert (end.cause, end.good) == ("seq_reset", False)


@pytest.mark.parametrize("broken_seq", [2**53 - 1, 900_000, 1], ids=["huge", "ahead", "behind"])
def test_a_broken_frame_moves_no_seq(kind: str, broken_seq: int) -> None:
    """A seq that jumps counts only in a well-formed frame: a broken one costs itself, not the good ones after it."""
    server = Server(kind, cursor=99)
    regressions = _count("seq_regression")
    broken = event(broken_seq, 50)[:-1]
    server.send(message(100) + frame(BINARY, broken) + message(102) + message(150))
    assert [row[1] for row in _collect(4)] == [100, 0, 102, 150]
    assert _count("seq_regression") == regressions
    assert host.stats(server.index)["last_seq"] == 150


def test_a_broken_first_frame_is_no_new_numbering(kind: str) -> None:
    """A broken frame with a seq below the cursor does not look like a host that begins its numbers anew."""
    server = Server(kind, cursor=1_000)
    server.send(frame(BINARY, event(3, 50)[:-1]) + message(1_001))
    assert [row[1] for row in _collect(2)] == [0, 1_001]
    assert reader.alive(server.index)


def test_hundred_undecodable_frames_end_the_connection(kind: str) -> None:
    """Bad frames go to the workers for their verdict; 100 in a row end the connection."""
    server = Server(kind)
    server.send(frame(BINARY, b"\xff\xff") * 99 + message(1) + frame(BINARY, b"") * 100 + message(2))
    assert server.end().cause == "decode"
    assert [row[1] for row in _collect(200)] == [0] * 99 + [1] + [0] * 100


def test_verdicts_on_encoding_end_the_connection_too(kind: str) -> None:
    """100 frames in a row that only the workers find undecodable end the connection as well."""
    server = Server(kind)
    reason = verdicts.REASON_BY_LABEL["cbor_key_order"].code
    server.send(b"".join(message(seq) for seq in range(1, 101)))
    deadline = time.monotonic() + DEADLINE_S
    while host.stats(server.index)["bad_run"] < 100:
        reader.collected(reason)
        assert time.monotonic() < deadline
    server.send(message(101))
    assert server.end().cause == "decode"


def test_pings_are_answered(kind: str) -> None:
    """The host's pings are answered with their payload."""
    server = Server(kind)
    server.send(frame(PING, b"are you there"))
    assert server.receive() == events.Pong(payload=b"are you there")


def test_we_ping_and_give_up() -> None:
    """Silence is answered with pings; after four without any answer the connection ends (A9)."""
    reader.set_times(ping_s=0.02)
    server = Server()
    for _ in range(4):
        assert server.receive() == events.Ping(payload=b"")
    assert server.end().cause == "silent"


def test_a_pong_is_an_answer() -> None:
    """As long as pings are answered the connection lives."""
    reader.set_times(ping_s=0.02)
    server = Server()
    for _ in range(12):
        assert server.receive() == events.Ping(payload=b"")
        server.send(frame(10))
    server.send(message(1))
    _collect(1)


def test_flood_of_pings_without_reading() -> None:
    """A host that pings without end and never reads costs bounded memory, and its events still come."""
    server = Server()
    server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    for seq in range(1, 51):
        server.send(frame(PING, b"x" * 125) * 400 + message(seq))
    assert len(_collect(50)) == 50
    answers = set()
    server.send(frame(PING, b"last"))
    while True:
        told = server.receive()
        assert isinstance(told, events.Pong)
        answers.add(bytes(told.payload))
        if told.payload == b"last":
            break
        if len(answers) == 1:
            server.send(frame(PING, b"last"))
    assert answers == {b"x" * 125, b"last"}


def test_stalled_message_ends_and_gives_back() -> None:
    """A host that stalls in the middle of a 5 MB message is let go after the deadline, and its room comes back."""
    reader.set_times(message_s=0.05)
    server = Server()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # on a busy machine the deadline comes first
        server.send(message(1, 4_900_000)[:1_000_000])
    end = server.end()
    assert end.cause == "stalled"
    assert pool.stats()["used_bytes"] == 0
    assert host.stats(server.index)["credit_used_bytes"] == 0


def test_memory_grows_with_what_arrives() -> None:
    """An announced length takes no memory: 4.9 MB announced and 1,000 bytes sent hold a few KiB."""
    server = Server()
    server.send(message(1, 4_900_000)[:1_000])
    deadline = time.monotonic() + DEADLINE_S
    while pool.stats()["used_bytes"] == 0:
        assert time.monotonic() < deadline
    assert pool.stats()["used_bytes"] <= 4096
    reader.stop(server.index)
    assert server.end().cause == "stopped"


def test_a_flood_makes_only_its_own_reader_wait() -> None:
    """A host over its credit is not read any further; others are; it goes on when credit comes back."""
    flooding, quiet = Server(credit=20_000), Server()
    flooding.sock.setblocking(False)
    sent = 0
    stream = b"".join(message(seq, 3_000) for seq in range(1, 2_000))
    deadline = time.monotonic() + DEADLINE_S
    while not host.stats(flooding.index)["waiting"] or select.select([], [flooding.sock], [], 0)[1]:
        try:
            sent += flooding.sock.send(stream[sent : sent + 65536])
        except BlockingIOError:
            pass
        assert time.monotonic() < deadline
    assert host.stats(flooding.index)["credit_used_bytes"] <= 20_000
    quiet.send(message(1))
    rows: list[Row] = []
    while not any(row[0] == quiet.index for row in rows):
        rows += reader.collected()
        assert time.monotonic() < deadline
    flooding.sock.settimeout(DEADLINE_S)
    seqs = [row[1] for row in rows if row[0] == flooding.index]
    while sent < len(stream):
        if select.select([], [flooding.sock], [], 0.001)[1]:
            sent += flooding.sock.send(stream[sent : sent + 65536])
        seqs += [row[1] for row in reader.collected() if row[0] == flooding.index]
    while len(seqs) < 1_999:
        seqs += [row[1] for row in reader.collected()]
        assert time.monotonic() < deadline
    assert seqs == list(range(1, 2_000))
    assert host.stats(flooding.index)["waited_s"] > 0


def test_large_frame_on_small_credit() -> None:
    """One frame always fits an idle host: a 2 MB message passes a host with 20 kB of credit."""
    server = Server(credit=20_000)
    server.send(message(1, 2_000_000))
    assert [row[1] for row in _collect(1)] == [1]


def test_exhausted_pool_lets_go_of_partial_messages() -> None:
    """Hosts that fill the pool with messages they never complete are let go of after a while; others go on."""
    reader.set_times(pool_s=0.1)
    stalling = [Server() for _ in range(20)]
    data = message(1, 4_900_000)[:4_500_000]
    sent = dict.fromkeys(stalling, 0)
    for server in stalling:
        server.sock.setblocking(False)
    deadline = time.monotonic() + DEADLINE_S
    causes: set[str] = set()
    while "pool" not in causes:
        for server, at in sent.items():
            try:
                sent[server] += server.sock.send(data[at : at + 65536])
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass
        causes |= {end.cause for end in reader.take_ends()}
        assert time.monotonic() < deadline
    assert causes == {"pool"}
    honest = Server()
    honest.send(message(1))
    assert _collect(1)[0][0] == honest.index


def _until_it_waits(server: Server, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while host.stats(server.index)["waits_for"] != what:
        assert time.monotonic() < deadline, f"never waited for {what}"


def test_a_new_host_waits_for_its_first_cursor(kind: str) -> None:
    """No event of a host without a saved cursor goes on before the cursor below it is saved; all do after that."""
    server, other = Server(kind, new=True), Server(kind)
    assert host.resume_seq(server.index) == 0  # a kill now, or an end, must not cost what the host sends from here on
    server.send(frame(BINARY, b"\xff") + message(41) + message(42))
    _until_it_waits(server, "anchor")
    other.send(message(1))
    assert sorted(row[1] for row in _collect(2)) == [0, 1]  # what has no seq need not wait
    number = host.stats(server.index)["id"]
    assert [row for row in host.anchors() if row[0] == number] == [(number, 1, 40)]
    assert host.resume_seq(server.index) == 40
    host.set_saved(server.index, 1, 40)
    assert [row[1] for row in _collect(2)] == [41, 42]
    assert host.anchors() == []
    assert host.resume_seq(server.index) == 42


def test_the_first_event_ever_waits_for_cursor_zero(kind: str) -> None:
    """The cursor below seq 1 is 0, which is saved like any other and asks for all that the host keeps."""
    server = Server(kind, new=True)
    server.send(message(1))
    _until_it_waits(server, "anchor")
    assert host.anchors() == [(host.stats(server.index)["id"], 1, 0)]
    host.set_saved(server.index, 1, 0)
    assert [row[1] for row in _collect(1)] == [1]


def test_an_end_before_the_first_cursor_is_saved(kind: str) -> None:
    """A connection that ends while its first event waits is dialled again from before that event."""
    server = Server(kind, new=True)
    server.send(message(7))
    _until_it_waits(server, "anchor")
    reader.stop(server.index)
    assert server.end().cause == "stopped"
    assert host.resume_seq(server.index) == 6
    server.sock, client = socket.socketpair()
    _open.append(server.sock)
    reader.start(server.index, client.detach(), b"", 6)
    server.send(message(7))
    host.set_saved(server.index, 1, 6)
    assert [row[1] for row in _collect(1)] == [7]


def test_one_host_has_a_share_of_the_queues(kind: str) -> None:
    """A host that floods has a quarter of a megabyte before the workers, others theirs; a large frame goes alone."""
    reader.collect_here(as_queue=True)
    flooding, quiet = Server(kind), Server(kind)
    stream = b"".join(message(seq, 3_000) for seq in range(1, 150)) + message(150, 1_000_000) + message(151)
    flooding.sock.setblocking(False)
    sent = flooding.sock.send(stream)
    deadline = time.monotonic() + DEADLINE_S
    while host.stats(flooding.index)["waits_for"] != "share":
        if select.select([], [flooding.sock], [], 0.001)[1]:
            sent += flooding.sock.send(stream[sent:])
        assert time.monotonic() < deadline
    assert 200_000 < host.stats(flooding.index)["queued_bytes"] <= 262_144
    quiet.send(message(1))  # takes what came out
    flooding.send(stream[sent:])
    rows = _collect(152)
    assert [row[1] for row in rows if row[0] == flooding.index] == list(range(1, 152))
    assert host.stats(flooding.index)["queued_bytes"] == 0
    assert host.stats(flooding.index)["credit_used_bytes"] == 0


@pytest.mark.parametrize("waiting", ["nothing", "credit", "share", "anchor"])
def test_stop_is_quick_and_polite(kind: str, waiting: str) -> None:
    """A stop ends a connection at once, whatever it waits for, and says 1001 to the host."""
    reader.collect_here(as_queue=waiting == "share")
    server = Server(kind, credit=8 * MIB if waiting == "share" else 1_000, new=waiting == "anchor")
    if waiting != "nothing":
        size = 200_000 if waiting == "share" else 5_000
        server.sock.sendall(message(1, size) + message(2, size))  # `send` would take frames out: room for the rest
        _until_it_waits(server, waiting)
    began = time.monotonic()
    assert reader.stop(server.index)
    end = server.end()
    assert end.cause == "stopped"
    assert time.monotonic() - began < 1.0
    answer = server.receive()
    assert isinstance(answer, events.CloseConnection)
    assert answer.code == 1001
    assert not reader.stop(server.index)


def test_one_connection_per_host() -> None:
    """A second connection of a host whose first still lives is refused, and its socket stays the caller's."""
    server = Server()
    other, client = socket.socketpair()
    with pytest.raises(OSError, match="busy"):
        reader.start(server.index, client.fileno())
    client.send(b"mine")
    assert other.recv(10) == b"mine"
    other.close()
    client.close()


def test_a_host_reconnects_after_its_end() -> None:
    """After the end record a host may be connected again, and its slots and counters go on."""
    server = Server()
    server.send(message(1))
    _collect(1)
    server.sock.close()
    server.end()
    server.sock, client = socket.socketpair()
    _open.append(server.sock)
    reader.start(server.index, client.detach(), b"", host.resume_seq(server.index))
    server.send(message(2))
    assert [row[1] for row in _collect(1)] == [2]
    assert host.collect(server.index, 0)[0] == 2


def test_reader_threads_take_no_signals() -> None:
    """Signals are the main thread's: a reader has all of them blocked."""
    Server()
    masks = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/status") as status:
                lines = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread of an earlier test, on its last instructions
        if lines["Name"] == "zlay-reader":
            masks.append(int(lines["SigBlk"], 16))
    assert masks
    blocked_always = 0x7FFFFFFF & ~(1 << 8 | 1 << 18)  # SIGKILL and SIGSTOP cannot be blocked
    assert all(mask & blocked_always == blocked_always for mask in masks)


THOUSAND = """
import resource, socket, time
from zlay._fast import host, pool, reader

def rss():
    with open("/proc/self/smaps_rollup") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Rss"))

N = 1000
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
pool.init(64 << 20)
reader.collect_here()
hosts = [host.new(i + 1, f"h{i}.example.com") for i in range(N)]
pairs = [socket.socketpair() for _ in range(N)]
frame = bytes.fromhex("821aa261746923696e666f626f7001" "a1646e616d656758585858585858")
before = rss()
began = time.monotonic()
for index, (_, client) in zip(hosts, pairs):
    reader.start(index, client.detach())
started = time.monotonic() - began
for server, _ in pairs:
    server.sendall(frame)
deadline = time.monotonic() + 30
seen = 0
while seen < N and time.monotonic() < deadline:
    seen += len(reader.collected())
each = (rss() - before) / N
began = time.monotonic()
left = reader.stop_all(10)
print(seen, left, round(each, 1), round(started, 3), round(time.monotonic() - began, 3), len(reader.take_ends()))
"""


@pytest.mark.measures
def test_thousand_connections_cost_little() -> None:
    """An idle connection that has received costs under 64 KiB of RSS with its thread; 1,000 start and stop quickly."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 3000:
        pytest.skip("fewer than 3,000 file descriptors allowed")
    out = subprocess.run([sys.executable, "-c", THOUSAND], capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr
    seen, left, each, started, stopped, ends = (float(word) for word in out.stdout.split())
    assert (seen, left, ends) == (1000, 0, 1000)
    assert each < 64
    assert started < 5
    assert stopped < 5
