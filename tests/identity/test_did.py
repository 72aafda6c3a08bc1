"""DID syntax, protocol G1, on the interoperability fixtures and on the cases they do not have."""

from __future__ import annotations

import pytest

from tests.fixtures import interop
from zlay.identity.did import Did, DidError, parse_did

PLC = "did:plc:" + "a" * 24


def test_plc() -> None:
    """A did:plc has 24 characters of base32."""
    assert parse_did(PLC) == Did(PLC, "plc")


def test_interop_invalid() -> None:
    """What the fixtures call no DID is none."""
    for text in interop("syntax/did_syntax_invalid.txt"):
        with pytest.raises(DidError):
            parse_did(text)


def test_interop_valid() -> None:
    """What the fixtures call a DID is one, but for methods that cannot be resolved and did:plc's own rule."""
    for text in interop("syntax/did_syntax_valid.txt"):
        try:
            parse_did(text)
        except DidError as exc:
            assert exc.kind == "unsupported" or text.startswith("did:plc:")  # noqa: PT017


@pytest.mark.parametrize(
    "text",
    [PLC[:-1], PLC + "a", PLC.replace("a", "A", 1), PLC[:-1] + "1", "did:plc:", "DID:plc:" + "a" * 24, PLC + "\n", ""],
)
def test_plc_must_be_exact(text: str) -> None:
    """A did:plc of the wrong length, case or alphabet is no DID."""
    with pytest.raises(DidError) as caught:
        parse_did(text)
    assert caught.value.kind == "syntax"


def test_web_names_a_host() -> None:
    """A did:web names a public host and nothing more."""
    assert parse_did("did:web:pds.example.com").host == "pds.example.com"


@pytest.mark.parametrize(
    "name",
    [
        "example.com:path", "example.com%3A8080", "Example.com", "localhost", "localhost%3A2583", "127.0.0.1", "com",
        "a.local", "a.internal", "a.onion", "a.test", "a.example", "-a.com", "a..com", "a_b.com", "a" * 64 + ".com",
        ".".join(["a" * 60] * 5) + ".com",
    ],
)  # fmt: skip
def test_web_names_nothing_else(name: str) -> None:
    """Paths, ports, upper case, addresses and reserved names are not resolved."""
    with pytest.raises(DidError):
        parse_did("did:web:" + name)


def test_web_in_development() -> None:
    """localhost with a port and .test are for private mode alone."""
    assert parse_did("did:web:localhost%3A2583", allow_private=True).host == "localhost:2583"
    assert parse_did("did:web:a.test", allow_private=True).host == "a.test"
    for name in ("localhost%3A99999", "localhost%3A0", "example.com%3A80"):
        with pytest.raises(DidError):
            parse_did("did:web:" + name, allow_private=True)


def test_other_methods_are_unsupported() -> None:
    """A DID of another method is told from what is no DID."""
    with pytest.raises(DidError) as caught:
        parse_did("did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme")
    assert caught.value.kind == "unsupported"
