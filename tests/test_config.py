"""Settings: every value parsed or refused by name, and the same by flag as by environment."""

from __future__ import annotations

import argparse
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zlay import config
from zlay.config import MIB, Config
from zlay.errors import ConfigError


def read(**environment: str) -> Config:
    """A Config from these settings."""
    return config.from_environment(environment)[0]


def test_no_settings_are_the_defaults() -> None:
    """Nothing set gives the defaults, and no warning."""
    made, warnings = config.from_environment({})
    assert made == Config()
    assert warnings == []
    assert (made.relay_port, made.relay_metrics_port, made.relay_bind) == (3000, 3001, "0.0.0.0")
    assert made.relay_admin_password is None
    assert made.relay_retention_bytes is None
    assert made.fanout_tick_ms is None
    assert made.workers >= 4
    assert made.sqlite_path == Path("data/state.sqlite")
    assert made.upstreams == ("bsky.network",)


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("RELAY_PORT", "0", 0),
        ("RELAY_PORT", " 65535 ", 65535),
        ("RELAY_BIND", "::", "::"),
        ("RELAY_HOSTS", " a.example.com ,, b.example.com,", ("a.example.com", "b.example.com")),
        ("RELAY_PLC_URL", "https://a.example.com/,http://[::1]:2582", ("https://a.example.com", "http://[::1]:2582")),
        ("RELAY_ALLOW_PRIVATE_HOSTS", "Yes", True),
        ("RELAY_ALLOW_PRIVATE_HOSTS", "", False),
        ("RELAY_TRUSTED_PROXIES", "10.0.0.1/8, ::1", ("10.0.0.0/8", "::1/128")),
        ("RELAY_RETENTION_HOURS", "0.5", 0.5),
        ("RELAY_RETENTION_BYTES", "AUTO", None),
        ("RELAY_RETENTION_BYTES", "0", 0),
        ("RELAY_RETENTION_BYTES", "2 TiB", 2 << 40),
        ("FRAME_POOL_BYTES", "268435456", 256 * MIB),
        ("FRAME_POOL_BYTES", "512m", 512 * MIB),
        ("FRAME_POOL_BYTES", "1GiB", 1 << 30),
        ("FRAME_POOL_BYTES", "1g", 1 << 30),
        ("FRAME_POOL_BYTES", "20000K", 20000 << 10),
        ("FANOUT_TICK_MS", "2.5", 2.5),
        ("RELAY_ADMIN_PASSWORD", " spaces count ", " spaces count "),
        ("RELAY_ADMIN_PASSWORD", "", None),
        ("FRAME_ALLOC", "MMAP", "mmap"),
        ("RELAY_INITIAL_SEQ", str(2**53 - 1), 2**53 - 1),
        ("LOG_FORMAT", "json", "json"),
    ],
)
def test_values(name: str, value: str, parsed: Any) -> None:
    """A value means the same by environment and by flag."""
    assert getattr(read(**{name: value}), name.lower()) == parsed
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    arguments = parser.parse_args([f"--{name.lower().replace('_', '-')}={value}"])
    made, _ = config.from_environment({name: "nonsense"}, config.flags_given(arguments))
    assert getattr(made, name.lower()) == parsed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RELAY_PORT", ""),
        ("RELAY_PORT", "65536"),
        ("RELAY_PORT", "-1"),
        ("RELAY_PORT", "3000.0"),
        ("RELAY_PORT", "9" * 5000),
        ("RELAY_BIND", "0.0.0.0:3000"),
        ("RELAY_RETENTION_HOURS", "nan"),
        ("RELAY_RETENTION_HOURS", "inf"),
        ("RELAY_RETENTION_HOURS", "0"),
        ("FRAME_POOL_BYTES", "256 bananas"),
        ("FRAME_POOL_BYTES", "MiB"),
        ("FRAME_POOL_BYTES", "1.5GiB"),
        ("FRAME_POOL_BYTES", "-256MiB"),
        ("FRAME_POOL_BYTES", "256mbb"),
        ("RELAY_TRUSTED_PROXIES", "10.0.0.0/33"),
        ("RELAY_PLC_URL", ","),
        ("RELAY_PLC_URL", "https://plc.directory?x=y"),
        ("DATABASE_URL", "sqlite:"),
        ("DATABASE_URL", "sqlite://"),
        ("HOST_READER", "none"),
        ("RELAY_HOSTS", "good.example.com,bad name"),
        ("RELAY_HOSTS", "localhost:2583"),
        ("RELAY_UPSTREAM", "https://relay.example.com/xrpc"),
    ],
)
def test_bad_values(name: str, value: str) -> None:
    """What cannot be used is a ConfigError with the setting's name, the value and what was expected."""
    shown = "..." if name == "DATABASE_URL" else repr(value)
    with pytest.raises(ConfigError, match="^" + re.escape(f"{name}={shown}: expected ")) as caught:
        read(**{name: value})
    assert caught.value.exit_code == 2


@given(st.sampled_from([item.name.upper() for item in fields(Config)]), st.text(max_size=20))
@example("RELAY_PLC_URL", "http://[")
@example("RELAY_BIND", "::1%eth0")
@example("FRAME_POOL_BYTES", "²")
@example("RELAY_MAX_HOSTS", "١٢")
def test_no_value_raises_anything_else(name: str, value: str) -> None:
    """Any text for any setting is taken or a ConfigError."""
    try:
        read(**{name: value})
    except ConfigError as exc:
        problem = str(exc)
    else:
        return
    assert re.match(rf"{name}=(\.\.\.|'.*'|\".*\"): expected ", problem)


