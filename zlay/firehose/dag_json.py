"""A firehose message for people and scripts: as JSON, or as one line. Cold path, for tools; pure functions, any thread.

JSON is that of the AT Protocol's data model: links are {"$link": cid}, bytes {"$bytes": base64}. The CAR of a #commit
is not repeated: each op that has a record in it gets the record, and `blocks` says how many there were. Nothing is
taken on trust: what is not strictly encoded raises, what a text holds cannot reach a terminal as a command.
"""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import cbor2

from zlay._fast import car, message

__all__ = ["Unreadable", "cid_text", "event_json", "event_line"]

LINK_TAG = 42
CID_BYTES = 36
MAX_LINE_CHARS = 160  # of what an event says of itself
MAX_OPS_SHOWN = 4


class Unreadable(ValueError):
    """The bytes are not two strictly encoded items, the second one a map."""


def cid_text(cid: bytes) -> str:
    """The bytes of a CID as its string (C11)."""
    return "b" + base64.b32encode(cid).decode("ascii").rstrip("=").lower()


def event_json(data: bytes) -> dict[str, Any]:
    """{"t", "op", "payload"} of a message. Raises Unreadable."""
    header, payload = _items(data)
    fields: dict[str, Any] = _plain(payload)
    if header.get("t") == "#commit" and isinstance(payload.get("blocks"), bytes):
        fields |= _with_records(fields, payload)
    return {**_plain(header), "payload": fields}


def event_line(data: bytes) -> str:
    """What a message says, in a few words. Raises Unreadable."""
    header, payload = _items(data)
    kind = header.get("t", "error")
    did = payload.get("repo" if kind == "#commit" else "did", "")
    if kind == "#commit":
        ops = payload.get("ops")
        said = _ops_text(ops if isinstance(ops, list) else [])
    elif kind == "#account":
        said = "active" if payload.get("active") else "inactive"
        said += f" {payload['status']}" if "status" in payload else ""
    else:
        known = ("handle", "rev", "name", "error", "message")
        said = " ".join(str(payload[name]) for name in known if name in payload)
    return " ".join(_safe(str(part)) for part in (kind.removeprefix("#"), did, said) if part)


def _items(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    if not message.is_whole(data):
        raise Unreadable("not two strictly encoded items")
    stream = io.BytesIO(data)
    try:
        header, payload = cbor2.load(stream), cbor2.load(stream)
    except (cbor2.CBORDecodeError, RecursionError) as exc:
        raise Unreadable(str(exc)) from exc
    if not isinstance(header, dict) or not isinstance(payload, dict) or not isinstance(header.get("t", ""), str):
        raise Unreadable("not a header and a payload")
    return header, payload


def _plain(value: Any) -> Any:
    """As JSON has it. Nesting is limited by the encoding's own check."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode("ascii").rstrip("=")}
    if isinstance(value, cbor2.CBORTag):
        return {"$link": cid_text(bytes(value.value)[1:])}
    return value


def _with_records(fields: dict[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
    """`ops` with their records, and `blocks` as {"count", "bytes"} or {"error"}."""
    size = len(payload["blocks"])
    parsed = car.parse(payload["blocks"])
    if isinstance(parsed, str):
        return {"blocks": {"error": parsed, "bytes": size}}
    records = {cid_text(cid): data for cid, data in parsed["blocks"]}
    ops = fields.get("ops")
    if isinstance(ops, list):
        for op in ops:
            link = op.get("cid") if isinstance(op, dict) else None
            data = records.get(link["$link"]) if isinstance(link, dict) else None
            if data is not None:
                op["record"] = _record(data)
    return {"ops": ops, "blocks": {"count": len(records), "bytes": size}}


def _record(data: bytes) -> Any:
    try:
        return _plain(cbor2.loads(data))
    except (cbor2.CBORDecodeError, RecursionError, ValueError):
        return {"$bytes": base64.b64encode(data).decode("ascii").rstrip("=")}


def _ops_text(ops: list[Any]) -> str:
    shown = [f"{op.get('action')} {op.get('path')}" for op in ops[:MAX_OPS_SHOWN] if isinstance(op, dict)]
    more = f", {len(ops) - MAX_OPS_SHOWN} more" if len(ops) > MAX_OPS_SHOWN else ""
    return ", ".join(shown) + more if shown else "no ops"


def _safe(text: str) -> str:
    """A text that no terminal takes for a command, and not too long."""
    shown = text if text.isprintable() else json.dumps(text)
    return shown if len(shown) <= MAX_LINE_CHARS else shown[:MAX_LINE_CHARS] + "..."
