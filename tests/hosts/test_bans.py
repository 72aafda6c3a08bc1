"""Bans with everything that they race with: a real store, registry, dialer, readers and a host at the socket."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.hosts.fake_pds import FakePds, upgrade
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

DEADLINE_S = 20.0
ROUNDS = 12
QUICK = BackoffPolicy(first_s=0.005, most_s=0.02, least_s=0.001)
RULES = DialRules("zlay/test (atproto-relay)", allow_private=True)


def until(what: Callable[[], bool]) -> None:
    """Waits for what must come."""
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def script(sock: socket.socket) -> None:
    """A host that accepts, and now and then ends the stream by itself."""
    upgrade(sock)
    sock.settimeout(0.02)
    while True:
        try:
            if not sock.recv(4096):
                return
        except TimeoutError:
            return


@pytest.mark.parametrize("by", ["host", "domain"])
def test_banned_stays_banned(tmp_path: Path, by: str) -> None:
    """Whatever races with a ban (dials, ends, statuses, wake-ups, other bans lifted), the host is heard no more; once
    no ban is left it is dialled again.
    """
    store = SqliteStore(tmp_path / "state.sqlite")
    registry = Registry(store, store.hosts(), host_credit_bytes=1 << 20)
    dialer = Dialer(registry, starter("native"), RULES, QUICK, seed=1)
    registry.on_added, registry.on_banned = dialer.add, dialer.remove
    pool.init(32 << 20)
    reader.collect_here()
    thread = threading.Thread(target=dialer.run)
    pds = FakePds(script)
    together = threading.Barrier(3)

    def ban(*, banned: bool) -> None:
        if by == "host":
            registry.ban(host.id, banned=banned)
        else:
            registry.ban_domain("localhost", banned=banned)

    def disturb(n: int) -> None:
        together.wait(DEADLINE_S)
        for i in range(ROUNDS):
            if n == 0:
                ban(banned=i % 2 == 0)
            elif n == 1:
                registry.set_status(host.id, "idle", None)
                registry.wake(host.id)
                dialer.add(host.id)
                registry.flush()
            else:
                registry.add([NewHost(host.hostname, "admin", no_tls=True)])
                registry.set_status(host.id, "active", None)

    try:
        thread.start()
        (host,) = registry.add([NewHost(pds.hostname.replace("127.0.0.1", "localhost"), "config", no_tls=True)])
        until(lambda: reader.alive(host.index))
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(disturb, range(3)))
        ban(banned=True)
        registry.wake(host.id)
        dialer.add(host.id)
        until(lambda: not reader.alive(host.index) and dialer.report(host.id) is None)
        dials = dialer.stats()["dials_total"]
        entry = registry.get(host.id)
        assert entry is not None
        assert entry.banned
        assert entry.shown_status == "banned"
        assert chost.stats(host.index)["banned"]
        assert Registry(store, store.hosts(), host_credit_bytes=1 << 20).dialled_ids() == []
        assert dialer.stats()["dials_total"] == dials
        ban(banned=False)
        until(lambda: reader.alive(host.index))
    finally:
        dialer.stop()
        thread.join(DEADLINE_S)
        assert reader.stop_all(DEADLINE_S) == 0
        pds.close()
        reader.take_ends()
        reader.collected()
        pool.close()
        store.close()
