"""Thousands of idle and slow clients: what they cost, and that others do not notice. `scripts/bench http` has 9,900."""

from __future__ import annotations

import gc
import resource
import statistics
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.api.support import Running, wait_until
from zlay.api import conversations
from zlay.bench.crowd import KINDS, Crowd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.api.support import Client

CLIENTS = 3000
MEMORY_KIB = 4.0  # for each; a parser for each would be 10
HEALTH_S = 0.05
HANDLED_S = 0.5  # by a thread that must first get a processor; 20 ms where the kernel has short slices
ANSWERS = 50

pytestmark = pytest.mark.measures


def median_s(client: Client, path: str) -> float:
    """Of some answers."""
    taken = []
    for _ in range(ANSWERS):
        began = time.monotonic()
        assert client.request("GET", path).status == 200
        taken.append(time.monotonic() - began)
    return statistics.median(taken)


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """As many as a relay gives itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CLIENTS + 200:
        pytest.skip("too few file descriptors may be opened here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"greedy"}))
def test_thousands_of_clients_cost_little_and_hinder_nobody(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """3,000 clients that are silent, idle or drip take no thread and 4 KiB each at most; beside them health and
    requests for handlers are answered within 50 ms; when they go, nothing of them is left."""
    for name in ("REQUEST_DEADLINE_S", "IDLE_DEADLINE_S"):
        monkeypatch.setattr(conversations, name, 120.0)  # however long the crowd takes to come
    process = psutil.Process()
    with Running() as running, running.client(internal=True) as asker, running.client() as other:
        assert other.request("GET", "/").status == 200
        gc.collect()
        before, threads = process.memory_info().rss, threading.active_count()
        with Crowd(running.public[1], CLIENTS, kind, "/now"):
            wait_until(lambda: running.server.connections == CLIENTS + 2, "all are there")
            assert (process.memory_info().rss - before) / 1024 / CLIENTS <= MEMORY_KIB
            assert threading.active_count() == threads
            assert median_s(asker, "/now") < HEALTH_S
            assert median_s(other, "/") < HEALTH_S
            assert running.server.connections == CLIENTS + 2
        wait_until(lambda: running.server.connections == 2, "all are gone")
        kept = running.server._conversations
        assert (kept._held.bytes, kept._unsent.bytes) == (0, 0)


def test_strangers_who_ask_without_end_do_not_keep_operators_waiting() -> None:
    """Beside 300 clients of the public port that pipeline requests as fast as they are answered, health on the metrics
    port is answered within 50 ms, requests for its handlers within half a second, and other clients of the public port
    are answered, too."""
    with Running() as running, running.client(internal=True) as asker, running.client() as other:
        with Crowd(running.public[1], 300, "greedy", "/now"):
            wait_until(lambda: running.server.tally.requests > 1000, "they ask")
            assert median_s(asker, "/now") < HEALTH_S
            assert median_s(asker, "/") < HANDLED_S
            assert other.request("GET", "/now").status == 200
        wait_until(lambda: running.server.connections == 2, "all are gone")
