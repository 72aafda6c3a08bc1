"""Signing keys in the workers: parsed once while they are in memory, told apart unparsed, P-256 within bounds."""

from __future__ import annotations

import ctypes
from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests._fast.actor import Actor
from tests._fast.commits import KEY_TYPES
from tests._fast.pipe import Pipe
from zlay._fast import crypto, pipeline
from zlay.pipeline.types import AccountRow, Identity
from zlay.sim.keys import SigningKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests._fast.pipe import Feed

P256_ACCOUNTS = 40
ROUNDS = 5


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    """A pipeline of one worker."""
    with Pipe(tmp_path) as made:
        yield made


def _account(pipe: Pipe, feed: Feed, name: str, curve: str) -> Actor:
    """An account with a commit published."""
    actor = Actor(name, curve)
    pipe.identities[actor.did] = lambda: actor.identity(feed.name)
    feed.send(actor.commit(feed.next_seq()))
    pipe.settle()
    return actor


def _uncompressed(key: SigningKey) -> bytes:
    """The other form of a key's point, by arithmetic: neither curve's library is asked."""
    p, a, b = {
        "k256": (2**256 - 2**32 - 977, 0, 7),
        "p256": (
            2**256 - 2**224 + 2**192 + 2**96 - 1,
            -3,
            0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
        ),
    }[key.curve]
    x = int.from_bytes(key.point[1:], "big")
    y = pow((pow(x, 3, p) + a * x + b) % p, (p + 1) // 4, p)
    if y & 1 != key.point[0] & 1:
        y = p - y
    return b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")


@pytest.mark.parametrize("curve", KEY_TYPES)
def test_a_key_is_parsed_once_while_it_is_in_memory(pipe: Pipe, curve: str) -> None:
    """An account's key is parsed when first told; not for another commit, nor when it is told again in any form."""
    feed = pipe.feed("a")
    actor = _account(pipe, feed, "alice", curve)
    assert pipe.total("keys_parsed") == 1
    for _ in range(20):
        feed.send(actor.commit(feed.next_seq()))
    for point in (actor.key.point, _uncompressed(actor.key)) * 3:
        told = actor.identity("a")
        identity = Identity(told.did, "ok", "a", told.key_type, point, told.resolved_us)
        pipeline.post_identity(identity, feed.id)
        pipeline.post_account(actor.did, AccountRow(actor.did, feed.id, 0, 0, None, None, None, 1, identity), feed.id)
        feed.send(actor.commit(feed.next_seq()))
    feed.send(actor.identity_event(feed.next_seq()), actor.commit(feed.next_seq()))
    pipe.settle()
    assert feed.dropped() == {}
    assert pipe.asked["resolve", actor.did] >= 2, "the #identity asked anew"
    assert pipe.total("keys_parsed") == 1


def test_another_key_is_parsed(pipe: Pipe) -> None:
    """A rotated key is parsed, and the old one signs nothing any more."""
    feed = pipe.feed("a")
    actor = _account(pipe, feed, "alice", "k256")
    old, new = actor.key, SigningKey("p256", b"rotated")
    actor.key = new
    pipe.identities[actor.did] = lambda: actor.identity("a", key=new)
    pipe.tell(actor.did)
    feed.send(actor.commit(feed.next_seq()))
    pipe.settle()
    assert feed.dropped() == {}
    assert pipe.total("keys_parsed") == 2
    actor.key = old
    feed.send(actor.draft(feed.next_seq()).frame())
    pipe.settle()
    assert feed.dropped() == {"sig_invalid": 1}


def test_a_key_that_does_not_parse_is_no_key(pipe: Pipe) -> None:
    """A point that is none drops the account's commits for want of a key, and takes a key known before away."""
    feed = pipe.feed("a")
    actor = _account(pipe, feed, "alice", "k256")
    told = actor.identity("a")
    for point in (b"\x02" + b"\xff" * 32, b"\x02" * 20, b"\x04" + b"\x01" * 64, b"\x02" * 70):
        pipeline.post_identity(Identity(told.did, "ok", "a", told.key_type, point, told.resolved_us), feed.id)
        feed.send(actor.draft(feed.next_seq()).frame())
        pipe.settle()
    assert feed.dropped() == {"no_key": 4}
    pipeline.post_identity(told, feed.id)
    feed.send(actor.commit(feed.next_seq()))
    pipe.settle()
    assert len(pipe.published()) == 2


def test_keys_are_told_apart_without_parsing() -> None:
    """A parsed key is that of a point in either form, and of no other point, curve or length."""
    keys = [SigningKey(curve, bytes([number])) for curve in KEY_TYPES for number in range(12)]
    for key in keys:
        kind = KEY_TYPES[key.curve]
        forms = (key.point, _uncompressed(key))
        for first, second in product(forms, forms):
            assert crypto.is_same_key(kind, first, kind, second)
        for other in keys:
            if other is not key:
                assert not crypto.is_same_key(kind, key.point, KEY_TYPES[other.curve], other.point)
                assert not crypto.is_same_key(kind, key.point, kind, _uncompressed(other))
        flipped = bytes([forms[0][0] ^ 1]) + forms[0][1:]
        for wrong in (b"", forms[0][:-1], forms[1] + b"\0", flipped, b"\x06" + forms[1][1:], b"\x05" + forms[0][1:]):
            assert not crypto.is_same_key(kind, key.point, kind, wrong)
        assert not crypto.is_same_key(kind, key.point, 3 - kind, key.point)


def test_p256_keys_are_loaded_for_another_account_only(pipe: Pipe) -> None:
    """A worker has one key object: an account's point is put in when it is another's turn, not for each commit."""
    feed = pipe.feed("a")
    first, second = _account(pipe, feed, "p1", "p256"), _account(pipe, feed, "p2", "p256")
    before = pipe.total("p256_loads")
    for actor in (first, first, first, second, second, first):
        feed.send(actor.commit(feed.next_seq()))
    pipe.settle()
    assert feed.dropped() == {}
    assert pipe.total("p256_loads") == before + 3


def test_p256_keys_take_no_memory_beyond_the_account_table(pipe: Pipe) -> None:
    """Many P-256 accounts verified again and again leave OpenSSL with no more memory than a few did."""
    feed = pipe.feed("a")
    actors = [_account(pipe, feed, f"p{number}", "p256") for number in range(P256_ACCOUNTS)]
    frames = [[actor.commit(feed.next_seq()) for actor in actors] for _ in range(ROUNDS)]
    feed.send(*frames[0])
    pipe.settle()
    before = _libc_in_use()
    for batch in frames[1:]:
        feed.send(*batch)
        pipe.settle()
    assert pipe.total("p256_loads") >= P256_ACCOUNTS * (ROUNDS + 1)
    assert _libc_in_use() - before < 64 * 1024
    assert feed.dropped() == {}


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    ] + [("keepcost", ctypes.c_size_t)]


def _libc_in_use() -> int:
    call = ctypes.CDLL(None).mallinfo2
    call.restype = _Mallinfo2
    in_use: int = call().uordblks
    return in_use
