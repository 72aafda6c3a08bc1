"""What goes wrong on purpose in single events (faults.py says what there is).

Promises: a bad event leaves the account as if it had not been said; the ledger says what it is and why a relay must
drop it. One thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zlay.sim.faults import FAULT_NUMBER, FAULTS, choices
from zlay.sim.ledger import Expect, Kind
from zlay.sim.messages import seq_offset, ws_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from zlay.sim.actors import Account, Host
    from zlay.sim.keys import SigningKey
    from zlay.sim.network import Network

__all__ = ["Mischief"]

FUTURE_US = 3_600_000_000  # how far future_rev is ahead; relays allow 5 minutes (E6)
VIRTUAL_FUTURE_US = 4_000_000_000_000_000  # the same for a virtual clock: the year 2096
BIG_TEXT_BYTES = 900_000  # of a record of a big_unknown frame, under the limit of 1,000,000 (B9)


class Mischief:
    """Says bad events on a network. `other_key` signs what it has no right to."""

    def __init__(self, network: Network, other_key: SigningKey) -> None:
        self._network = network
        self._voice = network.voice
        self._other_key = other_key

    def action(self, number: int) -> Callable[[Account], None]:
        """Saying this fault, as one of the network's choices."""

        def act(account: Account) -> None:
            self.say(number, account)

        return act

    def say(self, number: int, account: Account) -> None:
        """Says one bad event in the name of the account (or of a ghost of its host). The account stays as it was."""
        fault = FAULTS[number]
        host = account.host
        if fault.known and not account.known:
            self._voice.say_commit(account, creates=1)
        if fault.name == "wrong_host":
            host = self._network.hosts[(host.index + 1) % len(self._network.hosts)]
            if host is account.host or host.silent:
                return
        elif fault.name in ("unknown_did", "big_unknown"):
            account = host.ghosts[self._voice.rng.below(len(host.ghosts))]
        elif fault.name == "inactive_commit":
            if self._network.enough_rest():
                return
            self._network.deactivate(account)
        self._say_bad_commit(number, account, host)

    def _say_bad_commit(self, number: int, account: Account, host: Host) -> None:
        fault = FAULTS[number]
        repo = account.repo
        now_us = self._voice.now_us(host)
        rev = repo.next_rev(now_us)
        if fault.name == "stale_rev":
            rev = repo.rev
        elif fault.name == "future_rev":
            rev = (VIRTUAL_FUTURE_US if self._voice.settings.virtual_clock else now_us + FUTURE_US) << 10
        text = BIG_TEXT_BYTES if fault.name == "big_unknown" else self._voice.settings.text_bytes
        seq = self._voice.next_seq(host)
        time_text = self._voice.time_text(now_us)
        other = self._other_key
        frame = repo.commit(self._voice.rng, seq, rev, time_text, fault.creates, 0, 0, fault.spoil, False, text, other)
        offset = seq_offset()
        if fault.mangle is not None:
            frame = ws_frame(fault.mangle(frame[4:] if frame[1] == 126 else frame[10:], offset))
        self._voice.say(host, account, Kind.COMMIT, frame, rev, Expect.DROP, number, offset)

    def order(self, name: str, host: Host, count: int) -> int:
        """Says `count` bad events of this fault (or group) on the host at once; how many were said."""
        before = self._voice.bad
        members = choices(name)
        for _ in range(count):
            active = [account for account in host.accounts if account.active and not account.busy]
            if not active:
                break
            member = members[self._voice.rng.below(len(members))]
            self.say(FAULT_NUMBER[member], active[self._voice.rng.below(len(active))])
        return self._voice.bad - before
