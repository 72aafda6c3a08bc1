"""Every host zlay knows: names, ids, statuses, bans; in memory, with the store behind (design 9).

One query at the start loads all hosts; after that reading never touches the database. Adding, banning and new epochs
are in the database before they are in force; statuses are written behind by `run`, a second late at most, as losing one
loses nothing. A ban holds against every status reported (protocol E20).

Threads: any thread may call anything; `run` belongs to one supervised thread. `_lock` guards the tables in memory and
is never held over the database or the network; `_add_lock` makes adding one at a time and is held over the database.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zlay import logs
from zlay._fast import crash
from zlay._fast import host as chost
from zlay.errors import HostRefused, StateError
from zlay.hosts.interface import DialTarget
from zlay.hosts.names import under_domain
from zlay.shared import look_up
from zlay.state.retry import Backoff

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from zlay.hosts.interface import Failure, HostStatus
    from zlay.pipeline.types import HostCursor
    from zlay.state.interface import HostRow, HostSource, NewHost, Store

__all__ = ["HostEntry", "Registry"]

WRITE_INTERVAL_S = 1.0  # statuses reported meanwhile are one transaction
WAKE_INTERVAL_S = 60.0  # strangers may ask for a host again and again: it must not notice
DAY_US = 24 * 3600 * 1_000_000
NEW_HOSTS_PER_DAY = 50  # E18: hosts added on the word of strangers

log = logs.get("hosts")


@dataclass(slots=True)
class HostEntry:
    """A host in memory. Its changing fields are guarded by the registry's lock; callers get copies."""

    id: int
    index: int  # of the C Host
    hostname: str
    no_tls: bool
    source: HostSource
    created_us: int
    account_limit: int | None  # None = by tier
    status: HostStatus
    epoch: int
    woken_s: float = -math.inf  # monotonic: when it was last asked to be dialled out of turn
    failure: Failure | None = None  # of the last dial or connection; None = it works, or was never tried

    @property
    def banned(self) -> bool:
        """Never dialled, its frames dropped."""
        return self.status == "banned"


