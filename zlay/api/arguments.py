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

__all__ = ["account", "fields_of", "known_host", "required", "revision", "text_field", "whole_number"]

MAX_DIGITS = 18  # of a number in a query: within 64 bits


def whole_number(parameters: dict[str, str], name: str, default: int, low: int, most: int) -> int:
    """A number from `low` to `most`; `default` where none is given."""
    text = parameters.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > MAX_DIGITS or not low <= int(text) <= most:
        raise XrpcError(400, "InvalidRequest", f"{name}: a whole number from {low} to {most}")
    return int(text)


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
    """A body of the operator's: a JSON object with no other fields than these, since a typing error must not pass."""
    body = request.json_object()
    unknown = body.keys() - set(known)
    if unknown:
        raise XrpcError(400, "InvalidRequest", f"fields are {', '.join(known)}")
    return body


def text_field(body: dict[str, Any], name: str) -> str:
    """A text that must be there, and not be empty."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise XrpcError(400, "InvalidRequest", f"{name} is required")
    return value
