"""Hidden accounts at the reader's side: what a takedown takes out of replay and live streams, and what it leaves."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.eventlog.support import DID, WAIT_S, message, opened, payload, until
from tests.firehose.client import BINARY, PONG, Client, hang_up_all
from tests.firehose.serving import serving
from zlay._fast import hidden, segments
from zlay._fast import log as core
from zlay._fast.verdicts import KINDS
from zlay.eventlog.entries import LOCAL
from zlay.eventlog.spans import seq_span
from zlay.firehose.consumers import Consumers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zlay.eventlog.log import EventLog

COMMIT, IDENTITY, ACCOUNT = (KINDS.index(name) for name in ("commit", "identity", "account"))
ALICE, BOB = "did:plc:alice", "did:plc:bob"


@pytest.fixture(autouse=True)
def nobody_hidden() -> Iterator[None]:
    """Nothing is left of it for other tests; runs after the test's own consumers have ended."""
    yield
    hidden.clear()


def say(log: EventLog, did: str, kind: int = COMMIT, *, flags: int = 0, text: str = "", did_hash: int = 0) -> int:
    """Log an event of an account; its seq."""
    frame = message(0, text).replace(DID.encode(), did.encode()).replace(b"\x6b" + did.encode(), _text(did), 1)
    seq = core.append(frame, *seq_span(frame), kind=kind, flags=flags, did_hash=did_hash or core.hash_did(did.encode()))
    assert log.wait_synced(seq, WAIT_S)
    return seq


def _text(did: str) -> bytes:
    """A short CBOR text."""
    return bytes((0x60 + len(did),)) + did.encode()


def got(client: Client, n: int) -> list[tuple[int, str]]:
    """(seq, DID) of the next n events."""
    found = []
    while len(found) < n:
        opcode, data = client.frame()
        assert opcode in (BINARY, PONG)
        if opcode == BINARY:
            fields = payload(data)
            found.append((fields["seq"], fields["did"]))
    return found  # type: ignore[return-value]


def test_every_cursor_beside_hidden_events(tmp_path: Path) -> None:
    """From every cursor a consumer gets exactly the events of the others, whatever segments and runs the hidden ones
    stand in, and then what comes live."""
    with serving(tmp_path) as (log, consumers):  # segments of five events
        wanted = [seq for seq in range(1, 41) if seq in (3, 4, 11, 17, 21, 22, 23, 24, 25, 30) or seq > 33]
        for seq in range(1, 41):
            assert say(log, BOB if seq in wanted else ALICE) == seq
        hidden.hide(ALICE.encode())
        clients = {cursor: Client.connect(consumers, cursor) for cursor in range(41)}
        for cursor, client in clients.items():
            expected = [seq for seq in wanted if seq > cursor]
            assert got(client, len(expected)) == [(seq, BOB) for seq in expected]
        before = hidden.events_hidden()
        assert before > 0
        assert say(log, ALICE) == 41
        assert say(log, BOB) == 42
        for client in clients.values():
            assert got(client, 1) == [(42, BOB)]
        until("all are at the head", lambda: all(row.lag == 0 for row in consumers.stats()))
        assert hidden.events_hidden() == before + len(clients)
        assert segments.status()["damaged"] == 0
        hidden.show(ALICE.encode(), 2**64 - 1)
        late = Client.connect(consumers, 0)
        assert [seq for seq, _ in got(late, 42)] == list(range(1, 43))


def test_what_stays_visible(tmp_path: Path) -> None:
    """#identity of a hidden account flows on, and so does what this relay itself says of it; its #account does not."""
    with serving(tmp_path) as (log, consumers):
        hidden.hide(ALICE.encode())
        shown = [say(log, ALICE, IDENTITY), say(log, ALICE, ACCOUNT, flags=LOCAL)]
        for kind in (0, COMMIT, KINDS.index("sync"), ACCOUNT):
            say(log, ALICE, kind)
        shown.append(say(log, BOB))
        assert [seq for seq, _ in got(Client.connect(consumers, 0), 3)] == shown


