"""Where the server listens, and who its clients are behind proxies. No state but what it was made with; any thread."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from typing import TYPE_CHECKING

from zlay.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MAX_KERNEL_UNSENT_BYTES", "Proxies", "bound_unsent", "listen", "plain_address"]

BACKLOG = 4096  # the most that Linux takes unless told; who finds it full tries again in 1, 3, 7, ... s
MAX_KERNEL_UNSENT_BYTES = 128 * 1024  # of one answer; by itself the kernel would take megabytes for each client
RECEIVE_BUFFER_BYTES = 32 * 1024  # the kernel makes it twice that; by itself it would grow to megabytes for each client


def listen(address: str, port: int) -> socket.socket:
    """A listening, non-blocking socket; `::` takes IPv4 too. Raises StartError for a taken port or foreign address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)  # for all that are accepted
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise StartError(f"port {port} on {address} is taken: is another zlay running?") from None
        raise StartError(f"cannot listen on {address} port {port}: {exc.strerror}") from None
    return sock


def bound_unsent(sock: socket.socket, most: int | None) -> None:
    """So many bytes the kernel takes of an answer before it has sent them; None = as many as the system has it."""
    with contextlib.suppress(OSError):  # the client is gone, as its next event will say
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, most or 0)


class Proxies:
    """The proxies whose word on a client's address counts: networks as text."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(name) for name in trusted]

    def client_address(self, peer: str, headers: Mapping[str, str]) -> str:
        """The last address in X-Forwarded-For that is not a trusted proxy's, when the peer is one; else the peer."""
        address = peer
        hops = [hop.strip() for hop in headers.get("x-forwarded-for", "").split(",") if hop.strip()]
        while self._trusts(address) and hops:
            try:
                address = plain_address(str(ipaddress.ip_address(hops.pop())))
            except ValueError:
                break
        return address

    def _trusts(self, address: str) -> bool:
        return bool(self._networks) and any(ipaddress.ip_address(address) in net for net in self._networks)


def plain_address(address: str) -> str:
    """An IPv4 client that came over an IPv6 socket, as IPv4."""
    return address.removeprefix("::ffff:") if address.startswith("::ffff:") and "." in address else address
