"""Requests and responses as handlers see them, and the errors they raise. Plain values; any thread."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

__all__ = ["Request", "Response", "XrpcError", "error_response", "json_response"]

MAX_PARAMETERS = 64  # no endpoint has more than a handful
MAX_NAME_SHOWN = 40  # characters of an unknown one in the error


class XrpcError(Exception):
    """An answer {error, message} with a status; `error` is the name the lexicon gives it. Not a fault of ours."""

    def __init__(self, status: int, error: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.message = message
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Request:
    """One complete request. Header names are lower case; `address` is the client's, proxies looked through."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    address: str
    is_internal: bool  # came in on the metrics port

    def parameters(self, *known: str) -> dict[str, str]:
        """The query's parameters: of these names, each once at most. Raises XrpcError (InvalidRequest)."""
        try:
            pairs = parse_qsl(
                self.query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS, encoding="utf-8", errors="strict"
            )
        except ValueError:
            raise XrpcError(400, "InvalidRequest", "the query cannot be read") from None
        out: dict[str, str] = {}
        for name, value in pairs:
            if name not in known:
                takes = ", ".join(known) or "no parameters"
                raise XrpcError(400, "InvalidRequest", f"{name[:MAX_NAME_SHOWN]!r} is no parameter: {takes}")
            if name in out:
                raise XrpcError(400, "InvalidRequest", f"{name} is given twice")
            out[name] = value
        return out

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object. Raises XrpcError (InvalidRequest)."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise XrpcError(400, "InvalidRequest", "the body must be application/json")
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            raise XrpcError(400, "InvalidRequest", "the body is not JSON") from None
        if not isinstance(value, dict):
            raise XrpcError(400, "InvalidRequest", "the body must be a JSON object")
        return value


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. Content-Length, Server, Date and CORS headers are the server's to add."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


def json_response(value: object, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """A JSON answer."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Response(status, text.encode("utf-8", "replace"), headers=headers)


def error_response(status: int, error: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """The error form of XRPC (A2, E21)."""
    return json_response({"error": error, "message": message}, status, headers)
