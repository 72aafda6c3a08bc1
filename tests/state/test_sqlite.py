"""What only SQLite has: a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zlay.errors import StartError
from zlay.state.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A damaged file is a clear refusal to start."""
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"not a database at all" * 1000)
    with pytest.raises(StartError, match="cannot open the state"):
        SqliteStore(path)
