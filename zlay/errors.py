"""Every exception of zlay, under one root.

    ZlayError
    ├── LocalFault            our own machine, settings or data are at fault; an operator can mend it
    │   ├── BackupError       a backup cannot be taken, or is none that can be restored
    │   ├── ConfigError       a setting has a bad value (exit 2)
    │   ├── LogError          a directory is no event log, or cannot be read
    │   ├── StartError        a clear refusal to start: locked data directory, foreign store, GIL on (exit 1)
    │   └── StateError        the database cannot do what was asked
    │       └── StateUnavailable   ... just now: locked, full, gone; worth another try
    └── RemoteFault           a peer is at fault or away; costs one request, never the process (R6)
        ├── AdminRefused      a running relay refuses what an operator asks of it (exit 1)
        ├── HttpFault         no usable answer to a request of ours
        ├── HostRefused       a host that may not be added (E15)
        └── RelayUnreachable  there is no relay where an operator looks for one (exit 3)

A remote fault is never raised as a local one: what catches LocalFault may stop the program, what catches RemoteFault
counts and goes on. Exceptions belong to the thread that raised them.
"""

from __future__ import annotations

__all__ = [
    "AdminRefused",
    "BackupError",
    "ConfigError",
    "HostRefused",
    "HttpFault",
    "LocalFault",
    "LogError",
    "RelayUnreachable",
    "RemoteFault",
    "StartError",
    "StateError",
    "StateUnavailable",
    "ZlayError",
]


class ZlayError(Exception):
    """Root of all."""

    exit_code = 1


class LocalFault(ZlayError):
    """Something here is wrong."""


class BackupError(LocalFault):
    """A copy of a relay's data cannot be made, or cannot be made a relay's data again; the message says why."""


class ConfigError(LocalFault):
    """A setting has a value that cannot be used; the message names the setting."""

    exit_code = 2


class LogError(LocalFault):
    """There is no event log to be read; the message names the directory."""


class StartError(LocalFault):
    """zlay refuses to start; the message says why and what to do."""


class StateError(LocalFault):
    """The database refused an operation."""


class StateUnavailable(StateError):
    """The database cannot answer just now; the same call may succeed later."""


class RemoteFault(ZlayError):
    """A peer did something wrong, or nothing at all."""


class AdminRefused(RemoteFault):
    """A relay that runs does not do what it was asked; the message has its status, error and words."""


class RelayUnreachable(RemoteFault):
    """No relay answers at the URL given; the message says what does."""

    exit_code = 3


class HttpFault(RemoteFault):
    """A request of ours got no usable answer.

    `kind` is one of zlay.net.http_client.FAULT_KINDS, fit for a metric label.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class HostRefused(RemoteFault):
    """A host that may not be added. `error` is the XRPC error name, `status` the HTTP status that goes with it."""

    def __init__(self, error: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.error = error
        self.status = status
