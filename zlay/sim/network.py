"""The simulated network: accounts, hosts and the choice of what happens next.

Strategy: `Network.step` makes one choice (which host, which account, what kind of event) and everything that follows
from it at once; what takes time (an account rests before its key changes, and comes back some time after it was
deactivated) stands in a heap of plans, looked at before each choice. What is said goes through voice.py; what is
wrong on purpose comes from mischief.py. No I/O but the ledger's buffer.

Promises: with a virtual clock the same settings give the same frames, seqs and times. Events of an account are said
in an order that a strict relay accepts, bad ones left out. A key or host of an account changes only after the account
has been silent for `settle_s`, so that no event in flight is judged by a document that is newer than it.
Assumes: one thread.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from zlay.sim.actors import Account, Host
from zlay.sim.directory import Directory
from zlay.sim.faults import FAULT_NUMBER, choices
from zlay.sim.keys import SigningKey
from zlay.sim.ledger import NO_ACCOUNT, Expect, LedgerWriter
from zlay.sim.mischief import Mischief
from zlay.sim.repo import Repo
from zlay.sim.rng import Rng
from zlay.sim.settings import MIX_SCALE, Settings
from zlay.sim.voice import Voice
from zlay.sim.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Network"]

PICKS = 8  # tries to find an account that may act
RESTING_ONE_IN = 4  # at most this part of the accounts rests at a time, so that the others can go on
AWAY_FACTOR = 4.0  # a deactivated account comes back after 1 to this many settle_s
GHOSTS_PER_HOST = 4  # accounts whose DID the directory does not know
TAIL_BYTES = 512 << 20  # frames that all hosts' windows keep in memory together, at most
HOST_TAIL_BYTES = 4 << 20
GENESIS_RECORDS = 150  # writes of one commit while a repository is first filled


class Network:
    """Hosts, accounts, directory and ledger of one simulation.

    `addresses` gives name and URL of each host, in order. After construction repositories exist and the directory
    knows them, but nothing has been said.
    """

    def __init__(self, settings: Settings, addresses: list[tuple[str, str]], ledger: LedgerWriter) -> None:
        self.settings = settings
        self.ledger = ledger
        self.rng = Rng(settings.seed)
        self.directory = Directory(SigningKey("k256", self._seed("rotation", 0)))
        self.accounts: list[Account] = []
        self.by_did: dict[str, Account] = {}
        self.hosts: list[Host] = []
        self.voice = Voice(settings, ledger, self.rng)
        self._plans: list[tuple[int, int, Callable[[Account], None], Account]] = []
        self._plan_count = 0
        for index, (name, url) in enumerate(addresses):
            self._add_host(index, name, url)
        shares = list(accumulate((index + 1) ** -settings.skew for index in range(len(self.hosts))))
        self._host_shares = [share / shares[-1] for share in shares]
        for index in range(settings.accounts):
            self._add_account(self.hosts[index % len(self.hosts)])
        for host in self.hosts:
            for _ in range(GHOSTS_PER_HOST):
                host.ghosts.append(self._new_account(host, publish=False))
        self.mischief = Mischief(self, SigningKey("k256", self._seed("other", 0)))
        self._actions: list[Callable[[Account], None]] = []
        self._bounds: list[int] = []
        self._make_table()

    @property
    def generated(self) -> int:
        """Events said so far."""
        return self.voice.generated

    @property
    def changed(self) -> set[Host]:
        """Hosts that have spoken since whoever sends emptied this."""
        return self.voice.changed

    # --- making the world ---

    def _seed(self, what: str, number: int) -> bytes:
        return f"zlay sim {self.settings.seed} {what} {number}".encode()

    def _add_host(self, index: int, name: str, url: str) -> None:
        limit = self.settings.clock_skew_ms * 1000
        skew_us = self.rng.below(2 * limit + 1) - limit
        tail_bytes = min(HOST_TAIL_BYTES, TAIL_BYTES // self.settings.hosts)
        window = Window(self.settings.window, tail_bytes, self.ledger.keeps)
        host = Host(index, name, url, skew_us, window)
        self.hosts.append(host)
        self.ledger.append_host(index, name, url, 1)

    def _new_account(self, host: Host, publish: bool) -> Account:
        """An account with a filled repository; with `publish` the directory knows it."""
        index = len(self.accounts) if publish else NO_ACCOUNT
        number = self.rng.below(1 << 48)
        handle = f"u{number:012x}.test"
        key = self._new_key(handle, 0)
        now_us = self.voice.now_us(host)
        did = self.directory.create(handle, key.multikey, host.url, now_us, publish)
        account = Account(index, handle, host, Repo(did, key, self.rng.below(1024)))
        if publish:
            self.accounts.append(account)
            self.by_did[did] = account
            self.ledger.append_account(index, did)
        return account

    def _new_key(self, handle: str, number: int) -> SigningKey:
        curve = "p256" if self.rng.uniform() < self.settings.p256_share else "k256"
        return SigningKey(curve, self._seed(handle, number))

    def _add_account(self, host: Host) -> None:
        """An account that lived here before the first event."""
        account = self._new_account(host, publish=True)
        host.accounts.append(account)
        left = 1 + self.rng.below(2 * self.settings.repo_size)
        while left > 0:
            self.voice.commit(account, 0, creates=min(left, GENESIS_RECORDS))
            left -= GENESIS_RECORDS

    def _make_table(self) -> None:
        """The table of actions and their shares, faults first."""
        bound = 0.0
        for name, share in self.settings.faults.items():
            members = choices(name)
            for member in members:
                bound += share / len(members)
                self._bounds.append(round(bound * 1000))
                self._actions.append(self.mischief.action(FAULT_NUMBER[member]))
        actions: dict[str, Callable[[Account], None]] = {
            "update": self._do_update,
            "delete": self._do_delete,
            "multi": self._do_multi,
            "empty": self._do_empty,
            "sync": self._do_sync,
            "import": self._do_import,
            "identity": self._do_identity,
            "handle": self._do_handle,
            "account": self._do_account,
            "deactivate": self._do_deactivate,
            "rotate": self._do_rotate,
            "migrate": self._do_migrate,
            "remove": self._do_remove,
            "birth": self._do_birth,
            "unknown": self.voice.say_unknown,
        }
        for name, count in self.settings.mix.items():
            bound += count
            self._bounds.append(round(bound * 1000))
            self._actions.append(actions[name])
        self._actions.append(self._do_create)

    # --- plans ---

    def enough_rest(self) -> bool:
        """Whether as many accounts rest as may at a time."""
        return len(self._plans) * RESTING_ONE_IN >= len(self.accounts)

    def _plan(self, delay_s: float, action: Callable[[Account], None], account: Account) -> None:
        """Runs `action` later; until then the account does nothing else."""
        account.busy = True
        self._plan_count += 1
        heapq.heappush(self._plans, (self.voice.clock_us() + int(delay_s * 1e6), self._plan_count, action, account))

    # --- the choice ---

    def step(self) -> None:
        """Makes one choice and says what follows from it: usually one event, at a birth or return a few."""
        self.voice.advance()
        if self._plans and self._plans[0][0] <= self.voice.clock_us():
            _, _, action, account = heapq.heappop(self._plans)
            account.busy = False
            action(account)
            return
        account = self._pick()
        dice = self.rng.below(MIX_SCALE * 1000)
        self._actions[bisect_right(self._bounds, dice)](account)

    def _pick_host(self) -> Host:
        host = self.hosts[bisect_right(self._host_shares, self.rng.uniform(), 0, len(self.hosts) - 1)]
        if not host.silent and host.accounts:
            return host
        return next((other for other in self.hosts if not other.silent and other.accounts), host)

    def _pick(self) -> Account:
        """An account that may act; on a network where all rest, the next one to be disturbed is born first."""
        for _ in range(PICKS):
            host = self._pick_host()
            if host.accounts:
                account = host.accounts[self.rng.below(len(host.accounts))]
                if account.active and not account.busy:
                    return account
        return self._birth(host)

    # --- what accounts do ---

    def _do_create(self, account: Account) -> None:
        if account.repo.size >= self.settings.max_repo_size:
            self.voice.say_commit(account, deletes=1)
        else:
            self.voice.say_commit(account, creates=1)

    def _do_update(self, account: Account) -> None:
        if account.repo.size == 0:
            self.voice.say_commit(account, creates=1)
        else:
            self.voice.say_commit(account, updates=1)

    def _do_delete(self, account: Account) -> None:
        if account.repo.size == 0:
            self.voice.say_commit(account, creates=1)
        else:
            self.voice.say_commit(account, deletes=1)

    def _do_multi(self, account: Account) -> None:
        n = 2 + self.rng.below(self.settings.multi_max - 1)
        creates = 1 + self.rng.below(n)
        updates = self.rng.below(n - creates + 1)
        if account.repo.size >= self.settings.max_repo_size:
            self.voice.say_commit(account, updates=updates, deletes=n)
        else:
            self.voice.say_commit(account, creates, updates, n - creates - updates)

    def _do_empty(self, account: Account) -> None:
        self.voice.say_commit(account)

    def _do_sync(self, account: Account) -> None:
        """A #sync with the present head: news for a relay only if it has not seen the account yet."""
        self.voice.say_sync(account, Expect.NOOP if account.known else Expect.PASS)

    def _do_import(self, account: Account) -> None:
        """The repository changes unsaid (an import, a restored backup); a #sync says the new head."""
        self.voice.commit(account, 0, creates=1 + self.rng.below(self.settings.multi_max))
        self.voice.say_sync(account, Expect.PASS)

    def _do_identity(self, account: Account) -> None:
        self.voice.say_identity(account, with_handle=self.rng.below(4) > 0)

    def _do_handle(self, account: Account) -> None:
        account.handle = f"u{self.rng.below(1 << 48):012x}.test"
        self._update_directory(account)
        self.voice.say_identity(account)

    def _do_account(self, account: Account) -> None:
        self.voice.say_account(account)

    def _do_deactivate(self, account: Account) -> None:
        if self.enough_rest():
            self._do_create(account)
            return
        self.deactivate(account)

    def deactivate(self, account: Account) -> None:
        """The account goes inactive and comes back after a while."""
        account.status = "deactivated"
        self.voice.say_account(account)
        self._plan(self._long_while(), self._return, account)

    def _return(self, account: Account) -> None:
        """Reactivation as a PDS announces it (B11)."""
        account.status = None
        self.voice.say_account(account)
        self.voice.say_identity(account)
        self.voice.say_sync(account, Expect.NOOP if account.known else Expect.PASS)

    def _do_remove(self, account: Account) -> None:
        """Deletion: the last that is heard of the account. Its records are forgotten."""
        account.status = "deleted"
        account.host.accounts.remove(account)
        account.repo = Repo(account.did, account.repo.key, 0)
        self.voice.say_account(account)

    def _do_rotate(self, account: Account) -> None:
        if not self.enough_rest():
            self._plan(self.settings.settle_s, self._rotate, account)

    def _rotate(self, account: Account) -> None:
        """The directory learns a new key, then the host says #identity; commits with it follow after a rest."""
        account.key_number += 1
        account.repo.key = self._new_key(account.handle, account.key_number)
        self._update_directory(account)
        self.voice.say_identity(account)
        self.voice.say_commit(account, creates=1)

    def _do_migrate(self, account: Account) -> None:
        if not self.enough_rest():
            self._plan(self.settings.settle_s, self._migrate, account)

    def _migrate(self, account: Account) -> None:
        """The account moves to another host, with a new key and a commit of that host's own (E10)."""
        old = account.host
        new = self.hosts[(old.index + 1 + self.rng.below(max(1, len(self.hosts) - 1))) % len(self.hosts)]
        if new is old or new.silent or account not in old.accounts:
            return
        old.accounts.remove(account)
        new.accounts.append(account)
        account.host = new
        account.key_number += 1
        account.repo.key = self._new_key(account.handle, account.key_number)
        self._update_directory(account)
        account.repo.resign(account.repo.next_rev(self.voice.now_us(new)))
        self.voice.say_identity(account)
        self.voice.say_account(account)
        self.voice.say_sync(account, Expect.PASS)

    def _do_birth(self, account: Account) -> None:
        self._birth(account.host)

    def _birth(self, host: Host) -> Account:
        """A new account, announced as a PDS does it (B11)."""
        account = self._new_account(host, publish=True)
        host.accounts.append(account)
        self.voice.say_identity(account)
        self.voice.say_account(account)
        self.voice.say_commit(account)
        self.voice.say_sync(account, Expect.NOOP)
        return account

    def _update_directory(self, account: Account) -> None:
        now_us = self.voice.now_us(account.host)
        self.directory.update(account.did, account.handle, account.repo.key.multikey, account.host.url, now_us)

    def _long_while(self) -> float:
        return self.settings.settle_s * (1.0 + self.rng.uniform() * (AWAY_FACTOR - 1.0))

    # --- orders ---

    def flood(self, host: Host, count: int) -> None:
        """Says `count` good commits on the host at once, of its accounts in turn from any of them on."""
        active = [account for account in host.accounts if account.active and not account.busy]
        first = self.rng.below(len(active)) if active else 0
        for number in range(count if active else 0):
            self._do_create(active[(first + number) % len(active)])

    def renumber(self, host: Host) -> None:
        """The host forgets its window and its numbering starts again, as after a restore from nothing.

        It says nothing until a subscriber has come back, so that no event falls between the old cursor and live.
        """
        host.window.trim(0)
        host.window.lost_seq = 0
        host.seq = 0
        host.epoch += 1
        host.silent = True
        self.ledger.append_host(host.index, host.name, host.url, 1)
