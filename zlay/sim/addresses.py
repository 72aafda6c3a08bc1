"""Where the simulated network listens: a port for each host, or a loopback address for each."""

from __future__ import annotations

import resource
import socket
from typing import TYPE_CHECKING

from zlay.sim.settings import SettingError, Settings

if TYPE_CHECKING:
    from zlay.sim.server import Server

__all__ = ["Addresses"]

FIRST_LOOPBACK = "127.1.0.1"  # hosts with an address of their own: this one and those after it
SPREAD_PORT = 2583  # the usual port of a PDS, for hosts with an address of their own
DESCRIPTORS_PER_HOST = 3  # listener, subscriber, and a query now and then


def _raise_descriptor_limit(hosts: int) -> None:
    """Raises RLIMIT_NOFILE as far as it goes. SettingError where that is not enough."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < hosts * DESCRIPTORS_PER_HOST:
        raise SettingError(f"hosts: {hosts} need {hosts * DESCRIPTORS_PER_HOST} descriptors; the hard limit is {hard}")


class Addresses:
    """All listening sockets. `hosts`: name and URL of each host as DID documents and listHosts say them."""

    def __init__(self, server: Server, settings: Settings) -> None:
        _raise_descriptor_limit(settings.hosts)
        self._server = server
        self._settings = settings
        self._next_port = settings.port
        self.hosts: list[tuple[str, str]] = []
        self.host_sockets: list[socket.socket] = []
        for index in range(settings.hosts):
            self._add_host(index)
        self.plc_socket = self._listen()
        self.upstream_socket = self._listen()
        self.control_socket = self._listen()

    def _listen(self) -> socket.socket:
        """A socket on the common address: the next port in a row, or any where no port was set."""
        port = self._next_port
        self._next_port += 1 if port else 0
        return self._server.listen(self._settings.address, port)

    def _add_host(self, index: int) -> None:
        if self._settings.spread:
            first = int.from_bytes(socket.inet_aton(FIRST_LOOPBACK), "big")
            name = socket.inet_ntoa((first + index).to_bytes(4, "big"))
            sock = self._server.listen(name, SPREAD_PORT)
        else:
            name = self._settings.host_name
            sock = self._listen()
        name = f"{name}:{sock.getsockname()[1]}"
        self.host_sockets.append(sock)
        self.hosts.append((name, f"http://{name}"))

    def describe(self) -> dict[str, object]:
        """URLs and host names, for the line that says the simulation is ready."""
        return {
            "plc": self._url(self.plc_socket),
            "control": self._url(self.control_socket),
            "upstream": self._url(self.upstream_socket),
            "hosts": [name for name, _ in self.hosts],
        }

    def _url(self, sock: socket.socket) -> str:
        address, port = sock.getsockname()
        return f"http://{address}:{port}"
