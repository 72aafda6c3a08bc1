"""How often one address may ask for something that costs us more than it costs the asker (design 11).

A bucket of tokens per address, filled evenly. Bounded: only addresses that asked lately are remembered, and when too
many did the oldest are forgotten. Any thread; `_lock` guards the buckets.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from zlay.net.clients import client_of
from zlay.shared import look_up

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AddressLimit"]

MAX_ADDRESSES = 10_000  # about 200 bytes each


class AddressLimit:
    """`burst` requests at once, and one more every `interval_s`, for each address."""

    def __init__(self, burst: int, interval_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._full_at: OrderedDict[str, float] = OrderedDict()  # when the bucket is full again; oldest use first

    def take(self, address: str) -> float:
        """Takes a token: 0.0, or the seconds until there is one."""
        now = self._clock()
        key = client_of(address)
        with self._lock:
            full_at = max(now, look_up(self._full_at, key) or now)
            missing_s = full_at + self._interval_s - now - self._burst * self._interval_s
            if missing_s > 0:
                return missing_s
            self._full_at[key] = full_at + self._interval_s
            self._full_at.move_to_end(key)
            while len(self._full_at) > MAX_ADDRESSES:
                self._full_at.popitem(last=False)
            return 0.0
