"""The simulated network: accounts, hosts and the choice of what happens next.

Strategy: `Network.step` makes one choice (which host, which account, what kind of event) and everything that follows
from it at once; what takes time (an account rests before its key changes, and comes back some time after it was
deactivated) stands in a heap of plans, looked at before each choice. Every frame goes through `_say`, which gives it
a seq of its host, writes it to the ledger and into the host's window. No I/O but the ledger's buffer.

Promises: with a virtual clock the same settings give the same frames, seqs and times. Events of an account are said
in an order that a strict relay accepts, bad ones left out. A key or host of an account changes only after the account
has been silent for `settle_s`, so that no event in flight is judged by a document that is newer than it.
Assumes: one thread.
"""

from __future__ import annotations

import heapq
import time
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from zlay.sim.directory import Directory, iso_time
from zlay.sim.faults import FAULT_NUMBER, FAULTS, choices
from zlay.sim.keys import SigningKey
from zlay.sim.ledger import NO_ACCOUNT, Expect, Kind, LedgerWriter
from zlay.sim.messages import account_frame, identity_frame, seq_offset, ws_frame
from zlay.sim.repo import Repo, Spoil
from zlay.sim.rng import Rng
from zlay.sim.settings import MIX_SCALE, Settings
from zlay.sim.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Account", "Host", "Network"]

VIRTUAL_START_US = 1_750_000_000_000_000  # 2025-06-15: in the past of every relay, so that no rev is from the future
VIRTUAL_STEP_US = 100  # a step of the virtual clock when no rate is set
FUTURE_US = 3_600_000_000  # how far future_rev is ahead; relays allow 5 minutes (E6)
VIRTUAL_FUTURE_US = 4_000_000_000_000_000  # the same for a virtual clock: the year 2096
PICKS = 8  # tries to find an account that may act
SEQ_GAP_ONE_IN = 16  # numbering has gaps, as real ones have (A11)
SEQ_GAP_MAX = 5
RESTING_ONE_IN = 4  # at most this part of the accounts rests at a time, so that the others can go on
AWAY_FACTOR = 4.0  # a deactivated account comes back after 1 to this many settle_s
BIG_TEXT_BYTES = 900_000  # record of a big_unknown frame, under the limit of 1,000,000 (B9)
GHOSTS_PER_HOST = 4  # accounts whose DID the directory does not know
TAIL_BYTES = 512 << 20  # frames that all hosts' windows keep in memory together, at most
HOST_TAIL_BYTES = 4 << 20
GENESIS_RECORDS = 150  # writes of one commit while a repository is first filled


class Account:
    """One account. `host` is where it lives; `known`: a relay that has read along holds its state."""

    __slots__ = ("busy", "did", "did_bytes", "handle", "host", "index", "key_number", "known", "repo", "status")

    def __init__(self, index: int, handle: str, host: Host, repo: Repo) -> None:
        self.index = index
        self.handle = handle
        self.host = host
        self.repo = repo
        self.did: str = repo.did
        self.did_bytes = self.did.encode()
        self.status: str | None = None  # None = active
        self.busy = False
        self.known = False
        self.key_number = 0

    @property
    def active(self) -> bool:
        """Whether the account may write."""
        return self.status is None


class Host:
    """One PDS: its accounts, numbering and window. `silent`: says nothing until a subscriber comes."""

    __slots__ = ("accounts", "epoch", "ghosts", "index", "name", "seq", "silent", "skew_us", "url", "window")

    def __init__(self, index: int, name: str, url: str, skew_us: int, window: Window) -> None:
        self.index = index
        self.name = name
        self.url = url
        self.skew_us = skew_us
        self.window = window
        self.accounts: list[Account] = []
        self.ghosts: list[Account] = []
        self.seq = 0
        self.epoch = 0
        self.silent = False


