"""The relay of a module's cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.verdicts.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One relay for all cases of a module."""
    with Stage(tmp_path_factory.mktemp("verdicts") / "data") as made:
        yield made
