"""A database that is slow now and then: what every write needs is held from outside. Own thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tests.crash.databases import NotNowError

if TYPE_CHECKING:
    import random

    from tests.crash.databases import StateDatabase


class SlowState:
    """Makes every transaction of the relay's state slow: holds it for most of the time.

    Whoever holds `resting` finds the state untouched by it.
    """

    def __init__(self, database: StateDatabase, rng: random.Random) -> None:
        self._database = database
        self._rng = rng
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slow-state", daemon=True)
        self.resting = threading.Lock()
        self.locked = 0

    def __enter__(self) -> SlowState:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.wait(self._rng.uniform(0.02, 0.2)):
            with self.resting:
                try:
                    with self._database.held():
                        self.locked += 1
                        self._stopping.wait(self._rng.uniform(0.1, 0.8))
                except NotNowError:
                    pass