class Network:
    """Hosts, accounts, directory and ledger of one simulation.

    `addresses` gives name and URL of each host, in order. After construction repositories exist and the directory
    knows them, but nothing has been said. `changed` collects the hosts that have said something; the server empties it.
    """

    def __init__(self, settings: Settings, addresses: list[tuple[str, str]], ledger: LedgerWriter) -> None:
        self.settings = settings
        self.ledger = ledger
        self.rng = Rng(settings.seed)
        self.directory = Directory(SigningKey("k256", self._seed("rotation", 0)))
        self.other_key = SigningKey("k256", self._seed("other", 0))
        self.accounts: list[Account] = []
        self.by_did: dict[str, Account] = {}
        self.hosts: list[Host] = []
        self.changed: set[Host] = set()
        self.generated = 0
        self.bad = 0
        self.by_fault: dict[str, int] = {}
        self.by_kind: dict[str, int] = {}
        self._virtual_us = VIRTUAL_START_US
        self._virtual_step_us = int(1e6 / settings.rate) if settings.rate else VIRTUAL_STEP_US
        self._plans: list[tuple[int, int, Callable[[Account], None], Account]] = []
        self._plan_count = 0
        self._second = -1
        self._second_text = b""
        for index, (name, url) in enumerate(addresses):
            self._add_host(index, name, url)
        shares = list(accumulate((index + 1) ** -settings.skew for index in range(len(self.hosts))))
        self._host_shares = [share / shares[-1] for share in shares]
        for index in range(settings.accounts):
            self._add_account(self.hosts[index % len(self.hosts)])
        for host in self.hosts:
            for _ in range(GHOSTS_PER_HOST):
                host.ghosts.append(self._new_account(host, publish=False))
        self._actions: list[Callable[[Account], None]] = []
        self._bounds: list[int] = []
        self._make_table()

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
        now_us = self.now_us(host)
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
            self._commit(account, 0, creates=min(left, GENESIS_RECORDS))
            left -= GENESIS_RECORDS

    def _make_table(self) -> None:
        """The table of actions and their shares, faults first."""
        bound = 0.0
        for name, share in self.settings.faults.items():
            members = choices(name)
            for member in members:
                bound += share / len(members)
                self._bounds.append(round(bound * 1000))
                self._actions.append(self._fault_action(FAULT_NUMBER[member]))
        actions: dict[str, Callable[[Account], None]] = {
            "update": self._do_update,
            "delete": self._do_delete,
            "multi": self._do_multi,
            "empty": self._do_empty,
            "sync": self._do_sync,
            "identity": self._do_identity,
            "handle": self._do_handle,
            "account": self._do_account,
            "deactivate": self._do_deactivate,
            "rotate": self._do_rotate,
            "migrate": self._do_migrate,
            "remove": self._do_remove,
            "birth": self._do_birth,
        }
        for name, count in self.settings.mix.items():
            bound += count
            self._bounds.append(round(bound * 1000))
            self._actions.append(actions[name])
        self._actions.append(self._do_create)

    # --- time ---

    def now_us(self, host: Host) -> int:
        """The host's clock, in unix microseconds."""
        return self._clock_us() + host.skew_us

    def _clock_us(self) -> int:
        return self._virtual_us if self.settings.virtual_clock else time.time_ns() // 1000

    def _time_text(self, now_us: int) -> bytes:
        """The `time` of a message; the part down to the second is kept from one call to the next."""
        second = now_us // 1_000_000
        if second != self._second:
            self._second = second
            self._second_text = iso_time(now_us)[:20].encode()
        return b"%s%03dZ" % (self._second_text, now_us // 1000 % 1000)

    def _enough_rest(self) -> bool:
        return len(self._plans) * RESTING_ONE_IN >= len(self.accounts)

    def _plan(self, delay_s: float, action: Callable[[Account], None], account: Account) -> None:
        """Runs `action` later; until then the account does nothing else."""
        account.busy = True
        self._plan_count += 1
        heapq.heappush(self._plans, (self._clock_us() + int(delay_s * 1e6), self._plan_count, action, account))

    # --- the choice ---

    def step(self) -> None:
        """Makes one choice and says what follows from it: usually one event, at a birth or return a few."""
        self._virtual_us += self._virtual_step_us
        if self._plans and self._plans[0][0] <= self._clock_us():
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

    # --- saying things ---

    def _next_seq(self, host: Host) -> int:
        host.seq += 1
        if self.rng.below(SEQ_GAP_ONE_IN) == 0:
            host.seq += self.rng.below(SEQ_GAP_MAX)
        return host.seq

    def _say(
        self,
        host: Host,
        account: Account,
        kind: Kind,
        frame: bytes,
        rev: int = 0,
        expect: Expect = Expect.PASS,
        fault: int = 0,
        offset: int | None = None,
    ) -> None:
        """Writes a frame, made with the host's present seq, to ledger and window."""
        index = account.index
        place = self.ledger.append_event(
            kind,
            expect,
            fault,
            host.index,
            index,
            host.seq,
            rev,
            self._clock_us(),
            seq_offset() if offset is None else offset,
            frame,
        )
        host.window.append(host.seq, frame, place)
        self.changed.add(host)
        self.generated += 1
        if fault:
            self.bad += 1
            name = FAULTS[fault].name
            self.by_fault[name] = self.by_fault.get(name, 0) + 1
        elif kind in (Kind.COMMIT, Kind.SYNC):
            account.known = True

    def _commit(
        self, account: Account, seq: int, creates: int = 0, updates: int = 0, deletes: int = 0, text: int = 0
    ) -> bytes:
        """A good commit of an account, as a frame; seq 0 while the world is made."""
        now_us = self.now_us(account.host)
        repo = account.repo
        return repo.commit(
            self.rng,
            seq,
            repo.next_rev(now_us),
            self._time_text(now_us),
            creates,
            updates,
            deletes,
            Spoil.SPOIL_NOTHING,
            True,
            text or self.settings.text_bytes,
        )

    def _say_commit(self, account: Account, creates: int = 0, updates: int = 0, deletes: int = 0) -> None:
        frame = self._commit(account, self._next_seq(account.host), creates, updates, deletes)
        self._say(account.host, account, Kind.COMMIT, frame, account.repo.rev)

    def _say_sync(self, account: Account, expect: Expect) -> None:
        host = account.host
        frame = account.repo.sync(self._next_seq(host), self._time_text(self.now_us(host)))
        self._say(host, account, Kind.SYNC, frame, account.repo.rev, expect)

    def _say_identity(self, account: Account, with_handle: bool = True) -> None:
        host = account.host
        handle = account.handle.encode() if with_handle else None
        frame = identity_frame(self._next_seq(host), account.did_bytes, self._time_text(self.now_us(host)), handle)
        self._say(host, account, Kind.IDENTITY, frame)

    def _say_account(self, account: Account) -> None:
        host = account.host
        status = account.status.encode() if account.status else None
        now = self._time_text(self.now_us(host))
        frame = account_frame(self._next_seq(host), account.did_bytes, now, account.active, status)
        self._say(host, account, Kind.ACCOUNT, frame)

    # --- what accounts do ---

    def _do_create(self, account: Account) -> None:
        if account.repo.size >= self.settings.max_repo_size:
            self._say_commit(account, deletes=1)
        else:
            self._say_commit(account, creates=1)

    def _do_update(self, account: Account) -> None:
        if account.repo.size == 0:
            self._say_commit(account, creates=1)
        else:
            self._say_commit(account, updates=1)

    def _do_delete(self, account: Account) -> None:
        if account.repo.size == 0:
            self._say_commit(account, creates=1)
        else:
            self._say_commit(account, deletes=1)

    def _do_multi(self, account: Account) -> None:
        n = 2 + self.rng.below(self.settings.multi_max - 1)
        creates = 1 + self.rng.below(n)
        updates = self.rng.below(n - creates + 1)
        if account.repo.size >= self.settings.max_repo_size:
            self._say_commit(account, updates=updates, deletes=n)
        else:
            self._say_commit(account, creates, updates, n - creates - updates)

    def _do_empty(self, account: Account) -> None:
        self._say_commit(account)

    def _do_sync(self, account: Account) -> None:
        """A #sync with the present head: news for a relay only if it has not seen the account yet."""
        self._say_sync(account, Expect.NOOP if account.known else Expect.PASS)

    def _do_identity(self, account: Account) -> None:
        self._say_identity(account, with_handle=self.rng.below(4) > 0)

    def _do_handle(self, account: Account) -> None:
        account.handle = f"u{self.rng.below(1 << 48):012x}.test"
        self._update_directory(account)
        self._say_identity(account)

    def _do_account(self, account: Account) -> None:
        self._say_account(account)

    def _do_deactivate(self, account: Account) -> None:
        if self._enough_rest():
            self._do_create(account)
            return
        account.status = "deactivated"
        self._say_account(account)
        self._plan(self._long_while(), self._return, account)

    def _return(self, account: Account) -> None:
        """Reactivation as a PDS announces it (B11)."""
        account.status = None
        self._say_account(account)
        self._say_identity(account)
        self._say_sync(account, Expect.NOOP if account.known else Expect.PASS)

    def _do_remove(self, account: Account) -> None:
        """Deletion: the last that is heard of the account. Its records are forgotten."""
        account.status = "deleted"
        account.host.accounts.remove(account)
        account.repo = Repo(account.did, account.repo.key, 0)
        self._say_account(account)

    def _do_rotate(self, account: Account) -> None:
        if not self._enough_rest():
            self._plan(self.settings.settle_s, self._rotate, account)

    def _rotate(self, account: Account) -> None:
        """The directory learns a new key, then the host says #identity; commits with it follow after a rest."""
        account.key_number += 1
        account.repo.key = self._new_key(account.handle, account.key_number)
        self._update_directory(account)
        self._say_identity(account)
        self._say_commit(account, creates=1)

    def _do_migrate(self, account: Account) -> None:
        if not self._enough_rest():
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
        account.repo.resign(account.repo.next_rev(self.now_us(new)))
        self._say_identity(account)
        self._say_account(account)
        self._say_sync(account, Expect.PASS)

    def _do_birth(self, account: Account) -> None:
        self._birth(account.host)

    def _birth(self, host: Host) -> Account:
        """A new account, announced as a PDS does it (B11)."""
        account = self._new_account(host, publish=True)
        host.accounts.append(account)
        self._say_identity(account)
        self._say_account(account)
        self._say_commit(account)
        self._say_sync(account, Expect.NOOP)
        return account

    def _update_directory(self, account: Account) -> None:
        now_us = self.now_us(account.host)
        self.directory.update(account.did, account.handle, account.repo.key.multikey, account.host.url, now_us)

    def _long_while(self) -> float:
        return self.settings.settle_s * (1.0 + self.rng.uniform() * (AWAY_FACTOR - 1.0))

    # --- what goes wrong ---

    def _fault_action(self, number: int) -> Callable[[Account], None]:
        def act(account: Account) -> None:
            self.say_fault(number, account)

        return act

    def say_fault(self, number: int, account: Account) -> None:
        """Says one bad event in the name of the account (or of a ghost of its host). The account stays as it was."""
        fault = FAULTS[number]
        host = account.host
        if fault.known and not account.known:
            self._say_commit(account, creates=1)
        if fault.name == "wrong_host":
            host = self.hosts[(host.index + 1) % len(self.hosts)]
            if host is account.host or host.silent:
                return
        elif fault.name in ("unknown_did", "big_unknown"):
            account = host.ghosts[self.rng.below(len(host.ghosts))]
        elif fault.name == "inactive_commit":
            if self._enough_rest():
                return
            account.status = "deactivated"
            self._say_account(account)
            self._plan(self._long_while(), self._return, account)
        self._say_bad_commit(number, account, host)

    def _say_bad_commit(self, number: int, account: Account, host: Host) -> None:
        fault = FAULTS[number]
        repo = account.repo
        now_us = self.now_us(host)
        rev = repo.next_rev(now_us)
        if fault.name == "stale_rev":
            rev = repo.rev
        elif fault.name == "future_rev":
            rev = (VIRTUAL_FUTURE_US if self.settings.virtual_clock else now_us + FUTURE_US) << 10
        text = BIG_TEXT_BYTES if fault.name == "big_unknown" else self.settings.text_bytes
        seq = self._next_seq(host)
        time_text = self._time_text(now_us)
        other = self.other_key
        frame = repo.commit(self.rng, seq, rev, time_text, fault.creates, 0, 0, fault.spoil, False, text, other)
        offset = seq_offset()
        if fault.mangle is not None:
            frame = ws_frame(fault.mangle(frame[4:] if frame[1] == 126 else frame[10:], offset))
        self._say(host, account, Kind.COMMIT, frame, rev, Expect.DROP, number, offset)

    def misbehave(self, name: str, host: Host, count: int) -> int:
        """Says `count` bad events of this fault (or group) on the host at once; how many were said."""
        before = self.bad
        members = choices(name)
        for _ in range(count):
            active = [account for account in host.accounts if account.active and not account.busy]
            if not active:
                break
            member = members[self.rng.below(len(members))]
            self.say_fault(FAULT_NUMBER[member], active[self.rng.below(len(active))])
        return self.bad - before

    def flood(self, host: Host, count: int) -> None:
        """Says `count` good commits on the host at once."""
        for _ in range(count):
            active = [account for account in host.accounts if account.active and not account.busy]
            if active:
                self._do_create(active[self.rng.below(len(active))])

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
