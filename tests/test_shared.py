"""zlay.shared: what threads can do without waiting for one another."""

from __future__ import annotations

import threading
import time
from urllib.parse import urlsplit

from zlay.shared import look_up, split_url

LOOKUPS = 2000
ROUNDS = 5
MOST_US = 15.0  # for one; some 0.3 by subscript, 40 by dict.get on CPython 3.13t


def test_it_finds_what_is_there() -> None:
    """The value of the key, and None where the key is not."""
    table = {"a": 1, "b": 0}
    assert look_up(table, "a") == 1
    assert look_up(table, "b") == 0
    assert look_up(table, "c") is None


def test_a_dict_of_another_thread_is_read_without_waiting() -> None:
    """A thread that looks up keys and values made by another spends no time on the dict's lock."""
    table = {f"host-{n}.test": object() for n in range(64)}
    spent_us: list[float] = []

    def read() -> None:
        for _ in range(ROUNDS):
            began = time.thread_time()
            for n in range(LOOKUPS):
                assert look_up(table, f"host-{n % 64}.test") is not None
            spent_us.append((time.thread_time() - began) / LOOKUPS * 1e6)

    reader = threading.Thread(target=read, name="reader")
    reader.start()
    reader.join(60)
    assert len(spent_us) == ROUNDS
    assert min(spent_us) < MOST_US


def test_urls_are_parsed_without_the_shared_cache() -> None:
    """A URL is split as urllib.parse.urlsplit does it, and its cache is not touched."""
    before = urlsplit.cache_info()  # type: ignore[attr-defined]
    parts = split_url("https://pds.test:8443/xrpc/a?b=c")
    assert (parts.scheme, parts.hostname, parts.port, parts.path, parts.query) == (
        "https",
        "pds.test",
        8443,
        "/xrpc/a",
        "b=c",
    )
    assert urlsplit.cache_info() == before  # type: ignore[attr-defined]
