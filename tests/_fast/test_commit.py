"""zlay._fast.commit: a commit is what it says, agrees with its message, and its signature covers all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import fixtures
from tests._fast.commits import DID, KEY_TYPES, REV, SINCE, Draft, draft, sync, value
from tests.reference.car_ref import read_car
from tests.reference.drisl_ref import Cid, encode
from tests.reference.frame_ref import decode_frame
from tests.reference.mst_ref import EMPTY_ROOT
from zlay._fast import commit, stages
from zlay.identity.document import read_document
from zlay.sim.keys import SigningKey

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = {curve: SigningKey(curve, b"commit test") for curve in KEY_TYPES}
RECORDS = {b"com.example.record/%d" % i: value(f"old {i}") for i in range(20)}
CREATE = ("create", b"com.example.record/new", value("new"), None)


def valid(curve: str = "k256") -> Draft:
    """A valid commit with one create."""
    return draft(RECORDS, [CREATE], KEYS[curve])


def verdict(wrong: Draft) -> str:
    """What the core says of a draft's frame under the draft's own key."""
    return commit.check(wrong.frame(), KEY_TYPES[wrong.key.curve], wrong.key.point)


def recorded() -> list[tuple[bytes, tuple[int, bytes]]]:
    """The recorded #commit frames with their accounts' keys."""
    documents = fixtures.recorded_did_docs()
    pairs = []
    for frame in fixtures.recorded_frames():
        decoded = decode_frame(frame)
        if decoded.kind == "#commit":
            assert decoded.did is not None
            identity = read_document(decoded.did, documents[decoded.did], 0)
            pairs.append((frame, (identity.key_type, identity.key)))
    return pairs


def test_recorded_commits_are_signed_by_their_accounts() -> None:
    """All 148 recorded commits verify under the key of their DID document, and none under another's (E4)."""
    pairs = recorded()
    assert len(pairs) == 148
    assert {commit.check(frame, *key) for frame, key in pairs} == {"ok"}
    others = [key for _, key in pairs[1:]] + [pairs[0][1]]
    assert {commit.check(frame, *key) for (frame, _), key in zip(pairs, others, strict=True)} == {"sig_invalid"}


def test_facts_of_recorded_commits() -> None:
    """facts gives account, rev, head and tree root of every recorded commit as the reference decoder finds them."""
    for frame, _ in recorded():
        decoded = decode_frame(frame)
        _, blocks = read_car(decoded.payload["blocks"])
        body = blocks[decoded.payload["commit"]]
        did, rev, head, data = commit.facts(frame)
        assert (did, rev, head) == (decoded.did, decoded.payload["rev"], decoded.payload["commit"])
        assert bytes(data) in body


def test_facts_of_a_sync() -> None:
    """A #sync has the same facts: its commit is the CAR's root."""
    frame = sync(KEYS["k256"], EMPTY_ROOT)
    assert commit.facts(frame.frame()) == (DID, REV, Cid.of(frame.block()), EMPTY_ROOT)


def test_facts_of_anything_else() -> None:
    """What is no commit has no facts: the error names the reason."""
    other = [frame for frame in fixtures.recorded_frames() if decode_frame(frame).kind != "#commit"]
    assert len(other) == 2
    for frame in [*other, b"", other[0][:-1]]:
        with pytest.raises(ValueError, match=r"^(field_type|cbor_truncated)$"):
            commit.facts(frame)


@pytest.mark.parametrize("curve", KEY_TYPES)
def test_valid_commits_and_syncs(curve: str) -> None:
    """Commits and syncs signed with either curve pass, the commit's block first, last or twice in the CAR."""
    assert verdict(valid(curve)) == "ok"
    assert verdict(sync(KEYS[curve], EMPTY_ROOT)) == "ok"
    moved = valid(curve)
    moved.extra = [(Cid.of(moved.block()), moved.block())]
    assert verdict(moved) == "ok"
    moved.without_commit = True
    assert verdict(moved) == "ok"


def test_what_the_car_may_hold_besides() -> None:
    """Extra roots, duplicate and unlinked blocks are tolerated (C10)."""
    more = valid()
    block = encode({"nobody": "links here"})
    more.roots = [Cid.of(more.block()), Cid.of(block), Cid.of(b"not in the CAR")]
    more.extra = [(Cid.of(block), block), *more.nodes.items(), *more.records.items()]
    assert verdict(more) == "ok"


