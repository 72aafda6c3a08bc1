"""What a PLC directory's export says: operations, one a line, in the order of their numbers (protocol G6, G7). Pure.

The directory is believed as it is when it is asked for a document: it has checked signatures and decided which
operations count. Of an export only the form is checked here: numbers rise, DIDs are DIDs, keys and hosts can be read.
An operation that leaves anything open says that its DID is to be asked for. Any thread.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from zlay.hosts.names import endpoint_host
from zlay.identity.did import DidError, parse_did
from zlay.identity.multibase import decode_multikey
from zlay.pipeline.types import Identity
from zlay.state.interface import Mirrored

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ExportError", "Page", "read_page"]

MAX_SEQ = (1 << 63) - 1  # what a database can hold
_DID_KEY = "did:key:"


class ExportError(ValueError):
    """Not an export after the number asked for: nothing of it can be used."""


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of /export: the newest operation of each DID in it."""

    newest: list[Mirrored]
    operations: int  # lines
    last_seq: int  # that of the question when there are no lines


def read_page(body: bytes, after: int, asked_us: int) -> Page:
    """Reads the answer to what comes after number `after`, asked at `asked_us`. Raises ExportError."""
    newest: dict[str, Mirrored] = {}
    operations, last_seq = 0, after
    for line in body.splitlines():
        if not line.strip():
            continue
        entry = _object(line)
        seq = entry.get("seq")
        if type(seq) is not int or not last_seq < seq <= MAX_SEQ:
            raise ExportError("operations are not numbered upwards")
        operations += 1
        last_seq = seq
        did = entry.get("did")
        if not isinstance(did, str) or not _is_plc(did):
            raise ExportError("an operation has no did:plc")
        if entry.get("nullified") is True:
            continue  # what counts for the DID was or will be said by another operation
        made_us = min(_time_us(entry.get("createdAt")), asked_us)
        newest[did] = Mirrored(did, made_us, _identity(did, entry.get("operation"), made_us))
    return Page(list(newest.values()), operations, last_seq)


def _object(line: bytes) -> Mapping[str, object]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise ExportError("a line is not a JSON object")
    return entry


def _is_plc(did: str) -> bool:
    try:
        return parse_did(did).method == "plc"
    except DidError:
        return False


def _time_us(text: object) -> int:
    try:
        made = datetime.fromisoformat(text) if isinstance(text, str) else None
        if made is None or made.tzinfo is None:
            raise ExportError("an operation has no time")
        return max(int((made - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6), 1)
    except (ValueError, OverflowError) as exc:
        raise ExportError("an operation has no time") from exc


def _identity(did: str, operation: object, made_us: int) -> Identity | None:
    """What the DID's document says after it; None when that has to be asked for."""
    if not isinstance(operation, dict):
        return None
    if operation.get("type") == "plc_operation":
        service = _entry(operation.get("services"), "atproto_pds")
        if not isinstance(service, dict) or service.get("type") != "AtprotoPersonalDataServer":
            return None
        signer, endpoint = _entry(operation.get("verificationMethods"), "atproto"), service.get("endpoint")
    elif operation.get("type") == "create":  # the form of 2022 and early 2023
        signer, endpoint = operation.get("signingKey"), operation.get("service")
    else:
        return None
    if not isinstance(signer, str) or not isinstance(endpoint, str) or not signer.startswith(_DID_KEY):
        return None
    key, pds = decode_multikey(signer.removeprefix(_DID_KEY)), endpoint_host(endpoint)
    return Identity(did, "ok", pds, *key, made_us) if key is not None and pds is not None else None


def _entry(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None
