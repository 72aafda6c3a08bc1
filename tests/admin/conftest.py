"""A whole relay for the tests of a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.live import LiveRelay

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRelay]:
    """One relay for the tests of a module."""
    with LiveRelay(tmp_path_factory.mktemp("relay")) as one:
        yield one
