"""Which cursors are saved and where a restart begins to look, design 4."""

from __future__ import annotations

from zlay.hosts.cursors import HOST_GONE_S, CursorCollector
from zlay.pipeline.types import HostCursor


class Hosts:
    """What zlay._fast.host.collect_all says, as a test sets it."""

    def __init__(self) -> None:
        self.progress: list[tuple[int, int, int | None, int | None]] = []
        self.waiting: list[tuple[int, int, int]] = []
        self.now_s = 0.0

    def collector(self, dedup_from: int = 0, **behind: tuple[int, int]) -> CursorCollector:
        """A collector; `h1=(epoch, seq)` = host 1 has events up to seq in the log of an earlier process."""
        logged = {int(name[1:]): value for name, value in behind.items()}
        return CursorCollector(
            lambda _: self.progress,
            anchors=lambda: self.waiting,
            dedup_from=dedup_from,
            logged_before=logged,
            clock_s=lambda: self.now_s,
        )


def test_only_moved_cursors_are_given() -> None:
    """A cursor is given when it or its epoch has changed, and not again."""
    hosts = Hosts()
    collect = hosts.collector()
    hosts.progress = [(1, 1, 10, None), (2, 1, None, 5)]
    assert collect(100)[0] == [HostCursor(1, 1, 10)]
    assert collect(100)[0] == []
    hosts.progress = [(1, 1, 11, None), (2, 1, 3, None)]
    assert collect(100)[0] == [HostCursor(1, 1, 11), HostCursor(2, 1, 3)]
    hosts.progress = [(1, 2, 11, None)]
    assert collect(100)[0] == [HostCursor(1, 2, 11)]


def test_anchors_are_given_as_long_as_they_are_waited_for() -> None:
    """A first cursor that a host waits for is given each time, whatever was given before: the last may have failed."""
    hosts = Hosts()
    collect = hosts.collector()
    hosts.progress = [(1, 1, 0, None), (2, 3, 40, None)]
    hosts.waiting = [(2, 3, 40)]
    assert collect(100)[0] == [HostCursor(1, 1, 0), HostCursor(2, 3, 40)]
    assert collect.anchors() == [HostCursor(2, 3, 40)]
    assert collect.anchors() == [HostCursor(2, 3, 40)]


def test_oldest_pending_frame_holds_dedup_from() -> None:
    """dedup_from is the synced end, or where the oldest pending frame of any host had found it."""
    hosts = Hosts()
    collect = hosts.collector()
    hosts.progress = [(1, 1, 10, 70), (2, 1, 4, 60), (3, 1, 9, None)]
    assert collect(100)[1] == 60
    hosts.progress = [(1, 1, 20, None)]
    assert collect(100)[1] == 100


def test_second_kill_forgets_nothing() -> None:
    """dedup_from of an earlier process stays until each host has come past what that one had logged."""
    hosts = Hosts()
    collect = hosts.collector(40, h1=(1, 200), h2=(1, 300))
    hosts.progress = []
    assert collect(100)[1] == 40
    hosts.progress = [(1, 1, 200, None), (2, 1, 299, None)]
    assert collect(110)[1] == 40
    hosts.progress = [(1, 1, 205, None), (2, 1, 300, None)]
    assert collect(120)[1] == 120


def test_new_numbering_ends_the_wait() -> None:
    """Events of an epoch that is over cannot come again."""
    hosts = Hosts()
    collect = hosts.collector(40, h1=(1, 200))
    hosts.progress = [(1, 2, 3, None)]
    assert collect(100) == ([HostCursor(1, 2, 3)], 100)


def test_host_that_never_comes_back() -> None:
    """After HOST_GONE_S a silent host's cursor moves to its last logged event and holds the log no longer."""
    hosts = Hosts()
    collect = hosts.collector(40, h7=(3, 200))
    hosts.now_s = HOST_GONE_S - 1
    assert collect(100) == ([], 40)
    hosts.now_s = HOST_GONE_S + 1
    assert collect(110) == ([HostCursor(7, 3, 200)], 110)
    assert collect(120) == ([], 120)
