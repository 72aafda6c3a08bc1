"""The compiled workers in the terms of the Python threads around them.

Promises: nothing here is called per frame; what workers ask comes out as plain values, what threads answer goes in with
host names already turned into the ids that workers compare. Any thread, except where said.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

from zlay._fast import pipeline, requests
from zlay.pipeline.types import ResolveRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zlay.pipeline.types import AccountDelta, AccountRow, Identity

__all__ = ["Link"]


class Link:
    """The one pipeline of this process. `host_id` maps a registered host's name to its id, 0 when unknown."""

    def __init__(self, host_id: Callable[[str], int]) -> None:
        self._host_id = host_id
        self._outages = {"directory": False, "store": False, "clock": False}
        self._outage_lock = threading.Lock()  # guards `_outages`, and that the workers hear of changes in their order

    # --- resolvers ---

    def next_resolve(self, timeout_s: float) -> ResolveRequest | None:
        """A did:plc whose identity a worker waits for; None after `timeout_s`."""
        return self._next_resolve(requests.RESOLVE, timeout_s)

    def next_resolve_web(self, timeout_s: float) -> ResolveRequest | None:
        """The same of did:web."""
        return self._next_resolve(requests.WEB, timeout_s)

    def _next_resolve(self, kind: int, timeout_s: float) -> ResolveRequest | None:
        for did, _, force in requests.take(kind, 1, timeout_s):
            return ResolveRequest(did, force)
        return None

    def post_identity(self, identity: Identity) -> None:
        """What the directory says, or that it says nothing."""
        pipeline.post_identity(identity, self._identity_host(identity))

    def next_recheck(self, timeout_s: float) -> str | None:
        """A DID that had an #identity: to be asked again, since replicas lag."""
        for did, _, _ in requests.take(requests.RECHECK, 1, timeout_s):
            return did
        return None

    def _identity_host(self, identity: Identity) -> int:
        return self._host_id(identity.pds) if identity.pds is not None else 0

    # --- loader ---

    def next_loads(self, most: int, timeout_s: float) -> Sequence[str]:
        """DIDs whose rows workers wait for."""
        return [did for did, _, _ in requests.take(requests.LOAD, most, timeout_s)]

    def post_accounts(self, dids: Sequence[str], rows: Sequence[AccountRow | None]) -> None:
        """The rows of `dids`, in their order."""
        for did, row in zip(dids, rows, strict=True):
            host = self._identity_host(row.identity) if row is not None and row.identity is not None else 0
            pipeline.post_account(did, row, host)

    # --- questions to a PDS ---

    def next_status_check(self, timeout_s: float) -> tuple[str, int] | None:
        """(DID, host id) of an account that upstream calls inactive and that sent an event all the same."""
        for did, host_id, _ in requests.take(requests.STATUS, 1, timeout_s):
            return did, host_id
        return None

    def next_resync(self, timeout_s: float) -> tuple[str, int] | None:
        """(DID, host id) of an account with a chain break."""
        for did, host_id, _ in requests.take(requests.RESYNC, 1, timeout_s):
            return did, host_id
        return None

    # --- applier ---

    def collect_dirty(self, up_to_seq: int) -> list[AccountDelta]:
        """Every account changed since the last call; includes all changed at or below `up_to_seq`. One thread."""
        return pipeline.collect_dirty()

    def set_applied(self, seq: int) -> None:
        """Accounts changed at or below `seq` need not stay in memory."""
        pipeline.set_applied_seq(seq)

    # --- outages ---

    def set_outage(self, part: Literal["directory", "store", "clock"], down: bool) -> None:
        """While one is down no hold expires; without a clock nothing is judged."""
        with self._outage_lock:
            self._outages[part] = down
            pipeline.set_outages(**self._outages)
