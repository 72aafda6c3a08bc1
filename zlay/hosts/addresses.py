"""Which network addresses may be dialled (protocol E17): public ones only, unless private hosts are allowed.

Checked on addresses after resolution, at every dial: a name that was public when the host was added may point
elsewhere today. Pure functions, any thread.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

__all__ = ["is_public"]

# IPv6 forms that carry an IPv4 address which the kernel or a gateway would then dial.
_NAT64 = IPv6Network("64:ff9b::/96")
_IPV4_COMPATIBLE = IPv6Network("::/96")


def is_public(address: str) -> bool:
    """True when `address` (textual IPv4 or IPv6, a scope id allowed) is a global unicast address.

    Private, loopback, link-local, shared (100.64/10), documentation, multicast, reserved and unspecified addresses
    are not, nor are IPv6 addresses that embed one of those (mapped, compatible, NAT64, 6to4, Teredo). Text that is no
    address is not public either.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        if parsed.scope_id is not None:
            return False
        embedded = _embedded_ipv4(parsed)
        if embedded is not None:
            return _is_global(embedded)
    return _is_global(parsed)


def _is_global(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded_ipv4(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that dialling `address` may reach; None when it embeds none."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or address in _IPV4_COMPATIBLE:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None
