"""A whole relay for the tests of a module, and connections to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.live import LiveRelay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.api.support import Client


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRelay]:
    """One relay for the tests of a module."""
    with LiveRelay(tmp_path_factory.mktemp("relay")) as one:
        yield one


@pytest.fixture
def public(live: LiveRelay) -> Iterator[Client]:
    """A connection to the firehose's port."""
    with live.client() as client:
        yield client


@pytest.fixture
def internal(live: LiveRelay) -> Iterator[Client]:
    """A connection to the metrics port."""
    with live.client(internal=True) as client:
        yield client
