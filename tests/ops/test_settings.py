"""Settings as an operator meets them: all listed, bad ones told with exit 2, unknown names a warning."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from tests.ops.command import NO_PLC, zlay
from zlay.config import Config

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

# The settings of design 12 that exist in this version, with their defaults as `zlay run --help` shows them.
DEFAULTS = {
    "RELAY_BIND": "0.0.0.0",
    "RELAY_PORT": "3000",
    "RELAY_METRICS_PORT": "3001",
    "RELAY_UPSTREAM": "bsky.network",
    "RELAY_HOSTS": "none",
    "RELAY_ALLOW_PRIVATE_HOSTS": "0",
    "RELAY_PLC_URL": "https://plc.directory",
    "PLC_MIRROR": "0",
    "RELAY_DATA_DIR": "./data",
    "DATABASE_URL": "state.sqlite in RELAY_DATA_DIR",
    "RELAY_RETENTION_HOURS": "72",
    "RELAY_RETENTION_BYTES": "auto",
    "RELAY_INITIAL_SEQ": "1",
    "RELAY_MAX_HOSTS": "10000",
    "RELAY_NEW_HOSTS_PER_DAY": "50",
    "HOST_TIERS": "*.host.bsky.network:trusted",
    "MAX_REPLAY_HOURS": "72",
    "RELAY_MAX_CONSUMERS": "2000",
    "RELAY_MAX_CONSUMERS_PER_IP": "50",
    "RELAY_TRUSTED_PROXIES": "none",
    "RELAY_DURABILITY": "fsync",
    "RELAY_ADMIN_PASSWORD": "unset = closed",
    "FRAME_WORKERS": "max(4, cores)",
    "FRAME_POOL_BYTES": "256MiB",
    "HOST_CREDIT_BYTES": "8MiB",
    "HOLD_SECONDS": "30",
    "FANOUT_TICK_MS": "auto",
    "FRAME_ALLOC": "pool",
    "HOST_READER": "native",
    "RESOLVER_THREADS": "16",
    "RESOLVER_RECYCLE_INTERVAL": "0",
    "RESOLVER_KEEP_ALIVE": "true",
    "VALIDATOR_CACHE_SIZE": "250000",
    "DID_CACHE_SIZE": "500000",
    "LOG_FORMAT": "text",
    "LOG_LEVEL": "info",
    "ZLAY_ALLOCATOR": "glibc",
    "MALLOC_TRIM_INTERVAL": "0",
    "LEAK_TRACE": "0",
    "LEAK_TRACE_LIMIT_MB": "512",
}

# What is set, and words of the answer that say which setting it is and what would be right.
BAD = [
    ({"RELAY_PORT": "tcp://10.0.0.1:3000"}, ["RELAY_PORT", "tcp://10.0.0.1:3000", "Kubernetes", "enableServiceLinks"]),
    ({"RELAY_PORT": "70000"}, ["RELAY_PORT", "70000", "0 to 65535"]),
    ({"RELAY_METRICS_PORT": "tcp://10.0.0.1:3001"}, ["RELAY_METRICS_PORT", "Kubernetes"]),
    ({"RELAY_PORT": "3005", "RELAY_METRICS_PORT": "3005"}, ["RELAY_METRICS_PORT", "RELAY_PORT"]),
    ({"HOLD_SECONDS": "x"}, ["HOLD_SECONDS", "'x'", "seconds from 1 to 3600"]),
    ({"HOLD_SECONDS": "nan"}, ["HOLD_SECONDS", "'nan'", "seconds from 1 to 3600"]),
    ({"RELAY_BIND": "localhost"}, ["RELAY_BIND", "IP address"]),
    ({"RELAY_PLC_URL": "plc.directory"}, ["RELAY_PLC_URL", "http(s) URL"]),
    ({"RELAY_PLC_URL": "http://[::1"}, ["RELAY_PLC_URL", "http(s) URL"]),
    ({"RELAY_PLC_URL": "https://plc.directory:99999"}, ["RELAY_PLC_URL", "http(s) URL"]),
    ({"RELAY_ALLOW_PRIVATE_HOSTS": "maybe"}, ["RELAY_ALLOW_PRIVATE_HOSTS", "true or false"]),
    ({"RELAY_RETENTION_BYTES": "10 apples"}, ["RELAY_RETENTION_BYTES", "bytes from"]),
    ({"RELAY_INITIAL_SEQ": "0"}, ["RELAY_INITIAL_SEQ", "1 to 9007199254740991"]),
    ({"RELAY_TRUSTED_PROXIES": "nginx"}, ["RELAY_TRUSTED_PROXIES", "IP addresses"]),
    ({"RELAY_DURABILITY": "none"}, ["RELAY_DURABILITY", "fsync, os"]),
    ({"RELAY_DATA_DIR": ""}, ["RELAY_DATA_DIR"]),
    ({"FRAME_POOL_BYTES": "1MiB"}, ["FRAME_POOL_BYTES", "bytes from"]),
    ({"HOST_CREDIT_BYTES": "-1"}, ["HOST_CREDIT_BYTES", "bytes from"]),
    ({"FRAME_ALLOC": "heap"}, ["FRAME_ALLOC", "pool, malloc, arena, mmap"]),
    ({"HOST_READER": "python"}, ["HOST_READER", "native, wsproto"]),
    ({"HOST_TIERS": "*.example.com:fast"}, ["HOST_TIERS", "GLOB:TIER", "default, trusted, unlimited"]),
    ({"LOG_LEVEL": "loud"}, ["LOG_LEVEL", "debug, info, warning, error"]),
    ({"DATABASE_URL": "mysql://x"}, ["DATABASE_URL", "sqlite:PATH"]),
    ({"ZLAY_ALLOCATOR": "tinymalloc"}, ["ZLAY_ALLOCATOR", "tinymalloc", "jemalloc"]),
    ({"RELAY_HOSTS": "pds.example.com,bad name"}, ["host names, comma-separated", "'bad name'"]),
    ({"RELAY_HOSTS": "localhost:2583"}, ["RELAY_ALLOW_PRIVATE_HOSTS=1"]),
    ({"RELAY_UPSTREAM": "bsky network"}, ["relays' host names, comma-separated, or none", "'bsky network'"]),
    ({"RELAY_UPSTREAM": "10.0.0.1"}, ["public DNS name", "RELAY_ALLOW_PRIVATE_HOSTS=1"]),
    ({"RELAY_UPSTREAM": "localhost"}, ["public DNS name", "RELAY_ALLOW_PRIVATE_HOSTS=1"]),
]


def test_help_lists_every_setting_with_its_default() -> None:
    """`zlay run --help` names every setting, its flag and its default, and those are the defaults of the design."""
    shown = zlay("run", "--help")
    assert shown.returncode == 0
    text = " ".join(shown.stdout.split())
    assert {field.name.upper() for field in fields(Config)} == DEFAULTS.keys()
    for name, default in DEFAULTS.items():
        assert f"--{name.lower().replace('_', '-')} VALUE" in text
        assert f"[{name}, default: {default}]" in text, name
    everything = zlay("--help")
    assert everything.returncode == 0
    for command in ("run", "sim", "demo"):
        assert f"\n    {command} " in everything.stdout


@pytest.mark.parametrize(("settings", "words"), BAD, ids=[" ".join(f"{k}={v}" for k, v in s.items()) for s, _ in BAD])
def test_a_bad_setting_is_told_in_one_line(settings: dict[str, str], words: list[str], tmp_path: Path) -> None:
    """A bad value: exit 2, one line that names the setting, the value and what is expected, and nothing touched."""
    ended = zlay("run", env={"RELAY_DATA_DIR": str(tmp_path / "data"), **settings}, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("\n") == 1
    name = list(settings)[-1]
    shown = "..." if name == "DATABASE_URL" else repr(settings[name])
    assert ended.stderr.startswith(f"zlay: {name}={shown}: expected ")
    for word in words:
        assert word in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_flag_wins_and_is_named(tmp_path: Path) -> None:
    """A flag wins over the environment, and a bad one is named as it was given."""
    environment = {"HOLD_SECONDS": "x", "RELAY_DATA_DIR": str(tmp_path / "data")}
    ended = zlay("run", "--hold-seconds", "30", "--relay-port", "tcp://x", env=environment)
    assert ended.returncode == 2
    assert "--relay-port='tcp://x'" in ended.stderr
    assert "HOLD_SECONDS" not in ended.stderr


def test_no_such_flag_or_command() -> None:
    """An unknown flag or command: usage, exit 2."""
    for args in (("run", "--no-such-flag", "1"), ("fly",), ()):
        ended = zlay(*args)
        assert ended.returncode == 2, args
        assert ended.stderr.startswith("usage: ")
        assert "Traceback" not in ended.stderr


def test_unknown_names_only_warn(tmp_path: Path) -> None:
    """A misspelt setting is a warning, not a refusal: here a later error of another kind ends the process."""
    (tmp_path / "file").write_text("no directory")
    environment = {
        "RELAY_PROT": "3000",
        "FRAME_WORKER": "9",
        "RESOLVER_THREAD": "1",
        "ZLAY_NONSENSE": "1",
        "RELAY_PLC_URL": NO_PLC,
        "RELAY_DATA_DIR": str(tmp_path / "file" / "data"),
        "LOG_FORMAT": "text",
    }
    ended = zlay("run", env=environment)
    assert ended.returncode == 1
    for name in ("RELAY_PROT", "FRAME_WORKER", "RESOLVER_THREAD", "ZLAY_NONSENSE"):
        assert f"{name} is set, but zlay has no such setting" in ended.stderr
    assert "RELAY_PLC_URL is set" not in ended.stderr
