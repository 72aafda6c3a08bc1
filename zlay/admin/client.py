"""Asks the admin endpoints of a running relay. Main thread only.

The password is that of RELAY_ADMIN_PASSWORD: never a flag, which everybody on the machine could read. It is sent to the
URL given and nowhere else: no redirect is followed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from zlay.errors import AdminRefused, ConfigError, HttpFault, RelayUnreachable
from zlay.net.http_client import HttpClient
from zlay.terminal import plain

if TYPE_CHECKING:
    from zlay.net.http_client import HttpResponse

__all__ = ["AdminClient"]

TIMEOUT_S = 30.0  # a takedown may take ten seconds, growth of millions of traces more
MAX_BODY_BYTES = 256 * 1024 * 1024  # some 2 kB a host, 400 bytes a consumer
SHOWN_CHARS = 300  # of an answer that is none


class AdminClient:
    """One relay's admin. Raises ConfigError for a URL or password that cannot be used, AdminRefused for what the relay
    refuses, RelayUnreachable where no relay answers."""

    def __init__(self, url: str, password: str | None) -> None:
        """`password` None = none is sent."""
        self._url = url.rstrip("/")
        self._http = HttpClient(allow_address=lambda _: True, keep_alive=False)
        self._headers: list[tuple[str, str]] = []
        if password:
            if any(char in password for char in "\r\n\0"):
                raise ConfigError("RELAY_ADMIN_PASSWORD='...': expected a text of one line")
            self._headers.append(("Authorization", f"Bearer {password}"))

    def get(self, path: str, **parameters: object) -> Any:
        """The answer to GET /admin/`path`; parameters that are None are left out."""
        given = {name: value for name, value in parameters.items() if value is not None}
        url = f"{self._url}/admin/{path}" + (f"?{urlencode(given)}" if given else "")
        try:
            told = self._http.get(url, timeout_s=TIMEOUT_S, max_body_bytes=MAX_BODY_BYTES, headers=self._headers)
        except HttpFault as exc:
            raise self._fault(exc) from None
        return self._read(told)

    def post(self, path: str, **fields: object) -> Any:
        """The answer to POST /admin/`path` with a body of these fields."""
        body = json.dumps(fields).encode()
        try:
            told = self._http.post(
                f"{self._url}/admin/{path}",
                body,
                timeout_s=TIMEOUT_S,
                max_body_bytes=MAX_BODY_BYTES,
                headers=self._headers,
            )
        except HttpFault as exc:
            raise self._fault(exc) from None
        return self._read(told)

    def _fault(self, exc: HttpFault) -> ConfigError | RelayUnreachable:
        if exc.kind == "url":
            return ConfigError(f"--url={self._url!r}: expected an http or https URL, such as http://127.0.0.1:3001")
        return RelayUnreachable(f"{self._url}: {plain(exc)}")

    def _read(self, told: HttpResponse) -> Any:
        """What a relay said. Only one says {error, message}, and JSON."""
        try:
            said = told.json()
        except HttpFault:
            said = None
        if isinstance(said, dict) and told.status < 300:
            return said
        if isinstance(said, dict) and "error" in said:
            hint = " (RELAY_ADMIN_PASSWORD of this shell)" if told.status == 401 else ""
            raise AdminRefused(f"{told.status} {plain(said['error'])}: {plain(said.get('message', ''))}{hint}")
        shown = plain(told.body[:SHOWN_CHARS].decode(errors="replace"))
        raise RelayUnreachable(f"{self._url}: answers {told.status} {shown!r}, and is no relay's admin")
