"""What a DID document says, protocol G4 and C4."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from tests.fixtures import interop
from zlay.identity.document import DocumentError, read_document
from zlay.identity.multibase import KEY_K256, KEY_NONE, KEY_P256, decode_base58, decode_multikey

DID = "did:plc:" + "a" * 24
K256_MULTIKEY = "zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme"
P256_MULTIKEY = "zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169"
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

DOCUMENT: dict[str, Any] = {
    "@context": ["https://www.w3.org/ns/did/v1"],
    "id": DID,
    "alsoKnownAs": ["at://someone.example.com"],
    "verificationMethod": [
        {"id": f"{DID}#atproto", "type": "Multikey", "controller": DID, "publicKeyMultibase": K256_MULTIKEY}
    ],
    "service": [
        {
            "id": "#atproto_pds",
            "type": "AtprotoPersonalDataServer",
            "serviceEndpoint": "https://PDS.example.com",
        }
    ],
}


def base58(raw: bytes) -> str:
    """The slow, obvious encoder."""
    number, text = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + text


def changed(**changes: Any) -> dict[str, Any]:
    """The document with fields of its first method (`method_...`) or service (`service_...`), or its own, replaced."""
    document = deepcopy(DOCUMENT)
    for name, value in changes.items():
        part, _, fieldname = name.partition("_")
        target = {"method": document["verificationMethod"][0], "service": document["service"][0]}.get(part)
        if target is None:
            document[name] = value
        else:
            target[fieldname] = value
    return document


def test_whole_document() -> None:
    """Key, curve and PDS are read; the PDS in its normal form."""
    identity = read_document(DID, DOCUMENT, 5)
    assert (identity.outcome, identity.pds, identity.key_type) == ("ok", "pds.example.com", KEY_K256)
    assert len(identity.key) == 33
    assert identity.resolved_us == 5


def test_ids_may_be_relative_or_full() -> None:
    """`#atproto` and `did#atproto` are both the account's, another DID's is not."""
    for method_id in ("#atproto", f"{DID}#atproto"):
        assert read_document(DID, changed(method_id=method_id), 0).key_type == KEY_K256
    assert read_document(DID, changed(method_id="did:plc:other#atproto"), 0).key_type == KEY_NONE
    assert read_document(DID, changed(service_id=f"{DID}#atproto_pds"), 0).pds == "pds.example.com"


def test_first_entry_counts() -> None:
    """Of several #atproto methods the first one is the key, even where it is unusable."""
    document = deepcopy(DOCUMENT)
    document["verificationMethod"].insert(0, {**document["verificationMethod"][0], "publicKeyMultibase": "z1"})
    assert read_document(DID, document, 0).key_type == KEY_NONE


@pytest.mark.parametrize(
    ("type_name", "key_type"),
    [("EcdsaSecp256k1VerificationKey2019", KEY_K256), ("EcdsaSecp256r1VerificationKey2019", KEY_P256)],
)
def test_legacy_keys(type_name: str, key_type: int) -> None:
    """The older form holds a bare uncompressed point, its curve named by the type."""
    point = b"\x04" + bytes(range(64))
    identity = read_document(DID, changed(method_type=type_name, method_publicKeyMultibase="z" + base58(point)), 0)
    assert (identity.key_type, identity.key) == (key_type, point)


@pytest.mark.parametrize(
    "change",
    [
        {"method_controller": "did:plc:other"},
        {"method_type": "JsonWebKey2020"},
        {"method_publicKeyMultibase": "m" + K256_MULTIKEY[1:]},
        {"method_publicKeyMultibase": K256_MULTIKEY[:-1]},
        {"method_publicKeyMultibase": K256_MULTIKEY.replace("s", "0")},
        {"method_publicKeyMultibase": "z" + "1" * 5000},
        {"method_publicKeyMultibase": 7},
        {"verificationMethod": []},
        {"verificationMethod": {"id": "#atproto"}},
        {"verificationMethod": ["#atproto", None, 3]},
    ],
)
def test_no_usable_key(change: dict[str, Any]) -> None:
    """A document without a usable key is an answer that says so, and its PDS still counts."""
    identity = read_document(DID, changed(**change), 0)
    assert (identity.outcome, identity.key_type, identity.key) == ("ok", KEY_NONE, b"")
    assert identity.pds == "pds.example.com"


@pytest.mark.parametrize(
    ("endpoint", "pds"),
    [
        ("https://pds.example.com/", "pds.example.com"),
        ("https://pds.example.com:443", "pds.example.com"),
        ("http://pds.example.com:80", "pds.example.com"),
        ("https://pds.example.com:8443", "pds.example.com:8443"),
        ("http://localhost:2583", "localhost:2583"),
        ("https://bücher.example.com", "xn--bcher-kva.example.com"),
        ("https://pds.example.com/path", None),
        ("https://pds.example.com?q", None),
        ("https://pds.example.com#f", None),
        ("https://user@pds.example.com", None),
        ("wss://pds.example.com", None),
        ("pds.example.com", None),
        ("https://", None),
        ("https://pds example.com", None),
        ("https://pds.example.com:0x1", None),
        ("https://-.com", None),
        (["https://pds.example.com"], None),
    ],
)
def test_pds_host(endpoint: object, pds: str | None) -> None:
    """The endpoint must be http(s)://host[:port] and nothing else."""
    assert read_document(DID, changed(service_serviceEndpoint=endpoint), 0).pds == pds


def test_service_of_another_type() -> None:
    """A service of another type under the name is no PDS."""
    assert read_document(DID, changed(service_type="BskyChatService"), 0).pds is None


@pytest.mark.parametrize("document", [None, [], "x", {}, {"id": DID.upper()}, {"id": DID + "#"}])
def test_documents_of_others(document: object) -> None:
    """What is not this DID's document is no answer about it."""
    with pytest.raises(DocumentError):
        read_document(DID, document, 0)


@pytest.mark.parametrize("name", ["crypto/w3c_didkey_K256.json", "crypto/w3c_didkey_P256.json"])
def test_interop_keys(name: str) -> None:
    """The fixtures' did:key forms decode to a compressed point of the curve they name."""
    for case in interop(name):
        decoded = decode_multikey(case["publicDidKey"].removeprefix("did:key:"))
        assert decoded is not None
        assert decoded[0] == (KEY_K256 if "K256" in name else KEY_P256)
        assert len(decoded[1]) == 33


def test_base58_against_an_encoder() -> None:
    """Decoding undoes encoding, leading zeros included."""
    for raw in (b"", b"\0", b"\0\0\1", bytes(range(66)), b"\xff" * 35):
        assert decode_base58(base58(raw)) == raw
    assert decode_base58("0") is None
