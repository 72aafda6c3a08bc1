"""Counts of accounts by host against a plain model, over anything that can happen to accounts, on both databases."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from tests.state.support import ACTIVE, DEACTIVATED, DELETED, TAKENDOWN, delta, did, rev
from zlay.state.interface import NewHost

if TYPE_CHECKING:
    from tests.state.databases import Database
    from zlay.pipeline.types import AccountDelta
    from zlay.state.store import SqlStore

HOSTS, ACCOUNTS, GROUPS, SEED = 4, 30, 120, 6
WHAT = ["commit"] * 6 + ["migrate"] * 3 + ["delete"] * 3 + ["deactivate", "takedown", "lift"]


class Model:
    """What is so of each account: (host id, upstream status, local status). Deleted ones are not counted."""

    def __init__(self, hosts: list[int]) -> None:
        self.hosts = hosts
        self.accounts: dict[int, tuple[int, int, int]] = {}
        self.seq = 0

    def change(self, rng: random.Random) -> AccountDelta:
        """Something happens to an account, or it is born, or comes back from the dead."""
        n, what = rng.randrange(ACCOUNTS), rng.choice(WHAT)
        host, upstream, local = self.accounts.get(n, (rng.choice(self.hosts), ACTIVE, ACTIVE))
        match what:
            case "commit":
                upstream = ACTIVE
            case "migrate":
                host, upstream = rng.choice(self.hosts), ACTIVE
            case "delete":
                upstream = DELETED
            case "deactivate":
                upstream = DEACTIVATED
            case _:
                local = TAKENDOWN if what == "takedown" else ACTIVE
        self.accounts[n] = host, upstream, local
        self.seq += 1
        return delta(n, seq=self.seq, rev=rev(self.seq), host_id=host, status=upstream, local=local)

    def counts(self) -> dict[int, int]:
        """As the store should have them."""
        living = Counter(host for host, upstream, _ in self.accounts.values() if upstream != DELETED)
        return {host: living[host] for host in self.hosts}


def test_counts_after_anything(database: Database) -> None:
    """Whatever births, deletions, migrations, takedowns, restarts and groups that come again after a crash, counts of
    hosts are right after every group; so are the accounts."""
    rng = random.Random(SEED)
    store: SqlStore = database.open()
    model = Model([row.id for row in store.add_hosts([NewHost(f"h{n}.example.com", "admin") for n in range(HOSTS)])])
    groups: list[list[AccountDelta]] = []
    for _ in range(GROUPS):
        groups.append([model.change(rng) for _ in range(rng.randrange(1, 9))])
        store.apply(groups[-1], [], model.seq, None)
        if rng.random() < 0.1:
            store.close()
            store = database.open()
        if rng.random() < 0.2:  # as after a kill: what was applied is read from the log once more
            for group in groups[-3:]:
                store.apply(group, [], model.seq, None)
        assert store.host_account_counts() == model.counts()
        assert {row.id: row.account_count for row in store.hosts()} == model.counts()
    for n, (host, upstream, local) in model.accounts.items():
        row = store.account(did(n))
        assert row is not None
        assert (row.host_id, row.upstream_status, row.local_status) == (host, upstream, local)
    assert min(model.counts().values()) > 0
    store.close()
