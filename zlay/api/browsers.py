"""What browsers may do here for pages of other sites (E21). Pure functions; any thread.

Public data is for everybody: `Access-Control-Allow-Origin: *` on each answer, errors too. There are no cookies, and a
browser sends no password that it remembers along with a request whose answer `*` opens. The answer does not depend on
who asks, so there is no `Vary: Origin`.

What is only on the internal port is not shared: a page that somebody inside the network visits could else read its
figures through that browser, or try passwords. And since a browser that has been given the admin password sends it
along with any form that any page submits, an admin request that comes from another site is refused.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from zlay.api.message import Request, Response, XrpcError

__all__ = ["is_shared", "preflight", "refuse_other_sites", "sharing_headers"]

XRPC = "/xrpc/"
SHARED = frozenset({"/", "/_health", "/_healthz", "/_readyz", "/openapi.json"})  # what else is on the public port
EXPOSED = "Retry-After, Allow"  # what pages may read beside the headers that are always open to them
PREFLIGHT = (
    ("Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS"),
    ("Access-Control-Allow-Headers", "Authorization, Content-Type, atproto-accept-labelers, atproto-proxy"),
    ("Access-Control-Max-Age", "86400"),  # a day: browsers cap it at two hours or a day themselves
)
_SHARED = (("Access-Control-Allow-Origin", "*"), ("Access-Control-Expose-Headers", EXPOSED))


def is_shared(path: str | None, *, is_internal: bool) -> bool:
    """Whether pages of other sites may read answers for this path; None = there was no request to speak of."""
    return not is_internal or path is None or path in SHARED or path.startswith(XRPC)


def sharing_headers(path: str | None, *, is_internal: bool) -> tuple[tuple[str, str], ...]:
    """What each answer says about that."""
    return _SHARED if is_shared(path, is_internal=is_internal) else ()


def preflight(request: Request) -> Response:
    """The answer to OPTIONS."""
    return Response(204, headers=PREFLIGHT if is_shared(request.path, is_internal=request.is_internal) else ())


def refuse_other_sites(request: Request) -> None:
    """Raises XrpcError for what a browser says that a page of another site has caused.

    `Sec-Fetch-Site` cannot be forged by a page; browsers send it by TLS and to this machine. Elsewhere `Origin` must
    be where the request goes.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        foreign = site not in ("same-origin", "none") and (origin is not None or request.method != "GET")
    else:
        foreign = origin is not None and _host_of(origin) != request.headers.get("host", "").lower()
    if foreign:
        raise XrpcError(403, "Forbidden", "admin takes no requests that pages of other sites cause")


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
