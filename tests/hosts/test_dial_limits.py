"""How many hosts are dialled, and how much is said of those that cannot be."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.hosts.fake_pds import FakePds, upgrade
from zlay import logs
from zlay._fast import host, pool, reader
from zlay.hosts.backoff import BackoffPolicy
from zlay.hosts.connection import starter
from zlay.hosts.dial import DialRules
from zlay.hosts.dialer import Dialer
from zlay.hosts.interface import DialTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zlay.hosts.interface import Failure, HostStatus

DEADLINE_S = 20.0
FIRST_ID = 950_000
QUICK = BackoffPolicy(first_s=0.01, most_s=0.05, least_s=0.001)


class Registry:
    """Hosts by id, and an event for each status told."""

    def __init__(self, names: list[str], *, no_tls: bool) -> None:
        self.targets = {}
        for n, name in enumerate(names):
            host_id = FIRST_ID + host.count() + n
            self.targets[host_id] = DialTarget(host_id, host.new(host_id, name), name, no_tls)
        self.told = threading.Semaphore(0)

    def host(self, host_id: int) -> DialTarget | None:
        """See HostRegistry."""
        return self.targets.get(host_id)

    def cursor_for_dial(self, host_id: int) -> int | None:
        """See HostRegistry."""
        return None

    def new_epoch(self, host_id: int) -> int:
        """See HostRegistry."""
        return 1

    def set_status(self, host_id: int, status: HostStatus, failure: Failure | None) -> None:
        """See HostRegistry."""
        self.told.release()


@pytest.fixture(autouse=True)
def sink() -> Iterator[None]:
    """Frames go nowhere."""
    pool.init(32 << 20)
    reader.collect_here()
    yield
    assert reader.stop_all(DEADLINE_S) == 0
    reader.take_ends()
    reader.collected()
    pool.close()


def run(dialer: Dialer, registry: Registry, wanted: int) -> dict[str, int]:
    """Adds all hosts at once, waits until `wanted` statuses were told, and stops; the figures just before."""
    for host_id in registry.targets:
        dialer.add(host_id)
    thread = threading.Thread(target=dialer.run)
    thread.start()
    try:
        for _ in range(wanted):
            assert registry.told.acquire(timeout=DEADLINE_S)
        figures = dialer.stats()
    finally:
        dialer.stop()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
    return figures


def until(what: Callable[[], bool]) -> None:
    """Waits for what must come."""
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _stream(sock: socket.socket) -> None:
    upgrade(sock)
    while sock.recv(4096):
        pass


def test_hosts_added_at_once_keep_to_the_limit() -> None:
    """However fast hosts are added, no more than `max_hosts` of them are dialled."""
    registry = Registry(["127.0.0.1:9"] * 40, no_tls=True)  # the discard port: nobody listens
    rules = DialRules("zlay/test", allow_private=True)
    dialer = Dialer(registry, starter("native"), rules, QUICK, max_hosts=3)
    assert run(dialer, registry, 6)["hosts"] == 3  # each of them twice


def test_a_place_that_comes_free_is_taken() -> None:
    """Hosts beyond the limit wait for a place: one that is banned makes room for the next, which may be banned, too."""
    registry = Registry(["127.0.0.1:9"] * 4, no_tls=True)
    first, second, third, fourth = registry.targets
    slow = BackoffPolicy(first_s=60.0, least_s=60.0)
    dialer = Dialer(registry, starter("native"), DialRules("zlay/test", allow_private=True), slow, max_hosts=2)
    thread = threading.Thread(target=dialer.run)
    for host_id in registry.targets:
        dialer.add(host_id)
    thread.start()
    try:
        for _ in range(2):
            assert registry.told.acquire(timeout=DEADLINE_S)
        assert dialer.stats()["left_out"] == 2
        for banned in (third, first):
            registry.targets[banned] = replace(registry.targets[banned], banned=True)
        dialer.remove(first)
        assert registry.told.acquire(timeout=DEADLINE_S)
        assert dialer.stats()["left_out"] == 0
        assert [dialer.report(host_id) is not None for host_id in (first, second, third, fourth)] == [
            False,
            True,
            False,
            True,
        ]
    finally:
        dialer.stop()
        thread.join(DEADLINE_S)


def test_banned_and_unbanned_while_no_dial_is_free() -> None:
    """A host whose ban comes and goes while it waits for a free dial is dialled once, in its turn."""
    go_on = threading.Event()
    holders = [FakePds(lambda sock: go_on.wait(DEADLINE_S) and None), FakePds(_stream), FakePds(_stream)]
    registry = Registry([pds.hostname for pds in holders], no_tls=True)
    first, second, third = registry.targets
    slow = BackoffPolicy(first_s=60.0, least_s=60.0)
    rules = DialRules("zlay/test", allow_private=True)
    dialer = Dialer(registry, starter("native"), rules, slow, max_in_flight=1)
    thread = threading.Thread(target=dialer.run)
    thread.start()
    try:
        dialer.add(first)
        until(lambda: dialer.stats()["in_flight"] == 1)
        dialer.add(second)
        until(lambda: dialer.stats()["due"] == 1)
        dialer.remove(second)
        dialer.add(second)
        dialer.add(third)
        until(lambda: dialer.stats()["due"] >= 3)
        go_on.set()
        until(lambda: dialer.stats()["connects_total"] == 2)
        figures = dialer.stats()
        assert (figures["dials_total"], figures["descriptor_pauses_total"]) == (3, 0)
        assert reader.alive(registry.targets[second].index)
        assert reader.alive(registry.targets[third].index)
    finally:
        go_on.set()
        dialer.stop()
        thread.join(DEADLINE_S)
        assert reader.stop_all(DEADLINE_S) == 0
        for pds in holders:
            pds.close()


def test_what_holds_for_all_hosts_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand hosts that this build cannot dial are one line in the log, not a thousand."""
    monkeypatch.setattr(logs, "_rates", logs._Rates())  # other tests may have had it said
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    logs.configure("json", "info", fd)
    try:
        registry = Registry([f"pds{n}.example.com" for n in range(1000)], no_tls=False)
        run(Dialer(registry, starter("native"), DialRules("zlay/test"), QUICK), registry, 1000)
    finally:
        logs.configure()
        os.close(fd)
    lines = [line for line in path.read_text().splitlines() if "wss://" in line]
    assert len(lines) == 1


def test_dials_given_up_leave_no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dial whose name was not resolved in time does not leave its question to the resolver."""
    go_on = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: go_on.wait(DEADLINE_S) and [])
    registry = Registry(["pds.example.com"] * 20, no_tls=True)
    rules = DialRules("zlay/test", allow_private=True, resolve_s=0.05)
    dialer = Dialer(registry, starter("native"), rules, QUICK, dns_threads=1)
    questions = run(dialer, registry, 200)["questions"]  # each of them ten times
    go_on.set()
    assert questions <= len(registry.targets)
