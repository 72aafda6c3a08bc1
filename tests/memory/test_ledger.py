"""Memory figures against the kernel's and the allocators' own."""

from __future__ import annotations

import mmap
from pathlib import Path

import psutil
import pytest

from zlay._fast import mem
from zlay.memory import ledger, libc

MIB = 1 << 20


def test_rss_is_the_kernels() -> None:
    """Resident memory is what the kernel says, in bytes, and every part of the ledger is in bytes and not negative."""
    measured = ledger.measure()
    kernel = psutil.Process().memory_info().rss
    assert abs(measured["rss"] - kernel) < 20 * MIB
    assert abs(ledger.rss_bytes() - kernel) < 20 * MIB
    assert all(value >= 0 for value in measured.values())
    assert 0 < measured["main_stack"] < 64 * MIB
    assert measured["interpreter_blocks"] > 10_000


@pytest.mark.measures
def test_touched_pages_show() -> None:
    """Anonymous pages that are touched appear in rss and smaps, and go when they are given back."""
    before = ledger.measure()
    block = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for n in range(0, 64 * MIB, 4096):
        block[n] = 1
    during = ledger.measure()
    block.close()
    after = ledger.measure()
    for name in ("rss", "smaps_rss", "smaps_anonymous", "smaps_private_dirty"):
        assert during[name] - before[name] > 60 * MIB, name
        assert during[name] - after[name] > 60 * MIB, name


@pytest.mark.measures
def test_libc_and_core_show() -> None:
    """What the compiled core allocates is in its tag's line and in libc's figures, and goes with it."""
    (tag, *_), n = list(mem.usage()), 32 * MIB
    before = ledger.measure()
    block = mem.Block(list(mem.usage()).index(tag), n)
    during = ledger.measure()
    block.free()
    after = ledger.measure()
    assert during[f"core_{tag}"] - before[f"core_{tag}"] == n
    assert after[f"core_{tag}"] == before[f"core_{tag}"]
    if during["libc_arenas"]:  # glibc; other allocators answer zero
        in_use = sum(during[name] - before[name] for name in ("libc_in_use", "libc_mapped"))
        assert n <= in_use < n + 8 * MIB


@pytest.mark.measures
def test_trim_gives_pages_back() -> None:
    """malloc_trim gives free pages inside the heap back to the kernel."""
    if not libc.arenas().arena:
        pytest.skip("not glibc")
    size = 64 * 1024  # below the threshold of blocks that are mapped one by one
    blocks = [mem.Block(0, size) for _ in range(1000)]
    for block in blocks:
        block.write(b"x" * size)
    keep = blocks.pop()  # on top of the heap: free cannot shrink it
    for block in blocks:
        block.free()
    full = ledger.rss_bytes()
    assert libc.trim() is True
    assert full - ledger.rss_bytes() > 40 * MIB
    keep.free()


def test_a_kernel_without_rollup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no smaps_rollup the ledger has zeros there, and the rest."""
    real = Path.read_text

    def read(self: Path, *args: object, **options: object) -> str:
        if self.name == "smaps_rollup":
            raise FileNotFoundError(self)
        return real(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", read)
    measured = ledger.measure()
    assert measured["smaps_rss"] == 0
    assert measured["rss"] > 0
