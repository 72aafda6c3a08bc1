"""What requests carry, judged before anything is done with it: parameters of a query, fields of a JSON body.

Each raises XrpcError(400, InvalidRequest) for what cannot be meant. Any thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zlay._fast import syntax
from zlay.api.message import XrpcError
from zlay.errors import HostRefused
from zlay.hosts.names import normalise_hostname
from zlay.identity.did import DidError, parse_did

if TYPE_CHECKING:
    from zlay.api.interface import HostView, RelayView
    from zlay.api.message import Request

__all__ = ["account", "fields_of", "known_host", "page_of", "required", "revision", "text_field", "whole_number"]

MAX_DIGITS = 18  # of a number in a query: within 64 bits
MOST_CURSOR = 10**MAX_DIGITS - 1  # of those that this server gives; opaque to whoever asks


def whole_number(parameters: dict[str, str], name: str, default: int, low: int, most: int) -> int:
    """A number from `low` to `most`; `default` where none is given."""
    text = parameters.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > MAX_DIGITS or not low <= int(text) <= most:
        raise XrpcError(400, "InvalidRequest", f"{name}: a whole number from {low} to {most}")
    return int(text)


def page_of(request: Request, default: int, most: int) -> tuple[int, int]:
    """(limit, after) of a query that goes by pages (F12): an empty cursor is none."""
    parameters = request.parameters("limit", "cursor")
    if parameters.get("cursor") == "":
        del parameters["cursor"]
    limit = whole_number(parameters, "limit", default, 1, most)
    return limit, whole_number(parameters, "cursor", 0, 0, MOST_CURSOR)


def required(parameters: dict[str, str], name: str) -> str:
    """A parameter that must be there, and not be empty."""
    value = parameters.get(name)
    if not value:
        raise XrpcError(400, "InvalidRequest", f"{name} is required")
    return value


def account(did: str) -> str:
    """A DID that an account can have (G1)."""
    try:
        parse_did(did, allow_private=True)
    except DidError as exc:
        raise XrpcError(400, "InvalidRequest", f"did: {exc}") from None
    return did


def revision(parameters: dict[str, str], name: str) -> str | None:
    """A TID (C5); None where none is given."""
    value = parameters.get(name)
    if value is not None and syntax.tid_number(value) is None:
        raise XrpcError(400, "InvalidRequest", f"{name}: not a TID")
    return value


def known_host(relay: RelayView, text: str) -> HostView:
    """The host that this names, in the registry's form or any other (E17). XrpcError, also where it is not known."""
    found = relay.host(text.lower())
    if found is None:
        try:
            found = relay.host(normalise_hostname(text, allow_private=True)[0])
        except HostRefused as exc:
            raise XrpcError(400, "InvalidRequest", f"hostname: {exc}") from None
    if found is None:
        raise XrpcError(404, "HostNotFound", "this relay does not know the host")
    return found


def fields_of(request: Request, *known: str) -> dict[str, Any]:
    """A body of the operator's: a JSON object with no other fields than these, since a typing error must not pass.

    A number that is whole is one, however it is written (2.0, 1e3).
    """
    body = {name: _whole(value) for name, value in request.json_object().items()}
    unknown = body.keys() - set(known)
    if unknown:
        raise XrpcError(400, "InvalidRequest", f"fields are {', '.join(known)}")
    return body


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def text_field(body: dict[str, Any], name: str) -> str:
    """A text that must be there, and not be empty."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise XrpcError(400, "InvalidRequest", f"{name} is required")
    return value
