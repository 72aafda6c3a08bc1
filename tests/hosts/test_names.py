"""Names of hosts: the normal form, and which are refused (protocol E15, E17)."""

from __future__ import annotations

import pytest

from zlay.errors import HostRefused
from zlay.hosts.names import endpoint_host, normalise_hostname, split_port, under_domain


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pds.example.com", "pds.example.com"),
        ("PDS.Example.COM", "pds.example.com"),
        (" pds.example.com. ", "pds.example.com"),
        ("https://pds.example.com", "pds.example.com"),
        ("wss://pds.example.com/", "pds.example.com"),
        ("https://pds.example.com:443", "pds.example.com"),
        ("pds.example.com:443", "pds.example.com"),
        ("bücher.example.com", "xn--bcher-kva.example.com"),
    ],
)
def test_public_names(text: str, name: str) -> None:
    """Public names have one form, however they are written."""
    assert normalise_hostname(text, allow_private=False) == (name, False)


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "com", "localhost", "localhost:2583", "a.localhost", "127.0.0.1", "10.0.0.1:443", "[::1]", "::1",
        "0x7f.1", "0x7f.0x1", "1.0X", "2130706433", "1.2.3", "pds.example.com:8443", "pds.example.com:",
        "pds.example.com:x", "http://pds.example.com", "ws://pds.example.com", "ftp://pds.example.com",
        "pds.example.com/path", "pds.example.com?q", "user@pds.example.com", "pds example.com", "-a.example.com",
        "a-.example.com", "a..example.com", "a_b.example.com", "a" * 64 + ".com", ".".join(["a" * 60] * 5) + ".com",
        "x" * 10_000, "a.local", "a.internal", "a.onion", "a.test", "a.example", "a.arpa", "a.123", "pds.example.com\0",
        "pds.example.com\r\nX: y", "https://https://a.com",
    ],
)  # fmt: skip
def test_refused_in_public(text: str) -> None:
    """Addresses, ports, paths, local and reserved names, and what is no name at all, are refused."""
    with pytest.raises(HostRefused) as caught:
        normalise_hostname(text, allow_private=False)
    assert caught.value.error == "BadRequest"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:2583", ("localhost:2583", True)),
        ("127.0.0.1:2583", ("127.0.0.1:2583", True)),
        ("http://localhost:80", ("localhost", True)),
        ("localhost", ("localhost", True)),
        ("[::1]:2583", ("[::1]:2583", True)),
        ("pds.test:2583", ("pds.test:2583", True)),
        ("wss://localhost:2583", ("localhost:2583", False)),
        ("pds.example.com", ("pds.example.com", False)),
        ("ws://pds.example.com", ("pds.example.com", True)),
    ],
)
def test_private_mode(text: str, expected: tuple[str, bool]) -> None:
    """Private mode takes local names, addresses and ports, without TLS where no scheme says otherwise."""
    assert normalise_hostname(text, allow_private=True) == expected


@pytest.mark.parametrize(
    "text", ["a b", "localhost:0", "localhost:99999", "-a.com", "localhost/path", "user@localhost"]
)
def test_refused_even_in_private(text: str) -> None:
    """What is no name is refused in private mode, too."""
    with pytest.raises(HostRefused):
        normalise_hostname(text, allow_private=True)


def test_registry_and_documents_agree() -> None:
    """The host of a DID document's endpoint compares equal to the name the same host was added by."""
    for url in ("http://localhost:2583", "http://127.0.0.1:2583", "https://PDS.example.com", "http://[::1]:2583"):
        assert endpoint_host(url) == normalise_hostname(url, allow_private=True)[0]


def test_ports_are_split_off() -> None:
    """A normalised name gives the name and port to dial."""
    assert split_port("pds.example.com", no_tls=False) == ("pds.example.com", 443)
    assert split_port("localhost", no_tls=True) == ("localhost", 80)
    assert split_port("[::1]:2583", no_tls=True) == ("::1", 2583)


def test_under_domain() -> None:
    """A ban of a domain covers it and what is under it, and no other name that ends alike."""
    assert under_domain("bad.example.com", "example.com")
    assert under_domain("example.com:8080", "example.com")
    assert not under_domain("badexample.com", "example.com")
