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

CLIENTS = 3000
MEMORY_KIB = 4.0  # for each; a parser for each would be 10
HEALTH_S = 0.05
ANSWERS = 50

pytestmark = pytest.mark.measures


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """As many as a relay gives itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CLIENTS + 200:
        pytest.skip("too few file descriptors may be opened here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("kind", KINDS)
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
            for client, path in ((asker, "/now"), (other, "/")):
                taken = []
                for _ in range(ANSWERS):
                    began = time.monotonic()
                    assert client.request("GET", path).status == 200
                    taken.append(time.monotonic() - began)
                assert statistics.median(taken) < HEALTH_S
            assert running.server.connections == CLIENTS + 2
        wait_until(lambda: running.server.connections == 2, "all are gone")
        kept = running.server._conversations
        assert (kept._held.bytes, kept._unsent.bytes) == (0, 0)
