"""Takedowns of accounts and their reverse, from an operator's word to all that follows from it (design 4, E8, E9, E11).

Order of a takedown: the account's worker logs an #account of our own and from there on drops what the account's host
sends of its content; the account's earlier events are hidden from every reader of the log; the event is on disk; the
state has it. Then the operator is answered. Of the reverse: the #account, with what the account's host says of it; new
events pass again; when that is on disk, the hidden ones may be seen again.

Nothing of it is lost in a crash: what is hidden is a view of the log and the state, built anew by `restore`.
Any thread; nothing is kept here but what it was made with.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zlay._fast import crash, hidden, pipeline
from zlay._fast.verdicts import STATUSES
from zlay.errors import StateUnavailable
from zlay.eventlog.spans import seq_span
from zlay.firehose.frames import account_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from zlay.state.applier import Applier
    from zlay.state.interface import Store

__all__ = ["AccountStatus", "Takedowns"]

ANSWER_S = 10.0  # for all of it; an operator asks again, and finds what was done
POLL_S = 0.01
ALL = 2**64 - 1  # of hidden.below: a takedown that stands
_ACTIVE, _TAKENDOWN = STATUSES.index("active"), STATUSES.index("takendown")
_MAY_BE_ACTIVE = ("active", "desynchronized", "throttled")  # E8


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """An account after an operator's word."""

    did: str
    active: bool
    status: str  # effective, a name of verdicts.STATUSES
    seq: int | None  # of the #account that told of it; None = it was so before


class Takedowns:
    """See the module's head."""

    def __init__(self, store: Store, applier: Applier, wait_synced: Callable[[int, float], bool]) -> None:
        self._store = store
        self._applier = applier
        self._wait_synced = wait_synced

    def restore(self) -> int:
        """At a start, before anybody reads: hides the accounts that are taken down. How many. Raises StateError."""
        taken_down = self._store.taken_down()
        for did in taken_down:
            hidden.hide(did.encode())
        return len(taken_down)

    def set(self, did: str, *, down: bool) -> AccountStatus | None:
        """Takes an account down, or lifts that; None = it is not known here.

        When this returns it is durable, and seen by everybody who asks. Raises StateUnavailable when it is not certain
        that it came to that; the same call may be made again.
        """
        deadline = time.monotonic() + ANSWER_S
        local = _TAKENDOWN if down else _ACTIVE
        upstream = _ACTIVE
        while True:
            active, status = (False, _TAKENDOWN) if down else (STATUSES[upstream] in _MAY_BE_ACTIVE, upstream)
            message = account_message(did, active=active, status=_told(status))
            outcome, seq, upstream = pipeline.set_local_status(
                did, message, *seq_span(message), local, upstream, max(0.0, deadline - time.monotonic())
            )
            if outcome == "unknown":
                return None
            if outcome in ("done", "same"):
                break
            if outcome in ("pending", "closed") or time.monotonic() >= deadline:
                raise StateUnavailable(_REFUSALS[outcome])
            if outcome == "not_loaded":
                time.sleep(POLL_S)
        crash.point("takedown.logged")
        if outcome == "same":
            status = _TAKENDOWN if down else upstream
        self._settle(did, seq, deadline, down=down)
        crash.point("takedown.settled")
        return AccountStatus(did, STATUSES[status] in _MAY_BE_ACTIVE, STATUSES[status], seq or None)

    def _settle(self, did: str, seq: int, deadline: float, *, down: bool) -> None:
        """On disk, hidden or not, and in the state."""
        below = hidden.below(did.encode())
        awaited = seq or (below if below != ALL else 0)  # "same": the call that did it may not have come this far
        if awaited and not self._wait_synced(awaited, max(0.0, deadline - time.monotonic())):
            raise StateUnavailable("it is not on disk yet: the log cannot be written just now")
        if not down and below != ALL:
            hidden.show(did.encode(), below)
        self._applier.hurry()
        while self._applier.applied_seq < awaited:
            if time.monotonic() >= deadline:
                raise StateUnavailable("it is logged, but the database does not take it just now")
            time.sleep(POLL_S)


_REFUSALS = {
    "pending": "the log takes no events just now: it is carried out as soon as it does, or ask again",
    "closed": "the relay is stopping",
    "not_loaded": "the account cannot be loaded: the database does not answer just now",
    "other": "the account's status at its host changes too fast",
}


def _told(status: int) -> str | None:
    """`status` of an #account (B6): none for a plain active account, and where no reason is known."""
    name = STATUSES[status]
    return None if name in ("active", "inactive", "unknown") else name
