"""The stress of the core's shared structures: `python -m tests.native.stress [--seconds N] [NAME ...]`.

Threads in C work on the structures while this one thread of Python does what the relay's Python threads do: collects,
scrapes, trims, retires, answers. Each part raises AssertionError when something was lost, came twice or out of order.
`scripts/tsan` runs it compiled with ThreadSanitizer, which says more; `--plant` is a race for it to find.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests._fast.pipe import Pipe
from tests._fast.replay import Replay, record
from tests.native import load
from zlay._fast import consumer, hidden, host, limits, log, mem, pipeline, pool, reader, requests, segments, verdicts
from zlay.eventlog.log import EventLog, LogSettings
from zlay.eventlog.spans import seq_span
from zlay.firehose.frames import account_message

if TYPE_CHECKING:
    from collections.abc import Callable

END_S = 120.0  # for what has been stopped to come to its end, on a slow and busy machine
MIB = 1 << 20
_ids = itertools.count(900_000)


def _hosts(n: int, credit: int) -> list[int]:
    return [host.new(next(_ids), f"stress-{number}", credit) for number in range(n)]


def _until(condition: Callable[[], bool], meanwhile: Callable[[], object], what: str, seconds: float = END_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        meanwhile()
        time.sleep(0.001)


def _for(seconds: float, meanwhile: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        meanwhile()
        time.sleep(0.001)


# --- pool, credit, shares, slots, inboxes ---

HEADER = bytes.fromhex("a2") + b"at" + b"\x69#identity" + b"bop" + b"\x01"  # {"t": "#identity", "op": 1}
TEMPLATES, HOSTS = 24, 6


def _template(number: int) -> tuple[bytes, int]:
    """A frame of tests/native/race_frames.pyx, and where its DID ends."""
    size = {7: 40_000, 15: 150_000, 23: 600_000}.get(number, (64, 300, 2_000, 5_000, 9_000)[number % 5])
    head = HEADER + b"\xa3cdid\x78\x20did:plc:" + f"{number:024d}".encode()
    return head + b"cseq\x1a\0\0\0\0" + b"ezzzzz" + b"\x5a" + size.to_bytes(4, "big") + bytes(size), len(head)


def frames(seconds: float) -> dict[str, Any]:
    """Connections, pool, credit, shares, anchors, slots, inboxes."""
    native = load("race_frames")
    pool.init(32 * MIB)
    indexes = _hosts(HOSTS, 4 * MIB)
    turn = itertools.count()

    def housekeeping() -> None:
        for host_id, epoch, cursor in host.anchors():
            host.set_saved(indexes[0] + host_id - host.stats(indexes[0])["id"], epoch, cursor)
        host.collect_all(native.synced_end())
        host.totals()
        host.stats(indexes[next(turn) % HOSTS])
        pool.stats()
        pool.resident_bytes()
        verdicts.counts()
        if next(turn) % 64 == 0:
            pool.trim()

    native.start(indexes, [_template(number) for number in range(TEMPLATES)])
    _for(seconds, housekeeping)
    native.stop_producing()
    _until(lambda: native.producing() == 0, housekeeping, "producers do not end")
    result: dict[str, Any] = native.finish()
    rows = {row[0]: row for row in host.collect_all(native.synced_end())}
    for index, last in zip(indexes, result["last"], strict=False):
        stats = host.stats(index)
        assert stats["credit_used_bytes"] == stats["queued_bytes"] == stats["pending"] == 0, stats
        assert rows[stats["id"]][2:] == (last, None), rows[stats["id"]]
    assert pool.stats()["frames"] == pool.stats()["used_bytes"] == 0
    pool.check()
    pool.close()
    assert result["faults"] == 0
    assert result["sent"] == result["taken"] == result["dropped"] + result["synced"] > 0
    assert result["messages_sent"] == result["messages_taken"] > 0
    assert result["queued"] == 0
    return result


# --- sequencer, writer, segments, ranges, consumers ---


def _consumer_end(next_seq: int) -> socket.socket:
    ours, theirs = socket.socketpair()
    consumer.accept(theirs.detach(), "stress", next_seq)
    return ours


def _log(seconds: float, durability: str, folder: Path) -> dict[str, Any]:
    native = load("race_log")
    pool.init(256 * MIB)  # bounds credit, of which there is more than room in the log's buffer
    settings: dict[str, Any] = {"durability": durability, "segment_bytes": 2 * MIB, "buffer_chunks": 2}
    opened = EventLog.open(folder, LogSettings(retention_hours=0, retention_bytes=8 * MIB, **settings))
    consumer.start(b"\x88\x00", b"\x89\x00", tick_us=-1)
    drains = [_consumer_end(1) for _ in range(3)]
    visitors: list[socket.socket] = []
    turn = itertools.count()

    def housekeeping() -> None:
        rows = consumer.stats()
        opened.set_keep_from(min([row[4] for row in rows], default=1))
        log.retain()
        log.status()
        segments.table()
        segments.status()
        consumer.count()
        consumer.disconnects()
        consumer.take_ends()
        if next(turn) % 8 == 0:
            visitors.append(_consumer_end(log.ends()[2] + 1))
        if len(visitors) > 6:
            visitors.pop(0).close()

    native.start(_hosts(6, 8 * MIB), [end.fileno() for end in drains])
    _for(seconds, housekeeping)
    native.stop_appending()
    waited = log.status()["waited"]
    appended = native.appended()
    _until(lambda: set(native.drained()) == {appended}, housekeeping, "consumers do not get all")
    for visitor in visitors:
        visitor.close()
    for end in drains:
        end.shutdown(socket.SHUT_RDWR)
    consumer.stop(1001, 3.0)
    opened.close()
    result: dict[str, Any] = {**native.finish(), "waited": waited}
    for end in drains:
        end.close()
    assert log.ends()[1] == appended > 0
    assert result["faults"] == 0
    assert result["ranges"] > 0
    assert host.totals()["credit_used_bytes"] == 0
    pool.close()
    return result


def log_fsync(seconds: float) -> dict[str, Any]:
    """The log with every group synced before it is published, retention and consumers."""
    with tempfile.TemporaryDirectory(prefix="zlay-stress-") as folder:
        return _log(seconds, "fsync", Path(folder))


def log_os(seconds: float) -> dict[str, Any]:
    """The log that publishes what is written, its syncer, retention and consumers."""
    with tempfile.TemporaryDirectory(prefix="zlay-stress-") as folder:
        return _log(seconds, "os", Path(folder))


# --- takedowns ---


def _voice(number: int, role: int) -> tuple[bytes, bytes, int, int, int]:
    """An account of tests/native/race_takedown.pyx."""
    did = b"did:plc:" + b"%024d" % number
    head = b"\xa2at\x68#accountbop\x01" + b"\xa3cdid\x78\x20"
    size = (0, 300, 2_000, 40_000)[number % 4]
    message = head + did + b"cseq\x01" + b"ezzzzz" + b"\x5a" + size.to_bytes(4, "big") + bytes(size)
    return did, message, len(head) + len(did) + 4, len(head), role


def takedown(seconds: float) -> dict[str, Any]:
    """Readers, consumers and retention, while accounts are hidden and shown."""
    with tempfile.TemporaryDirectory(prefix="zlay-stress-") as folder:
        result = _takedown(seconds, Path(folder))
    hidden.clear()
    return result


def _takedown(seconds: float, folder: Path) -> dict[str, Any]:
    native = load("race_takedown")
    voices = [_voice(number, native.SOMETIMES if number < 4 else native.FREE) for number in range(8)]
    voices.append(_voice(8, native.ALWAYS))
    settings = LogSettings(retention_hours=0, retention_bytes=32 * MIB, segment_bytes=2 * MIB, buffer_chunks=2)
    opened = EventLog.open(folder, settings)
    consumer.start(b"\x88\x00", b"\x89\x00", tick_us=-1)
    native.start(voices)
    drains: list[tuple[socket.socket, bytearray]] = []
    turn = itertools.count()

    def housekeeping() -> None:
        opened.set_keep_from(opened.published_end)
        log.retain()
        did = voices[next(turn) % 4][0]
        below = hidden.below(did)
        hidden.show(did, below) if below else hidden.hide(did)
        hidden.hide(b"did:web:%d.example.com" % next(turn))
        hidden.count()
        hidden.events_hidden()
        if len(drains) < 4:
            drains.append((_consumer_end(max(1, opened.oldest_seq)), bytearray()))
        for end, tail in drains:
            if _readable(end):
                tail += end.recv(MIB, socket.MSG_DONTWAIT)
                assert voices[-1][0] not in tail, "a consumer was shown what is hidden"
                del tail[:-100]

    _for(seconds, housekeeping)
    result: dict[str, Any] = native.finish()
    for end, _ in drains:
        end.shutdown(socket.SHUT_RDWR)
        end.close()
    consumer.stop(1001, 3.0)
    assert opened.wait_synced(opened.appended_end, END_S)
    of = {log.hash_did(voice[0]): voice[-1] for voice in voices}
    roles = {entry.seq: of[entry.did_hash] for entry in opened.scan(opened.oldest_seq, frames=False)}
    for down, shown in ((True, {native.FREE}), (False, {native.FREE, native.SOMETIMES})):
        for did, *_ in voices[:4]:
            hidden.hide(did) if down else hidden.show(did, hidden.below(did))
        expected = [seq for seq, role in roles.items() if role in shown]
        assert native.visible(opened.oldest_seq) == expected, f"hidden: {down}"
    opened.close()
    assert result["faults"] == 0
    assert min(result.values()) == 0 < result["shown"]
    assert result["skipped"] > 0
    return result


# --- limits of hosts ---

LIMITED, LIMITS = 4, ((0,) * 6, (200, 0, 0, 0, 0, 0), (0, 0, 0, 20_000, 0, 0), (50, 3_000, 0, 9_000, 0, 90_000_000))


def limited(seconds: float) -> dict[str, Any]:
    """Readers that keep to limits which several threads change and read meanwhile."""
    pool.init(32 * MIB)
    reader.collect_here()
    indexes = _hosts(LIMITED, 4 * MIB)
    pairs = [socket.socketpair() for _ in indexes]
    came: dict[int, list[int]] = {index: [] for index in indexes}
    sent = [0] * LIMITED
    stop = threading.Event()

    def send(number: int) -> None:
        wire = pairs[number][0]
        while not stop.is_set():
            frame, did_end = _template(sent[number] % 5)
            seq = (sent[number] + 1).to_bytes(4, "big")
            frame = frame[: did_end + 5] + seq + frame[did_end + 9 :]
            wire.sendall(b"\x82\x7e" + len(frame).to_bytes(2, "big") + frame)
            sent[number] += 1

    def change(number: int) -> None:
        while not stop.is_set():
            number += 1
            limits.set_limits(indexes[number % LIMITED], LIMITS[number // LIMITED % len(LIMITS)])
            time.sleep(0.002)

    def housekeeping() -> None:
        for index, seq, _, _ in reader.collected():
            came[index].append(seq)
        for index in indexes:
            limits.throttled(index)
            limits.limits(index)
            host.stats(index)
        host.totals()

    for index, (_, theirs) in zip(indexes, pairs, strict=True):
        host.set_epoch(index, 1, 0)  # as one whose cursor has been saved
        reader.start(index, theirs.detach())
    threads = [threading.Thread(target=send, args=(number,)) for number in range(LIMITED)]
    threads += [threading.Thread(target=change, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    _for(seconds, housekeeping)
    stop.set()
    _until(lambda: not any(thread.is_alive() for thread in threads[LIMITED:]), housekeeping, "limits do not rest")
    for index in indexes:
        limits.set_limits(index, LIMITS[0])
    _until(lambda: not any(thread.is_alive() for thread in threads), housekeeping, "a host cannot send")
    _until(lambda: sum(map(len, came.values())) == sum(sent), housekeeping, "a limit that was lifted holds")
    assert [came[index] for index in indexes] == [list(range(1, n + 1)) for n in sent]
    totals = host.totals()
    assert reader.stop_all(END_S) == 0
    reader.take_ends()
    for ours, _ in pairs:
        ours.close()
    pool.close()
    assert totals["throttled_s"] > 0
    return {"sent": sum(sent), "throttled_s": totals["throttled_s"]}


# --- requests and allocations ---


def asking(seconds: float) -> dict[str, Any]:
    """Requests of workers, taken by several Python threads; memory that changes hands."""
    native = load("race_asking")
    requests.open_lists()
    native.start()
    taken: list[list[str]] = [[] for _ in range(8)]  # by taker; most lists have two
    stop = threading.Event()

    def take(kind: int, mine: list[str]) -> None:
        while not stop.is_set():
            mine.extend(did for did, _, _ in requests.take(kind, 100, 0.05))

    takers = [
        threading.Thread(target=take, args=(number % len(requests.waiting()), taken[number]), name=f"taker-{number}")
        for number in range(8)
    ]
    for thread in takers:
        thread.start()

    def scrape() -> None:
        requests.waiting()
        requests.refused()
        mem.usage()
        mem.histogram()

    _for(seconds, scrape)
    result: dict[str, Any] = native.finish()
    _until(lambda: all(waiting == 0 for waiting, _ in requests.waiting().values()), scrape, "requests are left")
    stop.set()
    for thread in takers:
        thread.join(END_S)
    requests.close_lists()
    asked = [
        f"did:{'web' if number & 1 else 'plc'}:{asker}.{kind}.{number}"
        for asker, put in enumerate(result.pop("put"))
        for kind, n in enumerate(put)
        for number in range(n)
    ]
    assert sorted(itertools.chain.from_iterable(taken)) == sorted(asked), "a request was lost or came twice"
    assert result["faults"] == 0
    return {"asked": len(asked), **result}


# --- the account table ---


def accounts(seconds: float) -> dict[str, Any]:
    """One owner of an account table, whose counters are scraped meanwhile."""
    ops = load("account_ops").Ops(20_000, 5_000, 2_000)
    stop = threading.Event()

    def own() -> None:
        while not stop.is_set():
            ops.run(20_000)

    owner = threading.Thread(target=own, name="owner")
    owner.start()
    _for(seconds, ops.stats)
    stop.set()
    owner.join(END_S)
    assert not owner.is_alive()
    assert ops.faults == 0
    stats: dict[str, Any] = ops.stats()
    assert stats["evictions"] > 0
    return stats


# --- readers, workers, log and consumers as they are ---


def relay(seconds: float) -> dict[str, Any]:
    """Readers on sockets, workers with too small a table, log and consumers, fed from a recording again and again."""
    result: dict[str, Any] = {"rounds": 0, "published": 0}
    with tempfile.TemporaryDirectory(prefix="zlay-stress-") as name:
        recorded = Path(name) / "recording"
        record(recorded, events=3000, hosts=4, accounts=120, p256_share=0.3)
        deadline = time.monotonic() + seconds
        while result["rounds"] == 0 or time.monotonic() < deadline:
            result["published"] += _one_relay(recorded, Path(name) / f"log-{result['rounds']}")
            result["rounds"] += 1
    return result


def _one_relay(recorded: Path, folder: Path) -> int:
    active, takendown = (verdicts.STATUSES.index(name) for name in ("active", "takendown"))
    consumer.start(b"\x88\x00", b"\x89\x00", tick_us=-1)
    ends = []
    with Pipe(folder, entries=192, keys=192, workers=3) as pipe:
        replay = Replay(pipe, recorded)
        ends = [_consumer_end(1) for _ in range(2)]

        outlaws = itertools.cycle(list(pipe.identities)[:20])

        def housekeeping() -> None:
            pipe.pump()
            replay.apply()
            for local in (takendown, active):
                said = account_message(did := next(outlaws), active=not local, status=None)
                pipeline.set_local_status(did, said, *seq_span(said), local, active, 0.0)
            pipeline.stats()
            pipeline.queued()
            host.totals()
            pool.stats()
            pool.trim()
            log.status()
            consumer.stats()
            requests.waiting()
            reader.stats()
            verdicts.counts()
            for end in ends:
                end.recv(MIB, socket.MSG_DONTWAIT) if _readable(end) else None

        replay.play()
        _until(lambda: replay.received() == replay.events and pipe.settled(), housekeeping, "frames without verdict")
        published = pipe.log.published_end
        assert published > 0
        for wire in replay.wires:
            wire.close()
        _until(lambda: reader.stats()["alive"] == 0, housekeeping, "a reader does not end")
        consumer.stop(1001, 3.0)
    hidden.clear()
    replay.close()
    for end in ends:
        end.close()
    return int(published)


def _readable(end: socket.socket) -> bool:
    try:
        return bool(end.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK))
    except BlockingIOError:
        return False


def plant(seconds: float) -> dict[str, Any]:
    """A race on purpose."""
    native = load("race_asking")
    native.plant()
    time.sleep(seconds)
    result: dict[str, Any] = native.finish()
    return result


PARTS = {part.__name__: part for part in (frames, log_fsync, log_os, takedown, limited, asking, accounts, relay)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", metavar="NAME", choices=[*PARTS, []], help=", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each part (default: 2)")
    parser.add_argument("--plant", action="store_true", help="only a race on purpose")
    options = parser.parse_args()
    parts = {"plant": plant} if options.plant else {name: PARTS[name] for name in options.parts or PARTS}
    for name, part in parts.items():
        began = time.monotonic()
        result = part(options.seconds)
        print(f"stress: {name}: ok ({time.monotonic() - began:.1f} s) {result}", flush=True)


if __name__ == "__main__":
    main()
