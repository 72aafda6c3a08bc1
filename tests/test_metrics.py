"""Figures of a whole relay, scraped at its port, before and after events went through it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.support import wait_until
from tests.hosts.fake_pds import FakePds, event, frame, upgrade
from tests.live import LiveRelay
from zlay._fast import verdicts
from zlay.state.interface import NewHost

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

# Names on existing dashboards, with their kinds.
KNOWN = {
    "relay_frames_received_total": "counter",
    "relay_validation_total": "counter",
    "relay_rate_limited_total": "counter",
    "relay_decode_errors_total": "counter",
    "relay_chain_breaks_total": "counter",
    "relay_seq": "gauge",
    "relay_validator_cache_entries": "gauge",
    "relay_validator_cache_evictions_total": "counter",
    "relay_process_rss_bytes": "gauge",
    "relay_malloc_arena_bytes": "gauge",
    "relay_malloc_in_use_bytes": "gauge",
    "relay_malloc_mmap_bytes": "gauge",
    "relay_smaps_rss_kb": "gauge",
    "relay_smaps_anon_kb": "gauge",
    "relay_stack_rss_kb": "gauge",
    "relay_workers_count": "gauge",
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRelay]:
    """One relay for all tests here."""
    with LiveRelay(tmp_path_factory.mktemp("relay")) as one:
        yield one


def scrape(live: LiveRelay) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Samples by name, then by labels."""
    with live.client(internal=True) as client:
        told = client.request("GET", "/metrics")
    assert told.status == 200
    out: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(told.body.decode()):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in out.get(sample.name, {}), f"twice: {sample.name} {labels}"
            out.setdefault(sample.name, {})[labels] = sample.value
    return out


def test_names_of_dashboards(live: LiveRelay) -> None:
    """Every name that dashboards know is there from the first scrape, with its kind, and says what it is."""
    with live.client(internal=True) as client:
        text = client.request("GET", "/metrics").body.decode()
    families = list(text_string_to_metric_families(text))
    kinds = {sample.name: family.type for family in families for sample in family.samples}
    for name, kind in KNOWN.items():
        assert kinds.get(name) == kind, name
    assert all(family.documentation for family in families)
    assert all(name.startswith("relay_") for name in kinds)


def test_every_reason_is_there_at_zero(live: LiveRelay) -> None:
    """Every reason for a drop or a hold has its sample before it ever happened, so that alerts can be written."""
    samples = scrape(live)["relay_events_total"]
    for info in verdicts.REASONS:
        assert (("reason", info.label), ("verdict", info.verdict)) in samples


def test_figures_of_the_process(live: LiveRelay) -> None:
    """Memory, workers and build are what they are."""
    samples = scrape(live)
    assert samples["relay_process_rss_bytes"][()] > 10 << 20
    assert samples["relay_workers_count"][()] == 1
    assert samples["relay_gil_enabled"][()] == 0
    assert samples["relay_log_paused"][()] == 0
    assert samples["relay_frame_pool_total_bytes"][()] == 32 << 20
    ((labels, one),) = samples["relay_build_info"].items()
    assert (dict(labels)["allocator"], one) == ("glibc", 1)
    assert set(samples["relay_core_bytes"]) > {(("tag", "pool"),)} or len(samples["relay_core_bytes"]) > 3


def test_requests_are_counted(live: LiveRelay) -> None:
    """HTTP requests and connections count, scrapes included; readiness is a figure, too."""
    before = scrape(live)
    with live.client(), live.client(internal=True) as client:
        assert client.request("GET", "/_health").status == 200
        after = scrape(live)
        assert after["relay_http_requests_total"][()] == before["relay_http_requests_total"][()] + 2
        assert after["relay_http_connections"][()] >= 3
        assert after["relay_http_waiting"][()] == 1  # the scrape itself
        ready = client.request("GET", "/_readyz").status == 200
        for path in ("/_health", "/no/such/page", "/nor/this"):
            client.request("GET", path)
        client.send(b"rubbish\r\n\r\n")
        assert client.answer().status == 400
        later = scrape(live)
    key = (("route", "/_health"), ("status", "200"))
    assert later["relay_http_answers_total"][key] == after["relay_http_answers_total"][key] + 1
    assert later["relay_http_answers_total"][(("route", "other"), ("status", "404"))] == 2
    counts = later["relay_http_request_seconds_count"]
    assert counts[(("route", "/_health"),)] == later["relay_http_answers_total"][key]
    assert later["relay_http_request_seconds_bucket"][(("le", "+Inf"), ("route", "other"))] == 2
    assert later["relay_http_refused_total"][(("reason", "malformed"),)] == 1
    assert after["relay_ready"][()] == float(ready)


def test_events_are_counted_by_verdict_and_reason(live: LiveRelay) -> None:
    """Frames of a host show in the totals and under the reason that each met, while the host is connected."""
    done = threading.Event()

    def script(sock: socket.socket) -> None:
        upgrade(sock)
        sock.sendall(frame(b"\xff\xff") + event(5) + event(4))  # rubbish, one to wait, one that goes back
        done.wait(30)

    before = scrape(live)
    host = FakePds(script)
    try:
        live.relay.registry.add([NewHost(host.hostname, "admin", no_tls=True)])
        regression = (("reason", "seq_regression"), ("verdict", "drop"))
        wait_until(lambda: scrape(live)["relay_events_total"][regression] > 0, "the last frame is judged")
        wait_until(lambda: scrape(live)["relay_decode_errors_total"][()] > 0, "the first frame is judged")
        wait_until(lambda: scrape(live)["relay_held_frames"][()] == 1, "the good one is held")
        after = scrape(live)
        assert after["relay_frames_received_total"][()] == before["relay_frames_received_total"][()] + 3
        assert after["relay_hosts_connected"][()] == 1
        assert after["relay_hosts"][(("status", "active"),)] == 1
        assert after["relay_validation_total"][(("result", "failed"),)] >= 2
        assert after["relay_requests_total"][(("kind", "load"),)] >= 1
        assert after["relay_seq"][()] == 0
    finally:
        done.set()
        host.close()
    wait_until(lambda: scrape(live)["relay_hosts_connected"][()] == 0, "the host is gone")
    assert sum(scrape(live)["relay_host_disconnects_total"].values()) >= 1


def test_scrapes_at_once(live: LiveRelay) -> None:
    """Scrapes by several threads at once are all whole."""
    barrier = threading.Barrier(6)
    found: list[int] = []

    def work() -> None:
        barrier.wait()
        found.extend(len(scrape(live)) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 30
    assert len(set(found)) == 1
