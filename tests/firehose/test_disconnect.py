"""An operator ends one consumer's connection: that one's, whatever it is doing, and nobody else's."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

from tests.eventlog.support import fill, until
from tests.firehose.client import Client
from tests.firehose.serving import serving

if TYPE_CHECKING:
    from pathlib import Path


def gone(client: Client) -> bool:
    """Reads to the end; whether it has come."""
    try:
        while client.sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def test_whatever_a_consumer_does(tmp_path: Path) -> None:
    """A consumer that waits, one whose socket is full, and one that is being told its error end at once, counted."""
    with serving(tmp_path) as (log, consumers):
        fill(log, 60, size=20_000)
        before = consumers.disconnects()["operator"]
        live, blocked = Client.connect(consumers), Client.connect(consumers, 0, buffers=8 << 10)
        finishing = Client.connect(
            consumers, 99, buffers=8 << 10
        )  # FutureCursor, then waits for a close that never comes
        until("its socket is not full", lambda: any(row.blocked_s > 0 for row in consumers.stats()))
        for client in (live, blocked, finishing):
            assert consumers.disconnect(client.ident)
            assert gone(client)
        until("they are not gone", lambda: consumers.count() == 0)
        assert consumers.disconnects()["operator"] == before + 3
        assert not any(consumers.disconnect(client.ident) for client in (live, blocked, finishing))
        assert not consumers.disconnect(10**12)


def test_nobody_else(tmp_path: Path) -> None:
    """However consumers come, go and are ended at once, those that are not wanted away stay and get everything."""
    with serving(tmp_path) as (log, consumers):
        fill(log, 5)
        unwanted = [Client.connect(consumers, 0) for _ in range(60)]
        wanted: list[Client] = []
        ids = [client.ident for client in unwanted] * 2  # each is asked for twice

        def end(seed: int) -> None:
            for ident in random.Random(seed).sample(ids, len(ids)):
                consumers.disconnect(ident)

        def leave() -> None:
            for client in unwanted[::3]:  # by themselves, while they are ended
                client.sock.close()

        threads = [threading.Thread(target=end, args=(seed,)) for seed in range(3)] + [threading.Thread(target=leave)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            wanted.append(Client.connect(consumers, 0))  # with descriptors that others have just left
            if len(wanted) == 300:
                break
        for thread in threads:
            thread.join()
        until("they are not gone", lambda: consumers.count() == len(wanted))
        fill(log, 3)
        assert all(client.seqs(8) == list(range(1, 9)) for client in wanted)
