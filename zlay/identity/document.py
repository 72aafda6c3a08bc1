"""What a DID document says: signing key and PDS (protocol G4). Pure; any thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zlay.hosts.names import endpoint_host
from zlay.identity.multibase import KEY_NONE, decode_legacy_key, decode_multikey
from zlay.pipeline.types import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DocumentError", "read_document"]

MAX_LIST_ENTRIES = 100  # verification methods or services looked at; real documents have one to three


class DocumentError(ValueError):
    """Not a DID document of the DID asked for: no conclusive answer about it."""


def read_document(did: str, document: object, resolved_us: int) -> Identity:
    """The identity that `document` (parsed JSON) gives `did`; DocumentError when it is not its document.

    A document without usable key or PDS is an answer, too: the fields are then empty.
    """
    if not isinstance(document, dict):
        raise DocumentError("not a JSON object")
    if document.get("id") != did:
        raise DocumentError("the document is another DID's")
    key_type, key = _signing_key(did, document)
    return Identity(did, "ok", _pds(did, document), key_type, key, resolved_us)


def _signing_key(did: str, document: dict[str, object]) -> tuple[int, bytes]:
    for method in _entries(document, "verificationMethod"):
        if _fragment_is(method.get("id"), did, "#atproto"):
            if method.get("controller") != did:
                break
            type_name, text = method.get("type"), method.get("publicKeyMultibase")
            if not isinstance(type_name, str) or not isinstance(text, str):
                break
            found = decode_multikey(text) if type_name == "Multikey" else decode_legacy_key(type_name, text)
            return found or (KEY_NONE, b"")
    return KEY_NONE, b""


def _pds(did: str, document: dict[str, object]) -> str | None:
    for service in _entries(document, "service"):
        if _fragment_is(service.get("id"), did, "#atproto_pds"):
            endpoint = service.get("serviceEndpoint")
            if service.get("type") != "AtprotoPersonalDataServer" or not isinstance(endpoint, str):
                return None
            return endpoint_host(endpoint)
    return None


def _entries(document: dict[str, object], name: str) -> Iterator[dict[str, object]]:
    listed = document.get(name)
    if isinstance(listed, list):
        for entry in listed[:MAX_LIST_ENTRIES]:
            if isinstance(entry, dict):
                yield entry


def _fragment_is(entry_id: object, did: str, fragment: str) -> bool:
    """Relative or full, both occur."""
    return entry_id in (fragment, did + fragment)