def test_settings_that_do_not_go_together() -> None:
    """One port for both servers, and a credit over the whole pool, are refused; port 0 twice is fine."""
    with pytest.raises(ConfigError, match="RELAY_PORT='3001': expected another port than that of RELAY_METRICS_PORT"):
        read(RELAY_PORT="3001")
    with pytest.raises(ConfigError, match=r"HOST_CREDIT_BYTES.*FRAME_POOL_BYTES"):
        read(FRAME_POOL_BYTES="16MiB", HOST_CREDIT_BYTES="32MiB")
    with pytest.raises(ConfigError, match=r"^--relay-metrics-port='5': expected another port"):
        config.from_environment({"RELAY_PORT": "5"}, {"relay_metrics_port": "5"})
    assert read(RELAY_PORT="0", RELAY_METRICS_PORT="0").relay_port == 0


def test_hosts_in_development() -> None:
    """Local hosts are refused with the setting that allows them, and allowed with it."""
    with pytest.raises(ConfigError, match=r"RELAY_HOSTS='pds.*'localhost:2583': a host.*RELAY_ALLOW_PRIVATE_HOSTS=1"):
        read(RELAY_HOSTS="pds.example.com,localhost:2583")
    assert read(RELAY_HOSTS="localhost:2583,127.0.0.1:80", RELAY_ALLOW_PRIVATE_HOSTS="1").relay_hosts
    for off in ("none", "NONE", ""):
        assert read(RELAY_UPSTREAM=off).upstreams == ()


def test_several_upstreams() -> None:
    """Several relays may seed the hosts; each must have a name that can be dialled."""
    assert read(RELAY_UPSTREAM="a.example.com, b.example.com").upstreams == ("a.example.com", "b.example.com")
    with pytest.raises(ConfigError, match=r"RELAY_UPSTREAM=.*'10\.0\.0\.1'"):
        read(RELAY_UPSTREAM="a.example.com,10.0.0.1")


def test_what_kubernetes_injects_is_explained() -> None:
    """A port like tcp://10.0.0.1:3000 is told for what it is."""
    with pytest.raises(ConfigError, match="Kubernetes"):
        read(RELAY_PORT="tcp://10.0.0.1:3000")


def test_secrets_are_not_shown() -> None:
    """Neither a Config's text nor a refusal shows a password."""
    assert "hunter2" not in repr(read(RELAY_ADMIN_PASSWORD="hunter2", DATABASE_URL="sqlite:/hunter2"))
    with pytest.raises(ConfigError) as caught:
        read(DATABASE_URL="mysql://zlay:hunter2@db/zlay")
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).startswith("DATABASE_URL")


def test_names_nobody_reads() -> None:
    """A name like ours that is no setting is a warning; settings, known other names and foreign names are not."""
    environment = {
        "RELAY_PROT": "1",
        "FRAME_QUEUE_CAPACITY": "1",
        "RELAY_PORT": "3005",
        "ZLAY_PYTHON": "python3.13t",
        "HOST_IP": "10.0.0.1",
        "HOST_CREDIT_BYTE": "1",
        "PATH": "/bin",
    }
    _, warnings = config.from_environment(environment)
    assert [warning.split()[0] for warning in warnings] == ["FRAME_QUEUE_CAPACITY", "HOST_CREDIT_BYTE", "RELAY_PROT"]


def test_where_the_state_is() -> None:
    """sqlite:PATH and sqlite://PATH name a file, nothing means state.sqlite beside the log."""
    assert read(RELAY_DATA_DIR="/d").sqlite_path == Path("/d/state.sqlite")
    for url in ("sqlite:/x/y.db", "sqlite:///x/y.db"):
        assert read(DATABASE_URL=url).sqlite_path == Path("/x/y.db")
    assert not read(DATABASE_URL="sqlite:/x/y.db").postgresql
    for url in ("postgresql://zlay:s%40@db.example.com:5433/relay?sslmode=require", "postgres:///zlay"):
        made = read(DATABASE_URL=url)
        assert made.postgresql
        assert made.database_url == url


def test_a_database_url_that_cannot_be_read() -> None:
    """A URL that libpq cannot read is a bad setting, told without what it says: there may be a password in it."""
    for url in ("postgresql://zlay:se@cret@db/y", "postgresql://h/?no_such=1", "mysql://zlay:secret@h/", "secret.db"):
        with pytest.raises(ConfigError, match=r"^DATABASE_URL=\.\.\.: expected") as told:
            read(DATABASE_URL=url)
        assert "cret" not in str(told.value)


def test_a_config_does_not_change() -> None:
    """A Config is shared between threads: it cannot be changed."""
    with pytest.raises(FrozenInstanceError):
        Config().relay_port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "unit"),
    [("RELAY_RETENTION_HOURS", "hours"), ("FANOUT_TICK_MS", "auto, or milliseconds"), ("HOLD_SECONDS", "seconds")],
)
def test_a_refusal_names_the_unit(name: str, unit: str) -> None:
    """What is expected instead of a bad duration is said in the setting's own unit."""
    for bad in ("x", "-1"):
        with pytest.raises(ConfigError, match=f"expected {unit} from "):
            read(**{name: bad})
