"""Messages as JSON and as lines, against the reference decoder and the recorded frames."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

from tests import fixtures
from tests.reference.car_ref import read_car
from tests.reference.drisl_ref import Cid, decode, encode
from tests.reference.frame_ref import decode_frame
from zlay.firehose.dag_json import Unreadable, cid_text, event_json, event_line

HEADER = encode({"op": 1, "t": "#account"})


def as_json(value: Any) -> Any:
    """A value of the reference decoder in the data model's JSON form."""
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_json(inner) for inner in value]
    if isinstance(value, Cid):
        return {"$link": str(value)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode().rstrip("=")}
    return value


def test_recorded_messages() -> None:
    """Every field of a recorded message is there, links and bytes in the data model's form, records with their ops."""
    records = 0
    for raw in fixtures.recorded_frames():
        frame = decode_frame(raw)
        told = json.loads(json.dumps(event_json(raw)))
        assert (told["t"], told["op"]) == (frame.kind, 1)
        expected = as_json({key: value for key, value in frame.payload.items() if key not in ("blocks", "ops")})
        payload = told["payload"]
        assert {key: value for key, value in payload.items() if key not in ("blocks", "ops")} == expected
        if frame.kind != "#commit":
            continue
        _, blocks = read_car(frame.payload["blocks"])
        assert payload["blocks"] == {"count": len(blocks), "bytes": len(frame.payload["blocks"])}
        for op, sent in zip(payload["ops"], frame.payload["ops"], strict=True):
            record = op.pop("record", None)
            assert op == as_json(sent)
            assert (record is None) == (sent["cid"] is None)
            if record is not None:
                records += 1
                assert record == as_json(decode(blocks[sent["cid"]]))
        assert event_line(raw).startswith(f"commit {frame.did} ")
    assert records > 100


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        HEADER,
        HEADER + HEADER + HEADER,
        HEADER + b"\xa1\x63seq\x18\x01",
        HEADER + encode([1]),
        encode([1]) + encode({}),
        HEADER + b"\x81" * 70 + b"\x01",
        encode({"op": 1, "t": 5}) + encode({}),
    ],
)
def test_what_cannot_be_read(data: bytes) -> None:
    """Whatever is not two strictly encoded maps is refused, deep nesting included."""
    for form in (event_json, event_line):
        with pytest.raises(Unreadable):
            form(data)


def test_damaged_blocks_are_said() -> None:
    """A #commit whose CAR cannot be read is shown without records."""
    told = event_json(encode({"op": 1, "t": "#commit"}) + encode({"ops": [{"cid": None}, 5], "blocks": b"no car"}))
    assert told["payload"]["blocks"]["error"].startswith("car_")
    assert told["payload"]["ops"] == [{"cid": None}, 5]


@pytest.mark.parametrize(
    ("kind", "payload", "line"),
    [
        (
            "#account",
            {"did": "did:plc:x", "active": False, "status": "takendown"},
            "account did:plc:x inactive takendown",
        ),
        ("#account", {"did": "did:plc:x", "active": True}, "account did:plc:x active"),
        ("#identity", {"did": "did:plc:x", "handle": "a.example"}, "identity did:plc:x a.example"),
        ("#sync", {"did": "did:plc:x", "rev": "3k"}, "sync did:plc:x 3k"),
        ("#commit", {"repo": "did:plc:x", "ops": []}, "commit did:plc:x no ops"),
        (
            "#commit",
            {"repo": "did:plc:x", "ops": [{"action": "create", "path": f"a.b.c/{n}"} for n in range(6)]},
            "commit did:plc:x create a.b.c/0, create a.b.c/1, create a.b.c/2, create a.b.c/3, 2 more",
        ),
        ("#info", {"name": "OutdatedCursor", "message": "late"}, "info OutdatedCursor late"),
        ("#else", {}, "else"),
    ],
)
def test_lines(kind: str, payload: dict[str, Any], line: str) -> None:
    """A line names kind and account and what has happened."""
    assert event_line(encode({"op": 1, "t": kind}) + encode(payload)) == line


def test_no_text_is_a_command_to_a_terminal() -> None:
    """Control characters of a peer's text are shown, not sent; a long text is cut."""
    evil = {"did": "did:plc:x", "active": False, "status": "\x1b[2J\u202e" + "x" * 5000}
    line = event_line(HEADER + encode(evil))
    assert line.isprintable()
    assert len(line) < 400


def test_a_cid_as_text() -> None:
    """The CID of the empty tree is written as the protocol's checklist has it (C7)."""
    empty_tree = encode({"e": [], "l": None})
    cid = b"\x01\x71\x12\x20" + hashlib.sha256(empty_tree).digest()
    assert cid_text(cid) == "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm"
