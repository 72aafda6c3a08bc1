"""Where the simulated network listens: a port for each host, or a loopback address for each; dead ones do not."""

from __future__ import annotations

import resource
import socket
from typing import TYPE_CHECKING

from zlay.sim.dead import KINDS, DeadHost, dead_among
from zlay.sim.settings import SettingError, Settings
from zlay.sim.tls import NAMES_PER_CERTIFICATE, Authority

if TYPE_CHECKING:
    import ssl

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


def _loopback(index: int) -> str:
    """The address of a host that has one of its own."""
    first = int.from_bytes(socket.inet_aton(FIRST_LOOPBACK), "big")
    return socket.inet_ntoa((first + index).to_bytes(4, "big"))


class Addresses:
    """All listening sockets. `hosts`: name and URL of each host as DID documents say them; `tls`: how it is served;
    `host_sockets`: where it listens, None for those that are dead."""

    def __init__(self, server: Server, settings: Settings) -> None:
        _raise_descriptor_limit(settings.hosts)
        self._server = server
        self._settings = settings
        self._next_port = settings.port
        self.hosts: list[tuple[str, str]] = []
        self.host_sockets: list[socket.socket | None] = []
        self._dead: dict[int, DeadHost | None] = dict.fromkeys(dead_among(settings.hosts, settings.dead))
        self.tls: list[ssl.SSLContext | None] = []
        self._authority = Authority() if settings.tls else None
        self._context: ssl.SSLContext | None = None
        for index in range(settings.hosts):
            self._add_host(index)
        self.plc_socket = self._listen()
        self.upstream_socket = self._listen()
        self.control_socket = self._listen()

    def _listen(self) -> socket.socket:
        """A socket on the common address."""
        return self._server.listen(self._settings.address, self._take_port())

    def _take_port(self) -> int:
        """The next one in a row; 0, which is any, where no port was set."""
        port = self._next_port
        self._next_port += 1 if port else 0
        return port

    def _add_host(self, index: int) -> None:
        spread = self._settings.spread
        name = _loopback(index) if spread else self._settings.host_name
        sock: socket.socket | None = None
        if index in self._dead:
            address, port = (name, SPREAD_PORT) if spread else (self._settings.address, self._take_port())
            host = DeadHost(address, port, KINDS[sum(one is not None for one in self._dead.values()) % len(KINDS)])
            self._dead[index] = host
            port = host.address[1]
        else:
            sock = self._server.listen(name, SPREAD_PORT) if spread else self._listen()
            port = sock.getsockname()[1]
        if self._authority is not None and index % NAMES_PER_CERTIFICATE == 0:
            self._context = self._certify(index, name)
        self.tls.append(self._context)
        name = f"{name}:{port}"
        self.host_sockets.append(sock)
        self.hosts.append((name, f"{'http' if self._context is None else 'https'}://{name}"))

    def _certify(self, index: int, name: str) -> ssl.SSLContext:
        """A certificate for this host and those that follow."""
        assert self._authority is not None
        if not self._settings.spread:
            return self._context or self._authority.context([("DNS", name), ("IP", self._settings.address)])
        count = min(NAMES_PER_CERTIFICATE, self._settings.hosts - index)
        return self._authority.context([("IP", _loopback(index + more)) for more in range(count)])

    def close(self) -> None:
        """Ends the dead hosts, and removes the authority, if there is one."""
        for host in self._dead.values():
            if host is not None:
                host.close()
        if self._authority is not None:
            self._authority.close()

    def called(self) -> list[str]:
        """What a relay must be told to dial each host: its name, or with TLS its URL."""
        return [name if context is None else url for (name, url), context in zip(self.hosts, self.tls, strict=True)]

    def describe(self) -> dict[str, object]:
        """URLs and host names, for the line that says the simulation is ready."""
        return {
            "plc": self._url(self.plc_socket),
            "control": self._url(self.control_socket),
            "upstream": self._url(self.upstream_socket),
            "hosts": self.called(),
            "ca": None if self._authority is None else str(self._authority.path),
        }

    def _url(self, sock: socket.socket) -> str:
        address, port = sock.getsockname()
        return f"http://{address}:{port}"
