"""Whose memory each mapping is: from what the kernel lists, and in this process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from zlay._fast import mem
from zlay.memory import ledger, mappings

MIB = 1 << 20
LISTED = """\
20000000000-20040000000 rw-p 00000000 00:00 0
Size:            1048576 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                1000 kB
Pss:                1000 kB
VmFlags: rd wr mr mw me ac sd
55d6c5a46000-55d6c5ab8000 r-xp 00000000 fe:00 316526                     /usr/bin/python3.13t (deleted)
Size:                456 kB
Rss:                 200 kB
Pss:                 150 kB
55d6c6132000-55d6c6170000 rw-p 00000000 00:00 0                          [heap]
Size:                248 kB
Rss:                  30 kB
7f0000000000-7f0000200000 rw-p 00000000 00:00 0
Size:               2048 kB
Rss:                 400 kB
7f0000200000-7f0004000000 ---p 00000000 00:00 0
Size:              63488 kB
Rss:                   0 kB
7f0004000000-7f0009000000 rw-p 00000000 00:00 0
Size:              81920 kB
Rss:                5000 kB
7f0010001000-7f0010002000 ---p 00000000 00:00 0
Size:                  4 kB
Rss:                   0 kB
7f0010002000-7f0010022000 rw-p 00000000 00:00 0                          [anon: glibc: pthread stack: 12]
Size:                128 kB
Rss:                   8 kB
7f0010022000-7f0010023000 ---p 00000000 00:00 0
Size:                  4 kB
Rss:                   0 kB
7f0010023000-7f0010043000 rw-p 00000000 00:00 0
Size:                128 kB
Rss:                  12 kB
7ffc69515000-7ffc69536000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
Rss:                  60 kB
7ffc69570000-7ffc69574000 r--p 00000000 00:00 0                          [vvar]
Size:                 16 kB
Rss:                   0 kB
"""


def test_kinds() -> None:
    """Python's heap, files, stacks, malloc's arenas and what is left are told apart by place and neighbours."""
    listed = list(mappings.parse(LISTED))
    assert len(listed) == LISTED.count("Rss:")
    assert listed[1].name == "/usr/bin/python3.13t (deleted)"
    kinds = {name: n // 1024 for name, n in mappings.by_kind(listed).items()}
    assert kinds == {
        "python": 1000,
        "files": 200,
        "main_stack": 60,
        "thread_stacks": 20,
        "libc_arenas": 430,
        "pieces": 5000,  # it begins like an arena, and is larger than one can be
    }
    assert set(mappings.by_kind(mappings.parse("")).values()) == {0}


def test_this_process() -> None:
    """All that is resident is in one of the parts or in the remainder, and no part is a fairy tale."""
    told = ledger.report()
    assert told["rss"] == sum(told["parts"].values()) + told["remainder"]
    assert abs(told["rss"] - ledger.rss_bytes()) < 20 * MIB
    assert all(value >= 0 for value in [*told["parts"].values(), told["remainder"]])
    assert told["parts"]["python"] > 5 * MIB
    assert told["parts"]["files"] > 5 * MIB


GROWN = """
import json, mmap, threading
from zlay.memory import ledger
def parts():
    told = ledger.report()
    return {**told["parts"], "rest": told["remainder"] + told["parts"]["malloc_pieces"]}
before = parts()
kept = [bytes(n) for n in [1000] * 40_000]
done = threading.Event()
threads = [threading.Thread(target=done.wait) for _ in range(100)]
for thread in threads:
    thread.start()
block = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for n in range(0, 64 << 20, 4096):
    block[n] = 1
during = parts()
done.set()
print(json.dumps({name: during[name] - before[name] for name in before}))
"""


@pytest.mark.measures
def test_parts_grow_with_what_they_are_for() -> None:
    """Python's objects, threads' stacks and mappings of nobody show where they belong."""
    # A process of its own: this one has room that other tests have given back.
    done = subprocess.run([sys.executable, "-c", GROWN], capture_output=True, text=True, timeout=60, check=True)
    grown = json.loads(done.stdout)
    assert grown["python"] > 30 * MIB
    assert grown["thread_stacks"] >= 100 * 4096
    assert 60 * MIB < grown["rest"] < 80 * MIB


def test_peaks_stay() -> None:
    """The most that a tag was seen to have stays when it has less."""
    tag, n = "misc", 50 * MIB
    number = list(ledger.sample()).index(tag)
    block = mem.Block(number, n)
    live, count, _, peak = ledger.sample()[tag]
    assert n <= live <= peak
    block.free()
    after = ledger.sample()[tag]
    assert after[0] <= live - n
    assert (after[1], after[3]) == (count - 1, peak)
