"""What both databases have in common: every question of the interface, in SQL that SQLite and PostgreSQL understand.

A database adds how it is connected to, how a transaction begins, what its errors mean, and how many rows are read or
written at once. Values stand as `?` in all statements, in their order; no statement holds one as a literal character.
`_write_lock` guards the one writer and the transaction on it; readers are lent to one thread at a time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from zlay._fast import crash
from zlay.errors import StateError, StateUnavailable
from zlay.pipeline.types import AccountRow, Identity
from zlay.state import schema
from zlay.state.interface import MAX_LIST_REPOS, Checkpoint, HostRow, MirrorPlace, RepoRow
from zlay.state.plan import make_plan, newest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from zlay.hosts.interface import HostStatus
    from zlay.pipeline.types import AccountDelta, HostCursor
    from zlay.state.interface import Mirrored, NewHost
    from zlay.state.plan import Plan

__all__ = ["ACCOUNT", "BUSY_TIMEOUT_S", "IDENTITY", "READERS", "REPO", "Rows", "Session", "SqlStore", "Table"]

READERS = 4  # connections; a caller beyond them waits for milliseconds
READER_WAIT_S = 10.0  # a reader kept longer than this is a bug, a dying disk or a server that hangs
BUSY_TIMEOUT_S = 5.0  # how long a write waits for a lock of somebody else's, such as a person's shell
CLOSE_WAIT_S = 1.0  # of the five seconds that a stop may take
CLOCKS_DIFFER_US = 300_000_000  # so far a directory's clock and ours may be apart

_CREATE_SCHEMA_MIGRATION = (
    "CREATE TABLE IF NOT EXISTS schema_migration (version INTEGER PRIMARY KEY, name TEXT, applied_us BIGINT)"
)
_ACCOUNT_COLUMNS = "a.did, a.host_id, a.upstream_status, a.local_status, r.rev, r.data, r.head, a.last_seq, r.last_seq"
_HOST_COLUMNS = (
    "id, hostname, status, no_tls, upstream_cursor, epoch, account_count, account_limit, source, created_us, limits,"
    " cursor_us"
)

_MOVE_CURSOR = """
UPDATE host SET upstream_cursor = ?, epoch = ?, cursor_us = ?
WHERE id = ? AND (epoch < ? OR (epoch = ? AND (upstream_cursor IS NULL OR upstream_cursor < ?)))"""

_MOVE_CHECKPOINT = """
UPDATE checkpoint SET applied_seq = CASE WHEN applied_seq < ? THEN ? ELSE applied_seq END,
    dedup_from = CASE WHEN dedup_from < ? THEN ? ELSE dedup_from END"""


class Rows(Protocol):
    """What a statement gives."""

    @property
    def rowcount(self) -> int:
        """Rows written."""

    def fetchone(self) -> Any:
        """The next row as a tuple; None after the last."""

    def fetchall(self) -> list[Any]:
        """All rows that are left."""


class Session(Protocol):
    """One connection, lent to one thread."""

    def execute(self, sql: str, params: Sequence[Any] = ..., /) -> Rows:
        """Runs one statement."""

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> object:
        """Runs one statement for each row of values."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that is written many rows at a time: its columns, their types, and what is done where a row is there."""

    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]  # PostgreSQL's names
    on_conflict: str
    second_key: int | None = None  # the place of a column that has a unique index beside the first one's


