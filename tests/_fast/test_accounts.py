"""zlay._fast.accounts: what an entry costs, which one goes when room is needed, and that none is mixed up."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from tests import native
from tests.fixtures import ROOT
from tests.reference.accounts_ref import AccountsRef
from zlay._fast import mem
from zlay._fast.accounts import TestTable as Table
from zlay._fast.accounts import entry_bytes
from zlay.config import Config

MOST_BYTES = 200  # of an entry, its share of index and keys included (design 6)
MILLION = 1_000_000


def plc(number: int) -> bytes:
    """A did:plc by number."""
    digits = "abcdefghijklmnopqrstuvwxyz234567"
    return ("did:plc:" + "".join(digits[number >> 5 * k & 31] for k in range(24))).encode()


def web(number: int, length: int = 30) -> bytes:
    """A did:web by number."""
    return f"did:web:{number}.example.".encode().ljust(length, b"x")


# --- size ---


def test_an_entry_takes_at_most_200_bytes_as_configured() -> None:
    """Entry, index and the share of parsed keys come to at most 200 bytes with the default settings (design 6)."""
    entry, key, bucket = entry_bytes()
    defaults = Config()
    assert entry + bucket + key * defaults.validator_cache_size / defaults.did_cache_size <= MOST_BYTES


@pytest.mark.measures
def test_a_million_entries_take_at_most_200_mb() -> None:
    """Memory that a million accounts really take, every second with a key, is at most 200 bytes each (design 6)."""
    native.load("account_ops")
    code = f"""
from tests.native import load
ops = load("account_ops").Ops({MILLION}, {MILLION}, {MILLION // 2}, web_every=0)
def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
before = rss()
ops.fill({MILLION})
print(ops.stats()["live"], ops.stats()["keys_live"], (rss() - before) / {MILLION})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    live, keys, each = (float(word) for word in done.stdout.split())
    assert (live, keys) == (MILLION, MILLION // 2)
    assert 150 < each <= MOST_BYTES


def test_an_empty_table_costs_address_space_only() -> None:
    """A table takes memory as accounts come, and gives all of it back."""
    before = mem.usage()["account"][:2]
    table = Table(100, 50)
    for number in range(300):
        table.insert(web(number, 40 + number % 200), number + 1)
    assert mem.usage()["account"][1] == before[1] + 4 + 100  # four arrays, and the strings of those that are still here
    del table
    assert mem.usage()["account"][:2] == before


# --- which one goes ---


@pytest.mark.parametrize("seed", range(12))
def test_a_table_behaves_as_the_reference(seed: int) -> None:
    """Least recently used first, nothing that is pinned, keys by second chance: in every detail as the plain model."""
    rng = random.Random(seed)
    capacity, keys = rng.randint(1, 40), rng.randint(1, 15)
    table, reference = Table(capacity, keys), AccountsRef(capacity, keys)
    dids = [plc(number) if number % 4 else web(number) for number in range(capacity * 3)]
    hashes = {did: rng.getrandbits(64) | 1 for did in dids}
    applied = 0
    for step in range(3000):
        did = rng.choice(dids)
        hash_ = hashes[did]
        found = table.find(did, hash_)
        assert found == reference.find(did)
        if found is None:
            assert table.insert(did, hash_, applied) == reference.insert(did, applied)
            if table.find(did, hash_) is None:
                assert reference.find(did) is None
                applied = step
                continue
            reference.find(did)
        what = rng.random()
        if what < 0.1:
            table.set_last_seq(did, hash_, step)
            reference.set_last_seq(did, step)
        elif what < 0.25:
            table.touch_dirty(did, hash_)
            reference.touch_dirty(did)
        elif what < 0.45:
            key = bytes([step & 255, step >> 8]).ljust(64, b"k")
            assert table.set_key(did, hash_, key)
            reference.set_key(did, key)
        elif what < 0.7:
            assert table.key(did, hash_) == reference.key(did)
        elif what < 0.85:
            assert table.pop_dirty() == reference.pop_dirty()
        else:
            applied = max(applied, step - rng.randint(0, 50))
        stats = table.stats()
        assert stats["live"] == len(reference.entries)
        assert stats["keys_live"] == reference.keys_live()
        assert stats["dirty"] == len(reference.dirty)


def test_a_table_of_pinned_entries_takes_no_more() -> None:
    """When all entries are pinned an insert finds no room, and does once the applier has caught up."""
    table = Table(3, 3)
    for number in range(3):
        assert table.insert(plc(number), number + 1)
        table.set_last_seq(plc(number), number + 1, 10 + number)
    assert not table.insert(plc(9), 10, 9)
    assert table.insert(plc(9), 10, 10)
    assert table.find(plc(0), 1) is None
    assert table.find(plc(1), 2) == plc(1)
    table.touch_dirty(plc(1), 2)
    table.touch_dirty(plc(2), 3)
    table.touch_dirty(plc(9), 10)
    assert not table.insert(plc(8), 9, 100), "all changed and not collected"
    assert table.pop_dirty() == plc(9)
    assert table.insert(plc(8), 9, 100)
    assert table.find(plc(9), 10) is None


# --- nothing is mixed up ---


@pytest.mark.parametrize(
    ("hash_bits", "universe", "capacity", "keys", "operations"),
    [(64, 100_000, 25_000, 10_000, 10_000_000), (6, 8_000, 2_000, 800, 300_000)],
    ids=["ten-million", "colliding"],
)
def test_millions_of_operations_with_eviction(
    hash_bits: int, universe: int, capacity: int, keys: int, operations: int
) -> None:
    """Whatever comes and goes, what is found is as it was left and nothing that is pinned goes; the books agree."""
    ops = native.load("account_ops").Ops(universe, capacity, keys, hash_bits=hash_bits)
    ops.run(operations)
    stats, walked = ops.stats(), ops.walk()
    assert ops.faults == 0
    assert stats["evictions"] > 2 * capacity
    assert stats["key_evictions"] > keys
    assert ops.collected > capacity
    assert stats["live"] == capacity
    assert {walked["newest"], walked["oldest"], walked["chained"], walked["used"]} == {capacity}
    assert stats["keys_live"] == walked["with_key"] == walked["owned"] <= keys
    assert stats["dirty"] == walked["dirty"]


@pytest.mark.parametrize(
    "did",
    [
        plc(12345),
        web(1),
        web(2, 261),
        b"did:plc:" + b"0" * 24,  # not base32: kept as it is
        b"did:plc:" + b"A" * 24,
        b"did:plc:" + b"a" * 23,
        b"did:plc:" + b"a" * 25,
        b"did:web:" + b"a" * 24,
    ],
)
def test_a_did_comes_back_as_it_went_in(did: bytes) -> None:
    """Every DID is found by its own text only and given back unchanged, packed or not."""
    table = Table(16, 1)
    others = [plc(1), web(3), b"did:plc:" + b"a" * 24, b"did:web:" + b"b" * 24]
    for other in others:
        assert table.insert(other, 7)
    assert table.find(did, 7) is None
    assert table.insert(did, 7)
    assert [table.find(one, 7) for one in [did, *others]] == [did, *others]
