"""`zlay run`, but that POST /admin/hosts/add bans a host: this release has no other way to ban one while it streams."""

from __future__ import annotations

import sys

from zlay import cli, relay


class BanningRelay(relay.Relay):
    """A relay whose operator bans the hosts that he names."""

    def request_crawl(self, hostname: str, address: str | None) -> None:
        """Bans a host that is known."""
        entry = self.registry.find(hostname)
        assert entry is not None
        assert address is None
        self.registry.ban(entry.id, banned=True)


if __name__ == "__main__":
    relay.Relay = BanningRelay  # type: ignore[misc]
    sys.exit(cli.main(["run"]))
