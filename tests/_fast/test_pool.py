"""The frame pool: bound, reuse, merging, growth, trimming, and the other FRAME_ALLOC modes."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest

from zlay._fast import pool

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
MAX_FRAME = 5_000_000


@pytest.fixture
def region() -> Iterator[None]:
    """A pool in its usual mode, checked at the end."""
    pool.init(32 * MIB)
    yield
    pool.check()
    pool.close()


@pytest.fixture(params=pool.MODES)
def any_mode(request: pytest.FixtureRequest) -> Iterator[str]:
    """A pool in each mode; its name."""
    pool.init(32 * MIB, request.param)
    yield request.param
    pool.close()


def _take(cap: int) -> int:
    frame = pool.take(cap)
    assert frame is not None
    return frame


def test_frame_holds_its_bytes(any_mode: str) -> None:
    """A frame keeps what is written to it, from the smallest to the largest message, in every mode."""
    for size in (0, 1, 1800, 2048, 5_500, 70_000, MAX_FRAME):
        data = random.Random(size).randbytes(size)
        frame = _take(size)
        assert pool.capacity(frame) >= size
        pool.fill(frame, data)
        assert pool.content(frame) == data
        pool.give(frame)
    assert pool.stats()["used_bytes"] == 0


def test_bound_holds_and_exhaustion_is_counted(any_mode: str) -> None:
    """The pool gives out no more than its bytes, says so, and gives again when frames come back."""
    frames = []
    while (frame := pool.take(100_000)) is not None:
        frames.append(frame)
    stats = pool.stats()
    assert stats["used_bytes"] <= 32 * MIB
    assert stats["exhausted_total"] == 1
    assert len(frames) >= 32 * MIB // 131_072 - 1 or any_mode == "arena"
    pool.give(frames.pop())
    frames.append(_take(100_000))
    for frame in frames:
        pool.give(frame)
    assert pool.stats()["frames"] == 0


def test_no_malloc_per_frame_in_mode_pool(region: None) -> None:
    """In mode pool no allocator is called for a frame, however many there were."""
    for _ in range(1000):
        pool.give(_take(5_500))
    stats = pool.stats()
    assert stats["takes_total"] == 1000
    assert stats["allocator_calls_total"] == 0


@pytest.mark.parametrize(("mode", "calls"), [("malloc", 1), ("mmap", 1), ("arena", 41)])
def test_allocator_calls_of_other_modes(mode: str, calls: int) -> None:
    """The comparison modes do what their names say: one malloc, one mmap, an arena of some 40 mallocs a frame."""
    pool.init(8 * MIB, mode)
    pool.give(_take(5_500))
    assert pool.stats()["allocator_calls_total"] == calls
    pool.close()


def test_cost_is_what_a_frame_takes(any_mode: str) -> None:
    """The credit charged for a frame is what it takes out of the pool."""
    for cap in (1, 2000, 5_500, 1_000_000):
        before = pool.stats()["used_bytes"]
        frame = _take(cap)
        assert pool.stats()["used_bytes"] - before == pool.cost(cap)
        pool.give(frame)


def test_growing_keeps_bytes(any_mode: str) -> None:
    """A frame that grows as bytes arrive keeps what it has."""
    frame = _take(1000)
    pool.fill(frame, b"abc" * 300)
    for cap in (4_000, 60_000, MAX_FRAME):
        grown = pool.grow(frame, cap)
        assert grown is not None
        frame = grown
        assert pool.capacity(frame) >= cap
        assert pool.content(frame) == b"abc" * 300
    pool.give(frame)
    assert pool.stats()["used_bytes"] == 0


def test_growing_into_an_exhausted_pool_keeps_the_frame() -> None:
    """When there is no room to grow the old frame is untouched."""
    pool.init(8 * MIB)
    frame = _take(1000)
    pool.fill(frame, b"kept")
    assert pool.grow(frame, MAX_FRAME) is None
    assert pool.content(frame) == b"kept"
    pool.give(frame)
    pool.close()


def test_larger_than_any_message_is_refused(any_mode: str) -> None:
    """No frame is larger than the largest block."""
    assert pool.take(9 * MIB) is None


def test_blocks_merge_again(region: None) -> None:
    """After a storm of small frames the largest frames fit again."""
    small = [_take(1000) for _ in range(32 * MIB // 2048)]
    assert pool.take(1) is None
    random.Random(1).shuffle(small)
    for frame in small:
        pool.give(frame)
    large = [_take(MAX_FRAME) for _ in range(4)]
    for frame in large:
        pool.give(frame)


def test_random_sizes_never_overlap(region: None) -> None:
    """Frames of random sizes taken, grown and given in random order never share a byte, and the books stay right."""
    rng = random.Random(7)
    alive: list[tuple[int, bytes]] = []
    for step in range(6000):
        if alive and (rng.random() < 0.5 or len(alive) > 150):
            frame, data = alive.pop(rng.randrange(len(alive)))
            assert pool.content(frame) == data
            pool.give(frame)
        else:
            size = int(2 ** rng.uniform(0, 17))
            fresh = pool.take(size)
            if fresh is None:
                continue
            data = step.to_bytes(4, "big") * (size // 4 + 1)
            data = data[: min(size, 4096)]
            pool.fill(fresh, data)
            alive.append((fresh, data))
        if step % 500 == 0:
            pool.check()
    for frame, data in alive:
        assert pool.content(frame) == data
        pool.give(frame)


def test_idle_blocks_go_back_to_the_kernel(region: None) -> None:
    """After a burst the memory is given back, and what came back reads as new and is used again."""
    frames = [_take(MAX_FRAME) for _ in range(4)]
    for frame in frames:
        pool.fill(frame, b"x" * MAX_FRAME)
    assert pool.resident_bytes() > 19 * MIB
    for frame in frames:
        pool.give(frame)
    pool.trim()  # this interval and the one before still needed it
    pool.trim()
    pool.trim()
    assert pool.resident_bytes() < MIB
    assert pool.stats()["trimmed_bytes_total"] >= 20 * MIB
    frame = _take(MAX_FRAME)
    pool.fill(frame, b"y" * MAX_FRAME)
    assert pool.content(frame) == b"y" * MAX_FRAME
    pool.give(frame)


def test_trim_keeps_what_the_load_needs(region: None) -> None:
    """Memory that the last interval used stays warm."""
    for _ in range(3):
        frames = [_take(60_000) for _ in range(64)]
        for frame in frames:
            pool.fill(frame, b"x" * 60_000)
        for frame in frames:
            pool.give(frame)
        pool.trim()
    assert pool.resident_bytes() >= 3 * MIB


def test_threads_take_grow_and_give(any_mode: str) -> None:
    """Many threads take, grow and give at once, handing frames to each other, and nothing is lost or shared."""
    lanes: list[list[tuple[int, bytes]]] = [[] for _ in range(4)]
    barrier = threading.Barrier(4)
    failures: list[str] = []

    def run(me: int) -> None:
        rng = random.Random(me)
        barrier.wait(10)
        for step in range(1500):
            size = int(2 ** rng.uniform(3, 15))
            frame = pool.take(size)
            if frame is not None:
                data = bytes([me, step & 255]) * (size // 2)
                pool.fill(frame, data)
                if step % 3 == 0:
                    frame = pool.grow(frame, size * 2) or frame
                lanes[(me + 1) % 4].append((frame, data))
            if len(lanes[me]) > 20:
                taken, expected = lanes[me].pop(0)
                if pool.content(taken) != expected:
                    failures.append(f"thread {me} step {step}")
                pool.give(taken)
        barrier.wait(30)
        for taken, expected in lanes[me]:
            if pool.content(taken) != expected:
                failures.append(f"thread {me} at the end")
            pool.give(taken)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []
    assert pool.stats()["used_bytes"] == 0


def test_close_refuses_while_frames_live() -> None:
    """A pool with frames alive is not taken away under their owners."""
    pool.init(8 * MIB)
    frame = _take(10)
    with pytest.raises(RuntimeError, match="1 frames"):
        pool.close()
    pool.give(frame)
    pool.close()


@pytest.mark.parametrize(("size", "mode"), [(MIB, "pool"), (32 * MIB, "slab")])
def test_bad_settings_are_named(size: int, mode: str) -> None:
    """A bound that holds no largest frame, or an unknown mode, is refused with the setting's name."""
    with pytest.raises(ValueError, match="FRAME_"):
        pool.init(size, mode)


def test_uninitialised_pool_gives_nothing() -> None:
    """Before init and after close a take fails instead of touching memory."""
    assert pool.take(100) is None
