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

NETWORKS = 200  # 127.1.0.0 and so on: one for each simulation on this machine whose hosts have their own addresses
SPREAD_PORT = 2583  # the usual port of a PDS, for hosts with an address of their own
DESCRIPTORS_PER_HOST = 3  # listener, subscriber, and a query now and then


def _raise_descriptor_limit(hosts: int) -> None:
    """Raises RLIMIT_NOFILE as far as it goes. SettingError where that is not enough."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < hosts * DESCRIPTORS_PER_HOST:
        raise SettingError(f"hosts: {hosts} need {hosts * DESCRIPTORS_PER_HOST} descriptors; the hard limit is {hard}")


class _Network:
    """Addresses 127.N.0.1 and those after it, which no other simulation on this machine takes meanwhile."""

    def __init__(self) -> None:
        """SettingError where as many simulations run already."""
        self._claim = socket.socket(socket.AF_UNIX)
        for number in range(1, NETWORKS + 1):
            try:
                self._claim.bind(f"\0zlay-sim-127.{number}")  # goes with the process
            except OSError:
                continue
            self._first = int.from_bytes(socket.inet_aton(f"127.{number}.0.1"), "big")
            return
        self._claim.close()
        raise SettingError(f"spread: {NETWORKS} simulations have addresses of their own already")

    def address(self, index: int) -> str:
        """Of a host."""
        return socket.inet_ntoa((self._first + index).to_bytes(4, "big"))

    def close(self) -> None:
        """Others may take the addresses."""
        self._claim.close()


class Addresses:
    """All listening sockets. `hosts`: name and URL of each host as DID documents say them; `tls`: how it is served;
    `host_sockets`: where it listens, None for those that are dead."""

    def __init__(self, server: Server, settings: Settings) -> None:
        _raise_descriptor_limit(settings.hosts)
        self._server = server
        self._settings = settings
        self._next_port = settings.port
        self._network = _Network() if settings.spread else None
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
        spread = self._network is not None
        name = self._settings.host_name if self._network is None else self._network.address(index)
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
        network = self._network
        if network is None:
            return self._context or self._authority.context([("DNS", name), ("IP", self._settings.address)])
        count = min(NAMES_PER_CERTIFICATE, self._settings.hosts - index)
        return self._authority.context([("IP", network.address(index + more)) for more in range(count)])

    def close(self) -> None:
        """Ends the dead hosts, and removes the authority, if there is one."""
        for host in self._dead.values():
            if host is not None:
                host.close()
        if self._authority is not None:
            self._authority.close()
        if self._network is not None:
            self._network.close()

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
