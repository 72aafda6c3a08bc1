"""TLS of the simulated hosts: a throw-away certificate authority, certificates in its name, sockets that speak TLS.

Promises: every certificate is signed by an intermediate of an authority that nobody else trusts, made anew in a
directory of its own; `TlsSocket` looks to the server's loop like a non-blocking socket. One thread.
Assumes: the `openssl` command (Debian: it comes with ca-certificates).
"""

from __future__ import annotations

import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

__all__ = ["Authority", "TlsSocket"]

NAMES_PER_CERTIFICATE = 50  # 3,000 certificates of one name each would take the openssl command a minute
_DAYS = "30"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_CONFIG = """
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[hosts]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class Authority:
    """The authority. `path` is its certificate: what SSL_CERT_FILE must name for the hosts to be trusted."""

    def __init__(self) -> None:
        """Raises OSError, subprocess.CalledProcessError."""
        self._directory = tempfile.TemporaryDirectory(prefix="zlay-sim-tls-")
        self._made = 0
        (self._file("openssl.cnf")).write_text(_CONFIG)
        self.path = self._file("authority.pem")
        self._make("authority", None, "authority")
        self._make("intermediate", "authority", "authority", "authorityKeyIdentifier=keyid")

    def context(self, names: Sequence[tuple[str, str]]) -> ssl.SSLContext:
        """For a server of these names: pairs of `DNS` or `IP` and the name. Raises as `__init__`."""
        self._made += 1
        stem = f"hosts-{self._made}"
        alternatives = ",".join(f"{kind}:{name}" for kind, name in names)
        self._make(stem, "intermediate", "hosts", f"subjectAltName={alternatives}")
        chain = self._file(f"{stem}-chain.pem")
        chain.write_bytes(self._file(f"{stem}.pem").read_bytes() + self._file("intermediate.pem").read_bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, self._file(f"{stem}.key"))
        return context

    def close(self) -> None:
        """Removes keys and certificates."""
        self._directory.cleanup()

    def _file(self, name: str) -> Path:
        return Path(self._directory.name) / name

    def _make(self, stem: str, signer: str | None, section: str, *extensions: str) -> None:
        command = ["openssl", "req", "-x509", "-config", str(self._file("openssl.cnf")), "-extensions", section]
        command += ["-days", _DAYS, *_NEW_KEY, "-subj", f"/CN=zlay sim {stem}"]
        command += ["-keyout", str(self._file(f"{stem}.key")), "-out", str(self._file(f"{stem}.pem"))]
        for extension in extensions:
            command += ["-addext", extension]
        if signer is not None:
            command += ["-CA", str(self._file(f"{signer}.pem")), "-CAkey", str(self._file(f"{signer}.key"))]
        subprocess.run(command, check=True, capture_output=True, timeout=60)


class TlsSocket:
    """The server's side of TLS on an accepted, non-blocking socket; owner of it. The handshake is done by `recv`."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)

    def recv(self, most: int) -> bytes:
        """All that has come, about `most` bytes of it; b"" at the end. Raises BlockingIOError, OSError."""
        got = b""
        try:
            while len(got) < most and (data := self._sock.recv(most)):
                got += data
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as exc:
            if not got:
                raise BlockingIOError from exc
        return got

    def send(self, data: bytes | memoryview) -> int:
        """Sends some. What could not be sent must stand at the beginning next time. Raises BlockingIOError, OSError."""
        try:
            return self._sock.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as exc:
            raise BlockingIOError from exc

    def fileno(self) -> int:
        """The descriptor; -1 once closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Closes the socket, without a close_notify."""
        self._sock.close()
