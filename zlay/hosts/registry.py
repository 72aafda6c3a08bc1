"""Every host zlay knows: names, ids, statuses, bans; in memory, with the store behind (design 9).

What the store has is given at the start, by one query; after that reading never touches the database. Adding, banning
and new epochs are in the database before they are in force; statuses are written behind by `run`, a second late at
most, as losing one loses nothing. A ban holds against every status reported (protocol E20). What each host may send is
decided here from its tier, its accounts and an operator's word (zlay.hosts.limits), and told to the core.

Threads: any thread may call anything; `run` belongs to one supervised thread. Locks are taken in this order:
`_add_lock` (one adds hosts, or bans a domain, at a time) and `_ban_lock` (one bans, or changes limits, at a time; the
dialer hears of bans in their order) are held over the database; `_lock` guards the tables in memory and never is, nor
over the network.
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
from zlay._fast import limits as climits
from zlay.errors import HostRefused, StateError
from zlay.hosts.interface import DialTarget
from zlay.hosts.limits import TIERS, Given, Limits, Tier, TierRules, limits_of
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
HOUR_US = 3600 * 1_000_000
NEW_HOSTS_PER_DAY = 50  # E18: hosts added on the word of strangers
MAX_REPLAY_HOURS = 72.0

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
    account_limit: int | None  # given by an operator; None = by tier
    status: HostStatus
    epoch: int
    given: Given  # limits of its own
    tier: Tier
    account_count: int  # some seconds old
    cursor_us: int | None  # when the saved cursor was moved last, as the store had it at the start
    domain_banned: bool = False
    old_cursor_us: int | None = None  # set where the last dial asked for more than MAX_REPLAY_HOURS
    woken_s: float = -math.inf  # monotonic: when it was last asked to be dialled out of turn
    failure: Failure | None = None  # of the last dial or connection; None = it works, or was never tried

    @property
    def banned(self) -> bool:
        """Never dialled, its frames dropped: by its own ban or its domain's."""
        return self.domain_banned or self.status == "banned"

    @property
    def accounts_allowed(self) -> int | None:
        """How many accounts the host may have; None = any number."""
        return self.tier.account_limit if self.account_limit is None else self.account_limit

    @property
    def over_accounts(self) -> bool:
        """Whether it has more."""
        return self.accounts_allowed is not None and self.account_count > self.accounts_allowed

    @property
    def limits(self) -> Limits:
        """What it may send now."""
        return limits_of(self.tier, self.given, self.account_count, self.accounts_allowed)

    @property
    def shown_status(self) -> HostStatus:
        """E20: its status as others see it. Throttled: it streams, and is held back by its limits."""
        if self.banned:
            return "banned"
        if self.status == "active" and (self.over_accounts or climits.throttled(self.index)):
            return "throttled"
        return self.status


