"""A frame built to be slow takes at most 20 times as long as an honest one of its size, and never more than 50 ms.

Processor time of the core alone: decoding, hashes, tree. `slow.py` makes the frames; here each is filled up to two
million bytes of blocks, since a peer that wants to be expensive uses what it may.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests._fast import slow
from tests._fast.frames import Raw, cid, frame, identity
from tests.reference.drisl_ref import Cid, head
from zlay._fast import message, mst

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests._fast.commits import Draft

SLOWEST_S = 0.05
SLOWEST_RATIO = 20
RUNS = 7
FRAME_BYTES = 5_000_000 - 1000

pytestmark = pytest.mark.measures


def seconds(run: Callable[[], object]) -> float:
    """The least processor time of several runs."""
    times = []
    for _ in range(RUNS):
        started = time.thread_time()
        run()
        times.append(time.thread_time() - started)
    return min(times)


def cost(made: Draft, label: str = "ok") -> float:
    """Seconds that the core needs for a frame with this verdict."""
    first = "prevData" not in made.message
    raw = made.frame()
    room = slow.BLOCKS - len(raw)
    if room > 100:
        filler = bytes(room - 50)
        made.extra.append((Cid.of(filler), filler))
        raw = made.frame()
    assert mst.check(raw, first) == label
    return seconds(lambda: mst.check(raw, first))


@pytest.fixture(scope="module")
def honest_s() -> float:
    """What an honest frame of two million bytes takes."""
    return cost(slow.honest())


@pytest.mark.parametrize("name", slow.MOST)
def test_slow_commits(name: str, honest_s: float) -> None:
    """Whatever a commit is made of, its time is bounded, and by what an honest one of its size takes."""
    make, label = slow.MOST[name]
    taken = cost(make(), label)
    assert taken < SLOWEST_S
    assert taken < SLOWEST_RATIO * honest_s


ITEMS = {  # the fields of a message that nobody knows, made of
    "empty arrays": Raw(head(4, 38) + (head(4, 130_000) + b"\x80" * 130_000) * 38),
    "arrays in arrays": Raw(head(4, 84_000) + (b"\x81" * 58 + b"\x80") * 84_000),
    "small maps": Raw(head(4, 9) + (head(4, 130_000) + b"\xa1\x60\x01" * 130_000) * 9),
    "text": "é" * 2_490_000,
    "links": [cid()] * 120_000,
    "long keys": [{"k" * 600 + f"{n:04}": 0 for n in range(8_192)}],
}


@pytest.mark.parametrize("name", ITEMS)
def test_slow_messages(name: str, honest_s: float) -> None:
    """As many unknown items as a frame holds cost a reader's glance and a worker's decoding a bounded time each."""
    raw = frame(identity(x=ITEMS[name]), "#identity")
    assert len(raw) < FRAME_BYTES
    assert isinstance(message.decode(raw), dict)
    for look in (message.decode, message.peek, message.is_whole):
        taken = seconds(lambda look=look: look(raw))  # type: ignore[misc]
        assert taken < SLOWEST_S, look.__name__
        assert taken < SLOWEST_RATIO * honest_s, look.__name__
