"""Names of hosts: one normal form, and which may be added (protocol E15, E17). Pure; any thread.

The normal form is what the registry, the log's index and host authority (E2) compare: the DNS name in lower case ASCII
(IDNA for others), then ":port" unless it is the scheme's own.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from zlay.errors import HostRefused
from zlay.shared import split_url

__all__ = [
    "endpoint_host",
    "is_local_name",
    "is_plain_address",
    "join_port",
    "normalise_domain",
    "normalise_hostname",
    "split_port",
    "under_domain",
]

MAX_NAME_BYTES = 253  # DNS
MAX_PORT = 65535
MAX_INPUT_CHARS = 300  # a name, a scheme and a port

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"(?:{_LABEL}\.)+{_LABEL}")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # what ends so, such as 0x7f.1, resolvers take for an IPv4 address
_DEFAULT_PORTS = {"https": 443, "http": 80, "wss": 443, "ws": 80}

# Top-level names with no public DNS behind them (RFC 6761 and 6762, ICANN's .internal): never a PDS of the network.
_RESERVED_TLDS = frozenset(
    {"alt", "arpa", "example", "internal", "invalid", "lan", "local", "localhost", "onion", "test"}
)


def normalise_hostname(text: str, *, allow_private: bool) -> tuple[str, bool]:
    """(hostname, no_tls) of what a person or a peer calls a host; HostRefused when it may not be one.

    A scheme may stand before it; path, query, user and IP addresses may not. A port is for localhost in private mode
    only, where hosts without a scheme that are local or carry a port are taken to speak ws:// and not wss://.
    """
    if len(text) > MAX_INPUT_CHARS:
        raise HostRefused("BadRequest", "the host name is too long")
    scheme, found, rest = text.strip().partition("://")
    if not found:
        scheme, rest = "", scheme
    scheme = scheme.lower()
    if scheme and scheme not in _DEFAULT_PORTS:
        raise HostRefused("BadRequest", f"a host cannot be reached by {scheme}")
    name, port = _split(rest.removesuffix("/"))
    name = _ascii(name)
    local = is_local_name(name) or is_plain_address(name)
    if not allow_private:
        _refuse_private(name, port, scheme)
    elif not local and not _DNS_NAME.fullmatch(name):
        raise HostRefused("BadRequest", f"not a host name: {name!r}")
    no_tls = scheme in ("http", "ws") or (not scheme and allow_private and (local or port is not None))
    if port is not None and port == _DEFAULT_PORTS["ws" if no_tls else "wss"]:
        port = None
    return join_port(name, port), no_tls


def endpoint_host(url: str) -> str | None:
    """The normal form of the host in a serviceEndpoint (G4); None when it is not http(s)://host[:port]."""
    try:
        parts = split_url(url)
        port = parts.port
        name = _ascii(parts.hostname or "")
    except (ValueError, HostRefused):
        return None
    if parts.scheme not in ("http", "https") or not name or "@" in parts.netloc:
        return None
    if parts.path not in ("", "/") or "?" in url or "#" in url or any(char.isspace() for char in url):
        return None
    if not (_DNS_NAME.fullmatch(name) or is_local_name(name) or is_plain_address(name)):
        return None
    return join_port(name, None if port == _DEFAULT_PORTS[parts.scheme] else port)


def join_port(name: str, port: int | None) -> str:
    """The normal form of name and port; None = the scheme's own."""
    name = f"[{name}]" if ":" in name else name
    return name if port is None else f"{name}:{port}"


def split_port(hostname: str, *, no_tls: bool) -> tuple[str, int]:
    """(name, port) of a normalised host name."""
    name, port = _split(hostname)
    return name, port or _DEFAULT_PORTS["ws" if no_tls else "wss"]


def is_local_name(name: str) -> bool:
    """localhost, or a name under it (RFC 6761 6.3)."""
    return name == "localhost" or (name.endswith(".localhost") and _DNS_NAME.fullmatch(name) is not None)


def under_domain(hostname: str, domain: str) -> bool:
    """Whether the host is `domain` or a name under it."""
    name = hostname.partition(":")[0]
    return name == domain or name.endswith("." + domain)


def _refuse_private(name: str, port: int | None, scheme: str) -> None:
    if scheme in ("http", "ws"):
        raise HostRefused("BadRequest", "a host must speak TLS")
    if is_local_name(name) or is_plain_address(name):
        raise HostRefused("BadRequest", "a host must have a public DNS name")
    if port not in (None, _DEFAULT_PORTS["https"]):
        raise HostRefused("BadRequest", "a host is reached at port 443")
    if not _DNS_NAME.fullmatch(name):
        raise HostRefused("BadRequest", f"not a host name: {name!r}")
    top = name.rpartition(".")[2]
    if top in _RESERVED_TLDS or _NUMBER.fullmatch(top):
        raise HostRefused("BadRequest", f"no public name ends in .{top}")


def _split(rest: str) -> tuple[str, int | None]:
    """Name and port, without judging the name; brackets of an IPv6 address are taken off."""
    name, port = rest, ""
    if rest.startswith("["):
        name, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    elif rest.count(":") == 1:
        name, _, port = rest.partition(":")
        if not port:
            raise HostRefused("BadRequest", "a port must follow the colon")
    if port and (not _PORT.fullmatch(port) or int(port) > MAX_PORT):
        raise HostRefused("BadRequest", f"not a port: {port!r}")
    return name, int(port) if port else None


def _ascii(name: str) -> str:
    """Lower-case ASCII: IDNA for names in other scripts. Judged afterwards."""
    try:
        plain = name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError as exc:
        raise HostRefused("BadRequest", f"not a host name: {name!r}") from exc
    plain = plain.lower().removesuffix(".")
    if not plain or len(plain) > MAX_NAME_BYTES:
        raise HostRefused("BadRequest", "a host name has 1 to 253 characters")
    return plain


def normalise_domain(text: str) -> str:
    """The normal form of a domain to be banned: lower-case ASCII, without a dot at either end. HostRefused."""
    domain = _ascii(text.strip()[:MAX_INPUT_CHARS].removeprefix("."))
    if not (_DNS_NAME.fullmatch(domain) or re.fullmatch(_LABEL, domain)):
        raise HostRefused("BadRequest", f"not a domain: {domain!r}")
    return domain


def is_plain_address(name: str) -> bool:
    """Whether this is no name but an IP address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