class Registry:
    """See the module's head."""

    def __init__(
        self,
        store: Store,
        hosts: Iterable[HostRow],
        *,
        host_credit_bytes: int,
        max_new_per_day: int = NEW_HOSTS_PER_DAY,
        tiers: TierRules | None = None,
        max_replay_hours: float = MAX_REPLAY_HOURS,
        on_added: Callable[[int], None] | None = None,
        on_banned: Callable[[int], None] | None = None,
    ) -> None:
        """`hosts`: all that the store has. `on_added(host_id)` hears of hosts that are to be dialled now: new, woken or
        unbanned; `on_banned(host_id)` of those to be dialled no more. Neither may wait, nor ban.
        """
        self._store = store
        self._host_credit_bytes = host_credit_bytes
        self._max_new_per_day = max_new_per_day
        self._tiers = tiers or TierRules()
        self._max_replay_us = int(max_replay_hours * HOUR_US)
        self.on_added = on_added
        self.on_banned = on_banned
        self._lock = threading.Lock()  # guards the four below and the entries in them
        self._by_id: dict[int, HostEntry] = {}
        self._by_name: dict[str, HostEntry] = {}
        self._dirty: dict[int, HostStatus] = {}
        self._domain_bans: frozenset[str] = frozenset(store.domain_bans())
        self._add_lock = threading.Lock()
        self._ban_lock = threading.Lock()
        self._stop = threading.Event()
        for row in hosts:
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
            entry = self._by_id[host_id]
        seq = chost.resume_seq(entry.index)
        heard_us = max(entry.cursor_us or 0, chost.stats(entry.index)["last_frame_us"] or 0)
        old = seq is not None and 0 < heard_us < time.time_ns() // 1000 - self._max_replay_us
        if old and entry.old_cursor_us is None:
            log.warning("a host's cursor is old: it may not have all events since", host=entry.hostname, cursor=seq)
        with self._lock:
            entry.old_cursor_us = heard_us if old else None
        return seq

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

    def has_dialled(self) -> bool:
        """Whether there is a host that is to be dialled."""
        with self._lock:
            return any(not entry.banned for entry in self._by_id.values())

    def counts(self) -> dict[str, int]:
        """How many hosts have which status."""
        with self._lock:
            found: dict[str, int] = {}
            for entry in self._by_id.values():
                status = entry.shown_status
                found[status] = found.get(status, 0) + 1
            return found

    def old_cursors(self) -> int:
        """How many hosts were last dialled with a cursor older than MAX_REPLAY_HOURS."""
        with self._lock:
            return sum(entry.old_cursor_us is not None for entry in self._by_id.values())

    # --- adding and banning ---

    def add(self, hosts: Iterable[NewHost]) -> list[HostEntry]:
        """Adds those not known yet, durably, and has them dialled; copies of all, in their order. Raises StateError.

        Names must have been normalised and judged (zlay.hosts.names, zlay.hosts.requests). Those of a domain that has
        been banned meanwhile are left out.
        """
        wanted = list(hosts)
        with self._add_lock:
            with self._lock:
                wanted = [one for one in wanted if one.hostname in self._by_name or not self._in_banned(one.hostname)]
                unknown = [host for host in wanted if host.hostname not in self._by_name]
            added = []
            if unknown:
                crash.point("hosts.before")
                rows = {row.id: row for row in self._store.add_hosts(unknown)}
                crash.point("hosts.after")
                for row in rows.values():  # not all under one lock: a thousand come at once, and health waits for it
                    with self._lock:
                        added.append(self._enter(row).id)
        self._announce(added)
        return [entry for host in wanted if (entry := self.find(host.hostname)) is not None]

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
            banned = self._in_banned(hostname) if entry is None else entry.banned
        if banned:
            raise HostRefused("HostBanned", "this host is banned")

    def ban(self, host_id: int, *, banned: bool) -> None:
        """Bans a host, or lifts its ban, durably. KeyError when it is not known; StateError.

        The dialer is told to end its connection; frames of it in flight are dropped. A host whose domain is banned
        stays so.
        """
        with self._ban_lock:
            with self._lock:
                entry = self._by_id[host_id]
            self._store.set_host_banned(host_id, banned=banned)
            with self._lock:
                was = entry.banned
                if (entry.status == "banned") != banned:
                    entry.status = "banned" if banned else "idle"
                self._dirty.pop(host_id, None)
                self._bans_changed([(entry, was)])

    def ban_domain(self, domain: str, *, banned: bool) -> list[int]:
        """Bans a domain with every host under it, or lifts that; ids of the hosts concerned. StateError.

        Bans of single hosts stay as they are.
        """
        with self._add_lock, self._ban_lock:
            self._store.set_domain_ban(domain, banned=banned)
            with self._lock:
                self._domain_bans = self._domain_bans | {domain} if banned else self._domain_bans - {domain}
                concerned = [entry for name, entry in self._by_name.items() if under_domain(name, domain)]
                changes = [(entry, entry.banned) for entry in concerned]
                for entry in concerned:
                    entry.domain_banned = self._in_banned(entry.hostname)
                self._bans_changed(changes)
        return [entry.id for entry in concerned]

    def domain_bans(self) -> list[str]:
        """The banned domains, sorted."""
        return sorted(self._domain_bans)

    def _in_banned(self, hostname: str) -> bool:
        """Whether a banned domain has this name. Requires _lock, or the constructor."""
        return any(under_domain(hostname, domain) for domain in self._domain_bans)

    def _bans_changed(self, changes: Iterable[tuple[HostEntry, bool]]) -> None:
        """Tells core and dialer of the entries that are (not) banned any more. Requires _ban_lock and _lock."""
        for entry, was in changes:
            chost.ban(entry.index, entry.banned)
            told = self.on_banned if entry.banned else self.on_added
            if entry.banned != was and told is not None:
                told(entry.id)

    # --- limits ---

    def set_account_counts(self, counts: Mapping[int, int]) -> None:
        """Accounts by host id, as the state has them now: hosts' limits follow."""
        with self._lock:
            for entry in self._by_id.values():
                count = counts.get(entry.id, 0)
                if count != entry.account_count:
                    entry.account_count = count
                    climits.set_limits(entry.index, entry.limits.values())

    def change_limits(self, host_id: int, given: Given, account_limit: int | None) -> HostEntry:
        """Gives a host limits of its own, durably and at once; a copy of it. KeyError, ValueError, StateError."""
        given.check()
        with self._ban_lock:
            with self._lock:
                entry = self._by_id[host_id]
            self._store.set_host_limits(host_id, given.to_json(), account_limit)
            with self._lock:
                entry.given = given
                entry.account_limit = account_limit
                entry.tier = self._tier_of(entry.hostname, given)
                climits.set_limits(entry.index, entry.limits.values())
                return _copy(entry)

    def _tier_of(self, hostname: str, given: Given) -> Tier:
        return self._tiers.tier_of(hostname) if given.tier is None else TIERS[given.tier]

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
        status = row.status if row.status in ("offline", "banned") else "idle"  # nothing streams yet
        given = Given.from_json(row.limits)
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
            given,
            self._tier_of(row.hostname, given),
            row.account_count,
            row.cursor_us,
            domain_banned=self._in_banned(row.hostname),
        )
        climits.set_limits(index, entry.limits.values())
        if entry.banned:
            chost.ban(index)
        self._by_id[row.id] = entry
        self._by_name[row.hostname] = entry
        return entry


def _copy(entry: HostEntry) -> HostEntry:
    """One to keep. Requires the registry's lock."""
    return replace(entry)
