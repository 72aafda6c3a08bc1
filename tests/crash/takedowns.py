"""Takedowns while relays are killed: an operator who takes a few accounts down and up again, and what must hold of it.

`Operator` gives the orders, in a thread of its own, and knows what has been answered. `Takedowns` follows the entries
of the log, in one thread: none of an account's own events stands between a takedown and its end; what was answered is
there after any kill; consumers are shown all but what is hidden.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from tests.e2e.relay import ADMIN_PASSWORD, request
from tests.reference.log_ref import KINDS, LogReader

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tests.crash.check import Entry
    from tests.crash.databases import StateDatabase

__all__ = ["Operator", "Takedowns"]

LOCAL, TAKEN_DOWN = 1, 2  # flags of an entry
STAYS_VISIBLE = KINDS.index("#identity")
TAKENDOWN_STATUS = 3  # as stored
ORDER_S = 20.0  # the relay itself gives up sooner
PAUSE_S = (0.02, 0.6)
HEADERS = {"Authorization": f"Bearer {ADMIN_PASSWORD}"}


class Operator:
    """Takes accounts down and up again. `said` is guarded by `resting`: who holds it finds no order under way.

    `said`: whether an account is down by the last answer; None = an order has not been answered, and may have been
    carried out or not.
    """

    def __init__(self, port: int, accounts: Sequence[str], rng: random.Random) -> None:
        """`accounts` may grow while it works; `port` is the relay's, for operators."""
        self._port = port
        self._accounts = accounts
        self._rng = rng
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="operator", daemon=True)
        self.resting = threading.Lock()
        self.said: dict[str, bool | None] = {}
        self.answered = 0

    def __enter__(self) -> Operator:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        self._thread.join(ORDER_S + 10)

    def _run(self) -> None:
        while not self._stopping.wait(self._rng.uniform(*PAUSE_S)):
            if self._accounts:
                with self.resting:
                    self.order(self._rng.choice(self._accounts), down=self._rng.random() < 0.5)

    def order(self, did: str, *, down: bool) -> bool:
        """One order; whether it has been answered. Requires `resting`."""
        before = self.said.get(did, False)
        self.said[did] = None
        try:
            path = f"/admin/repo/{'ban' if down else 'unban'}"
            status, body = request(self._port, "POST", path, {"did": did}, headers=HEADERS, timeout_s=ORDER_S)
        except (OSError, http.client.HTTPException):
            return False
        if status == 404:
            assert json.loads(body)["error"] == "RepoNotFound", body
            self.said[did] = before  # not known yet
        elif status == 200:
            self.said[did] = down
            self.answered += 1
        return status == 200

    def settle(self, timeout_s: float) -> None:
        """Stops, and leaves the first account down and the others up."""
        self.stop()
        deadline = time.monotonic() + timeout_s
        with self.resting:
            for number, did in enumerate(self._accounts):
                while not self.order(did, down=number == 0):
                    assert time.monotonic() < deadline, f"no answer for {did}"
                    time.sleep(0.1)


class Takedowns:
    """What the log says of accounts that are taken down now and then. `accounts` may grow. One thread."""

    def __init__(self, events: Path, accounts: Sequence[str]) -> None:
        self._events = events
        self._accounts = accounts
        self._did_of: dict[int, str] = {}
        self.down: dict[str, bool] = {}
        self.own: dict[str, set[int]] = defaultdict(set)  # seqs that are hidden while the account is down
        self.periods = 0

    def take(self, entry: Entry) -> None:
        """Follows one entry of the log; each once, in order."""
        if len(self._did_of) < len(self._accounts):
            reader = LogReader.of(self._events)
            self._did_of = {reader.did_hash(did): did for did in self._accounts}
        did = self._did_of.get(entry.did_hash)
        if entry.flags & LOCAL:
            assert did is not None, f"{entry} is about an account that nobody has named"
            self.down[did] = bool(entry.flags & TAKEN_DOWN)
            self.periods += self.down[did]
        elif did is not None and entry.kind != STAYS_VISIBLE:
            assert not self.down.get(did), f"{entry} was logged though {did} is down"
            self.own[did].add(entry.seq)

    def agrees(self, operator: Operator) -> None:
        """What has been answered is in the log."""
        for did, down in operator.said.items():
            assert down in (None, self.down.get(did, False)), f"{did}: {down} was answered, the log says otherwise"

    def may_be_missing(self) -> set[int]:
        """Seqs that a consumer need not have been shown."""
        return set().union(*self.own.values())

    def visible(self, entries: Iterable[Entry]) -> list[int]:
        """What a replay shows now, of these entries."""
        hidden = set().union(*(seqs for did, seqs in self.own.items() if self.down.get(did)))
        return [entry.seq for entry in entries if entry.seq not in hidden]

    def state_agrees(self, state: StateDatabase) -> None:
        """After an orderly stop exactly the accounts that are down are so in the state."""
        rows = state.rows("SELECT did, local_status FROM account WHERE local_status <> 0")
        assert sorted(rows) == sorted((did, TAKENDOWN_STATUS) for did, down in self.down.items() if down)
