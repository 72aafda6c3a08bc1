"""Accounts, identities, hosts and bans in SQL: one interface, views of the log but for hosts and bans (design 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zlay.config import Config
    from zlay.state.interface import Store

__all__ = ["open_store"]


def open_store(config: Config) -> Store:
    """Opens the database that DATABASE_URL names: PostgreSQL, or SQLite in RELAY_DATA_DIR or elsewhere.

    StartError when it cannot be opened. One thread.
    """
    if config.postgresql:
        from zlay.state.postgresql import PostgresStore

        return PostgresStore(config.database_url)
    from zlay.state.sqlite import SqliteStore

    return SqliteStore(config.sqlite_path)
