"""Everything that operators, hosts and other threads do to the dialer, at random and at once, against a plain model."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.hosts.fake_pds import FakePds, error, event, upgrade
from zlay._fast import host as chost
from zlay._fast import pool, reader
from zlay.hosts.backoff import BackoffPolicy
from zlay.hosts.connection import starter
from zlay.hosts.dial import DialRules
from zlay.hosts.dialer import Dialer
from zlay.hosts.registry import Registry
from zlay.state.interface import NewHost
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

DEADLINE_S = 60.0
HOSTS, THREADS, STEPS = 12, 4, 150
QUICK = BackoffPolicy(first_s=0.005, most_s=0.02, least_s=0.001, offline_after=4, offline_first_s=0.01)
RULES = DialRules("zlay/test", allow_private=True, upgrade_s=0.3)


class Moody:
    """A host that does anything on its connections until it is told to be good; `open` counts those it has."""

    def __init__(self, seed: int) -> None:
        self.good = threading.Event()
        self.open = 0
        self._rng = random.Random(seed)
        self._lock = threading.Lock()  # guards `open` and `_rng`
        self.pds = FakePds(self._play)

    def _play(self, sock: socket.socket) -> None:
        with self._lock:
            mood = "good" if self.good.is_set() else self._rng.choice(["good", "gone", "silent", "short", "error"])
            self.open += 1
        try:
            self._act(sock, mood)
        finally:
            with self._lock:
                self.open -= 1

    def _act(self, sock: socket.socket, mood: str) -> None:
        if mood == "gone":
            return
        if mood == "silent":
            sock.recv(65536)
            self.good.wait(0.4)
            return
        upgrade(sock)
        if mood == "short":
            sock.sendall(event(1))
            return
        if mood == "error":
            sock.sendall(error("FutureCursor"))
        while sock.recv(65536):
            pass


def until(what: Callable[[], bool], why: Callable[[], object]) -> None:
    """Waits for what must come."""
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, why()
        time.sleep(0.005)


@pytest.mark.parametrize("host_reader", ["native", "wsproto"])
@pytest.mark.parametrize("most", [HOSTS, HOSTS - 4])
def test_after_the_storm(tmp_path: Path, host_reader: str, most: int) -> None:
    """Whatever was banned, unbanned, woken, reset and broken off at the same time, in the end each host that may be is
    streamed from once, as many as RELAY_MAX_HOSTS says, and no other; nobody was blamed for what was our own doing."""
    store = SqliteStore(tmp_path / "state.sqlite")
    registry = Registry(store, store.hosts(), host_credit_bytes=1 << 20)
    dialer = Dialer(registry, starter(host_reader), RULES, QUICK, max_in_flight=3, max_hosts=most, seed=1)
    registry.on_added, registry.on_banned = dialer.add, dialer.remove
    pool.init(32 << 20)
    reader.collect_here()
    moody = [Moody(seed) for seed in range(HOSTS)]
    hosts = registry.add([NewHost(one.pds.hostname, "config", no_tls=True) for one in moody])
    index_of = {host.id: host.index for host in hosts}
    thread = threading.Thread(target=dialer.run)
    together = threading.Barrier(THREADS)

    def disturb(number: int) -> None:
        rng = random.Random(number)
        together.wait(DEADLINE_S)
        for _ in range(STEPS):
            host = rng.choice(hosts)
            match rng.randrange(6):
                case 0 | 1:
                    registry.ban(host.id, banned=rng.random() < 0.5)
                case 2:
                    dialer.reset(host.id)
                case 3:
                    dialer.add(host.id)
                case 4:
                    reader.stop(host.index)
                case _:
                    time.sleep(rng.uniform(0, 0.01))

    try:
        thread.start()
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(disturb, range(THREADS)))
        for one in moody:
            one.good.set()
        wanted = set(registry.dialled_ids())
        places = min(len(wanted), most)

        def alive() -> set[int]:
            return {host.id for host in hosts if reader.alive(host.index)}

        def settled() -> bool:
            for host_id, epoch, cursor in chost.anchors():  # saves first cursors, as the applier does
                if host_id in index_of:
                    chost.set_saved(index_of[host_id], epoch, cursor)
            return (
                len(alive()) == places
                and alive() <= wanted
                and sum(one.open for one in moody) == places
                and dialer.stats()["in_flight"] == 0
            )

        until(settled, lambda: str((alive(), wanted, [one.open for one in moody], dialer.stats())))
        assert dialer.stats()["descriptor_pauses_total"] == 0
        assert {host.id for host in hosts if dialer.report(host.id) is not None} == alive()
        assert dialer.stats()["hosts"] == places
    finally:
        for one in moody:
            one.good.set()
        dialer.stop()
        thread.join(DEADLINE_S)
        assert reader.stop_all(DEADLINE_S) == 0
        for one in moody:
            one.pds.close()
        reader.take_ends()
        reader.collected()
        pool.close()
        store.close()
