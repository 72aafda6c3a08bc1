"""A whole relay in this process: real log, state, registry, workers and consumers. One at a time."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Self

from tests.api.support import Client
from zlay import config
from zlay._fast import host, pool
from zlay.relay import Relay

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "pass wörd"


class LiveRelay:
    """A relay on ports of its own that dials nobody unasked. `asked_to_stop` has the reasons it was given."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.settings = {
            "RELAY_DATA_DIR": str(folder),
            "RELAY_BIND": "127.0.0.1",
            "RELAY_PORT": "0",
            "RELAY_METRICS_PORT": "0",
            "RELAY_UPSTREAM": "none",
            "RELAY_ALLOW_PRIVATE_HOSTS": "1",
            "RELAY_PLC_URL": "http://127.0.0.1:9",
            "RELAY_ADMIN_PASSWORD": PASSWORD,
            "RELAY_MAX_CONSUMERS_PER_IP": "3",
            "FRAME_POOL_BYTES": "32MiB",
            "FRAME_WORKERS": "1",
            "RESOLVER_THREADS": "1",
            **settings,
        }
        self.asked_to_stop: list[str] = []
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts a relay on the folder. What C keeps of the hosts of earlier relays of this process says nothing more:
        row ids begin at 1 in each database."""
        for index in range(host.count()):
            host.set_epoch(index, 1)
        settings, _warnings = config.from_environment(self.settings)
        self.relay = Relay(settings, self.asked_to_stop.append)
        self.relay.start()

    def stop(self) -> None:
        """Stops it; `start` may follow."""
        self.relay.stop()
        pool.close()
        gc.unfreeze()

    def client(self, *, internal: bool = False) -> Client:
        """A new connection to one of its ports."""
        return Client(self.relay.http.addresses[1 if internal else 0])
