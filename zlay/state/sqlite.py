"""State in SQLite: the store that needs no server (design 7).

Connections: one writer behind `_write_lock`, and up to READERS readers of which each is lent to one thread at a time (a
connection used by two threads at once misuses SQLite's API). WAL, so that readers never wait for the writer.

Durability: what is a view of the log (apply, identities, statuses) commits with synchronous=NORMAL. In WAL mode that
may lose the last transactions when the machine loses power, whole transactions from the end, never half of one; they
carry applied_seq, cursors and dedup_from along, so the log brings them back, and the log's own fdatasync has no rival
on the disk. What stands nowhere else (hosts, bans, epochs, ids) commits with synchronous=FULL; that also makes every
transaction before it durable.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any

from zlay._fast import crash
from zlay.errors import StartError, StateError, StateUnavailable
from zlay.pipeline.types import AccountRow, Identity
from zlay.state import schema
from zlay.state.interface import MAX_LIST_REPOS, Checkpoint, HostRow, RepoRow
from zlay.state.plan import StoredAccount, make_plan, newest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from zlay.hosts.interface import HostStatus
    from zlay.pipeline.types import AccountDelta, HostCursor
    from zlay.state.interface import NewHost
    from zlay.state.plan import Plan

__all__ = ["SqliteStore"]

READERS = 4  # more only share the same two disks; a caller beyond them waits for milliseconds
CLOSE_WAIT_S = 1.0  # of the five seconds that a stop may take
READER_WAIT_S = 30.0  # a reader kept longer than this is a bug or a dying disk
BUSY_TIMEOUT_S = 5.0  # somebody's sqlite3 shell holding the file
BUSY_LOOK_S = 0.1  # of it, between two looks at whether a stop has begun
WRITER_CACHE_KIB = 32 * 1024  # the upper levels of the indexes of some million accounts
READER_CACHE_KIB = 4 * 1024
CHECKPOINT_PAGES = 4000  # 16 MiB of WAL before its pages go back into the file: fewer rewrites of the same page
WAL_LIMIT_BYTES = 64 * 1024 * 1024  # the WAL file is cut back to this after a burst
KEYS_PER_SELECT = 500  # below SQLite's oldest limit of 999 variables

_ACCOUNT_COLUMNS = "a.did, a.host_id, a.upstream_status, a.local_status, r.rev, r.data, r.head, a.last_seq, r.last_seq"

_UPSERT_ACCOUNT = """
INSERT INTO account (uid, did, host_id, upstream_status, local_status, desynchronized, last_seq)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (uid) DO UPDATE SET host_id = excluded.host_id, upstream_status = excluded.upstream_status,
    local_status = excluded.local_status, desynchronized = excluded.desynchronized, last_seq = excluded.last_seq
WHERE account.last_seq <= excluded.last_seq"""

_UPSERT_REPO = """
INSERT INTO account_repo (uid, rev, data, head, last_seq) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (uid) DO UPDATE SET rev = excluded.rev, data = excluded.data, head = excluded.head,
    last_seq = excluded.last_seq
WHERE account_repo.rev < excluded.rev"""

_UPSERT_IDENTITY = """
INSERT INTO identity (did, pds, key_type, key_point, resolved_us) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (did) DO UPDATE SET pds = excluded.pds, key_type = excluded.key_type, key_point = excluded.key_point,
    resolved_us = excluded.resolved_us
