"""The relay: its parts in the order data meets them, started, watched, and stopped in order.

    hosts ──> readers ──> workers ──> log ──> consumers
                            │ ask       └──> applier ──> state
                            └── loader, resolvers, status checks, resyncs

`Relay` is built and stopped by the main thread; what HTTP handlers call (`RelayView`) may be called from any thread.
Shut-down, each step with a deadline: dialer and readers, workers, log, state, consumers, HTTP. What has no verdict by
then is let go with its host's cursor below it.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import time
from typing import TYPE_CHECKING, Any

from zlay import __version__, gil, logs
from zlay._fast import crash, hidden, pipeline, pool, reader, verdicts
from zlay._fast import host as chost
from zlay.api.router import RelayRouter
from zlay.api.server import HttpServer
from zlay.clock import ClockWatch
from zlay.errors import HostRefused, StartError, StateError
from zlay.eventlog.log import EventLog, LogSettings
from zlay.figures import Figures
from zlay.firehose.consumers import Consumers
from zlay.hosts.authorities import read_authorities
from zlay.hosts.connection import starter
from zlay.hosts.cursors import CursorCollector
from zlay.hosts.dial import DialRules
from zlay.hosts.dialer import Dialer
from zlay.hosts.registry import Registry
from zlay.hosts.requests import CrawlRequests
from zlay.hosts.resync import Resync
from zlay.hosts.seeds import Seeder
from zlay.hosts.status_check import StatusChecker
from zlay.hosts.view import view_of
from zlay.housekeeping import GC_THRESHOLD_AT_START, Housekeeping
from zlay.identity.mirror import Mirror
from zlay.identity.resolver import Resolver
from zlay.memory.leaks import LeakTrace
from zlay.metrics import Metrics
from zlay.pipeline.link import Link
from zlay.pipeline.takedowns import Takedowns
from zlay.signals import Signals
from zlay.state import open_store, recovery
from zlay.state.applier import Applier
from zlay.state.loader import Loader
from zlay.supervise import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zlay.api.interface import HostView
    from zlay.config import Config
    from zlay.hosts.limits import Given
    from zlay.hosts.registry import HostEntry
    from zlay.pipeline.takedowns import AccountStatus
    from zlay.state.interface import Store

__all__ = ["Relay", "main"]

STOP_S = 4.5  # all of a stop, which may take five seconds with 3,000 hosts; of it, for each step at most:
LEAST_STEP_S = 0.05  # and at least, however late it is
READERS_DEADLINE_S = 1.5
DRAIN_DEADLINE_S = 1.0
LOG_DEADLINE_S = 2.0
THREADS_DEADLINE_S = 1.5
CONSUMERS_DEADLINE_S = 1.0
CLOCK_WAIT_S = 1.0  # a start waits so long for a directory's time; one that comes later counts, too
MIB = 1 << 20

log = logs.get("relay")


class Relay:
    """One running relay; the one of its process, since the compiled core is. Built in order, or not at all."""

    def __init__(self, config: Config, on_shutdown: Callable[[str], None]) -> None:
        """Opens everything and starts nothing but the log's writer and HTTP's threads, which answer for health.

        `on_shutdown` hears of POST /admin/shutdown.
        Raises StartError, ConfigError, StateError.
        """
        self.config = config
        self._on_shutdown = on_shutdown
        self._started_s = time.monotonic()
        self._opened = False  # until then only health answers: nothing else is there
        self._stopping = False
        self.supervisor = Supervisor()
        with contextlib.ExitStack() as undo:
            self._open(undo)
            undo.pop_all()

    def _open(self, undo: contextlib.ExitStack) -> None:
        config = self.config
        _prepare_folder(config)
        # The ports first: a second zlay, or a typing error, is told before anything is touched.
        self._router = RelayRouter(self, config.relay_admin_password)
        self.http = HttpServer(
            self._router,
            [(config.relay_bind, config.relay_port, False), (config.relay_bind, config.relay_metrics_port, True)],
            trusted_proxies=config.relay_trusted_proxies,
        )
        undo.callback(self.http.close)
        undo.callback(self._stop_http)
        for name, target in self.http.threads():  # log and state may take minutes to read after a long outage
            self.supervisor.spawn(name, target)
        self._leaks = LeakTrace(config.leak_trace, config.leak_trace_limit_mb * MIB, config.relay_data_dir)
        pool.init(config.frame_pool_bytes, config.frame_alloc)
        undo.callback(pool.close)
        self.log = _open_log(config)
        undo.callback(self.log.close)
        self._store: Store = open_store(config)
        undo.callback(self._store.close)
        checkpoint = self._recover_state()
        hosts = self._store.hosts()
        self.registry = Registry(
            self._store,
            hosts,
            host_credit_bytes=config.host_credit_bytes,
            max_new_per_day=config.relay_new_hosts_per_day,
            tiers=config.host_tiers,
            max_replay_hours=config.max_replay_hours,
        )
        logged = recovery.logged_above_cursors(self.log.scan(checkpoint.dedup_from + 1, frames=False), hosts)
        behind = self.registry.set_logged_above(logged)
        self.link = Link(self.registry.id_of)
        self._open_upstream(checkpoint.dedup_from, behind)
        self._takedowns = Takedowns(self._store, self.applier, self.log.wait_synced)
        undo.callback(hidden.clear)
        self._takedowns.restore()
        self._consumers = Consumers(
            limit=config.relay_max_consumers,
            limit_per_address=config.relay_max_consumers_per_ip,
            tick_ms=config.fanout_tick_ms,
        )
        self.metrics_source = Metrics(self)
        self.figures = Figures(self)
        self.housekeeping = Housekeeping(self)

    def _stop_http(self) -> None:
        self.supervisor.stopping()
        self.http.stop()
        self.supervisor.join(THREADS_DEADLINE_S)

    def _recover_state(self) -> Any:
        """Log and state belong together, and the state is brought up to the log's end (R3, R11)."""
        store, events = self._store, self.log
        checkpoint = store.checkpoint()
        newest = events.recovered.last_seq
        if recovery.agree(checkpoint, events.store_id, newest_seq=newest, log_end=events.appended_end):
            crash.point("start.agreed")
            store.set_store_id(events.store_id)
            crash.point("start.store_id")
            store.apply([], [], events.appended_end, events.appended_end)
        elif checkpoint.applied_seq < events.appended_end:
            began = time.monotonic()
            missed = events.scan(checkpoint.applied_seq + 1)
            changed = recovery.replay(store, missed, events.appended_end)
            log.info("state brought up from the log", from_seq=checkpoint.applied_seq, to_seq=events.appended_end,
                     changes=changed, seconds=round(time.monotonic() - began, 2))  # fmt: skip
        crash.point("start.state")
        return store.checkpoint()

    def _open_upstream(self, dedup_from: int, behind: dict[int, tuple[int, int]]) -> None:
        config = self.config
        private = config.relay_allow_private_hosts
        self.clock = ClockWatch(
            newest_us=self.log.recovered.newest_us,
            directories=config.relay_plc_url,
            on_fault=lambda down: self.link.set_outage("clock", down=down),
            set_offset=pipeline.set_clock,
        )
        self.mirror = Mirror(self._store, config.relay_plc_url[0]) if config.plc_mirror else None
        self.loader = Loader(
            self._store,
            next_loads=self.link.next_loads,
            post_accounts=self.link.post_accounts,
            on_fault=lambda down: self.link.set_outage("store", down=down),
            **({} if self.mirror is None else {"mirrored_us": self.mirror.complete_us}),
        )
        self.resolver = Resolver(
            self._store,
            plc_urls=config.relay_plc_url,
            threads=config.resolver_threads,
            next_resolve=self.link.next_resolve,
            next_resolve_web=self.link.next_resolve_web,
            post_identity=self.link.post_identity,
            allow_private=private,
            keep_alive=config.resolver_keep_alive,
            recycle_after=config.resolver_recycle_interval,
            on_fault=lambda down: self.link.set_outage("directory", down=down),
            note_date=self.clock.note_date,
        )
        cursors = CursorCollector(chost.collect_all, anchors=chost.anchors, dedup_from=dedup_from, logged_before=behind)
        self.applier = Applier(
            self._store,
            collect_dirty=self.link.collect_dirty,
            set_applied=self.link.set_applied,
            synced_end=lambda: self.log.synced_end,
            collect_cursors=cursors,
            collect_anchors=cursors.anchors,
            cursors_saved=self.registry.cursors_saved,
        )
        self.dialer = Dialer(
            self.registry,
            starter(config.host_reader),
            DialRules(f"zlay/{__version__} (atproto-relay)", allow_private=private, tls=read_authorities()),
            max_hosts=config.relay_max_hosts,
        )
        self.registry.on_added = self.dialer.add
        self.registry.on_banned = self.dialer.remove
        self.status_checker = StatusChecker(
            self.registry,
            next_request=self.link.next_status_check,
            post_status=pipeline.post_status,
            allow_private=private,
        )
        self.resync = Resync(
            self._store,
            self.registry,
            next_request=self.link.next_resync,
            post_resync=pipeline.post_resync,
            allow_private=private,
        )
        self.crawl = CrawlRequests(self.registry, allow_private=private)
        self.seeders = [Seeder(self.registry, host, allow_private=private) for host in config.upstreams]

    # --- start and stop: main thread ---

    def start(self) -> None:
        """Starts every thread but those of HTTP, which run already; dialling last."""
        config = self.config
        self._leaks.start()
        self.consumers.start()
        pipeline.start(
            config.workers,
            config.did_cache_size,
            config.validator_cache_size,
            config.hold_seconds,
            self.applier.applied_seq,
        )
        self._opened = True
        spawn = self.supervisor.spawn
        spawn("clock", self.clock.run)
        spawn("applier", self.applier.run)
        spawn("loader", self.loader.run)
        for part in (self.resolver, self.status_checker, self.resync):
            for name, target in part.threads():
                spawn(name, target)
        if self.mirror is not None:
            spawn("plc-mirror", self.mirror.run)
        spawn("recheck", self._run_rechecks)
        spawn("registry", self.registry.run)
        spawn("housekeeping", self.housekeeping.run)
        self.crawl.add(config.relay_hosts, "config")
        self.clock.wait_asked(CLOCK_WAIT_S)  # before the first frame
        spawn("dialer", self.dialer.run)
        for host_id in self.registry.dialled_ids():
            self.dialer.add(host_id)
        for n, seeder in enumerate(self.seeders):
            spawn(f"seeder-{n}", seeder.run)
        gc.collect()
        gc.set_threshold(GC_THRESHOLD_AT_START)
        gc.freeze()  # what start-up made stays: collections need not look at it again
        for (address, port), what in zip(self.http.addresses, ("firehose", "metrics and admin"), strict=True):
            log.info("listening", address=address, port=port, serves=what)
        log.info("started", version=__version__, hosts=len(self.registry.dialled_ids()), seq=self.log.appended_end,
                 workers=config.workers, seconds=round(time.monotonic() - self._started_s, 2))  # fmt: skip

    def _run_rechecks(self) -> None:
        while not self._stopping:
            did = self.link.next_recheck(0.5)
            if did is not None:
                self.resolver.recheck(did)

    def stop(self) -> None:
        """Stops in order; see the module's head. Takes at most about five seconds."""
        began = time.monotonic()

        def within(most_s: float) -> float:
            return max(LEAST_STEP_S, min(most_s, began + STOP_S - time.monotonic()))

        self._stopping = True
        self.supervisor.stopping()
        self._store.hurry()
        for seeder in self.seeders:
            seeder.stop()
        self.dialer.stop()
        left = reader.stop_all(within(READERS_DEADLINE_S))
        log_moves = self.log.status()["fault"] == "none"
        crash.point("stop.readers")
        drained = pipeline.drain(within(DRAIN_DEADLINE_S if log_moves else 0.0))
        self.log.seal()  # or a worker would wait for room in it for as long as the disk is full
        self.loader.stop()
        self.resolver.stop()
        self.clock.stop()
        if self.mirror is not None:
            self.mirror.stop()
        self.status_checker.stop()
        self.resync.stop()
        self.applier.stop()
        self.registry.stop()
        self.housekeeping.stop()
        pipeline.stop()
        crash.point("stop.workers")
        synced = self.log.wait_synced(self.log.appended_end, within(LOG_DEADLINE_S))
        with contextlib.suppress(RuntimeError):  # a thread that does not end is told by the log, and dies with us
            self.consumers.stop(deadline_s=within(CONSUMERS_DEADLINE_S))
        self.http.stop()
        running = self.supervisor.join(within(THREADS_DEADLINE_S))
        crash.point("stop.synced")
        applied = self.applier.finish(within(LOG_DEADLINE_S))
        crash.point("stop.applied")
        self.registry.flush()
        with contextlib.suppress(RuntimeError):  # a consumer's thread that did not end reads on: it dies with us
            self.log.close(within(LOG_DEADLINE_S))
        pipeline.close()
        hidden.clear()
        self.http.close()
        with contextlib.suppress(StateError):
            self._store.close()
        let_go = verdicts.counts()["drop", "shutdown"]
        log.info("stopped", seconds=round(time.monotonic() - began, 2), readers_left=left, drained=drained,
                 let_go=let_go, synced=synced, applied=applied, threads_left=len(running))  # fmt: skip

    # --- RelayView: any thread ---

    @property
    def store(self) -> Store:
        """State in SQL."""
        return self._store

    @property
    def consumers(self) -> Consumers:
        """Who is served."""
        return self._consumers

    @property
    def leaks(self) -> LeakTrace:
        """What LEAK_TRACE traces."""
        return self._leaks

    def hosts(self) -> Sequence[HostView]:
        """All hosts by id."""
        return [self._view(entry) for entry in self.registry.page(0, 1 << 30)]

    def host(self, hostname: str) -> HostView | None:
        """One host by name."""
        entry = self.registry.find(hostname)
        return None if entry is None else self._view(entry)

    def host_name(self, host_id: int) -> tuple[str, bool] | None:
        """(hostname, no_tls) of a host."""
        entry = self.registry.get(host_id)
        return None if entry is None else (entry.hostname, entry.no_tls)

    def _view(self, entry: HostEntry) -> HostView:
        return view_of(entry, self.dialer.report(entry.id))

    def change_limits(self, hostname: str, given: Given, account_limit: int | None) -> HostView | None:
        """Gives a host limits of its own. Raises ValueError, StateError."""
        host_id = self.registry.id_of(hostname)
        if not host_id:
            return None
        log.info("host limits changed", host=hostname, given=given.to_json(), account_limit=account_limit)
        return self._view(self.registry.change_limits(host_id, given, account_limit))

    def reset_cursor(self, hostname: str) -> bool:
        """Has a host's cursor given up. Raises StateError."""
        host_id = self.registry.id_of(hostname)
        if not host_id:
            return False
        log.info("host's cursor is reset", host=hostname)
        if self.dialer.report(host_id) is None:  # not dialled: nobody else begins an epoch of its
            self.registry.new_epoch(host_id)
        else:
            self.dialer.reset(host_id)
        return True

    def ban_host(self, hostname: str, *, banned: bool) -> HostView | None:
        """Bans a host, or lifts that. Raises StateError."""
        host_id = self.registry.id_of(hostname)
        if not host_id:
            return None
        self.registry.ban(host_id, banned=banned)
        log.info("host banned" if banned else "host's ban lifted", host=hostname)
        return self.host(hostname)

    def ban_domain(self, domain: str, *, banned: bool) -> int:
        """Bans a domain, or lifts that. Raises StateError."""
        concerned = self.registry.ban_domain(domain, banned=banned)
        log.info("domain banned" if banned else "domain's ban lifted", domain=domain, hosts=len(concerned))
        return len(concerned)

    def domain_bans(self) -> list[str]:
        """The banned domains."""
        return self.registry.domain_bans()

    def request_crawl(self, hostname: str, address: str | None) -> None:
        """Adds a host, or calls it again. Raises HostRefused."""
        try:
            if address is None:
                self.crawl.add([hostname], "admin")
            else:
                self.crawl.request(hostname)
        except StateError as exc:
            raise HostRefused("ServiceUnavailable", "the database does not answer just now", status=503) from exc

    def set_takedown(self, did: str, *, down: bool) -> AccountStatus | None:
        """Takes an account down, or lifts that. Raises StateUnavailable."""
        after = self._takedowns.set(did, down=down)
        if after is not None and after.seq is not None:
            log.info("account taken down" if down else "takedown lifted", did=did, seq=after.seq, status=after.status)
        return after

    def shutdown(self, reason: str) -> None:
        """The graceful stop."""
        self._on_shutdown(reason)

    @property
    def is_open(self) -> bool:
        """Whether log and state have been read and consumers are served."""
        return self._opened

    def alive(self) -> bool:
        """Whether what moves events is alive: no supervised thread is down."""
        return not self.supervisor.faults()

    def readiness(self) -> list[str]:
        """Why the relay is not ready."""
        reasons = self.supervisor.faults()
        if not self._opened:
            return [*reasons, "starting: log and state are being read"]
        if self._stopping:
            reasons.append("stopping")
        status = self.log.status()
        if status["fault"] != "none":
            reasons.append(f"log: {self.log.fault_text()}: events wait")
        for part, fault in (
            ("database", self.applier.fault or self.loader.fault),
            ("directory", self.resolver.fault),
            ("clock", self.clock.fault),
        ):
            if fault:
                reasons.append(f"{part}: {fault}")
        if not gil.is_off():
            reasons.append("the GIL has been turned on")
        if not self.registry.has_dialled():
            reasons.append("no hosts are known yet")
        elif not reader.stats()["alive"]:
            reasons.append("no host is connected")
        return reasons

    def stats(self) -> dict[str, Any]:
        """Figures for people."""
        return self.figures.stats()

    def history(self) -> dict[str, Any]:
        """Some figures of the last hour."""
        return self.figures.history()

    def metrics(self) -> bytes:
        """Figures for Prometheus."""
        return self.metrics_source.render()


