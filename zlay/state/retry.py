"""Growing pauses between tries against a database that does not answer. One thread per Backoff."""

from __future__ import annotations

__all__ = ["Backoff"]

FIRST_PAUSE_S = 0.1  # a lock held by somebody's shell, a fail-over
LONGEST_PAUSE_S = 5.0  # a database that is back is used again within this


class Backoff:
    """The pause before the next try: doubles from FIRST_PAUSE_S to LONGEST_PAUSE_S."""

    def __init__(self) -> None:
        self._pause_s = FIRST_PAUSE_S

    def next_s(self) -> float:
        """Seconds to wait now."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return pause_s

    def reset(self) -> None:
        """A try has worked."""
        self._pause_s = FIRST_PAUSE_S