def test_unknown_fields_are_signed() -> None:
    """Fields that C2 does not know are kept for the signing bytes, before and after `sig` in the order (C2)."""
    more = valid()
    more.commit |= {"a": 1, "zzz": [True, None, {"deep": b"er"}], "a much later field": EMPTY_ROOT}
    assert verdict(more) == "ok"
    more.commit["sig"] = more.key.sign(encode({k: v for k, v in more.commit.items() if k != "zzz"}))
    assert verdict(more) == "sig_invalid"


def test_more_fields_than_one_head_byte_counts() -> None:
    """The map's head in the signing bytes is the shortest for one field less, also where that needs fewer bytes."""
    for count in (22, 23, 24, 25, 300):
        more = valid()
        more.commit |= {f"x{i:04}": i for i in range(count - len(more.commit) - 1)}
        assert verdict(more) == "ok"


def without(name: str) -> Callable[[Draft], None]:
    """Takes a field away."""

    def change(wrong: Draft) -> None:
        if name == "sig":
            wrong.commit_block = encode(wrong.commit)
        else:
            del wrong.commit[name]

    return change


def having(**fields: object) -> Callable[[Draft], None]:
    """Gives the commit other fields, and signs them."""
    return lambda wrong: wrong.commit.update(fields)


def signing(sign: Callable[[SigningKey, bytes], bytes]) -> Callable[[Draft], None]:
    """Makes another signature."""

    def change(wrong: Draft) -> None:
        key = wrong.key
        wrong.sign = lambda message: sign(key, message)

    return change


def high_s(key: SigningKey, message: bytes) -> bytes:
    """The same signature with the other s."""
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    sig = key.sign(message)
    return sig[:32] + (order - int.from_bytes(sig[32:], "big")).to_bytes(32, "big")


def block(change: Callable[[bytes], bytes]) -> Callable[[Draft], None]:
    """Alters the encoded commit block; its CID is right for what it becomes."""
    return lambda wrong: setattr(wrong, "commit_block", change(wrong.block()))


def roots(*cids: Cid) -> Callable[[Draft], None]:
    """Gives the CAR other roots."""
    return lambda wrong: setattr(wrong, "roots", list(cids))


def not_in_car(wrong: Draft) -> None:
    """Leaves the commit block out."""
    wrong.without_commit = True


def another_commit(wrong: Draft) -> None:
    """Names another commit in the message than in the CAR."""
    wrong.message["commit"] = value("another")


def another_hash(wrong: Draft) -> None:
    """Makes a block other than its CID says."""
    wrong.extra = [(value("one"), encode({"an": "other"}))]


def raw_codec(wrong: Draft) -> None:
    """Has the commit under a CID of the raw codec."""
    cid = Cid.of(wrong.block(), 0x55)
    wrong.roots = [cid]
    wrong.extra = [(cid, wrong.block())]
    wrong.message["commit"] = cid


RAW_CID = Cid.of(b"raw", 0x55)
SHA512_CID = Cid(b"\x01\x71\x13\x40" + bytes(64))