ACCOUNT = Table(
    "account",
    ("uid", "did", "host_id", "upstream_status", "local_status", "desynchronized", "last_seq"),
    ("int4", "text", "int4", "int2", "int2", "int2", "int8"),
    "ON CONFLICT (uid) DO UPDATE SET host_id = excluded.host_id, upstream_status = excluded.upstream_status,"
    " local_status = excluded.local_status, desynchronized = excluded.desynchronized, last_seq = excluded.last_seq"
    " WHERE account.last_seq <= excluded.last_seq",
    second_key=1,
)
REPO = Table(
    "account_repo",
    ("uid", "rev", "data", "head", "last_seq"),
    ("int4", "text", "bytea", "bytea", "int8"),
    "ON CONFLICT (uid) DO UPDATE SET rev = excluded.rev, data = excluded.data, head = excluded.head,"
    " last_seq = excluded.last_seq WHERE account_repo.rev < excluded.rev",
)
IDENTITY = Table(
    "identity",
    ("did", "pds", "key_type", "key_point", "resolved_us"),
    ("text", "text", "int2", "bytea", "int8"),
    "ON CONFLICT (did) DO UPDATE SET pds = excluded.pds, key_type = excluded.key_type,"
    " key_point = excluded.key_point, resolved_us = excluded.resolved_us"
    f" WHERE CASE WHEN identity.resolved_us < 0 THEN {CLOCKS_DIFFER_US} - identity.resolved_us"
    " ELSE identity.resolved_us END <= excluded.resolved_us",
)
# The same table. A row that a resolver has asked for long after the operation knows it; one that it has asked for about
# then may or may not, and is to be asked for again; so is one that is in doubt already.
MIRRORED = Table(
    "identity",
    IDENTITY.columns,
    IDENTITY.types,
    "ON CONFLICT (did) DO UPDATE SET pds = excluded.pds, key_type = excluded.key_type,"
    " key_point = excluded.key_point, resolved_us = CASE WHEN identity.resolved_us < 0"
    f" OR (identity.resolved_us > 0 AND identity.resolved_us + {CLOCKS_DIFFER_US} < -excluded.resolved_us)"
    " THEN excluded.resolved_us ELSE 0 END"
    f" WHERE identity.resolved_us <= {CLOCKS_DIFFER_US} - excluded.resolved_us",
)


class Connection(Protocol):
    """A connection to the database."""

    def close(self) -> None:
        """Ends it."""


