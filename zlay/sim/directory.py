"""The PLC directory: signed operations, their log, and the DID documents they make. No I/O.

Promises: DIDs are those of the signed genesis operations (protocol G7), so they depend on the seed alone; documents
change at the moment an operation is applied. One thread.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zlay.sim.keys import SigningKey

__all__ = ["Directory", "Operation", "Profile", "did_document", "iso_time"]

_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
DID_CHARS = 24  # of base32 after "did:plc:"
GENESIS_PDS = "https://entryway.sim.test"
EXPORT_MAX = 1000  # lines of one answer of /export (G6)


def iso_time(time_us: int) -> str:
    """RFC 3339 in UTC with milliseconds, from unix microseconds."""
    seconds, micros = divmod(time_us, 1_000_000)
    days, rest = divmod(seconds, 86400)
    # Civil date from days since 1970 (Howard Hinnant's algorithm): a third of what datetime costs here.
    days += 719468
    era, day_of_era = divmod(days, 146097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted_month + 2) // 5 + 1
    month = shifted_month + 3 if shifted_month < 10 else shifted_month - 9
    year = year_of_era + era * 400 + (month <= 2)
    hours, rest = divmod(rest, 3600)
    return f"{year:04}-{month:02}-{day:02}T{hours:02}:{rest // 60:02}:{rest % 60:02}.{micros // 1000:03}Z"


@dataclass(frozen=True, slots=True)
class Profile:
    """What a DID document says: `key` is a multikey, `pds` the service endpoint."""

    did: str
    handle: str
    key: str
    pds: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation in the directory's log; `seq` counts from 1."""

    did: str
    operation: dict[str, object]
    cid: str
    created_us: int
    seq: int

    def line(self, sequenced: bool) -> dict[str, object]:
        """The line of /export for it, in the form with `seq` or the older one with `nullified` (G6)."""
        common = {
            "did": self.did,
            "operation": self.operation,
            "cid": self.cid,
            "createdAt": iso_time(self.created_us),
        }
        if sequenced:
            return {"type": "sequenced_op", **common, "seq": self.seq}
        return {**common, "nullified": False}


def did_document(profile: Profile) -> dict[str, object]:
    """The DID document as plc.directory serves it (G2, G4)."""
    return {
        "@context": [
            "https://www.w3.org/ns/did/v1",
            "https://w3id.org/security/multikey/v1",
            "https://w3id.org/security/suites/secp256k1-2019/v1",
        ],
        "id": profile.did,
        "alsoKnownAs": [f"at://{profile.handle}"],
        "verificationMethod": [
            {
                "id": f"{profile.did}#atproto",
                "type": "Multikey",
                "controller": profile.did,
                "publicKeyMultibase": profile.key,
            }
        ],
        "service": [
            {"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": profile.pds},
        ],
    }


def _encode(value: object) -> bytes:
    """DRISL of what operations are made of. A general encoder in Python takes ten times as long."""
    if isinstance(value, str):
        text = value.encode()
        return _head(0x60, len(text)) + text
    if isinstance(value, dict):
        items = sorted((_encode(key), item) for key, item in value.items())  # the shorter key first, then by bytes
        return _head(0xA0, len(items)) + b"".join(key + _encode(item) for key, item in items)
    if isinstance(value, list):
        return _head(0x80, len(value)) + b"".join(map(_encode, value))
    assert value is None
    return b"\xf6"


def _head(major: int, value: int) -> bytes:
    """The shortest head: operations have at most 7,500 bytes."""
    if value < 24:
        return bytes((major | value,))
    return bytes((major | 24, value)) if value < 256 else bytes((major | 25, value >> 8, value & 0xFF))


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").lower().rstrip("=")


class Directory:
    """All DIDs with their documents and operations.

    Every account's operations are signed with one rotation key of the network. `profiles` maps DID to Profile; the
    answers are made when asked for.
    """

    def __init__(self, rotation_key: SigningKey) -> None:
        self._rotation_key = rotation_key
        self.profiles: dict[str, Profile] = {}
        self.log: list[Operation] = []
        self._last: dict[str, Operation] = {}

    def _operation(self, handle: str, key: str, pds: str, prev: str | None) -> dict[str, object]:
        operation: dict[str, object] = {
            "type": "plc_operation",
            "rotationKeys": [self._rotation_key.did_key],
            "verificationMethods": {"atproto": f"did:key:{key}"},
            "alsoKnownAs": [f"at://{handle}"],
            "services": {"atproto_pds": {"type": "AtprotoPersonalDataServer", "endpoint": pds}},
            "prev": prev,
        }
        signature = self._rotation_key.sign(_encode(operation))
        return {**operation, "sig": base64.urlsafe_b64encode(signature).decode("ascii").rstrip("=")}

    def _append(self, did: str, operation: dict[str, object], encoded: bytes, now_us: int) -> None:
        cid = "b" + _base32(b"\x01\x71\x12\x20" + hashlib.sha256(encoded).digest())
        entry = Operation(did, operation, cid, now_us, len(self.log) + 1)
        self.log.append(entry)
        self._last[did] = entry

    def create(self, handle: str, key: str, pds: str, now_us: int, publish: bool = True) -> str:
        """Makes a DID by a genesis operation. With `publish` false the directory does not know it afterwards.

        The genesis names GENESIS_PDS and a second operation the true host, so that DIDs do not depend on ports.
        """
        operation = self._operation(handle, key, GENESIS_PDS, None)
        encoded = _encode(operation)
        did = "did:plc:" + _base32(hashlib.sha256(encoded).digest())[:DID_CHARS]
        if publish:
            self._append(did, operation, encoded, now_us)
            self.update(did, handle, key, pds, now_us)
        return did

    def update(self, did: str, handle: str, key: str, pds: str, now_us: int) -> None:
        """Applies an operation that replaces handle, signing key and PDS. KeyError for an unknown DID."""
        operation = self._operation(handle, key, pds, self._last[did].cid)
        self._append(did, operation, _encode(operation), now_us)
        self.profiles[did] = Profile(did, handle, key, pds)

    def document(self, did: str) -> dict[str, object] | None:
        """The DID document; None for an unknown DID."""
        profile = self.profiles.get(did)
        return None if profile is None else did_document(profile)

    def data(self, did: str) -> dict[str, object] | None:
        """The answer of /{did}/data; None for an unknown DID."""
        profile = self.profiles.get(did)
        if profile is None:
            return None
        return {
            "did": did,
            "verificationMethods": {"atproto": f"did:key:{profile.key}"},
            "rotationKeys": [self._rotation_key.did_key],
            "alsoKnownAs": [f"at://{profile.handle}"],
            "services": {"atproto_pds": {"type": "AtprotoPersonalDataServer", "endpoint": profile.pds}},
        }

    def operations(self, did: str) -> list[Operation]:
        """The operations of one DID, oldest first."""
        return [entry for entry in self.log if entry.did == did]

    def export(self, count: int, after: str | None) -> str:
        """JSON lines of /export: after a seq (an integer) or a time; at most EXPORT_MAX lines (G6)."""
        sequenced = after is not None and after.isdigit()
        count = min(count, EXPORT_MAX)
        if sequenced:
            start = int(after or 0)
            entries = self.log[start : start + count]
        else:
            entries = [entry for entry in self.log if after is None or iso_time(entry.created_us) > after][:count]
        return "\n".join(json.dumps(entry.line(sequenced)) for entry in entries)
