"""Unknown accounts in their hundreds while the directory fails: the short trial. The long one: `scripts/strangers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.strangers import faults, trial

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_strangers_while_the_directory_fails(tmp_path: Path) -> None:
    """Of unknown accounts, while the directory is slow, down, or gives others' or endless documents, nothing valid is
    lost and nothing unproven comes out; other hosts do not notice; a restart asks for what changed only."""
    figures = trial(tmp_path, accounts=200, seconds=0.4, slow_s=0.02, moods=("slow", "down", "stranger", "endless"))
    print(*figures.lines(), sep="\n")
    assert faults(figures) == []