def _open_log(config: Config) -> EventLog:
    settings = LogSettings(
        durability="os" if config.relay_durability == "os" else "fsync",
        retention_hours=config.relay_retention_hours,
        retention_bytes=config.relay_retention_bytes,
        initial_seq=config.relay_initial_seq,
    )
    try:
        opened = EventLog.open(config.relay_data_dir, settings)
    except OSError as exc:
        what = f"{exc.strerror} ({exc.filename})" if exc.filename else exc.strerror
        raise StartError(f"the log in {config.relay_data_dir / 'events'} cannot be opened: {what}") from exc
    _tell_recovery(opened)
    return opened


def _tell_recovery(opened: EventLog) -> None:
    """What opening found, for whoever asks why the window looks as it does."""
    found = opened.recovered
    if found.cut_bytes or found.cut_entries or found.removed:
        log.info("a torn end of the log was cut off", bytes=found.cut_bytes, entries=found.cut_entries,
                 files=",".join(found.removed), last_seq=found.last_seq)  # fmt: skip
    if found.damaged or found.gaps or found.orphans:
        log.error("the log is damaged in the middle: what cannot be read is left out", events=found.damaged,
                  damage=str(found.damage), gaps=str(found.gaps), orphans=",".join(found.orphans))  # fmt: skip
    if opened.jumped:
        log.warning("numbers were left out, so that none is given twice", next_seq=opened.appended_end + 1)


def _prepare_folder(config: Config) -> None:
    try:
        config.relay_data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StartError(f"RELAY_DATA_DIR={config.relay_data_dir}: {exc.strerror}") from None


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(config: Config) -> int:
    """Runs a relay until it is asked to stop. Exit status 0; StartError and others of ZlayError when it cannot run."""
    _raise_descriptor_limit()
    signals = Signals()
    relay = Relay(config, signals.ask)
    signals.on_report = relay.housekeeping.ask_report
    gil.check()
    try:
        relay.start()
        reason = signals.wait()
        log.info("stopping", reason=reason)
        if config.leak_trace:
            relay.leaks.report(reason)
    finally:  # whatever it was: what has come is synced and noted
        relay.stop()
    return 0
