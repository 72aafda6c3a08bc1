"""The oracle's process, one for the whole run."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.children import JsonChild
from tests.e2e.deps import oracle_environment, oracle_python
from tests.fixtures import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER_S = 60.0


class Oracle(JsonChild):
    """The oracle's service (service.py) as a child. One test thread."""

    def __init__(self, log_dir: Any) -> None:
        argv = [str(oracle_python()), "-P", str(ROOT / "tests" / "oracle" / "service.py")]
        super().__init__("oracle", argv, log_dir, oracle_environment())
        self._ids = itertools.count(1)

    def ask(self, ask: str, **params: Any) -> Any:
        """The answer to one question of service.py."""
        number = next(self._ids)
        self.send({"id": number, "ask": ask, **params})
        self.wait_for(lambda lines: lines[-1].get("id") == number, f"the answer to {ask}", ANSWER_S)
        return self.lines[-1]["answer"]


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    """The running oracle."""
    with Oracle(tmp_path_factory.mktemp("oracle")) as child:
        child.wait_ready()
        yield child