WRONG: dict[str, tuple[str, Callable[[Draft], None]]] = {
    "root is not message.commit": ("root_mismatch", another_commit),
    "root is another block": ("root_mismatch", roots(value("another"))),
    "commit not in the CAR": ("commit_missing", not_in_car),
    "commit under a raw CID": ("commit_shape", raw_codec),
    "a block's hash": ("block_hash", another_hash),
    **{f"no {name}": ("commit_shape", without(name)) for name in ("did", "rev", "sig", "data", "prev", "version")},
    "did not text": ("commit_shape", having(did=b"did")),
    "rev not text": ("commit_shape", having(rev=7)),
    "sig not bytes": ("commit_shape", having(sig="x" * 64)),
    "data null": ("commit_shape", having(data=None)),
    "data raw": ("commit_shape", having(data=RAW_CID)),
    "data of another hash": ("commit_shape", having(data=SHA512_CID)),
    "version text": ("commit_shape", having(version="3")),
    "version negative": ("commit_shape", having(version=-3)),
    "commit no map": ("commit_shape", block(lambda b: encode(["a list"]))),
    "version 2": ("commit_version", having(version=2)),
    "version 4": ("commit_version", having(version=4)),
    "prev a number": ("commit_prev", having(prev=0)),
    "prev of another hash": ("commit_prev", having(prev=SHA512_CID)),
    "another did": ("commit_did", having(did=DID[:-1] + "x")),
    "a longer did": ("commit_did", having(did=DID + "2")),
    "another rev": ("commit_rev", having(rev=SINCE)),
    "rev no TID": ("commit_rev", having(rev="today")),
    "rev empty": ("commit_rev", having(rev="")),
    "sig of 63 bytes": ("sig_form", signing(lambda key, m: key.sign(m)[:-1])),
    "sig of 65 bytes": ("sig_form", signing(lambda key, m: key.sign(m) + b"\0")),
    "sig in DER": (
        "sig_form",
        signing(lambda key, m: b"\x30\x44\x02\x20" + key.sign(m)[:32] + b"\x02\x20" + bytes(32)),
    ),
    "sig empty": ("sig_form", signing(lambda key, m: b"")),
    "sig of zeroes": ("sig_form", signing(lambda key, m: bytes(64))),
    "sig with r too big": ("sig_form", signing(lambda key, m: b"\xff" * 32 + key.sign(m)[32:])),
    "sig with high s": ("sig_high_s", signing(high_s)),
    "sig by another key": ("sig_invalid", signing(lambda key, m: KEYS["p256"].sign(m))),
    "sig of other bytes": ("sig_invalid", signing(lambda key, m: key.sign(m + b"\0"))),
    "trailing byte": ("cbor_trailing", block(lambda b: b + b"\0")),
    "truncated": ("cbor_truncated", block(lambda b: b[:-1])),
    "long length": ("cbor_not_shortest", block(lambda b: b"\xb8" + bytes((b[0] & 31,)) + b[1:])),
    "float": ("cbor_float", block(lambda b: bytes((b[0] + 1,)) + b[1:] + b"\x68zzzzzzzz\xfb" + bytes(8))),
    "keys not ascending": ("cbor_key_order", block(lambda b: bytes((b[0] + 1,)) + b[1:] + b"\x61a\x01")),
    "a key twice": ("cbor_key_order", block(lambda b: bytes((b[0] + 1,)) + b[1:] + b"\x67version\x03")),
    "unknown field of a broken CID": (
        "cbor_cid",
        block(lambda b: bytes((b[0] + 1,)) + b[1:] + b"\x68zzzzzzzz\xd8\x2a\x41\x01"),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_commits(name: str) -> None:
    """A commit with one thing wrong, signed anew, is dropped for that thing; without the change it passes."""
    label, change = WRONG[name]
    wrong = valid()
    assert verdict(wrong) == "ok"
    change(wrong)
    assert verdict(wrong) == label


@pytest.mark.parametrize(
    ("label", "change"),
    [
        ("commit_missing", not_in_car),
        ("commit_did", having(did=DID[:-1] + "x")),
        ("commit_rev", having(rev=SINCE)),
        ("commit_version", having(version=2)),
        ("sig_invalid", signing(lambda key, m: KEYS["p256"].sign(m))),
        ("commit_missing", roots(value("another"))),
    ],
)
def test_wrong_syncs(label: str, change: Callable[[Draft], None]) -> None:
    """A #sync's commit is held to the same rules; its root needs no field of the message to agree with."""
    wrong = sync(KEYS["k256"], EMPTY_ROOT)
    change(wrong)
    assert verdict(wrong) == label


def test_prev_may_be_a_link() -> None:
    """prev is null nearly always, but a link is as good (C2)."""
    linked = valid()
    linked.commit["prev"] = value("the commit before")
    assert verdict(linked) == "ok"


def test_every_byte_of_a_commit_counts() -> None:
    """No bit of the signed block can be turned without the commit being dropped."""
    good = valid()
    body = good.block()
    for at in range(len(body)):
        wrong = good.copy()
        wrong.commit_block = body[:at] + bytes((body[at] ^ 1,)) + body[at + 1 :]
        assert verdict(wrong) != "ok"


def test_stages_verify_both_curves_in_turn() -> None:
    """One worker's key cache serves accounts of both curves, whatever the order."""
    drafts = []
    for i in range(6):
        curve = ("k256", "p256", "p256")[i % 3]
        made = valid(curve)
        made.key = SigningKey(curve, b"account %d" % i)
        drafts.append(made)
    keys = [(KEY_TYPES[made.key.curve], made.key.point) for made in drafts]
    frames = [made.frame() for made in drafts]
    figures = stages.times(frames, keys, 3)
    assert figures["ops"] == 1
    assert all(figures[name] > 0 for name in ("decode", "open", "signature", "tree", "invert"))
    with pytest.raises(ValueError, match=r"^sig_invalid$"):
        stages.times(frames, keys[:1] + keys[2:3] + keys[1:2] + keys[3:], 1)