class SqlStore[C: Connection](ABC):
    """The Store of zlay.state.interface over some SQL database. Any thread may call any public method but close."""

    def __init__(self) -> None:
        self._write_lock = threading.Lock()  # guards the writer and the transaction on it
        self._closed = threading.Event()
        self._hurried = threading.Event()

    # --- what a database adds ---

    @abstractmethod
    def _reader(self) -> AbstractContextManager[Session]:
        """Lends a reader to this thread; StateUnavailable when none comes free in time."""

    @abstractmethod
    def _close_readers(self, deadline: float) -> None:
        """Closes those that are not lent, and waits until `deadline` (monotonic) for the others."""

    @abstractmethod
    def _session(self, connection: C) -> Session:
        """The connection as statements here know it."""

    @abstractmethod
    def _drop_writer(self) -> None:
        """Closes the writer's connection; requires holding `_write_lock`."""

    @abstractmethod
    def _begin(self, *, durable: bool) -> Session:
        """Begins a transaction on the writer; requires holding `_write_lock`."""

    @abstractmethod
    def _roll_back(self) -> None:
        """Ends the writer's transaction, whatever state it is in, without raising; requires holding `_write_lock`."""

    @abstractmethod
    def _faults(self) -> AbstractContextManager[None]:
        """Turns the database's exceptions into StateUnavailable and StateError."""

    @abstractmethod
    def _by_did(self, session: Session, sql: str, dids: Collection[str]) -> Iterable[tuple[Any, ...]]:
        """The rows of `sql` for any number of different DIDs, of which it is told at `{keys}`, before its table's name,
        or at `{match}`, behind its `did`.
        """

    @abstractmethod
    def _insert(self, session: Session, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Writes rows that are not there yet."""

    @abstractmethod
    def _upsert(self, session: Session, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Writes rows of which no two have one key; `table.on_conflict` says what becomes of those that are there."""

    # --- life ---

    def hurry(self) -> None:
        """From here on nobody waits for a lock that another process holds, but for a moment: a stop has begun."""
        self._hurried.set()

    def close(self) -> None:
        """Ends the store. Calls that begin afterwards fail; a connection that is in use is closed by its user, or with
        the process. Once is enough."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._hurried.set()
        deadline = time.monotonic() + CLOSE_WAIT_S
        self._close_readers(deadline)
        if self._write_lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            self._drop_writer()
            self._write_lock.release()

    def _migrate(self) -> None:
        """Brings the schema up, each step in a transaction of its own. The constructor's thread."""
        with self._transaction(durable=True) as writer:
            writer.execute(_CREATE_SCHEMA_MIGRATION)
            (applied,) = writer.execute("SELECT COALESCE(MAX(version), 0) FROM schema_migration").fetchone()
        for step in schema.pending(applied):
            with self._transaction(durable=True) as writer:
                for statement in step.statements:
                    writer.execute(statement)
                writer.execute(
                    "INSERT INTO schema_migration VALUES (?, ?, ?)", (step.version, step.name, time.time_ns() // 1000)
                )

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[Session]:
        """One transaction on the writer: committed when the block ends, rolled back when it raises.

        `durable`: it must outlast a loss of power, as the log does not have it.
        """
        with self._write_lock, self._faults():
            self._refuse_closed()
            writer = self._begin(durable=durable)
            try:
                yield writer
                crash.point("commit.before")
                writer.execute("COMMIT")
                crash.point("commit.after")
            except BaseException:
                self._roll_back()
                raise

    def _refuse_closed(self) -> None:
        if self._closed.is_set():
            raise StateUnavailable("the store is closed")

    def _read(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        self._refuse_closed()
        with self._faults(), self._reader() as reader:
            return reader.execute(sql, params).fetchall()

    # --- checkpoint ---

    def checkpoint(self) -> Checkpoint:
        """How far the state follows the log."""
        ((store_id, applied_seq, dedup_from),) = self._read("SELECT store_id, applied_seq, dedup_from FROM checkpoint")
        return Checkpoint(store_id, applied_seq, dedup_from)

    def set_store_id(self, store_id: bytes) -> None:
        """Gives a new store its 16-byte id, durably."""
        with self._transaction(durable=True) as writer:
            writer.execute("UPDATE checkpoint SET store_id = ? WHERE store_id IS NULL", (store_id,))
            (stored,) = writer.execute("SELECT store_id FROM checkpoint").fetchone()
            if stored != store_id:
                raise StateError(f"the state has the store id {stored.hex()} already")

    # --- accounts ---

    def load_accounts(self, dids: Sequence[str], mirrored_us: int = 0) -> list[AccountRow | None]:
        """The rows of `dids`, in their order; a mirror is complete up to `mirrored_us`."""
        self._refuse_closed()
        with self._faults(), self._reader() as reader:
            accounts = {row[0]: row for row in self._by_did(reader, _LOAD_ACCOUNTS, dids)}
            identities = {row[0]: _identity(row, mirrored_us) for row in self._by_did(reader, _LOAD_IDENTITIES, dids)}
        return [_account_row(did, accounts.get(did), identities.get(did)) for did in dids]

    def account(self, did: str) -> AccountRow | None:
        """The row of one DID."""
        return self.load_accounts([did])[0]

    def taken_down(self) -> list[str]:
        """DIDs of the accounts to which this relay has given a status of its own."""
        return [did for (did,) in self._read("SELECT did FROM account WHERE local_status <> 0 ORDER BY did")]

    def apply(
        self,
        deltas: Sequence[AccountDelta],
        cursors: Sequence[HostCursor],
        applied_seq: int,
        dedup_from: int | None,
    ) -> None:
        """One group of the applier, in one transaction."""
        by_did = newest(deltas)
        now_us = time.time_ns() // 1000
        moves = [
            (move.cursor, move.epoch, now_us, move.host_id, move.epoch, move.epoch, move.cursor) for move in cursors
        ]
        dedup = dedup_from or 0
        with self._transaction(durable=False) as writer:
            if by_did:
                stored = self._by_did(writer, _STORED_ACCOUNTS, by_did)
                (last_uid,) = writer.execute("SELECT COALESCE(MAX(uid), 0) FROM account").fetchone()
                self._carry_out(writer, make_plan(by_did, stored, last_uid + 1))
            if moves:
                writer.executemany(_MOVE_CURSOR, moves)
            writer.execute(_MOVE_CHECKPOINT, (applied_seq, applied_seq, dedup, dedup))

    def _carry_out(self, writer: Session, plan: Plan) -> None:
        self._insert(writer, ACCOUNT, plan.new_accounts)
        self._insert(writer, REPO, plan.new_repos)
        self._upsert(writer, ACCOUNT, plan.accounts)
        self._upsert(writer, REPO, plan.repos)
        if plan.counts:
            counts = [(more, host_id) for host_id, more in plan.counts.items()]
            writer.executemany("UPDATE host SET account_count = account_count + ? WHERE id = ?", counts)
        if plan.stale_identities:
            writer.executemany("UPDATE identity SET resolved_us = 0 WHERE did = ?", plan.stale_identities)

    def list_repos(self, after_uid: int, limit: int) -> list[RepoRow]:
        """Accounts with a repository, in the order first seen."""
        rows = self._read(_LIST_REPOS, (after_uid, after_uid, max(1, min(limit, MAX_LIST_REPOS))))
        return [
            RepoRow(uid, did, host, upstream, local, bool(desync), rev, head)
            for uid, did, host, upstream, local, desync, rev, head in rows
        ]

    def account_count(self) -> int:
        """About how many accounts are stored: the highest number given, as none is removed."""
        ((last,),) = self._read("SELECT COALESCE(MAX(uid), 0) FROM account")
        return int(last)

    # --- identities ---

    def save_identities(self, identities: Sequence[Identity]) -> None:
        """Stores conclusive answers and leaves the others out."""
        rows: dict[str, tuple[Any, ...]] = {}
        for one in identities:
            if one.outcome == "ok" and (one.did not in rows or rows[one.did][-1] <= one.resolved_us):
                rows[one.did] = (one.did, one.pds, one.key_type, one.key, one.resolved_us)
        with self._transaction(durable=False) as writer:
            self._upsert(writer, IDENTITY, list(rows.values()))

    def expire_identities(self, dids: Sequence[str]) -> None:
        """Marks stored identities as not to be used before they have been asked for again."""
        with self._transaction(durable=False) as writer:
            writer.executemany("UPDATE identity SET resolved_us = 0 WHERE did = ?", [(did,) for did in dids])

    def forget_identities(self, dids: Sequence[str]) -> None:
        """Removes the stored identities of DIDs that are no more."""
        with self._transaction(durable=False) as writer:
            writer.executemany("DELETE FROM identity WHERE did = ?", [(did,) for did in dids])

    def mirror_place(self, url: str) -> MirrorPlace:
        """How far the mirror of a directory has come."""
        rows = self._read("SELECT seq, complete_us FROM plc_mirror WHERE url = ?", (url,))
        return MirrorPlace(*rows[0]) if rows else MirrorPlace(0, 0)

    def save_mirrored(self, url: str, newest: Sequence[Mirrored], place: MirrorPlace) -> None:
        """The newest operation of each DID in a part of a directory's export, and how far that goes."""
        rows = []
        gone = []
        for one in newest:
            if one.identity is None:
                gone.append((one.did, one.made_us + CLOCKS_DIFFER_US))
            else:
                rows.append((one.did, one.identity.pds, one.identity.key_type, one.identity.key, -one.made_us))
        with self._transaction(durable=False) as writer:
            self._upsert(writer, MIRRORED, rows)
            if gone:
                writer.executemany("DELETE FROM identity WHERE did = ? AND resolved_us <= ?", gone)
            writer.execute(
                "INSERT INTO plc_mirror (url, seq, complete_us) VALUES (?, ?, ?) ON CONFLICT (url)"
                " DO UPDATE SET seq = excluded.seq, complete_us = excluded.complete_us",
                (url, place.seq, place.complete_us),
            )

    # --- hosts ---

    def hosts(self) -> list[HostRow]:
        """All hosts by id, in one query."""
        return [_host_row(row) for row in self._read(f"SELECT {_HOST_COLUMNS} FROM host ORDER BY id")]

    def host(self, hostname: str) -> HostRow | None:
        """One host by its normalised name."""
        rows = self._read(f"SELECT {_HOST_COLUMNS} FROM host WHERE hostname = ?", (hostname,))
        return _host_row(rows[0]) if rows else None

    def add_hosts(self, new: Sequence[NewHost]) -> list[HostRow]:
        """Adds the hosts that are not there yet, durably; the rows of all, in their order."""
        now_us = time.time_ns() // 1000
        with self._transaction(durable=True) as writer:
            (last,) = writer.execute("SELECT COALESCE(MAX(id), 0) FROM host").fetchone()
            rows = []
            for host in new:
                added = writer.execute(
                    f"INSERT INTO host ({_HOST_COLUMNS}) VALUES (?, ?, 'idle', ?, NULL, 1, 0, NULL, ?, ?, NULL, NULL)"
                    " ON CONFLICT (hostname) DO NOTHING",
                    (last + 1, host.hostname, int(host.no_tls), host.source, now_us),
                )
                last += added.rowcount
                found = writer.execute(f"SELECT {_HOST_COLUMNS} FROM host WHERE hostname = ?", (host.hostname,))
                rows.append(_host_row(found.fetchone()))
        return rows

    def set_host_statuses(self, statuses: Sequence[tuple[int, HostStatus]]) -> None:
        """Writes (host id, status) pairs. A banned host stays banned."""
        with self._transaction(durable=False) as writer:
            writer.executemany(
                "UPDATE host SET status = ? WHERE id = ? AND status <> 'banned'",
                [(status, host_id) for host_id, status in statuses],
            )

    def set_host_banned(self, host_id: int, *, banned: bool) -> None:
        """Bans a host, or lifts its ban, durably."""
        with self._transaction(durable=True) as writer:
            if banned:
                writer.execute("UPDATE host SET status = 'banned' WHERE id = ?", (host_id,))
            else:
                writer.execute("UPDATE host SET status = 'idle' WHERE id = ? AND status = 'banned'", (host_id,))

    def begin_epoch(self, host_id: int) -> int:
        """The host's numbering starts again: cursor to live, epoch + 1, durably."""
        with self._transaction(durable=True) as writer:
            writer.execute(
                "UPDATE host SET upstream_cursor = NULL, cursor_us = NULL, epoch = epoch + 1 WHERE id = ?", (host_id,)
            )
            row = writer.execute("SELECT epoch FROM host WHERE id = ?", (host_id,)).fetchone()
            if row is None:
                raise StateError(f"there is no host {host_id}")
        return int(row[0])

    def set_host_limits(self, host_id: int, limits: str | None, account_limit: int | None) -> None:
        """What an operator gives a host instead of its tier's, durably."""
        with self._transaction(durable=True) as writer:
            writer.execute(
                "UPDATE host SET limits = ?, account_limit = ? WHERE id = ?", (limits, account_limit, host_id)
            )

    def host_account_counts(self) -> dict[int, int]:
        """Accounts that are not deleted, by host id."""
        return dict(self._read("SELECT id, account_count FROM host"))

    # --- bans ---

    def domain_bans(self) -> list[str]:
        """Banned domains, sorted."""
        return [row[0] for row in self._read("SELECT domain FROM domain_ban ORDER BY domain")]

    def set_domain_ban(self, domain: str, *, banned: bool) -> None:
        """Bans a domain and every name under it, or lifts that, durably."""
        with self._transaction(durable=True) as writer:
            if banned:
                writer.execute(
                    "INSERT INTO domain_ban (domain, created_us) VALUES (?, ?) ON CONFLICT (domain) DO NOTHING",
                    (domain, time.time_ns() // 1000),
                )
            else:
                writer.execute("DELETE FROM domain_ban WHERE domain = ?", (domain,))


# Both tables from the cursor on: joined in any way, nothing before it is looked at.
_LIST_REPOS = """
SELECT a.uid, a.did, a.host_id, a.upstream_status, a.local_status, a.desynchronized, r.rev, r.head
FROM account_repo r CROSS JOIN account a WHERE r.uid > ? AND a.uid > ? AND a.uid = r.uid ORDER BY r.uid LIMIT ?"""
# Of many DIDs at once: see `_by_did`.
_LOAD_ACCOUNTS = (
    f"SELECT {_ACCOUNT_COLUMNS}, a.desynchronized FROM {{keys}}account a"
    " LEFT JOIN account_repo r ON r.uid = a.uid WHERE a.did {match}"
)
_LOAD_IDENTITIES = (
    "SELECT did, pds, key_type, key_point, resolved_us FROM {keys}identity WHERE resolved_us <> 0 AND did {match}"
)
_STORED_ACCOUNTS = (
    "SELECT did, uid, host_id, upstream_status, local_status, desynchronized, last_seq"
    " FROM {keys}account WHERE did {match}"
)


def _identity(row: tuple[Any, ...], mirrored_us: int) -> Identity | None:
    did, pds, key_type, key, resolved_us = row
    if did.startswith("did:plc:"):
        resolved_us = max(resolved_us, mirrored_us)
    if resolved_us <= 0:
        return None
    return Identity(did, "ok", pds, key_type, key, resolved_us)


def _account_row(did: str, row: tuple[Any, ...] | None, identity: Identity | None) -> AccountRow | None:
    if row is None:
        if identity is None:
            return None
        return AccountRow(did, 0, 0, 0, None, None, None, 0, identity)
    _, host_id, upstream, local, rev, data, head, account_seq, repo_seq, desynchronized = row
    last_seq = max(account_seq, repo_seq or 0)
    return AccountRow(did, host_id, upstream, local, rev, data, head, last_seq, identity, bool(desynchronized))


def _host_row(row: tuple[Any, ...]) -> HostRow:
    host_id, hostname, status, no_tls, *others = row
    return HostRow(host_id, hostname, status, bool(no_tls), *others)
