"""A database that is slow now and then: its write lock held from outside. Own thread."""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from pathlib import Path


class SlowState:
    """Makes every transaction of the relay's state slow: holds SQLite's write lock for most of the time.

    Whoever holds `resting` finds the file untouched by it.
    """

    def __init__(self, path: Path, rng: random.Random) -> None:
        self._path = path
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
                if self._path.exists():
                    self._hold()

    def _hold(self) -> None:
        connection = sqlite3.connect(self._path, timeout=0.5, isolation_level=None)
        try:
            connection.execute("begin immediate")
            self.locked += 1
            self._stopping.wait(self._rng.uniform(0.1, 0.8))
            connection.execute("rollback")
        except sqlite3.OperationalError:
            pass  # the relay holds the lock at this moment, or is just making the file
        finally:
            connection.close()
