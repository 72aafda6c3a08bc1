"""Names to addresses: families in turn, failures as values, answers from other threads."""

from __future__ import annotations

import queue
import socket
import threading

import pytest

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
    resolver = Resolver(2, lambda token, answer: answers.put((token, answer)), wanted=lambda _: True)
    resolver.start()
    for token in range(20):
        resolver.ask(token, f"127.0.0.{token}", 80)
    got = dict(answers.get(timeout=20) for _ in range(20))
    assert sorted(got) == list(range(20))
    assert all(isinstance(a, list) and a[0].text == f"127.0.0.{token}" for token, a in got.items())
    resolver.stop()


def test_nobody_asks_what_nobody_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a system's resolver that hangs, questions given up meanwhile are not asked: the last one comes at once."""
    hanging, go_on = threading.Event(), threading.Event()
    asked: list[str] = []
    system = socket.getaddrinfo

    def slow(name: str, *args: object, **kwargs: int) -> list[object]:
        asked.append(name)
        hanging.set()
        assert go_on.wait(20)
        return list(system(name, 80, **kwargs))

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    answers: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
    wanted = {0}
    resolver = Resolver(1, lambda token, answer: answers.put((token, answer)), wanted=lambda token: token in wanted)
    resolver.start()
    resolver.ask(0, "127.0.0.1", 80)
    assert hanging.wait(20)
    for token in range(1, 1000):
        resolver.ask(token, f"127.0.1.{token % 250}", 80)
    wanted.add(1000)
    resolver.ask(1000, "127.0.0.2", 80)
    go_on.set()
    assert [answers.get(timeout=20)[0] for _ in range(2)] == [0, 1000]
    assert asked == ["127.0.0.1", "127.0.0.2"]
    resolver.stop()


def test_no_thread_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the system's resolver is an answer and costs no thread; one that could not be had is had later."""
    system, start = socket.getaddrinfo, threading.Thread.start
    faults, refusals = [RuntimeError("out of order")], [RuntimeError("can't start new thread")]

    def getaddrinfo(name: str, *args: object, **kwargs: int) -> list[object]:
        if faults:
            raise faults.pop()
        return list(system(name, 80, **kwargs))

    def no_thread(self: threading.Thread) -> None:
        if refusals:
            raise refusals.pop()
        start(self)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    answers: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
    resolver = Resolver(1, lambda token, answer: answers.put((token, answer)), wanted=lambda _: True)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(RuntimeError):
        resolver.start()
    resolver.start()
    resolver.start()  # nothing more to be done
    for token in range(3):
        resolver.ask(token, f"127.0.0.{token}", 80)
    got = dict(answers.get(timeout=20) for _ in range(3))
    assert "out of order" in str(got[0])
    assert [isinstance(got[token], list) for token in (1, 2)] == [True, True]
    resolver.stop()