class Registry:
    """See the module's head."""

    def __init__(
        self,
        store: Store,
        *,
        host_credit_bytes: int,
        max_new_per_day: int = NEW_HOSTS_PER_DAY,
        on_added: Callable[[int], None] | None = None,
    ) -> None:
        """Loads all hosts. `on_added(host_id)` hears of hosts that are to be dialled now: new, woken or unbanned."""
        self._store = store
        self._host_credit_bytes = host_credit_bytes
        self._max_new_per_day = max_new_per_day
        self.on_added = on_added
        self._lock = threading.Lock()  # guards the four below and the entries in them
        self._by_id: dict[int, HostEntry] = {}
        self._by_name: dict[str, HostEntry] = {}
        self._dirty: dict[int, HostStatus] = {}
        self._domain_bans: frozenset[str] = frozenset(store.domain_bans())
        self._add_lock = threading.Lock()  # one adder at a time; taken before _lock
        self._stop = threading.Event()
        for row in store.hosts():
            self._enter(row)

    # --- the start, before anything is dialled ---

    def set_logged_above(self, logged: Mapping[int, array[int]]) -> dict[int, tuple[int, int]]:
        """Tells each host which of its events are in the log above its cursor (zlay.state.recovery).

        (epoch, highest seq) by host id, for zlay.hosts.cursors.
        """
        highest = {}
        for host_id, seqs in logged.items():
            entry = look_up(self._by_id, host_id)
            if entry is not None and seqs:
                chost.set_dedup(entry.index, entry.epoch, seqs)
                highest[host_id] = (entry.epoch, seqs[-1])
        return highest

    # --- what the dialer asks and tells (zlay.hosts.interface.HostRegistry) ---

    def host(self, host_id: int) -> DialTarget | None:
        """The host's current data; None when it is not known."""
        with self._lock:
            entry = look_up(self._by_id, host_id)
            if entry is None:
                return None
            return DialTarget(entry.id, entry.index, entry.hostname, entry.no_tls, entry.banned)

    def cursor_for_dial(self, host_id: int) -> int | None:
        """Last upstream seq to go on after; None = live."""
        with self._lock:
            index = self._by_id[host_id].index
        return chost.resume_seq(index)

    def cursors_saved(self, cursors: Iterable[HostCursor]) -> None:
        """These are in the database now: readers that wait for their host's first one go on."""
        with self._lock:
            saved = [(self._by_id[one.host_id].index, one) for one in cursors if one.host_id in self._by_id]
        for index, one in saved:
            chost.set_saved(index, one.epoch, one.cursor)

    def new_epoch(self, host_id: int) -> int:
        """The host's numbering starts again; durable when it returns. Raises StateError."""
        crash.point("epoch.before")
        epoch = self._store.begin_epoch(host_id)
        crash.point("epoch.after")
        with self._lock:
            entry = self._by_id[host_id]
            entry.epoch = epoch
        chost.set_epoch(entry.index, epoch)
        return epoch

    def set_status(self, host_id: int, status: HostStatus, failure: Failure | None) -> None:
        """What became of a host. A ban stays."""
        with self._lock:
            entry = look_up(self._by_id, host_id)
            if entry is None:
                return
            entry.failure = failure
            if entry.status in (status, "banned"):
                return
            entry.status = status
            self._dirty[host_id] = status

    # --- names ---

    def id_of(self, hostname: str | None) -> int:
        """The id of the host of this normalised name; 0 = not known, or no name."""
        # Without the lock, and not by `get`: every answer of the directory comes through here (zlay.shared).
        entry = None if hostname is None else look_up(self._by_name, hostname)
        return 0 if entry is None else entry.id

    def find(self, hostname: str) -> HostEntry | None:
        """A copy of the host of this normalised name."""
        with self._lock:
            entry = look_up(self._by_name, hostname)
            return None if entry is None else _copy(entry)

    def get(self, host_id: int) -> HostEntry | None:
        """A copy of the host of this id."""
        with self._lock:
            entry = look_up(self._by_id, host_id)
            return None if entry is None else _copy(entry)

    def page(self, after_id: int, limit: int) -> list[HostEntry]:
        """Copies of up to `limit` hosts with higher ids than `after_id`, in the order first seen."""
        with self._lock:
            ids = sorted(host_id for host_id in self._by_id if host_id > after_id)[:limit]
            return [_copy(self._by_id[host_id]) for host_id in ids]

    def dialled_ids(self) -> list[int]:
        """Ids of the hosts that are to be dialled, in the order first seen."""
        with self._lock:
            return sorted(entry.id for entry in self._by_id.values() if not entry.banned)

    def counts(self) -> dict[str, int]:
        """How many hosts have which status."""
        with self._lock:
            found: dict[str, int] = {}
            for entry in self._by_id.values():
                found[entry.status] = found.get(entry.status, 0) + 1
            return found

    # --- adding and banning ---

    def add(self, hosts: Iterable[NewHost]) -> list[HostEntry]:
        """Adds those not known yet, durably, and has them dialled; copies of all, in their order. Raises StateError.

        Names must have been normalised and judged (zlay.hosts.names, zlay.hosts.requests).
        """
        wanted = list(hosts)
        with self._add_lock:
            with self._lock:
                unknown = [host for host in wanted if host.hostname not in self._by_name]
            added = []
            if unknown:
                crash.point("hosts.before")
                rows = {row.id: row for row in self._store.add_hosts(unknown)}
                crash.point("hosts.after")
                with self._lock:
                    added = [self._enter(row).id for row in rows.values()]
        self._announce(added)
        with self._lock:
            return [_copy(self._by_name[host.hostname]) for host in wanted]

    def wake(self, host_id: int) -> None:
        """Has a host without connection dialled now, whatever its back-off; at most once in WAKE_INTERVAL_S."""
        now_s = time.monotonic()
        with self._lock:
            entry = look_up(self._by_id, host_id)
            if entry is None or entry.status not in ("idle", "offline") or now_s - entry.woken_s < WAKE_INTERVAL_S:
                return
            entry.woken_s = now_s
        self._announce([host_id])

    def admit_stranger(self) -> None:
        """Whether one more host may be added today on the word of a stranger; HostRefused when not (E15)."""
        since_us = time.time_ns() // 1000 - DAY_US
        with self._lock:
            lately = sum(1 for one in self._by_id.values() if one.source == "request" and one.created_us > since_us)
        if lately >= self._max_new_per_day:
            raise HostRefused("RateLimitExceeded", "no more new hosts today; try again tomorrow", status=429)

    def refuse_banned(self, hostname: str) -> None:
        """HostRefused where the host, or a domain it is under, is banned."""
        with self._lock:
            entry = look_up(self._by_name, hostname)
            bans = self._domain_bans
        if (entry is not None and entry.banned) or any(under_domain(hostname, domain) for domain in bans):
            raise HostRefused("HostBanned", "this host is banned")

    def ban(self, host_id: int, *, banned: bool) -> None:
        """Bans a host, or lifts its ban, durably. KeyError when it is not known; StateError.

        Its open connection is for the dialer to end; frames of it in flight are dropped.
        """
        self._store.set_host_banned(host_id, banned=banned)
        with self._lock:
            entry = self._by_id[host_id]
            if entry.banned != banned:
                entry.status = "banned" if banned else "idle"
            self._dirty.pop(host_id, None)
        chost.ban(entry.index, banned)
        if not banned:
            self._announce([host_id])

    def ban_domain(self, domain: str, *, banned: bool) -> list[int]:
        """Bans a domain with every host under it, or lifts that; ids of the hosts concerned. StateError."""
        self._store.set_domain_ban(domain, banned=banned)
        bans = frozenset(self._store.domain_bans())
        with self._lock:
            self._domain_bans = bans
            concerned = [entry.id for name, entry in self._by_name.items() if under_domain(name, domain)]
        for host_id in concerned:
            self.ban(host_id, banned=banned)
        return concerned

    # --- the writer ---

    def run(self) -> None:
        """Writes statuses behind, until `stop`; then what is left."""
        backoff = Backoff()
        pause_s = WRITE_INTERVAL_S
        while not self._stop.wait(pause_s):
            pause_s = WRITE_INTERVAL_S if self.flush() else backoff.next_s()
        self.flush()

    def stop(self) -> None:
        """Asks `run` to end."""
        self._stop.set()

    def flush(self) -> bool:
        """Writes the statuses that wait; False when the database does not take them, and they wait on."""
        with self._lock:
            waiting, self._dirty = self._dirty, {}
        try:
            if waiting:
                self._store.set_host_statuses(list(waiting.items()))
        except StateError as exc:
            log.warn_rate("statuses", "host statuses cannot be written; trying again", error=str(exc))
            with self._lock:
                self._dirty = {**waiting, **self._dirty}
            return False
        return True

    def _announce(self, host_ids: Sequence[int]) -> None:
        """Without any lock: the listener may call back."""
        if self.on_added is not None:
            for host_id in host_ids:
                self.on_added(host_id)

    def _enter(self, row: HostRow) -> HostEntry:
        """Takes a row into the tables and makes its C Host. Requires _lock, or the constructor."""
        index = chost.new(row.id, row.hostname, self._host_credit_bytes)
        chost.set_epoch(index, row.epoch, row.cursor)
        status = "idle" if row.status == "active" else row.status  # nothing streams yet
        entry = HostEntry(
            row.id,
            index,
            row.hostname,
            row.no_tls,
            row.source,
            row.created_us,
            row.account_limit,
            status,
            row.epoch,
        )
        if entry.banned:
            chost.ban(index)
        self._by_id[row.id] = entry
        self._by_name[row.hostname] = entry
        return entry


def _copy(entry: HostEntry) -> HostEntry:
    """One to keep. Requires the registry's lock."""
    return replace(entry)
