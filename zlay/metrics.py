"""Prometheus metrics: every figure read from its counter when it is asked for.

Names that existing dashboards know stay as they are (relay_*). Nothing here takes a lock of the hot path; label values
come from closed sets, never from peers. `render` from any thread; memory figures are measured at most once a second.
"""

from __future__ import annotations

import threading
import time
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from zlay import __version__, gil
from zlay._fast import hidden, mem, pipeline, pool, reader, requests, verdicts
from zlay._fast import host as chost
from zlay.api.tally import BUCKETS_S
from zlay.memory import allocator, ledger
from zlay.state.interface import MirrorPlace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

    from zlay.relay import Relay

__all__ = ["Metrics"]

LEDGER_S = 1.0  # smaps_rollup costs the kernel some milliseconds

# What relay_validation_total and relay_decode_errors_total meant on older dashboards.
_ENCODING = ("cbor_", "frame_", "field_", "op", "car_")


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)


class Metrics:
    """The figures of one relay."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._lock = threading.Lock()  # guards the two below
        self._ledger: dict[str, int] = {}
        self._ledger_due = 0.0

    def render(self) -> bytes:
        """All figures in Prometheus' text form."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Names are made when collected."""
        return []

    def verdicts(self) -> dict[str, dict[str, int]]:
        """Frames by verdict and reason, zeros left out."""
        out: dict[str, dict[str, int]] = {}
        for (verdict, reason), n in verdicts.counts().items():
            if n:
                out.setdefault(verdict, {})[reason] = n
        return out

    def _measured(self) -> dict[str, int]:
        with self._lock:
            if time.monotonic() >= self._ledger_due:
                self._ledger = ledger.measure()
                self._ledger_due = time.monotonic() + LEDGER_S
            return self._ledger

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus-client at each scrape."""
        yield from self._events()
        yield from self._pipeline()
        yield from self._log()
        yield from self._hosts()
        yield from self._consumers()
        yield from self._http()
        yield from self._memory()

    def _events(self) -> Iterable[Metric]:
        counts = verdicts.counts()
        totals = chost.totals()
        yield _counter("relay_frames_received", "frames received from hosts", totals["frames"])
        yield _counter("relay_received_bytes", "bytes of frames received from hosts", totals["bytes"])
        events = CounterMetricFamily(
            "relay_events", "frames by verdict and reason; hold = times put aside", labels=["verdict", "reason"]
        )
        for (verdict, reason), n in counts.items():
            events.add_metric([verdict, reason], n)
        yield events
        passed = sum(n for (verdict, _), n in counts.items() if verdict == "pass")
        dropped = sum(n for (verdict, _), n in counts.items() if verdict == "drop")
        results = CounterMetricFamily("relay_validation", "frames judged, by result", labels=["result"])
        results.add_metric(["validated"], passed)
        results.add_metric(["failed"], dropped)
        yield results
        malformed = sum(n for (v, reason), n in counts.items() if v == "drop" and reason.startswith(_ENCODING))
        yield _counter("relay_decode_errors", "frames that could not be decoded", malformed)

    def _pipeline(self) -> Iterable[Metric]:
        workers = pipeline.stats()

        def total(name: str) -> float:
            return sum(worker[name] for worker in workers)

        yield _gauge("relay_workers_count", "frame workers", len(workers))
        yield _counter("relay_worker_busy_seconds", "time workers spent on frames", total("busy_s"))
        yield _gauge("relay_queue_frames", "frames waiting for a worker", total("queued"))
        yield _gauge("relay_queue_bytes", "bytes of frames waiting for a worker", total("queued_bytes"))
        yield _gauge("relay_held_frames", "frames waiting for an account or a key", total("held"))
        yield _gauge("relay_held_bytes", "bytes of frames waiting for an account or a key", total("held_bytes"))
        yield _counter("relay_chain_breaks", "valid commits that did not follow from the state", total("chain_breaks"))
        yield _counter("relay_ops_inverted", "record operations undone by verification", total("inversions"))
        yield _counter("relay_identity_refreshes", "identities asked for out of turn", total("refreshes"))
        behind_s = self._relay.clock.behind_s
        yield _gauge("relay_clock_behind_seconds", "how far this machine's clock is behind; ingest waits", behind_s)
        mirror = self._relay.mirror
        place = MirrorPlace(0, 0) if mirror is None else mirror.place()
        operations = 0 if mirror is None else mirror.operations
        yield _counter("relay_plc_mirror_operations", "operations of the directory mirrored", operations)
        yield _gauge("relay_plc_mirror_seq", "number of the last operation mirrored", place.seq)
        yield _gauge(
            "relay_plc_mirror_complete_timestamp_seconds",
            "unix time up to which the mirror is complete; 0 = not yet, or off",
            place.complete_us / 1e6,
        )
        yield _counter("relay_account_moves", "accounts that changed host", total("moves"))
        yield _gauge("relay_account_cache_entries", "accounts in memory", total("accounts"))
        yield _counter("relay_account_cache_evictions", "accounts evicted from memory", total("account_evictions"))
        yield _counter("relay_account_cache_stalls", "times all accounts in memory were pinned", total("stalls"))
        yield _gauge("relay_validator_cache_entries", "parsed keys in memory", total("keys"))
        yield _counter("relay_validator_cache_evictions", "parsed keys evicted", total("key_evictions"))
        yield _counter("relay_keys_parsed", "keys parsed: once while they are in memory", total("keys_parsed"))
        yield _counter("relay_p256_key_loads", "P-256 keys put into a worker's key object", total("p256_loads"))
        waiting = GaugeMetricFamily("relay_requests_waiting", "questions of workers not taken yet", labels=["kind"])
        asked = CounterMetricFamily("relay_requests", "questions of workers", labels=["kind"])
        for kind, (now, ever) in requests.waiting().items():
            waiting.add_metric([kind], now)
            asked.add_metric([kind], ever)
        yield from (waiting, asked)
        frames = pool.stats()
        yield _gauge("relay_frame_pool_used_bytes", "bytes of the frame pool in use", frames["used_bytes"])
        yield _gauge("relay_frame_pool_total_bytes", "size of the frame pool", frames["total_bytes"])
        yield _counter("relay_frame_pool_exhausted", "times the frame pool was full", frames["exhausted_total"])
        yield _counter("relay_frame_allocations", "allocations made for frames", frames["allocator_calls_total"])

    def _log(self) -> Iterable[Metric]:
        status: dict[str, Any] = dict(self._relay.log.status())
        yield _gauge("relay_seq", "highest sequence number published", status["published_end"])
        yield _gauge("relay_log_oldest_seq", "oldest sequence number kept", status["oldest_seq"])
        yield _gauge("relay_log_appended_seq", "highest sequence number given", status["appended_end"])
        yield _gauge("relay_log_synced_seq", "highest sequence number on disk", status["synced_end"])
        yield _gauge("relay_state_applied_seq", "highest sequence number in the state", self._relay.applier.applied_seq)
        yield _counter("relay_log_events", "events logged", status["events"])
        yield _counter("relay_log_bytes", "bytes logged", status["bytes"])
        yield _counter("relay_log_syncs", "fdatasync calls", status["syncs"])
        yield _counter("relay_log_sync_seconds", "time in fdatasync", status["sync_s"])
        yield _gauge("relay_log_buffered_bytes", "bytes appended and not yet synced", status["buffered_bytes"])
        yield _counter("relay_log_waits", "times appending had to wait", status["waited"])
        yield _gauge("relay_accounts_taken_down", "accounts whose events are hidden", hidden.count())
        yield _counter("relay_log_hidden_events", "events that consumers were not shown", hidden.events_hidden())
        yield _gauge("relay_log_paused", "1 while the log cannot be written", 0 if status["fault"] == "none" else 1)

    def _hosts(self) -> Iterable[Metric]:
        by_status = GaugeMetricFamily("relay_hosts", "hosts by status", labels=["status"])
        for status, n in self._relay.registry.counts().items():
            by_status.add_metric([status], n)
        yield by_status
        readers = reader.stats()
        dialled = self._relay.dialer.stats()
        yield _gauge("relay_hosts_left_out", "hosts beyond RELAY_MAX_HOSTS, not dialled", dialled["left_out"])
        yield _gauge(
            "relay_hosts_old_cursor",
            "hosts last dialled with a cursor older than MAX_REPLAY_HOURS",
            self._relay.registry.old_cursors(),
        )
        yield _gauge("relay_hosts_connected", "hosts streaming now", readers["alive"])
        ends = CounterMetricFamily("relay_host_disconnects", "streams ended, by cause", labels=["cause"])
        for cause, n in readers["ended_total"].items():
            ends.add_metric([cause], n)
        yield ends
        failures = CounterMetricFamily("relay_dial_failures", "failed dials and streams, by kind", labels=["kind"])
        for kind, n in self._relay.dialer.failures_by_kind().items():
            failures.add_metric([kind], n)
        yield failures
        totals = chost.totals()
        yield _gauge("relay_credit_used_bytes", "bytes of frames under way, all hosts", totals["credit_used_bytes"])
        yield _gauge("relay_hosts_waiting", "hosts whose reader waits, for whatever", totals["waiting"])
        yield _counter(
            "relay_rate_limited",
            "seconds readers waited: for credit, pool, workers, limits or a first cursor",
            totals["waited_s"],
        )
        yield _gauge("relay_hosts_throttled", "hosts whose reader waits for a limit", totals["throttled"])
        yield _counter("relay_host_throttled_seconds", "of it, seconds for limits", totals["throttled_s"])
        yield _counter("relay_host_outdated_cursors", "times hosts said OutdatedCursor", totals["outdated_cursors"])
        yield _counter(
            "relay_host_numbering_resets",
            "cursors given up: the host numbers anew, or an operator said so",
            dialled["epochs_total"],
        )

    def _consumers(self) -> Iterable[Metric]:
        consumers = self._relay.consumers
        totals = consumers.totals()
        yield _gauge("relay_consumers", "consumers connected", consumers.count())
        yield _counter("relay_consumer_sent_events", "events sent to consumers", totals["events"])
        yield _counter("relay_consumer_sent_bytes", "bytes sent to consumers", totals["bytes"])
        ends = CounterMetricFamily("relay_consumer_disconnects", "consumers gone, by reason", labels=["reason"])
        for reason, n in consumers.disconnects().items():
            ends.add_metric([reason], n)
        yield ends

    def _http(self) -> Iterable[Metric]:
        http = self._relay.http
        yield _gauge("relay_http_connections", "HTTP connections open, consumers apart", http.connections)
        yield _gauge("relay_http_waiting", "requests that handlers have or will have", http.waiting)
        tally = http.tally
        yield _counter("relay_http_requests", "HTTP requests", tally.requests)
        refused = CounterMetricFamily(
            "relay_http_refused", "connections ended and requests refused by the server itself", labels=["reason"]
        )
        for reason, n in tally.refused.items():
            refused.add_metric([reason], n)
        answers = CounterMetricFamily(
            "relay_http_answers", "answers to whole requests, by path and status", labels=["route", "status"]
        )
        for (route, status), n in list(tally.answers.items()):
            answers.add_metric([route, str(status)], n)
        times = HistogramMetricFamily(
            "relay_http_request_seconds", "from a whole request to its answer, by path", labels=["route"]
        )
        for route, counts in list(tally.times.items()):
            up_to = zip([*map(str, BUCKETS_S), "+Inf"], accumulate(counts), strict=True)
            times.add_metric([route], list(up_to), tally.seconds[route])
        yield from (refused, answers, times)
        yield _gauge("relay_ready", "1 = /_readyz says so", 0 if self._relay.readiness() else 1)

    def _memory(self) -> Iterable[Metric]:
        measured = self._measured()
        yield _gauge("relay_process_rss_bytes", "resident memory", measured["rss"])
        yield _gauge("relay_malloc_arena_bytes", "libc: bytes in arenas", measured["libc_arenas"])
        yield _gauge("relay_malloc_in_use_bytes", "libc: bytes in use", measured["libc_in_use"])
        yield _gauge("relay_malloc_mmap_bytes", "libc: bytes mapped one by one", measured["libc_mapped"])
        yield _gauge("relay_smaps_rss_kb", "resident memory by smaps_rollup", measured["smaps_rss"] / 1024)
        yield _gauge("relay_smaps_anon_kb", "anonymous memory by smaps_rollup", measured["smaps_anonymous"] / 1024)
        yield _gauge("relay_stack_rss_kb", "the main thread's stack", measured["main_stack"] / 1024)
        core = GaugeMetricFamily("relay_core_bytes", "C memory of the compiled core, by part", labels=["tag"])
        for tag, (live, _, _) in mem.usage().items():
            core.add_metric([tag], live)
        yield core
        threads = CounterMetricFamily("relay_thread_failures", "background threads that failed", labels=["thread"])
        for name, n in self._relay.supervisor.failures().items():
            if n:
                threads.add_metric([name], n)
        yield threads
        info = GaugeMetricFamily("relay_build_info", "version of this relay", labels=["version", "allocator"])
        info.add_metric([__version__, allocator.running_on()], 1)
        yield info
        yield _gauge("relay_gil_enabled", "1 = the GIL has been turned on", 0 if gil.is_off() else 1)
