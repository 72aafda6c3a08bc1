"""Whom a client's address stands for where limits are kept for each client. A pure function; any thread."""

from __future__ import annotations

import ipaddress

__all__ = ["client_of"]

IPV6_PREFIX = 64  # one customer has at least that much: its addresses are one client


def client_of(address: str) -> str:
    """IPv4 addresses are clients of their own, IPv6 ones by their network; what is neither stays as it is."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], IPV6_PREFIX), strict=False))
    except ValueError:
        return address
