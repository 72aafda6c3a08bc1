"""How hosts of the simulation speak: clock, numbering, and the way of a frame into ledger and window.

Promises: with a virtual clock times depend on the number of choices alone; seqs of a host go up, with gaps now and
then (A11); every frame stands in the ledger before its host's window shows it. One thread.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from zlay.sim.directory import iso_time
from zlay.sim.faults import FAULTS
from zlay.sim.ledger import Expect, Kind, LedgerWriter
from zlay.sim.messages import account_frame, identity_frame, seq_offset, unknown_frame
from zlay.sim.repo import Spoil

if TYPE_CHECKING:
    from zlay.sim.actors import Account, Host
    from zlay.sim.rng import Rng
    from zlay.sim.settings import Settings

__all__ = ["Voice"]

VIRTUAL_START_US = 1_750_000_000_000_000  # 2025-06-15: in the past of every relay, so that no rev is from the future
VIRTUAL_STEP_US = 100  # a step of the virtual clock when no rate is set
SEQ_GAP_ONE_IN = 16
SEQ_GAP_MAX = 5


class Voice:
    """Says things in the name of accounts and hosts. `changed`: hosts that have spoken; whoever sends empties it."""

    def __init__(self, settings: Settings, ledger: LedgerWriter, rng: Rng) -> None:
        self.settings = settings
        self.ledger = ledger
        self.rng = rng
        self.changed: set[Host] = set()
        self.generated = 0
        self.bad = 0
        self.by_fault: dict[str, int] = {}
        self._virtual_us = VIRTUAL_START_US
        self._virtual_step_us = int(1e6 / settings.rate) if settings.rate else VIRTUAL_STEP_US
        self._second = -1
        self._second_text = b""

    # --- time ---

    def advance(self) -> None:
        """One step of the virtual clock."""
        self._virtual_us += self._virtual_step_us

    def now_us(self, host: Host) -> int:
        """The host's clock, in unix microseconds."""
        return self.clock_us() + host.skew_us

    def clock_us(self) -> int:
        """The network's own clock, in unix microseconds."""
        return self._virtual_us if self.settings.virtual_clock else time.time_ns() // 1000

    def time_text(self, now_us: int) -> bytes:
        """The `time` of a message; the part down to the second is kept from one call to the next."""
        second = now_us // 1_000_000
        if second != self._second:
            self._second = second
            self._second_text = iso_time(now_us)[:20].encode()
        return b"%s%03dZ" % (self._second_text, now_us // 1000 % 1000)

    # --- saying things ---

    def next_seq(self, host: Host) -> int:
        """Moves the host on to its next seq."""
        host.seq += 1
        if self.rng.below(SEQ_GAP_ONE_IN) == 0:
            host.seq += self.rng.below(SEQ_GAP_MAX)
        return host.seq

    def say(
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
            self.clock_us(),
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

    def commit(
        self, account: Account, seq: int, creates: int = 0, updates: int = 0, deletes: int = 0, text: int = 0
    ) -> bytes:
        """A good commit of an account, as a frame; seq 0 while the world is made."""
        now_us = self.now_us(account.host)
        repo = account.repo
        return repo.commit(
            self.rng,
            seq,
            repo.next_rev(now_us),
            self.time_text(now_us),
            creates,
            updates,
            deletes,
            Spoil.SPOIL_NOTHING,
            True,
            text or self.settings.text_bytes,
        )

    def say_commit(self, account: Account, creates: int = 0, updates: int = 0, deletes: int = 0) -> None:
        """Says a good commit."""
        frame = self.commit(account, self.next_seq(account.host), creates, updates, deletes)
        self.say(account.host, account, Kind.COMMIT, frame, account.repo.rev)

    def say_sync(self, account: Account, expect: Expect) -> None:
        """Says a #sync of the account's present head."""
        host = account.host
        frame = account.repo.sync(self.next_seq(host), self.time_text(self.now_us(host)))
        self.say(host, account, Kind.SYNC, frame, account.repo.rev, expect)

    def say_identity(self, account: Account, with_handle: bool = True) -> None:
        """Says an #identity."""
        host = account.host
        handle = account.handle.encode() if with_handle else None
        frame = identity_frame(self.next_seq(host), account.did_bytes, self.time_text(self.now_us(host)), handle)
        self.say(host, account, Kind.IDENTITY, frame)

    def say_unknown(self, account: Account) -> None:
        """Says a message of a type that no relay knows, with fields of its own."""
        host = account.host
        frame = unknown_frame(self.next_seq(host), account.did_bytes, self.time_text(self.now_us(host)))
        self.say(host, account, Kind.OTHER, frame)

    def say_account(self, account: Account) -> None:
        """Says an #account with the account's present status."""
        host = account.host
        status = account.status.encode() if account.status else None
        now = self.time_text(self.now_us(host))
        frame = account_frame(self.next_seq(host), account.did_bytes, now, account.active, status)
        self.say(host, account, Kind.ACCOUNT, frame)
