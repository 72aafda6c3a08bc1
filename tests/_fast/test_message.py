"""zlay._fast.message: frames are decoded strictly, refused for the right reason, peeked at without contradiction."""

from __future__ import annotations

import random
import struct
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fixtures
from tests._fast.frames import (
    ABSENT,
    DID,
    REV,
    SINCE,
    TIME,
    Pairs,
    Raw,
    account,
    cid,
    commit,
    create,
    frame,
    identity,
    pack,
    sync,
)
from tests.reference import drisl_ref
from tests.reference.car_ref import read_car
from tests.reference.drisl_ref import Cid
from tests.reference.frame_ref import decode_frame
from zlay._fast import message, syntax

SEQ_MAX = 2**53 - 1
FRAME_MAX = 5_000_000 - 18
PATHS = [f"app.bsky.feed.post/{n:013d}" for n in range(201)]
FLOAT = Raw(b"\xfb" + struct.pack(">d", 1.5))
ZERO = Raw(b"\xfb" + bytes(8))
RAW_CODEC = cid(codec=0x55)
OTHER_HASH = Raw(b"\xd8\x2a\x58\x45\x00\x01\x71\x13\x40" + bytes(64))


def decoded(data: bytes) -> dict[str, Any]:
    """The decoded message of a frame that must be accepted."""
    got = message.decode(data)
    assert isinstance(got, dict), got
    return got


def peeked(data: bytes) -> dict[str, Any]:
    """What a reader sees of a frame that it must be able to cut."""
    got = message.peek(data)
    assert isinstance(got, dict), got
    return got


def update(path: str = PATHS[0], **changes: Any) -> dict[str, Any]:
    return create(path, action="update", prev=cid("before")) | changes


def delete(path: str = PATHS[0], **changes: Any) -> dict[str, Any]:
    return {"action": "delete", "path": path, "cid": None, "prev": cid("before")} | changes


# ---- recorded frames ---------------------------------------------------------------------------------------------


def test_recorded_frames() -> None:
    """Each of the 150 recorded frames of a production relay is accepted, each field as the reference reads it."""
    kinds = []
    for raw in fixtures.recorded_frames():
        want = decode_frame(raw)
        got = decoded(raw)
        kinds.append(got["kind"])
        assert got["type"] == want.kind
        assert got["seq"] == want.seq
        assert (got["seq_off"], got["seq_off"] + got["seq_len"]) == (want.seq_start, want.seq_end)
        assert got["did"] == want.did
        assert got["time"].decode() == want.payload["time"]
        if got["kind"] != "commit":
            continue
        assert syntax.tid_text(got["rev"]) == want.payload["rev"]
        assert syntax.tid_text(got["since"]) == want.payload["since"]
        assert got["commit"] == want.payload["commit"]
        assert got["prev_data"] == want.payload["prevData"]
        assert got["blocks"] == want.payload["blocks"]
        assert got["commit"] == read_car(got["blocks"])[0][0]
        for op, other in zip(got["ops"], want.payload["ops"], strict=True):
            assert (op["action"], op["collection"] + "/" + op["record_key"]) == (other["action"], other["path"])
            assert (op["cid"], op["prev"]) == (other["cid"], other.get("prev"))
    assert (kinds.count("commit"), kinds.count("identity"), kinds.count("account")) == (148, 1, 1)


@pytest.mark.parametrize("seq", [1, 23, 24, 255, 256, 65_536, 2**32, SEQ_MAX])
def test_seq_can_be_spliced(seq: int) -> None:
    """Replacing the bytes at seq_off gives a frame that differs in seq alone, whatever the lengths of old and new."""
    built = (frame(sync(), "#sync"), frame(account(), "#account"), frame(commit(x=1, aa=2)), ACCEPTED["unknown kind"])
    for raw in (*fixtures.recorded_frames()[:5], *built):
        got = decoded(raw)
        spliced = raw[: got["seq_off"]] + drisl_ref.head(0, seq) + raw[got["seq_off"] + got["seq_len"] :]
        again = decoded(spliced)
        assert again["seq"] == seq
        assert decode_frame(spliced).normalized == decode_frame(raw).normalized


