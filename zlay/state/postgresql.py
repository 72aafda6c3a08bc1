"""State in PostgreSQL: for an operator who has one, and for states beyond one machine's disk (design 7).

Connections: one writer behind `_write_lock`, and up to READERS readers of a pool, made when they are wanted. The pool
itself tells nobody that the server is away before his time is over; so who waits looks, every WAIT_LOOK_S, whether the
pool could not connect meanwhile (`_away`). Nor does it miss the thread that makes connections, should that end: who
waits looks for it, too, and takes another pool in its place. Many rows at a time go by COPY.

One writer (R11). The writer's session holds an advisory lock, so that a second relay is refused, and everything is
written by the session that holds it: who loses the connection cannot write without having taken the lock again. Since
another relay may have had it in between, the database also names its writer (`checkpoint.writer`); and since a
fail-over may have brought back an older state, applied_seq must not be below what was committed. Both are refusals
until a restart, which brings the state up from the log.

A server that is away, that hangs or that lets a statement wait is given up on after STATEMENT_S or READ_S at the latest
(`_Connection`); the caller hears StateUnavailable and may try again: every transaction here may be done twice.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import select
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Any, Self, override

import psycopg
import psycopg_pool
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from zlay import logs
from zlay.errors import StartError, StateError, StateUnavailable
from zlay.state import store
from zlay.state.store import ACCOUNT, IDENTITY, REPO, SqlStore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from psycopg.abc import PQGen

    from zlay.pipeline.types import AccountDelta, HostCursor
    from zlay.state.store import Rows, Session, Table

    _Pool = psycopg_pool.ConnectionPool["_Reader"]

__all__ = ["PostgresStore", "words"]

CONNECT_S = 4  # libpq takes whole seconds, 2 at least
STATEMENT_S = 10.0  # to write: a piece of COPY, a statement; far above what UPSERT_ROWS take
UPSERT_ROWS = 20_000  # in one statement, of which nothing is heard before its end; a second of a slow disk's time
READ_S = 5.0  # to read: far above what a page or a batch takes; consumers that connect wait behind who reads
HURRIED_S = 1.5  # the same once a stop has begun, whose last group has two seconds
WAIT_LOOK_S = 0.1  # between two looks at both
SEAT_WAIT_S = 3.0  # a relay that was killed leaves the lock when the server sees its socket closed
SEAT_LOOK_S = 0.1
MONTHS_S = 1e7  # a reader that is used stays; one that is not goes after the pool's ten minutes
AWAY_S = 0.5  # after a reader could not connect, others do not try for so long
# Set for each session unless the URL says otherwise: a peer that has vanished is noticed within half a minute, on both
# sides; until the server notices, it holds the lock of a relay whose machine is gone.
_CLIENT: dict[str, Any] = {
    "application_name": "zlay",
    "connect_timeout": CONNECT_S,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20000,
}
_SESSION = (
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;"
    "SET tcp_user_timeout = 20000; SET idle_in_transaction_session_timeout = 60000"
)
# Stricter settings of the server's own (remote_apply) stay.
_NOT_OFF = """
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"""
_HOLDER = """
SELECT a.pid, a.client_addr, a.backend_start FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.database = a.datid AND a.datname = current_database()
    AND l.classid = ?::oid AND l.objid = (hashtext(current_schema())::bigint & 4294967295)::oid"""
_LOCK = 0x7A6C6179  # "zlay": one lock for each schema of a database
_TRY_LOCK = f"SELECT pg_try_advisory_lock({_LOCK}, hashtext(current_schema()))"
logging.getLogger("psycopg.pool").disabled = True  # what it warns of its user is told, and tells operators
_TYPE_NAMES = {"TEXT": 'TEXT COLLATE "C"', "tidtext": 'TEXT COLLATE "C"', "blob": "BYTEA"}
_BULK = (ACCOUNT, REPO, IDENTITY)
_pools = itertools.count(1)  # their threads are told apart by the names of the pools

log = logs.get("state")


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which nothing takes longer than it may; one that did is closed, as its state is unknown."""

    hurried: threading.Event  # both are set by who opens it
    most_s: float

    @override
    def wait[T](self, gen: PQGen[T], interval: float = WAIT_LOOK_S, timeout: float | None = None) -> T:
        """Runs a conversation with the server to its end. OperationalError when that does not come in time."""
        return super().wait(self._bounded(gen), interval, timeout)

    def _bounded[T](self, gen: PQGen[T]) -> PQGen[T]:
        began = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                waited_s = time.monotonic() - began
                if not ready and waited_s > (HURRIED_S if self.hurried.is_set() else self.most_s):
                    self.close()
                    raise errors.OperationalError(f"no answer within {waited_s:.0f} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value


class _Reader(_Connection):
    """A connection that the pool makes."""

    @classmethod
    @override
    def connect(cls, conninfo: str = "", *, owner: PostgresStore, **_: Any) -> Self:  # type: ignore[override]
        """In the pool's thread. Leaves with its owner why there is none. psycopg.Error."""
        try:
            return owner._connect(READ_S, super().connect)
        except (psycopg.Error, StateUnavailable) as exc:
            owner._away = (time.monotonic() + AWAY_S, _no_answer(exc))
            raise


class _Session:
    """SQL with `?` for values, on a connection."""

    __slots__ = ("connection",)

    def __init__(self, connection: _Connection) -> None:
        self.connection = connection

    def execute(self, sql: str, params: Sequence[Any] = (), /) -> Rows:
        """Runs one statement."""
        return self.connection.execute(_translated(sql), params or None)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> None:
        """Runs one statement for each row of values, in one conversation."""
        with self.connection.cursor() as cursor:
            cursor.executemany(_translated(sql), list(rows))

    def copy(self, table: str, columns: Sequence[str], types: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
        """Appends rows to a table by COPY; without `types`, the server makes of each value what its column is."""
        statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT {'BINARY' if types else 'TEXT'})"
        with self.connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            if types:
                copy.set_types(types)
            write_row = copy.write_row
            for row in rows:
                write_row(row)


class PostgresStore(SqlStore[_Connection]):
    """The Store of zlay.state.interface in one schema of a PostgreSQL database. Any thread, but for close."""

    def __init__(self, url: str) -> None:
        """Connects, takes the lock and brings the schema up. StartError when that cannot be."""
        super().__init__()
        self._name = os.urandom(16)  # of this process, as the database's writer
        self._writer: _Connection | None = None  # guarded by _write_lock, as are the next three
        self._seat: tuple[int, Any] | None = None  # (pid, start) of the server's process that held our lock last
        self._applied_seq = 0  # of the last transaction that was committed for certain
        self._refusal: str | None = None  # why nothing is written any more
        self._opened = False
        self._away: tuple[float, str] | None = None  # (until, why): the server cannot be reached; replaced as a whole
        try:
            self._conninfo = make_conninfo("", **(_CLIENT | conninfo_to_dict(url)))
        except psycopg.Error:
            raise StartError("DATABASE_URL cannot be read as a PostgreSQL URL") from None
        self._pool_lock = threading.Lock()  # who replaces `_readers`, does it alone
        self._readers = self._new_pool()
        try:
            self._migrate()
            with self._transaction(durable=True) as writer:
                writer.execute("UPDATE checkpoint SET writer = ?", (self._name,))
                self._make_stages(writer)
            self._opened = True
            self._readers.open()
        except (StateError, RuntimeError) as exc:  # the latter: no thread for the pool
            self.close()
            raise StartError(f"cannot open the state: {exc}") from exc
        except StartError:
            self.close()
            raise

    # --- connections ---

    def _connect[C: _Connection](self, most_s: float, connect: Callable[..., C]) -> C:
        if self._hurried.is_set():
            raise StateUnavailable("the connection to the database is lost, and a stop has begun")
        connection = connect(self._conninfo, autocommit=True)
        connection.hurried, connection.most_s = self._hurried, most_s
        try:
            connection.execute(f"{_SESSION}; SET lock_timeout = {int(store.BUSY_TIMEOUT_S * 1000)}".encode())
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _reader(self) -> Iterator[_Session]:
        """Lends a reader to this thread; StateUnavailable at once while the server is away, or when none comes free."""
        pool, connection = self._lent()
        try:
            yield self._session(connection)
        finally:
            pool.putconn(connection)

    def _new_pool(self) -> _Pool:
        return psycopg_pool.ConnectionPool(
            connection_class=_Reader, kwargs={"owner": self}, min_size=0, max_size=store.READERS, open=False,
            name=f"zlay-readers-{next(_pools)}", num_workers=1, reconnect_timeout=0, max_lifetime=MONTHS_S,
        )  # fmt: skip

    def _replace_if_broken(self, pool: _Pool) -> None:
        """Takes another pool in the place of one that makes no connections any more."""
        if any(thread.name == f"{pool.name}-worker-0" for thread in threading.enumerate()):
            return
        with self._pool_lock:
            if self._readers is not pool or pool.closed:
                return
            log.error("the thread that makes the database's readers has ended: they are made anew")
            fresh = self._new_pool()
            try:
                fresh.open()
            except RuntimeError as exc:
                raise StateUnavailable(f"no thread for the database's readers: {exc}") from exc
            self._readers = fresh
        pool.close(0.0)

    def _lent(self) -> tuple[_Pool, _Reader]:
        deadline = time.monotonic() + store.READER_WAIT_S
        while True:
            away = self._away
            if away is not None and time.monotonic() < away[0]:
                raise StateUnavailable(away[1])
            pool = self._readers
            try:
                connection = pool.getconn(WAIT_LOOK_S)
            except psycopg_pool.PoolClosed:
                if pool is not self._readers:
                    continue
                raise StateUnavailable("the state is closed") from None
            except psycopg_pool.PoolTimeout:
                if time.monotonic() >= deadline:
                    raise StateUnavailable("no database connection came free") from None
                self._replace_if_broken(pool)
                continue
            if self._is_usable(connection):
                return pool, connection
            connection.close()  # what the pool gets back closed it forgets
            pool.putconn(connection)

    def _close_readers(self, deadline: float) -> None:
        with self._pool_lock:
            self._readers.close(max(0.0, deadline - time.monotonic()))

    def _is_usable(self, connection: _Connection) -> bool:
        """Whether the server has said nothing since it was asked last: unasked it says little but that it ends."""
        if connection.info.transaction_status != TransactionStatus.IDLE:
            return False
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        return not poll.poll(0)

    def _session(self, connection: _Connection) -> _Session:
        return _Session(connection)

    def _begin(self, *, durable: bool) -> Session:
        """Always durable: that costs one sync of the server's a group, and a server that crashes loses nothing."""
        if self._refusal is not None:
            raise StateError(self._refusal)
        if self._writer is not None and not self._is_usable(self._writer):
            self._drop_writer()
        if self._writer is None:
            self._take_seat()
        assert self._writer is not None
        session = self._session(self._writer)
        session.execute("BEGIN")
        return session

    def _roll_back(self) -> None:
        writer = self._writer
        if writer is None:
            return
        status = writer.info.transaction_status
        if status == TransactionStatus.IDLE:
            return
        if status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            with contextlib.suppress(psycopg.Error):
                writer.execute("ROLLBACK")
                return
        self._drop_writer()

    def _drop_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @override
    def apply(
        self,
        deltas: Sequence[AccountDelta],
        cursors: Sequence[HostCursor],
        applied_seq: int,
        dedup_from: int | None,
    ) -> None:
        """One group of the applier, in one transaction."""
        super().apply(deltas, cursors, applied_seq, dedup_from)
        self._applied_seq = max(self._applied_seq, applied_seq)  # the applier's thread, or the one that starts it

    def fill(self, tables: Iterable[tuple[str, Sequence[str], Iterable[tuple[Any, ...]]]]) -> None:
        """Puts whole tables, (name, columns, rows), in the place of what they hold, in one transaction."""
        with self._transaction(durable=True) as writer:
            assert isinstance(writer, _Session)
            for name, columns, rows in tables:
                writer.execute(f"DELETE FROM {name}")
                writer.copy(name, columns, (), rows)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction) as exc:
            raise StateUnavailable(_no_answer(exc)) from exc
        except psycopg.Error as exc:
            raise StateError(f"the state database refuses: {words(exc)}") from exc

    # --- the one writer ---

    def _take_seat(self) -> None:
        """Connects the writer and makes sure that it is the only one. Requires holding `_write_lock`."""
        connection = self._connect(STATEMENT_S, _Connection.connect)
        try:
            session = self._session(connection)
            session.execute(_NOT_OFF)
            if session.execute("SHOW transaction_read_only").fetchone()[0] == "on":
                raise StateUnavailable("the database server may not be written: a standby?")
            self._lock(session)
            if self._opened:
                self._check_seat(session)
                self._make_stages(session)
        except BaseException:
            connection.close()
            raise
        self._writer = connection

    def _lock(self, session: _Session) -> None:
        """Takes the lock, also from a session of ours that the server has not missed yet. StateUnavailable."""
        if self._seat is not None:
            session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ? AND backend_start = ?", self._seat
            )
        deadline = time.monotonic() + SEAT_WAIT_S
        while not (locked := session.execute(_TRY_LOCK).fetchone()[0]):
            if locked is None:
                raise StateError("no schema that search_path names is there: create it, or name another one")
            if time.monotonic() >= deadline or self._hurried.wait(SEAT_LOOK_S):
                raise StateUnavailable(f"another relay uses this database{_holder(session)}")
        self._seat = session.execute(
            "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        ).fetchone()

    def _check_seat(self, session: _Session) -> None:
        """After a connection was lost: nobody else has written, and nothing that we wrote is gone. StateError."""
        writer, applied_seq = session.execute("SELECT writer, applied_seq FROM checkpoint").fetchone()
        if writer != self._name:
            self._refusal = (
                "another relay has written to this database meanwhile: stop one of the two, restart the other"
            )
        elif applied_seq < self._applied_seq:
            self._refusal = (
                f"the database has gone back to seq {applied_seq}, from {self._applied_seq}: restart zlay, "
                "which brings it up from the log"
            )
        if self._refusal is not None:
            raise StateError(self._refusal)

    # --- many rows ---

    def _make_stages(self, session: Session) -> None:
        """Temporary tables that COPY fills for `_upsert`."""
        for table in _BULK:
            session.execute(
                f"CREATE TEMP TABLE new_{table.name} ON COMMIT DELETE ROWS AS"
                f" SELECT {', '.join(table.columns)} FROM {table.name} WITH NO DATA"
            )

    def _by_did(self, session: Session, sql: str, dids: Collection[str]) -> Iterable[tuple[Any, ...]]:
        keys = "{" + json.dumps(sorted(dids))[1:-1] + "}"  # an array's text, of which a string is quoted as in JSON
        rows: list[tuple[Any, ...]] = session.execute(sql.format(keys="", match="= ANY(?::text[])"), (keys,)).fetchall()
        return rows

    def _insert(self, session: Session, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        assert isinstance(session, _Session)
        if rows:
            session.copy(table.name, table.columns, table.types, rows)

    def _upsert(self, session: Session, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        assert isinstance(session, _Session)
        columns = ", ".join(table.columns)
        for start in range(0, len(rows), UPSERT_ROWS):
            if start:
                session.execute(f"TRUNCATE new_{table.name}")
            session.copy(f"new_{table.name}", table.columns, table.types, rows[start : start + UPSERT_ROWS])
            session.execute(
                f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM new_{table.name} {table.on_conflict}"
            )


@cache
def _translated(sql: str) -> bytes:
    """A statement of ours in PostgreSQL's words."""
    if sql.startswith(("CREATE", "ALTER")):
        sql = re.sub(r"\b(TEXT|tidtext|blob)\b", lambda match: _TYPE_NAMES[match[1]], sql)
    return sql.replace("?", "%s").encode()


def _holder(session: _Session) -> str:
    """Who holds the lock, as far as we may know."""
    row = session.execute(_HOLDER, (_LOCK,)).fetchone()
    if row is None:
        return ""
    pid, address, since = row
    return f" (server process {pid}, from {address or 'this machine'}, since {since:%Y-%m-%d %H:%M:%S})"


def _no_answer(exc: Exception) -> str:
    return f"the state database does not answer: {words(exc)}"


def words(exc: Exception) -> str:
    """For people: the first line of the server's or library's message; a password is in none of them."""
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__