WHERE identity.resolved_us <= excluded.resolved_us"""

_MOVE_CURSOR = """
UPDATE host SET upstream_cursor = ?3, epoch = ?2
WHERE id = ?1 AND (epoch < ?2 OR (epoch = ?2 AND (upstream_cursor IS NULL OR upstream_cursor < ?3)))"""

_HOST_COLUMNS = "id, hostname, status, no_tls, upstream_cursor, epoch, account_count, account_limit, source, created_us"


class SqliteStore:
    """The Store of zlay.state.interface in one SQLite file. Any thread may call any method but close."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file and brings its schema up. StartError when that cannot be."""
        self._path = path
        self._write_lock = threading.Lock()  # guards _writer and the transaction on it
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._readers = 0  # made; the constructor's thread, then close's
        self._closed = threading.Event()
        self._hurried = threading.Event()
        if path.exists() and not os.access(path, os.W_OK):  # SQLite would open it, and fail at the first write
            raise StartError(f"cannot open the state in {path}: no permission to write")
        try:
            self._writer = self._connect(WRITER_CACHE_KIB)
        except sqlite3.Error as exc:
            raise StartError(f"cannot open the state in {path}: {exc}") from exc
        try:
            self._migrate()
            self._writer.execute(f"PRAGMA busy_timeout = {int(BUSY_LOOK_S * 1000)}")
            for _ in range(READERS):
                self._add_reader()
        except (sqlite3.Error, StateError) as exc:
            self.close()
            raise StartError(f"cannot open the state in {path}: {exc}") from exc
        except StartError:
            self.close()
            raise

    def hurry(self) -> None:
        """From here on nobody waits for a lock that another process holds, but for a moment: a stop has begun."""
        self._hurried.set()

    def close(self) -> None:
        """Ends the store. Calls that begin afterwards fail; a connection still in use after CLOSE_WAIT_S stays open."""
        self._closed.set()
        deadline = time.monotonic() + CLOSE_WAIT_S
        while self._readers:
            try:
                self._idle.get(timeout=max(0.0, deadline - time.monotonic())).close()
            except queue.Empty:
                break
            self._readers -= 1
        if self._write_lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            self._writer.close()
            self._write_lock.release()

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

    def load_accounts(self, dids: Sequence[str]) -> list[AccountRow | None]:
        """The rows of `dids`, in their order."""
        accounts: dict[str, tuple[Any, ...]] = {}
        identities: dict[str, Identity] = {}
        with self._reader() as reader, _faults():
            for keys, marks in _chunks(dids):
                for row in reader.execute(
                    f"SELECT {_ACCOUNT_COLUMNS}, a.desynchronized FROM account a"
                    f" LEFT JOIN account_repo r ON r.uid = a.uid WHERE a.did IN ({marks})",
                    keys,
                ):
                    accounts[row[0]] = row
                for did, pds, key_type, key, resolved_us in reader.execute(
                    f"SELECT did, pds, key_type, key_point, resolved_us FROM identity"
                    f" WHERE did IN ({marks}) AND resolved_us > 0",
                    keys,
                ):
                    identities[did] = Identity(did, "ok", pds, key_type, key, resolved_us)
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
        moves = [(cursor.host_id, cursor.epoch, cursor.cursor) for cursor in cursors]
        with self._transaction(durable=False) as writer:
            (last_uid,) = writer.execute("SELECT COALESCE(MAX(uid), 0) FROM account").fetchone()
            _carry_out(writer, make_plan(by_did, _stored_accounts(writer, by_did), last_uid + 1))
            writer.executemany(_MOVE_CURSOR, moves)
            writer.execute(
                "UPDATE checkpoint SET applied_seq = MAX(applied_seq, ?1), dedup_from = MAX(dedup_from, ?2)",
                (applied_seq, dedup_from or 0),
            )

    def list_repos(self, after_uid: int, limit: int) -> list[RepoRow]:
        """Accounts with a repository, in the order first seen."""
        rows = self._read(
            "SELECT a.uid, a.did, a.host_id, a.upstream_status, a.local_status, a.desynchronized, r.rev, r.head"
            " FROM account_repo r JOIN account a ON a.uid = r.uid WHERE r.uid > ? ORDER BY r.uid LIMIT ?",
            (after_uid, max(1, min(limit, MAX_LIST_REPOS))),
        )
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
        rows = [(i.did, i.pds, i.key_type, i.key, i.resolved_us) for i in identities if i.outcome == "ok"]
        with self._transaction(durable=False) as writer:
            writer.executemany(_UPSERT_IDENTITY, rows)

    def expire_identities(self, dids: Sequence[str]) -> None:
        """Marks stored identities as not to be used before they have been asked for again."""
        with self._transaction(durable=False) as writer:
            writer.executemany("UPDATE identity SET resolved_us = 0 WHERE did = ?", [(did,) for did in dids])

    def forget_identities(self, dids: Sequence[str]) -> None:
        """Removes the stored identities of DIDs that are no more."""
        with self._transaction(durable=False) as writer:
            writer.executemany("DELETE FROM identity WHERE did = ?", [(did,) for did in dids])

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
                    f"INSERT INTO host ({_HOST_COLUMNS}) VALUES (?, ?, 'idle', ?, NULL, 1, 0, NULL, ?, ?)"
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
            writer.executemany("UPDATE host SET status = ?2 WHERE id = ?1 AND status <> 'banned'", statuses)

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
            writer.execute("UPDATE host SET upstream_cursor = NULL, epoch = epoch + 1 WHERE id = ?", (host_id,))
            row = writer.execute("SELECT epoch FROM host WHERE id = ?", (host_id,)).fetchone()
            if row is None:
                raise StateError(f"there is no host {host_id}")
        return int(row[0])

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

    # --- connections ---

    def _connect(self, cache_kib: int) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=BUSY_TIMEOUT_S, check_same_thread=False, autocommit=True, cached_statements=64
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA cache_size = -{cache_kib}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
            connection.execute("PRAGMA temp_store = MEMORY")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _add_reader(self) -> None:
        reader = self._connect(READER_CACHE_KIB)
        self._idle.put(reader)
        self._readers += 1
        reader.execute("PRAGMA query_only = 1")

    def _migrate(self) -> None:
        """Brings the schema up, each step durable. The constructor's thread."""
        self._writer.execute(
            "CREATE TABLE IF NOT EXISTS schema_migration (version INTEGER PRIMARY KEY, name TEXT, applied_us BIGINT)"
        )
        (applied,) = self._writer.execute("SELECT COALESCE(MAX(version), 0) FROM schema_migration").fetchone()
        for step in schema.pending(applied):
            with self._transaction(durable=True) as writer:
                for statement in step.statements:
                    writer.execute(statement)
                writer.execute(
                    "INSERT INTO schema_migration VALUES (?, ?, ?)", (step.version, step.name, time.time_ns() // 1000)
                )

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """One transaction on the writer: committed when the block ends, rolled back when it raises."""
        with self._write_lock, _faults():
            self._refuse_closed()
            writer = self._writer
            writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._begin(writer)
            try:
                yield writer
                crash.point("commit.before")
                writer.execute("COMMIT")
                crash.point("commit.after")
            except BaseException:
                if writer.in_transaction:  # some errors (a full disk) have rolled back already
                    writer.execute("ROLLBACK")
                raise

    def _begin(self, writer: sqlite3.Connection) -> None:
        """Takes the file's write lock, within BUSY_TIMEOUT_S; a reader's has no part in it (WAL). sqlite3.Error."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                writer.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as exc:
                late = self._hurried.is_set() or time.monotonic() >= deadline
                if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or late:
                    raise

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """Lends a reader to this thread."""
        self._refuse_closed()
        try:
            reader = self._idle.get(timeout=READER_WAIT_S)
        except queue.Empty:
            raise StateUnavailable("no database connection came free") from None
        try:
            yield reader
        finally:
            self._idle.put(reader)

    def _refuse_closed(self) -> None:
        if self._closed.is_set():
            raise StateUnavailable("the store is closed")

    def _read(self, sql: str, params: Sequence[object] = ()) -> list[Any]:
        with self._reader() as reader, _faults():
            return reader.execute(sql, params).fetchall()


@contextlib.contextmanager
def _faults() -> Iterator[None]:
    """Turns SQLite's exceptions into ours."""
    try:
        yield
    except sqlite3.OperationalError as exc:  # locked, full, unreadable, gone
        raise StateUnavailable(f"the state database does not answer: {exc}") from exc
    except sqlite3.Error as exc:
        raise StateError(f"the state database refuses: {exc}") from exc


def _chunks(keys: Collection[str]) -> Iterator[tuple[list[str], str]]:
    """Keys in pieces with as many question marks."""
    every = list(keys)
    for start in range(0, len(every), KEYS_PER_SELECT):
        piece = every[start : start + KEYS_PER_SELECT]
        yield piece, ",".join("?" * len(piece))


def _stored_accounts(writer: sqlite3.Connection, dids: Collection[str]) -> dict[str, StoredAccount]:
    stored = {}
    for keys, marks in _chunks(dids):
        for did, uid, host_id, upstream, local, desynchronized, last_seq in writer.execute(
            "SELECT did, uid, host_id, upstream_status, local_status, desynchronized, last_seq FROM account"
            f" WHERE did IN ({marks})",
            keys,
        ):
            stored[did] = StoredAccount(uid, host_id, upstream, local, bool(desynchronized), last_seq)
    return stored


def _carry_out(writer: sqlite3.Connection, plan: Plan) -> None:
    writer.executemany(_UPSERT_ACCOUNT, plan.accounts)
    writer.executemany(_UPSERT_REPO, plan.repos)
    writer.executemany("UPDATE host SET account_count = account_count + ?2 WHERE id = ?1", list(plan.counts.items()))
    writer.executemany("UPDATE identity SET resolved_us = 0 WHERE did = ?", plan.stale_identities)


def _account_row(did: str, row: tuple[Any, ...] | None, identity: Identity | None) -> AccountRow | None:
    if row is None:
        if identity is None:
            return None
        return AccountRow(did, 0, 0, 0, None, None, None, 0, identity)
    _, host_id, upstream, local, rev, data, head, account_seq, repo_seq, desynchronized = row
    last_seq = max(account_seq, repo_seq or 0)
    return AccountRow(did, host_id, upstream, local, rev, data, head, last_seq, identity, bool(desynchronized))


def _host_row(row: tuple[Any, ...]) -> HostRow:
    host_id, hostname, status, no_tls, cursor, epoch, accounts, limit, source, created_us = row
    return HostRow(host_id, hostname, status, bool(no_tls), cursor, epoch, accounts, limit, source, created_us)
