"""Messages that the relay itself puts on a consumer's stream: #info and errors (protocol A4, A6, B7).

Pure functions, any thread. Info and errors are made once each, and passed to the consumer threads as bytes; an #account
goes through the log.
"""

from __future__ import annotations

from datetime import UTC, datetime

import cbor2

__all__ = ["account_message", "error_frame", "info_frame", "websocket_message"]

SHORT, MEDIUM = 126, 65_536  # RFC 6455 5.2: lengths from which the header grows


def websocket_message(message: bytes) -> bytes:
    """A message as one unmasked binary WebSocket frame, header first."""
    n = len(message)
    if n < SHORT:
        return bytes((0x82, n)) + message
    if n < MEDIUM:
        return b"\x82\x7e" + n.to_bytes(2, "big") + message
    return b"\x82\x7f" + n.to_bytes(8, "big") + message


def _message(header: dict[str, object], payload: dict[str, object]) -> bytes:
    return cbor2.dumps(header, canonical=True) + cbor2.dumps(payload, canonical=True)


def _frame(header: dict[str, object], payload: dict[str, object]) -> bytes:
    return websocket_message(_message(header, payload))


def account_message(did: str, *, active: bool, status: str | None) -> bytes:
    """An #account of this relay's own, for the log, which gives it its seq (B6, E11). None = no reason is claimed."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    payload: dict[str, object] = {"did": did, "seq": 0, "time": now, "active": active}
    if status is not None:
        payload["status"] = status
    return _message({"op": 1, "t": "#account"}, payload)


def info_frame(name: str, message: str) -> bytes:
    """#info, with WebSocket header."""
    return _frame({"op": 1, "t": "#info"}, {"name": name, "message": message})


def error_frame(error: str, message: str) -> bytes:
    """An error frame, with WebSocket header; the connection is closed after it."""
    return _frame({"op": -1}, {"error": error, "message": message})
