"""zlay._fast.scratch: bump memory that one frame may use up to a limit, and that costs nothing when used again."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from zlay._fast import mem
from zlay._fast.scratch import Bump

LIMIT = 8_000_000


@given(st.lists(st.integers(0, 400_000), max_size=40))
def test_allocations_are_aligned_and_apart(sizes: list[int]) -> None:
    """No two allocations of a frame overlap, and each is 16-byte aligned."""
    bump = Bump(LIMIT)
    spans: list[tuple[int, int]] = []
    for n in sizes:
        address = bump.alloc(n)
        if address is None:
            break
        assert address % 16 == 0
        spans.append((address, address + n))
    spans.sort()
    for (_, end), (start, _) in pairwise(spans):
        assert end <= start


def test_limit_is_the_frames_not_the_chunks() -> None:
    """Beyond the limit nothing more is given; after a reset all of it is there again."""
    bump = Bump(1_000_000)
    assert bump.alloc(600_000) is not None
    assert bump.alloc(600_000) is None
    assert bump.alloc(1_000_001) is None
    assert bump.alloc(2**64 - 1) is None
    assert bump.alloc(400_000) is not None
    assert bump.alloc(1) is None
    bump.reset()
    assert bump.total() == 0
    assert bump.alloc(1_000_000) is not None


def test_ordinary_frames_allocate_nothing() -> None:
    """Once its chunks are there, a frame of the usual size causes no malloc."""
    bump = Bump(LIMIT)
    for _ in range(2):
        for _ in range(100):
            assert bump.alloc(10_000) is not None
        bump.reset()
    before = mem.usage()["scratch"][2]
    for _ in range(1000):
        for _ in range(100):
            assert bump.alloc(1_000) is not None
        bump.reset()
    assert mem.usage()["scratch"][2] == before


def test_a_huge_frame_leaves_little_behind() -> None:
    """What one huge frame took goes back at the reset, but for a bounded rest."""
    bump = Bump(64_000_000)
    assert bump.alloc(50_000_000) is not None
    bump.reset()
    assert sum(bump.chunks()) <= 256 * 1024 + 2 * 1024 * 1024


def test_everything_is_given_back() -> None:
    """A scratch that ends frees all its chunks."""
    before = mem.usage()["scratch"][:2]
    bump = Bump(LIMIT)
    assert bump.alloc(5_000_000) is not None
    del bump
    assert mem.usage()["scratch"][:2] == before
