"""Whom hosts' certificates must be signed by: the machine's authorities, read once, at the start. Main thread."""

from __future__ import annotations

import os
import ssl

from zlay import logs
from zlay._fast import tls
from zlay.errors import ConfigError
from zlay.net.http_client import tls_context

__all__ = ["read_authorities"]

log = logs.get("hosts")


def read_authorities() -> tls.Context:
    """What all dials share. Warns where there is nobody to trust. ConfigError when SSL_CERT_FILE cannot be read."""
    try:
        context = tls.Context()
    except tls.TlsError as exc:
        raise ConfigError(str(exc)) from exc
    folder = ssl.get_default_verify_paths().capath
    if not tls_context().cert_store_stats()["x509_ca"] and not (folder and os.listdir(folder)):
        log.warning("no certificate authorities: no host can be trusted; install ca-certificates or set SSL_CERT_FILE")
    return context
