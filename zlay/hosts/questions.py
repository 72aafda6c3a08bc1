"""What is asked of a PDS about one of its accounts: getRepoStatus and getLatestCommit (protocol F6, F7).

Answers are claims of the host. What is done with them: see status_check.py and resync.py. A `HostAsker` belongs to one
thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from zlay._fast.verdicts import STATUSES
from zlay.errors import HttpFault
from zlay.hosts.addresses import is_public
from zlay.hosts.requests import origin_url
from zlay.net.http_client import HttpClient

if TYPE_CHECKING:
    import ssl
    import threading

    from zlay.net.http_client import HttpResponse

__all__ = ["HostAsker", "LatestCommit"]

TIMEOUT_S = 5.0  # E5
MAX_ANSWER_BYTES = 16 * 1024

_ACTIVE = STATUSES.index("active")
_INACTIVE = STATUSES.index("inactive")
_UNKNOWN = STATUSES.index("unknown")


@dataclass(frozen=True, slots=True)
class LatestCommit:
    """A repository's head as its host tells it."""

    cid: str
    rev: str


class HostAsker:
    """Asks hosts, keeping a few connections open. One thread."""

    def __init__(
        self, *, allow_private: bool, context: ssl.SSLContext | None = None, stop: threading.Event | None = None
    ) -> None:
        """`context` None = the system's roots. Once `stop` is set no host is waited for any more."""
        self._client = HttpClient(
            allow_address=(lambda _: True) if allow_private else is_public, context=context, stop=stop
        )

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def repo_status(self, hostname: str, did: str, *, no_tls: bool) -> int | None:
        """The account's verdicts.Status; None where the host knows no such account. HttpFault."""
        response = self._ask(hostname, "getRepoStatus", did, no_tls=no_tls)
        if response.status in (400, 404):
            return None
        said = _object(response)
        if not isinstance(said.get("active"), bool):
            raise HttpFault("protocol", f"{hostname} gives no status")
        if said["active"]:
            return _ACTIVE
        status = said.get("status")
        if status is None:
            return _INACTIVE
        return STATUSES.index(status) if status in STATUSES and status != "active" else _UNKNOWN

    def latest_commit(self, hostname: str, did: str, *, no_tls: bool) -> LatestCommit | None:
        """The repository's head; None where the host has none (unknown or inactive account). HttpFault."""
        response = self._ask(hostname, "getLatestCommit", did, no_tls=no_tls)
        if response.status in (400, 403, 404):
            return None
        said = _object(response)
        cid, rev = said.get("cid"), said.get("rev")
        if not isinstance(cid, str) or not isinstance(rev, str):
            raise HttpFault("protocol", f"{hostname} gives no latest commit")
        return LatestCommit(cid, rev)

    def _ask(self, hostname: str, method: str, did: str, *, no_tls: bool) -> HttpResponse:
        return self._client.get(
            f"{origin_url(hostname, no_tls=no_tls)}/xrpc/com.atproto.sync.{method}?did={quote(did, safe=':')}",
            timeout_s=TIMEOUT_S,
            max_body_bytes=MAX_ANSWER_BYTES,
        )


def _object(response: HttpResponse) -> dict[str, object]:
    said = response.json() if response.status == 200 else None
    if not isinstance(said, dict):
        raise HttpFault("protocol", f"status {response.status}")
    return said
