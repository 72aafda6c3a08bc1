"""Every setting: name, type, default, meaning. One frozen dataclass, filled from the environment and from flags.

Promises: a Config that exists is valid; a bad value raises ConfigError, always of the form `NAME='value': expected ...`
with the name that was used, that of the variable or the flag; a flag wins over the environment. Field `relay_port` is
the setting RELAY_PORT is the flag --relay-port. Immutable: any thread may read it.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zlay.errors import ConfigError, HostRefused
from zlay.hosts.limits import TierRules
from zlay.hosts.names import normalise_hostname

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Container, Mapping

__all__ = ["Config", "add_flags", "flags_given", "from_environment"]

MIB = 1 << 20
# A name that begins so is meant for us: where no setting has it, it is told. HOST_ alone is anybody's.
OWN_PREFIXES = (
    "RELAY_", "FRAME_", "RESOLVER_", "ZLAY_", "HOST_CREDIT", "HOST_READER", "HOST_TIER",
    "MAX_REPLAY_", "FANOUT_", "LEAK_", "VALIDATOR_", "DID_CACHE_",
)  # fmt: skip
ALLOCATORS = ("glibc", "mimalloc", "jemalloc", "tcmalloc")  # that zlay.memory.allocator knows
FOREIGN_NAMES = {  # names with one of our prefixes that are not settings of `zlay run`
    "ZLAY_PYTHON", "ZLAY_PGO", "ZLAY_FIXTURES", "ZLAY_NO_SKIP", "ZLAY_DEBUG", "ZLAY_SAN", "ZLAY_ONLY",
    "ZLAY_REEXECUTED", "ZLAY_RUNNING_TEST", "ZLAY_NPM", "ZLAY_ORACLE_PYTHON", "ZLAY_TEST_WORKERS", "ZLAY_TEST_LIMIT_S",
}  # fmt: skip


def _text(value: str) -> str:
    return value.strip()


def _path(value: str) -> Path:
    if not value.strip() or "\0" in value:
        raise ValueError("a directory, such as ./data")
    return Path(value)


def _flag(value: str) -> bool:
    lowered = value.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("true or false")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        try:
            number = int(value.strip())
        except ValueError:
            raise ValueError(f"a whole number from {low} to {high}") from None
        if not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return number

    return parse


def _size(low: int, high: int) -> Callable[[str], int]:
    """Bytes, with KiB, MiB, GiB, TiB or k, M, G, T after them."""
    units = {"": 1, "k": 1 << 10, "kib": 1 << 10, "m": MIB, "mib": MIB, "g": 1 << 30, "gib": 1 << 30}
    units |= {"t": 1 << 40, "tib": 1 << 40, "b": 1}

    def parse(value: str) -> int:
        text = value.strip().lower()
        digits = text.rstrip("kmgtib ").strip()
        unit = text[len(digits) :].strip()
        expected = f"bytes from {low} to {high}, such as 268435456 or 256MiB"
        if unit not in units or not digits.isdecimal():
            raise ValueError(expected)
        number = int(digits) * units[unit]
        if not low <= number <= high:
            raise ValueError(expected)
        return number

    return parse


def _decimal(low: float, high: float, unit: str) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            number = float(value.strip())
        except ValueError:
            raise ValueError(f"{unit} from {low:g} to {high:g}") from None
        if not low <= number <= high:
            raise ValueError(f"{unit} from {low:g} to {high:g}")
        return number

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    return _decimal(low, high, "seconds")


def _port(value: str) -> int:
    if value.strip().lower().startswith("tcp://"):
        raise ValueError(
            "a port number. This looks like what Kubernetes injects for a service called `relay`: rename the service, "
            "or set enableServiceLinks: false"
        )
    return _whole(0, 65535)(value)


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value.strip()))
    except ValueError:
        raise ValueError("an IP address, such as 0.0.0.0 or ::") from None


def _names(value: str) -> tuple[str, ...]:
    return tuple(part for part in (piece.strip() for piece in value.split(",")) if part)


def _is_base_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        wrong_port = parts.port == 0  # and one that is no port raises
    except ValueError:
        return False
    usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    return usable and not (wrong_port or parts.query or parts.fragment)


def _urls(value: str) -> tuple[str, ...]:
    urls = tuple(url.rstrip("/") for url in _names(value))
    if not all(_is_base_url(url) for url in urls):
        raise ValueError("one or more http(s) URLs, comma-separated")
    if not urls:
        raise ValueError("at least one http(s) URL")
    return urls


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        chosen = value.strip().lower()
        if chosen not in allowed:
            raise ValueError("one of " + ", ".join(allowed))
        return chosen

    return parse


def _allocator(value: str) -> str:
    name = value.strip() or "glibc"
    if "/" not in name and name not in ALLOCATORS:
        raise ValueError(f"one of {', '.join(ALLOCATORS)}, or a library's path")
    return name


def _retention_bytes(value: str) -> int | None:
    return None if value.strip().lower() == "auto" else _size(0, 1 << 60)(value)


def _tick(value: str) -> float | None:
    return None if value.strip().lower() == "auto" else _decimal(0, 1000, "auto, or milliseconds")(value)


def _secret(value: str) -> str | None:
    return value or None


def _database(value: str) -> str:
    url = value.strip()
    if url and not _sqlite_path(url) and not _is_postgresql(url):
        raise ValueError("empty, sqlite:PATH, or postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    return url


def _is_postgresql(url: str) -> bool:
    """Whether libpq can read it. Raises ValueError where it is meant for libpq and cannot be read."""
    if not url.startswith(("postgresql://", "postgres://")):
        return False
    try:
        from psycopg import Error
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as exc:
        raise ValueError(f"a database that this machine has the library for ({exc})") from None
    try:
        conninfo_to_dict(url)
        if url.partition("://")[2].partition("/")[0].count("@") > 1:  # libpq would ask for a host with a password in it
            raise Error
    except Error:  # its words may hold the password
        raise ValueError("a URL that PostgreSQL's library can read; percent-encode what is special in it") from None
    return True


def _sqlite_path(url: str) -> str:
    """The path in sqlite:PATH and sqlite://PATH; "" when there is none."""
    return url.removeprefix("sqlite:").removeprefix("//") if url.startswith("sqlite:") else ""


