"""Accounts, identities, hosts and bans in SQL: one interface, views of the log but for hosts and bans (design 7)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zlay.errors import ConfigError

if TYPE_CHECKING:
    from zlay.config import Config
    from zlay.state.interface import Store

__all__ = ["open_store"]

SQLITE_FILE = "state.sqlite"


def open_store(config: Config) -> Store:
    """Opens the database that DATABASE_URL names: unset = SQLite in RELAY_DATA_DIR.

    ConfigError for a kind of database this version does not speak, StartError when it cannot be opened. One thread.
    """
    from zlay.state.sqlite import SqliteStore

    if not config.database_url:
        return SqliteStore(Path(config.relay_data_dir) / SQLITE_FILE)
    if config.database_url.startswith("sqlite:///"):
        return SqliteStore(Path(config.database_url.removeprefix("sqlite:///")))
    kind = config.database_url.partition(":")[0]
    raise ConfigError(f"DATABASE_URL: this version keeps its state in SQLite alone, not in {kind!r}; leave it unset")
