"""DID syntax: did:plc, and did:web at host level (protocol G1). Pure; any thread."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["MAX_DID_BYTES", "Did", "DidError", "parse_did"]

MAX_DID_BYTES = 2048  # G1

_PLC = re.compile(r"did:plc:[a-z2-7]{24}")
_GENERIC = re.compile(r"did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]")
_WEB_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_WEB = re.compile(rf"(?:{_WEB_LABEL}\.)+(?=[a-z]){_WEB_LABEL}")
_WEB_LOCAL = re.compile(r"localhost(?:%3A([1-9][0-9]{0,4}))?")

MAX_HOST_BYTES = 253  # DNS
MAX_PORT = 65535

# G1: names that no certificate authority and no public DNS stands behind; .test is for development.
RESERVED_TLDS = frozenset({"alt", "arpa", "example", "internal", "invalid", "local", "localhost", "onion"})
DEVELOPMENT_TLD = "test"


@dataclass(frozen=True, slots=True)
class Did:
    """A DID that can be resolved. `host` is set for did:web alone: a name, or localhost:port."""

    did: str
    method: Literal["plc", "web"]
    host: str | None = None


class DidError(ValueError):
    """Not a DID that can be resolved. `kind`: syntax (no DID at all), or unsupported (method or form)."""

    def __init__(self, kind: Literal["syntax", "unsupported"], message: str) -> None:
        super().__init__(message)
        self.kind = kind


def parse_did(did: str, *, allow_private: bool = False) -> Did:
    """Judges `did`, case-sensitively. Raises DidError.

    `allow_private` lets did:web name localhost, with a port, and hosts under .test.
    """
    if len(did) > MAX_DID_BYTES or not _GENERIC.fullmatch(did):
        raise DidError("syntax", "not a DID")
    if did.startswith("did:plc:"):
        if not _PLC.fullmatch(did):
            raise DidError("syntax", "not a did:plc: 24 characters of base32 must follow")
        return Did(did, "plc")
    if did.startswith("did:web:"):
        return Did(did, "web", _web_host(did.removeprefix("did:web:"), allow_private))
    raise DidError("unsupported", f"DID method {did.split(':')[1]!r}")


def _web_host(name: str, allow_private: bool) -> str:
    local = _WEB_LOCAL.fullmatch(name)
    if local is not None and allow_private:
        if local[1] is None:
            return "localhost"
        if int(local[1]) <= MAX_PORT:
            return f"localhost:{local[1]}"
    if len(name) > MAX_HOST_BYTES or not _WEB.fullmatch(name):
        raise DidError("unsupported", "did:web must name a host in lower case, without path or port")
    top = name.rpartition(".")[2]
    if top in RESERVED_TLDS or (top == DEVELOPMENT_TLD and not allow_private):
        raise DidError("unsupported", f"did:web under the reserved name .{top}")
    return name
