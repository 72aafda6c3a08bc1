"""Names to addresses: families in turn, failures as values, answers from other threads."""

from __future__ import annotations

import queue
import socket

from zlay.hosts.dns import Address, Answer, Resolver, resolve


def test_numeric_and_unknown() -> None:
    """An address resolves to itself; a name nobody has resolves to the reason."""
    assert resolve("127.0.0.1", 2583) == [Address(socket.AF_INET, ("127.0.0.1", 2583))]
    answer = resolve("::1", 80)
    assert isinstance(answer, list)
    assert answer[0].text == "::1"
    assert isinstance(resolve("no-such-host.invalid", 443), OSError)
    assert isinstance(resolve("a" * 64 + ".example.com", 443), OSError)


def test_answers_come_by_token() -> None:
    """Each question is answered once, under its token."""
    answers: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
    resolver = Resolver(2, lambda token, answer: answers.put((token, answer)))
    resolver.start()
    for token in range(20):
        resolver.ask(token, f"127.0.0.{token}", 80)
    got = dict(answers.get(timeout=20) for _ in range(20))
    assert sorted(got) == list(range(20))
    assert all(isinstance(a, list) and a[0].text == f"127.0.0.{token}" for token, a in got.items())
    resolver.stop()
