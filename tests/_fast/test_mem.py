"""zlay._fast.mem: every C allocation is counted by tag and can be given back by any thread."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from zlay._fast import mem

MISC, FRAME = 0, 1
THREADS = 8
ROUNDS = 2000


def live(tag: str) -> tuple[int, int]:
    """Live bytes and live allocations of one tag."""
    return mem.usage()[tag][:2]


def test_live_and_total_are_counted() -> None:
    """Live bytes and counts rise with an allocation and fall with its end; the total only rises."""
    before = mem.usage()["misc"]
    block = mem.Block(MISC, 1000)
    during = mem.usage()["misc"]
    assert (during[0] - before[0], during[1] - before[1], during[2] - before[2]) == (1000, 1, 1)
    block.free()
    after = mem.usage()["misc"]
    assert (after[0] - before[0], after[1] - before[1], after[2] - before[2]) == (0, 0, 1)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 4096, 1_000_003])
def test_memory_is_aligned_and_whole(n: int) -> None:
    """Every allocation is 16-byte aligned and holds all the bytes asked for."""
    block = mem.Block(MISC, n)
    data = bytes(i * 7 & 255 for i in range(n))
    block.write(data)
    assert block.address() % 16 == 0
    assert block.read() == data


def test_calloc_is_zeroed() -> None:
    """zl_calloc gives zeros, also where memory is used again."""
    for _ in range(50):
        dirty = mem.Block(MISC, 500)
        dirty.write(b"\xff" * 500)
        dirty.free()
        assert mem.Block(MISC, 500, zeroed=True).read() == bytes(500)


def test_realloc_keeps_bytes_and_moves_the_count() -> None:
    """A grown block keeps its bytes and is counted under the tag it was grown with."""
    misc, frame = live("misc"), live("frame")
    block = mem.Block(MISC, 100)
    block.write(b"z" * 100)
    assert block.resize(FRAME, 100_000)
    assert block.read()[:100] == b"z" * 100
    assert live("misc") == misc
    assert live("frame") == (frame[0] + 100_000, frame[1] + 1)
    block.free()
    assert live("frame") == frame


def test_impossible_sizes_are_refused() -> None:
    """A size that would wrap around with its header gives no memory, and leaves a block as it was."""
    with pytest.raises(MemoryError):
        mem.Block(MISC, 2**64 - 1)
    block = mem.Block(MISC, 10)
    block.write(b"0123456789")
    assert not block.resize(MISC, 2**64 - 8)
    assert block.read() == b"0123456789"


def test_histogram_sorts_by_power_of_two() -> None:
    """Item c of the histogram counts sizes in [2**(c-1), 2**c)."""
    before = mem.histogram()["misc"]
    blocks = [mem.Block(MISC, n) for n in (0, 1, 2, 3, 1023, 1024)]
    grown = [now - then for now, then in zip(mem.histogram()["misc"], before, strict=True)]
    assert {c: n for c, n in enumerate(grown) if n} == {0: 1, 1: 1, 2: 2, 10: 1, 11: 1}
    assert len(blocks) == 6


def test_counts_hold_when_threads_free_what_others_made() -> None:
    """Memory allocated in one thread and freed in another leaves no trace in the live counts."""
    before = live("misc")
    barrier = threading.Barrier(THREADS)
    shelves: list[list[mem.Block]] = [[] for _ in range(THREADS)]

    def run(me: int) -> None:
        barrier.wait(30)
        shelves[me].extend(mem.Block(MISC, 1 + i % 300) for i in range(ROUNDS))
        barrier.wait(30)
        for block in shelves[(me + 1) % THREADS]:
            block.free()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert live("misc") == before


@pytest.mark.ordinary_build
def test_double_free_ends_the_process() -> None:
    """Freeing twice aborts with a message instead of corrupting memory."""
    code = "from zlay._fast import mem; mem.Block(0, 64).free_twice()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode != 0
    assert b"zlay: " in done.stderr or b"free" in done.stderr or b"AddressSanitizer" in done.stderr
