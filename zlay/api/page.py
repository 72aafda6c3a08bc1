"""The status page: one file without anything from elsewhere, which asks /_stats, /_history and /_readyz. Any thread."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from zlay.api.message import Response

__all__ = ["status_page"]

_PAGE = files("zlay.api").joinpath("status.html").read_bytes()


def _hash_of(element: bytes) -> str:
    """The one script or style of the page as a source of its content security policy."""
    found = re.search(b"<%b>(.*?)</%b>" % (element, element), _PAGE, re.DOTALL)
    assert found is not None
    return base64.b64encode(hashlib.sha256(found[1]).digest()).decode()


# Nothing runs but the page's own script, and it talks to nobody but the relay.
_POLICY = (
    f"default-src 'none'; script-src 'sha256-{_hash_of(b'script')}'; style-src 'sha256-{_hash_of(b'style')}'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (("Content-Security-Policy", _POLICY), ("Referrer-Policy", "no-referrer"))


def status_page() -> Response:
    """The page, for the metrics port."""
    return Response(200, _PAGE, "text/html; charset=utf-8", _HEADERS)
