"""Which addresses may be dialled (protocol E17)."""

from __future__ import annotations

import pytest

from zlay.hosts.addresses import is_public


@pytest.mark.parametrize("address", ["1.1.1.1", "185.199.108.153", "2606:4700::1111", "2a01:4f8::1", "::ffff:8.8.8.8"])
def test_public(address: str) -> None:
    """Global unicast addresses may be dialled."""
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.10",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "2606:4700::1111%eth0",
        "fc00::1",
        "fd12:3456::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2002:a00:1::1",
    ],
)
def test_not_public(address: str) -> None:
    """Private, loopback, link-local, shared, reserved and multicast addresses may not, nor what embeds one."""
    assert not is_public(address)


@pytest.mark.parametrize("text", ["", "localhost", "1.2.3", "1.2.3.4.5", "0x7f000001", "2130706433", "::1::"])
def test_no_address(text: str) -> None:
    """What is no address is not public."""
    assert not is_public(text)
