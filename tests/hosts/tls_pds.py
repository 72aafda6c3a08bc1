"""The server's side of TLS by OpenSSL through ctypes: for what Python's ssl cannot be told to do (KeyUpdate, ...)."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import socket
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.e2e.deps import oracle_environment, oracle_python

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TLS1_0", "TLS1_2", "TLS1_3", "TlsEnd", "make_certificates", "over_tls"]

TLS1_0, TLS1_2, TLS1_3 = 0x0301, 0x0303, 0x0304
TIMEOUT_S = 30
_SET_MIN, _SET_MAX = 123, 124  # SSL_CTRL_SET_MIN_PROTO_VERSION, SSL_CTRL_SET_MAX_PROTO_VERSION
_PEM = 1


def make_certificates(folder: Path) -> Path:
    """What make_certificates.py writes, in `folder`; skips without the oracle."""
    script = Path(__file__).with_name("make_certificates.py")
    subprocess.run([oracle_python(), script, folder], check=True, timeout=120, env=oracle_environment())
    return folder


@functools.cache
def _lib() -> Any:
    lib = ctypes.CDLL(ctypes.util.find_library("ssl") or "libssl.so.3")
    for name in ("TLS_server_method", "SSL_CTX_new", "SSL_new"):
        getattr(lib, name).restype = ctypes.c_void_p
    return lib


class TlsEnd:
    """TLS as a server on a connected socket, with the part of a socket's methods that scripts use. One thread."""

    def __init__(self, sock: socket.socket, certificate: Path, version: int = TLS1_3) -> None:
        """Shakes hands. Raises ConnectionError when that fails."""
        self.sock = sock
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", TIMEOUT_S, 0))
        lib = _lib()
        self._ctx = ctypes.c_void_p(lib.SSL_CTX_new(ctypes.c_void_p(lib.TLS_server_method())))
        lib.SSL_CTX_set_security_level(self._ctx, 0)  # or there would be no TLS 1.0
        for what in (_SET_MIN, _SET_MAX):
            assert lib.SSL_CTX_ctrl(self._ctx, what, ctypes.c_long(version), None) == 1
        path = str(certificate).encode()
        assert lib.SSL_CTX_use_certificate_chain_file(self._ctx, path) == 1
        assert lib.SSL_CTX_use_PrivateKey_file(self._ctx, path, _PEM) == 1
        self._ssl = ctypes.c_void_p(lib.SSL_new(self._ctx))
        assert lib.SSL_set_fd(self._ssl, sock.fileno()) == 1
        if lib.SSL_accept(self._ssl) != 1:
            self.free()
            raise ConnectionError("no handshake")

    def free(self) -> None:
        """Gives the session back, not the socket."""
        _lib().SSL_free(self._ssl)
        _lib().SSL_CTX_free(self._ctx)
        self._ssl = ctypes.c_void_p()

    def recv(self, most: int) -> bytes:
        """As a socket's; b"" after a close_notify. Raises ConnectionError otherwise."""
        into = ctypes.create_string_buffer(most)
        got = _lib().SSL_read(self._ssl, into, most)
        if got > 0:
            return into.raw[:got]
        if _lib().SSL_get_shutdown(self._ssl) & 2:  # SSL_RECEIVED_SHUTDOWN
            return b""
        raise ConnectionError("the connection broke")

    def sendall(self, data: bytes) -> None:
        """As a socket's."""
        if _lib().SSL_write(self._ssl, data, len(data)) != len(data):
            raise ConnectionError("cannot send")

    def key_update(self, *, answer: bool) -> None:
        """New keys for what is sent from now on; with `answer` the peer must change its own."""
        if _lib().SSL_key_update(self._ssl, int(answer)) != 1 or _lib().SSL_do_handshake(self._ssl) != 1:
            raise ConnectionError("cannot send")

    def renegotiate(self) -> None:
        """Asks for another handshake (TLS 1.2)."""
        if _lib().SSL_renegotiate(self._ssl) != 1 or _lib().SSL_do_handshake(self._ssl) != 1:
            raise ConnectionError("cannot send")

    def close_notify(self) -> None:
        """Says that nothing more is sent."""
        _lib().SSL_shutdown(self._ssl)


def over_tls(
    script: Callable[[Any], None], certificate: Path, version: int = TLS1_3
) -> Callable[[socket.socket], None]:
    """The script of a FakePds that plays `script` inside TLS."""

    def play(sock: socket.socket) -> None:
        end = TlsEnd(sock, certificate, version)
        try:
            script(end)
        finally:
            end.free()

    return play