def test_hidden_up_to_a_seq(tmp_path: Path) -> None:
    """While the end of a takedown is on its way to the disk, what came before it stays hidden, and nothing after it."""
    with serving(tmp_path) as (log, consumers):
        for _ in range(5):
            say(log, ALICE)
        hidden.hide(ALICE.encode())
        hidden._set_below(ALICE.encode(), 4)
        assert hidden.below(ALICE.encode()) == 4
        assert got(Client.connect(consumers, 0), 2) == [(4, ALICE), (5, ALICE)]
        hidden.show(ALICE.encode(), 2**64 - 1)  # somebody who has seen another state changes nothing
        assert (hidden.below(ALICE.encode()), hidden.count()) == (4, 1)
        hidden.show(ALICE.encode(), 4)
        assert (hidden.below(ALICE.encode()), hidden.count()) == (0, 0)
        assert len(got(Client.connect(consumers, 0), 5)) == 5


def test_the_account_is_confirmed_in_the_frame(tmp_path: Path) -> None:
    """An account that shares a hash with a hidden one is not hidden."""
    with serving(tmp_path) as (log, consumers):
        collision = core.hash_did(ALICE.encode())
        assert [say(log, BOB, did_hash=collision), say(log, ALICE), say(log, BOB, did_hash=collision)] == [1, 2, 3]
        hidden.hide(ALICE.encode())
        assert got(Client.connect(consumers, 0), 2) == [(1, BOB), (3, BOB)]


def test_a_ban_in_the_middle_of_a_replay(tmp_path: Path) -> None:
    """A consumer that is being sent older events when the takedown comes gets none of the account's but those already
    written to its socket and the one under way, and loses none of the others'."""
    with opened(tmp_path) as log:
        for seq in range(1, 301):
            say(log, ALICE if seq % 3 else BOB, text="x" * 3000)
        consumers = Consumers()
        consumers.start()
        try:
            client = Client.connect(consumers, 0, buffers=8192, tcp=True)
            first = got(client, 10)
            until("its socket takes nothing", lambda: consumers.stats()[0].blocked_s > 0)
            hidden.hide(ALICE.encode())
            written = consumers.stats()[0].bytes
            ends, total = {}, 0
            for entry in log.scan(1):
                total += entry.length
                ends[entry.seq] = total
            under_way = min(seq for seq, end in ends.items() if end >= written)
            assert under_way < 250
            rest = [*first, *got(client, under_way - 10)]
            assert rest == [(seq, ALICE if seq % 3 else BOB) for seq in range(1, under_way + 1)]
            others = [seq for seq in range(under_way + 1, 301) if seq % 3 == 0]
            assert got(client, len(others)) == [(seq, BOB) for seq in others]
            assert client.quiet()
            until("it is at the head", lambda: consumers.stats()[0].lag == 0)
        finally:
            hang_up_all()  # or they would be waited for
            consumers.stop(1001, 2.0)


def test_takedowns_come_and_go_while_all_are_reading(tmp_path: Path) -> None:
    """Under a flood of takedowns and their reverse, consumers in every phase lose no event of the others, and get none
    of anybody's twice."""
    with serving(tmp_path) as (log, consumers):
        stop = threading.Event()
        names = [f"did:plc:name{n:04}" for n in range(50)]

        def change() -> None:
            while not stop.is_set():
                for name in names:
                    hidden.hide(name.encode())
                for name in names:
                    hidden.show(name.encode(), 2**64 - 1)

        changer = threading.Thread(target=change)
        changer.start()
        try:
            for n in range(300):
                frame = message(0, "y" * 200)
                core.append(frame, *seq_span(frame), kind=COMMIT, did_hash=core.hash_did(names[n % 50].encode()))
                if n % 2:
                    core.append(frame, *seq_span(frame), kind=COMMIT, did_hash=core.hash_did(DID.encode()))
            assert log.wait_synced(450, WAIT_S)
            for _ in range(5):
                client = Client.connect(consumers, 0)
                assert [seq for seq, _ in got(client, 450)] == list(range(1, 451))  # the frames are all of DID
                client.close()
        finally:
            stop.set()
            changer.join()
