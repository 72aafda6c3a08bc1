"""The child of the power-loss tests: DURABILITY SEED EVENTS DATA_DIR..., under recorder.so.

Opens one log after the other. Logs so many events from two threads in segments of a few dozen, serves two real
consumers that read all, and lets retention take old segments.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.eventlog.support import WAIT_S, append, opened, until
from zlay.firehose.consumers import Consumers

APPENDERS = 2
SEGMENT_ENTRIES = 40
SEGMENT_BYTES = 60_000
RETENTION_BYTES = 150_000
READ_BYTES = 1 << 16
SIZES = (0, 0, 300, 1_000, 4_000, 9_000)
WAITS = {"fsync": 0.2, "os": 0.005}  # part of the events whose sync is waited for; with `os` that takes a second


def drain(sock: socket.socket) -> None:
    """Take what comes, until the end."""
    while sock.recv(READ_BYTES):
        pass


def run(data_dir: Path, durability: str, rng: random.Random, events: int) -> None:
    """One opening of a log."""
    settings = {"segment_entries": SEGMENT_ENTRIES, "segment_bytes": SEGMENT_BYTES, "retention_bytes": RETENTION_BYTES}
    with opened(data_dir, durability=durability, **settings) as log:
        consumers = Consumers()
        consumers.start()
        readers, ends = [], []
        for cursor in (0, None):
            ours, theirs = socket.socketpair()
            ends.append(ours)
            consumers.admit("child")
            consumers.accept(theirs.detach(), "child", cursor)
            readers.append(threading.Thread(target=drain, args=(ours,)))

        def fill(seed: int) -> None:
            own = random.Random(seed)
            for i in range(events // APPENDERS):
                seq = append(log, f"{seed} {i} ".ljust(own.choice(SIZES), "x"))
                if own.random() < WAITS[durability]:
                    assert log.wait_synced(seq, WAIT_S)
                if own.random() < 0.1:
                    log.retain()

        threads = [threading.Thread(target=fill, args=(rng.randrange(1 << 30),)) for _ in range(APPENDERS)]
        for thread in (*readers, *threads):
            thread.start()
        for thread in threads:
            thread.join()
        assert log.wait_synced(log.appended_end, WAIT_S)
        until("consumers do not get all", lambda: all(row.lag == 0 for row in consumers.stats()))
        for end in ends:
            end.shutdown(socket.SHUT_RDWR)
        consumers.stop()
        for thread in readers:
            thread.join()


def main() -> None:
    """All openings."""
    durability, seed, events, *data_dirs = sys.argv[1:]
    rng = random.Random(int(seed))
    for data_dir in data_dirs:
        run(Path(data_dir), durability, rng, int(events))
    os._exit(0)


if __name__ == "__main__":
    main()