def _networks(value: str) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_network(name, strict=False)) for name in _names(value))
    except ValueError:
        raise ValueError("IP addresses or networks, comma-separated") from None


def _setting(
    default: str, parse: Callable[[str], Any], meaning: str, shown: str | None = None, *, secret: bool = False
) -> Any:
    """A field whose default is written as the operator would write it. The value of a `secret` is never printed."""
    meta = {"default": default, "parse": parse, "meaning": meaning, "shown": shown if shown is not None else default}
    return field(default_factory=lambda: parse(default), metadata={**meta, "secret": secret}, repr=not secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of one relay."""

    relay_bind: str = _setting("0.0.0.0", _address, "address both ports listen on")
    relay_port: int = _setting("3000", _port, "firehose and public XRPC; 0 = any free port")
    relay_metrics_port: int = _setting("3001", _port, "metrics, health, admin, XRPC; 0 = any free port")
    relay_upstream: tuple[str, ...] = _setting(
        "bsky.network", _names, "relays whose listHosts seed the hosts, comma-separated; none = off"
    )
    relay_hosts: tuple[str, ...] = _setting("", _names, "hosts to add at start, comma-separated")
    relay_allow_private_hosts: bool = _setting(
        "0", _flag, "allow ws://, http:// and private addresses, for development"
    )
    relay_plc_url: tuple[str, ...] = _setting(
        "https://plc.directory", _urls, "DID PLC directory; several are tried in turn"
    )
    relay_data_dir: Path = _setting("./data", _path, "events/, state.sqlite and reports")  # noqa: RUF009
    database_url: str = _setting(
        "", _database, "sqlite:PATH or postgresql://...", "state.sqlite in RELAY_DATA_DIR", secret=True
    )
    relay_retention_hours: float = _setting("72", _decimal(0.01, 24 * 3650, "hours"), "hours of events kept")
    relay_retention_bytes: int | None = _setting(
        "auto", _retention_bytes, "bytes of events kept; auto = keep 10 % of the volume free; 0 = no limit"
    )
    relay_initial_seq: int = _setting("1", _whole(1, (1 << 53) - 1), "first seq of a new log")
    relay_max_hosts: int = _setting("10000", _whole(1, 60000), "hosts dialled at most")
    relay_new_hosts_per_day: int = _setting("50", _whole(0, 60000), "hosts added a day at the request of strangers")
    host_tiers: TierRules = _setting(  # noqa: RUF009
        "*.host.bsky.network:trusted", TierRules.parse, "GLOB:TIER, ...; tiers: default, trusted, unlimited"
    )
    max_replay_hours: float = _setting("72", _decimal(0.01, 24 * 3650, "hours"), "an older cursor of a host is told")
    relay_max_consumers: int = _setting("2000", _whole(1, 100000), "consumers at most")
    relay_max_consumers_per_ip: int = _setting("50", _whole(1, 100000), "consumers per address at most")
    relay_trusted_proxies: tuple[str, ...] = _setting("", _networks, "addresses whose X-Forwarded-For counts")
    relay_durability: str = _setting("fsync", _choice("fsync", "os"), "publish after fdatasync, or after write")
    relay_admin_password: str | None = _setting(
        "", _secret, "admin endpoints answer to it", "unset = closed", secret=True
    )
    frame_workers: int = _setting("0", _whole(0, 64), "threads that verify", "max(4, cores)")
    frame_pool_bytes: int = _setting("256MiB", _size(16 * MIB, 1 << 40), "memory for frames under way")
    host_credit_bytes: int = _setting("8MiB", _size(6 * MIB, 1 << 32), "of it, what one host may fill")
    hold_seconds: float = _setting("30", _seconds(1, 3600), "frames wait so long for a DID that alone has no answer")
    fanout_tick_ms: float | None = _setting("auto", _tick, "consumers are woken at most this often")
    frame_alloc: str = _setting("pool", _choice("pool", "malloc", "arena", "mmap"), "where frames live")
    host_reader: str = _setting("native", _choice("native", "wsproto"), "who cuts frames; wsproto = slow oracle")
    resolver_threads: int = _setting("16", _whole(0, 256), "DID look-ups at a time; 0 = none, for diagnosis")
    resolver_recycle_interval: int = _setting("0", _whole(0, 1 << 31), "look-ups per connection; 0 = no limit")
    resolver_keep_alive: bool = _setting("true", _flag, "keep connections to the directory open")
    plc_mirror: bool = _setting("0", _flag, "follow the first directory's /export, so that keys are known unasked")
    validator_cache_size: int = _setting("250000", _whole(64, 1 << 31), "accounts with a parsed key in memory")
    did_cache_size: int = _setting("500000", _whole(64, 1 << 31), "accounts in memory")
    log_format: str = _setting("text", _choice("text", "json"), "form of log lines")
    log_level: str = _setting("info", _choice("debug", "info", "warning", "error"), "least level shown")
    zlay_allocator: str = _setting(
        "glibc", _allocator, "glibc, mimalloc, jemalloc, tcmalloc or a library's path (LD_PRELOAD)"
    )
    malloc_trim_interval: float = _setting("0", _seconds(0, 86400), "seconds between malloc_trim(0); 0 = never")
    leak_trace: int = _setting("0", _whole(0, 100), "tracemalloc frames to keep; report at the end; 0 = off")
    leak_trace_limit_mb: int = _setting("512", _whole(1, 1 << 20), "tracemalloc forgets all at this memory of its own")

    @property
    def workers(self) -> int:
        """Threads that verify, the default resolved."""
        return self.frame_workers or max(4, os.cpu_count() or 1)

    @property
    def upstreams(self) -> tuple[str, ...]:
        """The relays that seed the hosts."""
        return tuple(host for host in self.relay_upstream if host.lower() != "none")

    @property
    def postgresql(self) -> bool:
        """Whether the state is in PostgreSQL."""
        return self.database_url.startswith("postgres")

    @property
    def sqlite_path(self) -> Path:
        """Where the state is kept unless it is in PostgreSQL."""
        if self.database_url:
            return Path(_sqlite_path(self.database_url))
        return self.relay_data_dir / "state.sqlite"


def _name(field_name: str) -> str:
    return field_name.upper()


@dataclass(frozen=True, slots=True)
class _Given:
    """A setting as it was given: the variable or flag, and its text."""

    name: str
    text: str
    secret: bool

    def error(self, expected: str) -> ConfigError:
        """What to raise. The text of a secret is not told: a database's URL may hold a password."""
        return ConfigError(f"{self.name}={'...' if self.secret else repr(self.text)}: expected {expected}")


def _check_together(config: Config, given: Mapping[str, _Given]) -> None:
    """What one setting alone cannot tell. Raises ConfigError."""
    if config.relay_port == config.relay_metrics_port != 0:
        one, other = "relay_metrics_port", "RELAY_PORT"
        if one not in given:
            one, other = "relay_port", "RELAY_METRICS_PORT"
        raise given[one].error(f"another port than that of {other}")
    if config.host_credit_bytes > config.frame_pool_bytes:  # the default is under the pool's least size
        raise given["host_credit_bytes"].error(f"at most FRAME_POOL_BYTES, {config.frame_pool_bytes}")
    for host in config.relay_hosts:
        _check_host("relay_hosts", host, f"host names, comma-separated; {host!r}", config, given)
    for host in config.upstreams:
        _check_host("relay_upstream", host, f"relays' host names, comma-separated, or none; {host!r}", config, given)


def _check_host(setting: str, host: str, expected: str, config: Config, given: Mapping[str, _Given]) -> None:
    try:
        normalise_hostname(host, allow_private=config.relay_allow_private_hosts)
    except HostRefused as exc:
        hint = "" if config.relay_allow_private_hosts else " (RELAY_ALLOW_PRIVATE_HOSTS=1 allows more)"
        raise given[setting].error(f"{expected}: {exc}{hint}") from None


def from_environment(
    environment: Mapping[str, str], flags: Mapping[str, str | None] | None = None
) -> tuple[Config, list[str]]:
    """A Config from the environment and flags (field name to text), and warnings about names nobody reads.

    Raises ConfigError.
    """
    values: dict[str, Any] = {}
    given: dict[str, _Given] = {}
    for item in fields(Config):
        name, secret = _name(item.name), item.metadata["secret"]
        flag = (flags or {}).get(item.name)
        if flag is not None:
            given[item.name] = _Given("--" + item.name.replace("_", "-"), flag, secret)
        elif name in environment:
            given[item.name] = _Given(name, environment[name], secret)
        else:
            continue
        try:
            values[item.name] = item.metadata["parse"](given[item.name].text)
        except ValueError as exc:
            raise given[item.name].error(str(exc)) from None
    config = Config(**values)
    _check_together(config, given)
    known = {_name(item.name) for item in fields(Config)} | FOREIGN_NAMES
    unknown = sorted(name for name in environment if name.startswith(OWN_PREFIXES) and name not in known)
    return config, [f"{name} is set, but zlay has no such setting" for name in unknown]


def add_flags(parser: argparse.ArgumentParser, names: Container[str] | None = None) -> None:
    """Gives a parser one flag per setting (of these fields, None = of all), with default and meaning.

    Values stay text until from_environment.
    """
    for item in fields(Config):
        if names is not None and item.name not in names:
            continue
        meta = item.metadata
        parser.add_argument(
            "--" + item.name.replace("_", "-"),
            dest=item.name,
            metavar="VALUE",
            help=f"{meta['meaning']} [{_name(item.name)}, default: {meta['shown'] or 'none'}]".replace("%", "%%"),
        )


def flags_given(arguments: argparse.Namespace) -> dict[str, str | None]:
    """The settings of a parsed command line, as from_environment takes them."""
    return {item.name: getattr(arguments, item.name, None) for item in fields(Config)}