def test_every_truncation_of_recorded_frames() -> None:
    """No frame cut short is accepted, wherever it is cut, and no cut breaks the reader's glance."""
    frames = fixtures.recorded_frames()
    chosen = [min(frames, key=len), *[raw for raw in frames if decode_frame(raw).kind != "#commit"], frames[0]]
    for raw in chosen:
        for end in range(len(raw)):
            assert message.decode(raw[:end]) == "cbor_truncated", end
            assert isinstance(message.peek(raw[:end]), dict | str)


# ---- what is accepted --------------------------------------------------------------------------------------------

ACCEPTED = {
    "commit": frame(commit()),
    "first commit": frame(commit(since=None, prevData=ABSENT)),
    "empty commit": frame(commit(ops=[])),
    "three kinds of ops": frame(commit(ops=[create(PATHS[0]), update(PATHS[1]), delete(PATHS[2])])),
    "update to the same value": frame(commit(ops=[update(prev=cid(PATHS[0]))])),
    "200 ops": frame(commit(ops=[create(path) for path in PATHS[:200]])),
    "blobs": frame(commit(blobs=[cid(codec=0x55), OTHER_HASH])),
    "blocks of 2,000,000": frame(commit(blocks=bytes(2_000_000))),
    "old prev field": frame(commit(prev=None)),
    "record of codec raw": frame(commit(ops=[create(cid=RAW_CODEC)])),
    "did:web": frame(commit(repo="did:web:example.com")),
    "did in a commit": frame(commit(did=5)),
    "repo in a sync": frame(sync(repo=5), "#sync"),
    "sync": frame(sync(), "#sync"),
    "sync of 10,000": frame(sync(blocks=bytes(10_000)), "#sync"),
    "identity": frame(identity(), "#identity"),
    "identity without handle": frame(identity(handle=ABSENT), "#identity"),
    "identity with an invalid handle's name": frame(identity(handle="handle.invalid"), "#identity"),
    "account": frame(account(), "#account"),
    "unknown kind": frame({"seq": 7, "did": DID, "x": [1, {"y": FLOAT}]}, "#labels"),
    "unknown kind with repo": frame({"seq": 7, "repo": DID, "time": 5}, "#label"),
    "unknown kind with both": frame({"seq": 7, "did": DID, "repo": 5}, "#label"),
    "unknown kind of 300 fields": frame({"seq": 7, "did": DID} | {f"f{n:04d}": n for n in range(300)}, "#new"),
    "unknown fields": frame(commit(x=1, y={"z": [FLOAT, cid()]}, zzzzzzzzzz=None)),
    "unknown fields in an op": frame(commit(ops=[create(x=FLOAT, y=[{}])])),
    "unknown fields in the header": pack({"t": "#commit", "op": 1, "x": FLOAT, "zz": {}}) + pack(commit()),
    "64 unknown fields": frame(commit(**{f"f{n:04d}": n for n in range(64)})),
    "64 unknown fields in an op": frame(commit(ops=[create(**{f"f{n:04d}": n for n in range(64)})])),
    "seq of 1": frame(commit(seq=1)),
    "largest seq": frame(commit(seq=SEQ_MAX)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_the_protocol_allows_is_accepted(name: str) -> None:
    """Every legal shape of a message passes, and the reader's glance found the same account, seq and kind."""
    raw = ACCEPTED[name]
    got = decoded(raw)
    seen = peeked(raw)
    assert (seen["did"], seen["seq"], seen["kind"]) == (got["did"], got["seq"], got["kind"])
    assert not seen["is_error"]


@pytest.mark.parametrize("name", [name for name in ACCEPTED if len(ACCEPTED[name]) < 2000])
def test_every_truncation(name: str) -> None:
    """No prefix of an accepted frame is accepted, and every one is called truncated."""
    raw = ACCEPTED[name]
    for end in range(len(raw)):
        assert message.decode(raw[:end]) == "cbor_truncated"


def test_fields_of_a_commit() -> None:
    """Every field of a #commit is decoded to its value."""
    ops = [create(PATHS[0]), update(PATHS[1]), delete(PATHS[2])]
    got = decoded(frame(commit(ops=ops)))
    assert got["rev"] == syntax.tid_number(REV)
    assert got["since"] == syntax.tid_number(SINCE)
    assert (got["did"], got["time"].decode()) == (DID, TIME)
    assert (got["commit"], got["prev_data"]) == (cid("commit"), cid("prevData"))
    assert [op["action"] for op in got["ops"]] == ["create", "update", "delete"]
    assert [op["collection"] + "/" + op["record_key"] for op in got["ops"]] == PATHS[:3]
    assert [op["cid"] for op in got["ops"]] == [cid(PATHS[0]), cid(PATHS[1]), None]
    assert [op["prev"] for op in got["ops"]] == [None, cid("before"), cid("before")]
    first = decoded(ACCEPTED["first commit"])
    assert (first["since"], first["prev_data"]) == (None, None)


@pytest.mark.parametrize(
    ("active", "status", "meant"),
    [
        (True, ABSENT, "active"),
        (True, "desynchronized", "desynchronized"),
        (True, "throttled", "throttled"),
        (True, "takendown", "active"),
        (True, "something new", "active"),
        (False, ABSENT, "inactive"),
        (False, "something new", "inactive"),
        (False, "", "inactive"),
        (False, "desynchronized", "inactive"),
        (False, "throttled", "inactive"),
        (False, "deactivated", "deactivated"),
        (False, "suspended", "suspended"),
        (False, "takendown", "takendown"),
        (False, "deleted", "deleted"),
    ],
)
def test_account_status(active: bool, status: Any, meant: str) -> None:
    """`active` decides whether an account is active; status names why, where it is known and fits."""
    got = decoded(frame(account(active=active, status=status), "#account"))
    assert (got["active"], got["status"]) == (active, meant)


# ---- what is refused ---------------------------------------------------------------------------------------------

NESTED = Raw(b"\x81" * 64 + b"\x01")  # a field of the payload has one container around it already

REFUSED = {
    # framing
    "nothing": (b"", "cbor_truncated"),
    "header alone": (pack({"t": "#commit", "op": 1}), "cbor_truncated"),
    "three items": (frame(commit()) + b"\xa0", "cbor_trailing"),
    "bytes after an error frame": (pack({"op": -1}) + pack({"error": "X"}) + b"\x00", "cbor_trailing"),
    "header is an array": (pack([1]) + pack(commit()), "frame_header"),
    "header without op": (pack({"t": "#commit"}) + pack(commit()), "frame_header"),
    "header without t": (pack({"op": 1}) + pack(commit()), "frame_header"),
    "t is empty": (frame(commit(), ""), "frame_header"),
    "t is a bare #": (frame(commit(), "#"), "frame_header"),
    "t without #": (frame(commit(), "commit"), "frame_header"),
    "t is a whole NSID": (frame(commit(), "com.atproto.sync.subscribeRepos#commit"), "frame_header"),
    "t is a number": (frame(commit(), 5), "frame_header"),
    "t is null": (frame(commit(), None), "frame_header"),
    "op is text": (frame(commit(), op="1"), "frame_header"),
    "op 0": (frame(commit(), op=0), "frame_op"),
    "op 2": (frame(commit(), op=2), "frame_op"),
    "op -2": (frame(commit(), op=-2), "frame_op"),
    "op 257": (frame(commit(), op=257), "frame_op"),
    "op as float": (frame(commit(), op=FLOAT), "cbor_float"),
    "op in two bytes": (
        pack(Pairs((("t", "#commit"), ("op", Raw(b"\x18\x01"))))) + pack(commit()),
        "cbor_not_shortest",
    ),
    "header keys out of order": (pack(Pairs((("op", 1), ("t", "#commit")))) + pack(commit()), "cbor_key_order"),
    "payload is an array": (frame([commit()]), "frame_payload"),
    "payload is a broken array": (frame(Raw(b"\x82\x01\xff")), "cbor_indefinite"),
    "$type in a commit": (frame(commit(**{"$type": "x"})), "frame_payload"),
    "$type in an unknown kind": (frame({"seq": 1, "did": DID, "$type": "x"}, "#x"), "frame_payload"),
    "#handle": (frame(identity(), "#handle"), "frame_obsolete"),
    "#tombstone": (frame(identity(), "#tombstone"), "frame_obsolete"),
    "#migrate": (frame(identity(), "#migrate"), "frame_obsolete"),
    "broken #handle": (frame(identity(x=Raw(b"\xf7")), "#handle"), "cbor_simple"),
    "#info": (frame({"name": "OutdatedCursor"}, "#info"), "frame_info"),
    "error frame": (pack({"op": -1}) + pack({"error": "FutureCursor"}), "frame_info"),
    "unknown kind without account": (frame({"seq": 7}, "#labels"), "frame_no_account"),
    "unknown kind without seq": (frame({"did": DID}, "#labels"), "field_seq"),
    "unknown kind of a bad DID": (frame({"seq": 7, "did": "did:key:z"}, "#x"), "field_did"),
    "too large": (frame(commit(x=bytes(FRAME_MAX))), "frame_too_large"),
    # encoding, anywhere
    "keys out of order": (frame(Pairs(tuple(commit().items()))), "cbor_key_order"),
    "seq twice": (frame(Pairs((("did", DID), ("seq", 1), ("seq", 2)))), "cbor_key_order"),
    "number as key": (frame(Pairs(((1, 1),))), "cbor_key_type"),
    "indefinite payload": (frame(Raw(b"\xbf\xff")), "cbor_indefinite"),
    "float for seq": (frame(commit(seq=FLOAT)), "cbor_float"),
    "float for a text": (frame(commit(time=FLOAT)), "cbor_float"),
    "poisonous float in an unknown field": (frame(commit(x=ZERO)), "cbor_float"),
    "NaN in an unknown field": (frame(commit(x=Raw(b"\xfb\x7f\xf8" + bytes(6)))), "cbor_float"),
    "tag in an unknown field": (frame(commit(x=Raw(b"\xc1\x01"))), "cbor_tag"),
    "undefined for null": (frame(commit(since=Raw(b"\xf7"))), "cbor_simple"),
    "invalid UTF-8 in a DID": (frame(commit(repo=Raw(b"\x62\xff\xff"))), "cbor_utf8"),
    "invalid UTF-8 in an unknown field": (frame(commit(x=Raw(b"\x61\x80"))), "cbor_utf8"),
    "commit link without 00": (frame(commit(commit=Raw(b"\xd8\x2a\x58\x24" + cid()))), "cbor_cid"),
    "bad link in blobs": (frame(commit(blobs=[Raw(b"\xd8\x2a\x41\x00")])), "cbor_cid"),
    "too deep": (frame(commit(x=NESTED)), "cbor_depth"),
    "too deep in an op": (frame(commit(ops=[create(x=Raw(b"\x81" * 62 + b"\x01"))])), "cbor_depth"),
    "seq of 2**63": (frame(commit(seq=2**63)), "cbor_int_range"),
    "65 unknown fields": (frame(commit(**{f"f{n:04d}": n for n in range(65)})), "cbor_limit"),
    "65 unknown fields in an op": (frame(commit(ops=[create(**{f"f{n:04d}": n for n in range(65)})])), "cbor_limit"),
    "65 unknown fields in the header": (
        pack({"t": "#commit", "op": 1} | {f"f{n:04d}": n for n in range(65)}) + pack(commit()),
        "cbor_limit",
    ),
    "a map of 8,193 in an unknown field": (frame(commit(x={f"f{n:05d}": n for n in range(8193)})), "cbor_limit"),
    "8,193 blobs": (frame(commit(blobs=[cid()] * 8193)), "cbor_limit"),
    "a status of 8,193 bytes": (frame(account(status="s" * 8193), "#account"), "cbor_limit"),
    "a t of 8,193 bytes": (frame({"seq": 1, "did": DID}, "#" + "t" * 8192), "cbor_limit"),
    # fields
    "seq missing": (frame(commit(seq=ABSENT)), "field_seq"),
    "seq is text": (frame(commit(seq="1")), "field_seq"),
    "seq is null": (frame(commit(seq=None)), "field_seq"),
    "seq 0": (frame(commit(seq=0)), "field_seq"),
    "seq -1": (frame(commit(seq=-1)), "field_seq"),
    "seq 2**53": (frame(commit(seq=2**53)), "field_seq"),
    "DID of another method": (frame(commit(repo="did:key:zQ3sh")), "field_did"),
    "DID in upper case": (frame(sync(did=DID.upper()), "#sync"), "field_did"),
    "did:web with a path": (frame(identity(did="did:web:a.com:b"), "#identity"), "field_did"),
    "DID empty": (frame(account(did=""), "#account"), "field_did"),
    "rev no TID": (frame(commit(rev="3jzfcijpj2z2")), "field_rev"),
    "rev with its top bit set": (frame(sync(rev="zzzzzzzzzzzzz"), "#sync"), "field_rev"),
    "rev of zero": (frame(commit(rev="2222222222222")), "field_rev"),
    "since no TID": (frame(commit(since="0" * 13)), "field_rev"),
    "time without zone": (frame(commit(time="2026-07-04T14:38:07")), "field_time"),
    "time in month 13": (frame(account(time="2026-13-04T14:38:07Z"), "#account"), "field_time"),
    "handle without a dot": (frame(identity(handle="alice"), "#identity"), "field_handle"),
    "tooBig": (frame(commit(tooBig=True)), "field_too_big"),
    "rebase": (frame(commit(rebase=True)), "field_rebase"),
    "blocks of 2,000,001": (frame(commit(blocks=bytes(2_000_001))), "field_blocks_size"),
    "blocks of a sync of 10,001": (frame(sync(blocks=bytes(10_001)), "#sync"), "field_blocks_size"),
    # ops
    "201 ops": (frame(commit(ops=[create(path) for path in PATHS])), "ops_too_many"),
    "null in ops": (frame(commit(ops=[None])), "field_type"),
    "unknown action": (frame(commit(ops=[create(action="upsert")])), "op_shape"),
    "action is a number": (frame(commit(ops=[create(action=1)])), "field_type"),
    "create with prev": (frame(commit(ops=[create(prev=cid())])), "op_shape"),
    "create with null prev": (frame(commit(ops=[create(prev=None)])), "field_type"),
    "create without cid": (frame(commit(ops=[create(cid=None)])), "op_shape"),
    "update without cid": (frame(commit(ops=[update(cid=None)])), "op_shape"),
    "update without prev": (frame(commit(ops=[update(prev=ABSENT)])), "op_shape"),
    "delete with cid": (frame(commit(ops=[delete(cid=cid())])), "op_shape"),
    "delete without prev": (frame(commit(ops=[delete(prev=ABSENT)])), "op_shape"),
    "op without cid field": (frame(commit(ops=[delete(cid=ABSENT)])), "field_missing"),
    "op without action": (frame(commit(ops=[create(action=ABSENT)])), "field_missing"),
    "op without path": (frame(commit(ops=[create() | {"path": ABSENT}])), "field_missing"),
    "op cid of another hash": (frame(commit(ops=[create(cid=OTHER_HASH)])), "field_type"),
    "path without record key": (frame(commit(ops=[create("app.bsky.feed.post")])), "op_path"),
    "path of three segments": (frame(commit(ops=[create("app.bsky.feed.post/a/b")])), "op_path"),
    "path with a bad NSID": (frame(commit(ops=[create("app.bsky/a")])), "op_path"),
    "path of dots": (frame(commit(ops=[create("app.bsky.feed.post/..")])), "op_path"),
    "path twice": (frame(commit(ops=[create(PATHS[0]), create(PATHS[1]), delete(PATHS[0])])), "op_duplicate_path"),
    "path twice in 200": (
        frame(commit(ops=[create(path) for path in PATHS[:199]] + [delete(PATHS[7])])),
        "op_duplicate_path",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_fault_has_its_reason(name: str) -> None:
    """Every broken rule is refused for the reason that names it."""
    raw, reason = REFUSED[name]
    assert message.decode(raw) == reason


BUILDERS = {"#commit": commit, "#sync": sync, "#identity": identity, "#account": account}
OPTIONAL = {"prevData", "handle", "status"}
REQUIRED = [(t, field) for t, build in BUILDERS.items() for field in build() if field not in OPTIONAL]
WRONG_TYPES: dict[str, Any] = {
    "text": "text",
    "number": 5,
    "true": True,
    "null": None,
    "bytes": b"bytes",
    "array": ["text"],
    "map": {"a": 1},
    "link": cid(),
}
FIELD_TYPES = {
    "seq": "number", "rebase": "true", "tooBig": "true", "repo": "text", "did": "text", "commit": "link",
    "rev": "text", "since": "text", "blocks": "bytes", "ops": "array", "blobs": "array", "prevData": "link",
    "time": "text", "handle": "text", "active": "true", "status": "text",
}  # fmt: skip


@pytest.mark.parametrize(("t", "field"), REQUIRED, ids=lambda part: part)
def test_required_fields(t: str, field: str) -> None:
    """Each required field is missed."""
    reason = "field_seq" if field == "seq" else "field_missing"
    assert message.decode(frame(BUILDERS[t](**{field: ABSENT}), t)) == reason


@pytest.mark.parametrize(("t", "field"), [*REQUIRED, *[("#commit", "prevData"), ("#identity", "handle")]])
@pytest.mark.parametrize("wrong", WRONG_TYPES)
def test_types_of_known_fields(t: str, field: str, wrong: str) -> None:
    """A known field of the wrong type is refused, optional ones too, and null but where it may be."""
    if wrong == FIELD_TYPES[field]:
        return
    if (field, wrong) == ("since", "null"):
        assert decoded(frame(commit(since=None)))["since"] is None
        return
    reason = "field_seq" if field == "seq" else "field_type"
    assert message.decode(frame(BUILDERS[t](**{field: WRONG_TYPES[wrong]}), t)) == reason


@pytest.mark.parametrize("wrong", [name for name in WRONG_TYPES if name != "text"])
def test_type_of_status(wrong: str) -> None:
    """status, where there is one, is text."""
    assert message.decode(frame(account(status=WRONG_TYPES[wrong]), "#account")) == "field_type"


@pytest.mark.parametrize("name", ["blobs", "ops"])
def test_types_inside_arrays(name: str) -> None:
    """blobs holds links, ops holds maps."""
    for wrong, value in WRONG_TYPES.items():
        if (name, wrong) not in (("blobs", "link"), ("ops", "map")):
            assert message.decode(frame(commit(**{name: [value]}))) == "field_type"


def test_links_of_known_fields_are_blessed() -> None:
    """commit and prevData of another hash are refused, though well-formed."""
    assert message.decode(frame(commit(commit=OTHER_HASH))) == "field_type"
    assert message.decode(frame(commit(prevData=OTHER_HASH))) == "field_type"


def test_largest_frame() -> None:
    """A frame of 5,000,000 bytes less what splicing may add is taken, one byte more is not."""
    room = FRAME_MAX - len(frame(commit(x=bytes(1_000_000)))) + 1_000_000
    assert len(frame(commit(x=bytes(room)))) == FRAME_MAX
    assert decoded(frame(commit(x=bytes(room))))["seq"] == 1234
    assert message.decode(frame(commit(x=bytes(room + 1)))) == "frame_too_large"


# ---- the reader's glance -----------------------------------------------------------------------------------------


def test_notices() -> None:
    """A reader learns the name and message of an error frame, and of an #info."""
    error = peeked(pack({"op": -1}) + pack({"error": "FutureCursor", "message": "Cursor in the future."}))
    assert error["is_error"]
    assert (error["kind"], error["error_name"], error["error_message"]) == (
        "error",
        b"FutureCursor",
        b"Cursor in the future.",
    )
    info = peeked(frame({"name": "OutdatedCursor"}, "#info"))
    assert not info["is_error"]
    assert (info["kind"], info["error_name"], info["error_message"]) == ("info", b"OutdatedCursor", None)
    odd = peeked(pack({"op": -1}) + pack({"error": 5, "message": [1, {"a": FLOAT}]}))
    assert (odd["is_error"], odd["error_name"], odd["error_message"]) == (True, None, None)


def test_the_glance_forgives_what_decoding_refuses() -> None:
    """seq and account are found where other fields are wrong, so that the frame is dropped in its own shard."""
    for raw in (frame(commit(time=5)), frame(commit(ops=[None])), frame(commit(rev=FLOAT)), frame(commit())[:-9]):
        assert isinstance(message.decode(raw), str)
        assert (peeked(raw)["did"], peeked(raw)["seq"]) == (DID, 1234)
    assert peeked(frame(commit(seq="x")))["seq"] == 0
    assert peeked(frame(commit(seq=2**53)))["seq"] == 0
    assert peeked(frame(commit(repo=5)))["did"] == ""
    assert peeked(frame(commit(repo="d" * 2049)))["did"] == ""


def test_the_glance_at_what_cannot_be_cut() -> None:
    """A frame without a header map or payload map gives a reason, not a guess."""
    assert message.peek(b"") == "cbor_truncated"
    assert message.peek(b"\x01") == "frame_header"
    assert message.peek(pack({"op": 1})) == "frame_header"
    assert message.peek(frame([1])) == "frame_payload"
    assert message.peek(frame(Raw(b"\xbf\xff"))) == "cbor_indefinite"


MUTABLE = [raw for raw in ACCEPTED.values() if len(raw) < 2000]


@given(st.sampled_from(MUTABLE), st.randoms(use_true_random=False))
@settings(max_examples=3000)
def test_glance_and_decoding_never_contradict(raw: bytes, rng: random.Random) -> None:
    """Whatever bytes are changed: what is accepted was seen with the same account, seq and kind, and is canonical."""
    data = bytearray(raw)
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(data))
        match rng.randrange(3):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case _:
                data[at : at + rng.randint(0, 2)] = bytes(rng.randrange(256) for _ in range(rng.randint(0, 2)))
    mutated = bytes(data)
    seen = message.peek(mutated)
    got = message.decode(mutated)
    if isinstance(got, str):
        return
    assert isinstance(seen, dict)
    assert (seen["did"], seen["seq"], seen["kind"]) == (got["did"], got["seq"], got["kind"])
    header, at = drisl_ref.decode_item(mutated, 0)
    assert isinstance(header, dict)
    assert header["op"] == 1
    want = drisl_ref.decode(mutated[at:])
    assert isinstance(want, dict)
    assert want["seq"] == got["seq"]
    if got["kind"] != "unknown":
        assert got["did"] == want["repo" if got["kind"] == "commit" else "did"]


UNKNOWN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=9) | st.binary(max_size=9)
    | st.builds(lambda digest: Cid(b"\x01\x71\x12\x20" + digest), st.binary(min_size=32, max_size=32)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)  # fmt: skip
KNOWN = {"$type"} | set(FIELD_TYPES) - {"handle", "active", "status", "did"}


@given(st.dictionaries(st.text(max_size=9).filter(lambda key: key not in KNOWN), UNKNOWN, max_size=8))
@settings(max_examples=500)
def test_unknown_fields_never_matter(extra: dict[str, Any]) -> None:
    """Any unknown fields, before, between and after the known ones, leave the known ones as they are."""
    want = decoded(frame(commit()))
    raw = frame(commit(**extra))
    got = decoded(raw)
    seq = raw[got["seq_off"] : got["seq_off"] + got["seq_len"]]
    assert seq == pack(1234)
    assert peeked(raw)["seq"] == 1234
    assert peeked(raw)["did"] == DID
    assert {k: v for k, v in got.items() if k != "seq_off"} == {k: v for k, v in want.items() if k != "seq_off"}


@pytest.mark.measures
def test_hostile_frames_take_bounded_time() -> None:
    """5 MB of the smallest items, or 200 ops of long paths, cost a glance and a decoding milliseconds."""
    items = [Raw(drisl_ref.head(4, 130_000) + b"\x80" * 130_000)] * 38
    ops = [create("app.bsky.feed.post/" + "x" * 500 + f"{n:09d}") for n in range(200)]
    for raw in (frame(commit(a=items)), frame({"seq": 1, "did": DID, "a": items}, "#x"), frame(commit(ops=ops))):
        started = time.process_time()
        decoded(raw)
        peeked(raw)
        assert time.process_time() - started < 0.25


def test_whole_is_what_decode_may_accept() -> None:
    """Every recorded frame is whole, and no mutation that message_decode accepts is not: readers and workers agree."""
    rng = random.Random(5)
    for recorded in fixtures.recorded_frames()[:40]:
        assert message.is_whole(recorded)
        assert not message.is_whole(recorded[:-1])
        assert not message.is_whole(recorded + b"\x00")
        for _ in range(200):
            at = rng.randrange(min(len(recorded), 400))
            mutated = recorded[:at] + rng.randbytes(1) + recorded[at + 1 :]
            if isinstance(message.decode(mutated), dict):
                assert message.is_whole(mutated)
