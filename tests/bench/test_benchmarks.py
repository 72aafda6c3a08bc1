"""Every benchmark measures, on the least that it can measure on. What it finds is not judged here."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.deps import oracle_python
from tests.fixtures import ROOT
from zlay._fast import streams
from zlay.bench import hosts, inputs, start
from zlay.bench.cli import BENCHMARKS, main
from zlay.bench.cluster import binaries
from zlay.sim.dead import KINDS

if TYPE_CHECKING:
    from pathlib import Path

FEW = ("--runs", "5", "--events", "60", "--accounts", "8")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The object that one benchmark prints; it must exit 0."""
    assert main([*arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def run_once(name: str, *arguments: str) -> dict[str, Any]:
    """The same of a single run: for those that start a relay for each."""
    module = BENCHMARKS[name]
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    found = parser.parse_args(arguments)
    found.runs = 1
    result: dict[str, Any] = json.loads(module.measure(found).as_json())
    return result


def check(result: dict[str, Any], name: str, runs: int = 5) -> None:
    """A main figure of the benchmark's name and sensible numbers in all."""
    assert result["benchmark"] == name
    assert result["figures"][0]["name"] == name
    assert result["runs"] == runs
    names = [figure["name"] for figure in result["figures"]]
    assert len(set(names)) == len(names)
    for figure in result["figures"]:
        assert figure["name"] == name or figure["name"].startswith(name + ".")
        assert figure["bound"] > 0
        assert figure["ratio"] > 0
        assert figure["met"] == (figure["ratio"] >= figure["target"])
        by_ratio = figure["value"] / figure["bound"]
        assert (
            by_ratio <= 0
            or by_ratio == pytest.approx(figure["ratio"], rel=1e-3)
            or 1 / by_ratio == pytest.approx(figure["ratio"], rel=1e-3)
        )


@pytest.mark.parametrize("name", ["decode", "mst", "p256", "verify"])
def test_a_benchmark_measures(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints its figures beside their bounds and exits 0 whatever they are."""
    check(run(capsys, name, *FEW), name)


def test_the_exit_status_can_say_that_a_target_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    """With --check it is 3 where a target is missed, and 0 where all are met."""
    codes = set()
    for name in ("decode", "verify", "mst", "p256"):
        code = main([name, "--check", "--json", *FEW])
        figures = json.loads(capsys.readouterr().out)["figures"]
        assert code == (0 if all(figure["met"] for figure in figures) else 3)
        codes.add(code)
    assert codes <= {0, 3}


def test_verify_measures_two_threads(capsys: pytest.CaptureFixture[str]) -> None:
    """With --threads 2 the figure is the rate of two threads, each with accounts of its own."""
    result = run(capsys, "verify", "--threads", "2", *FEW)
    check(result, "verify")
    assert result["params"]["threads"] == 2


def test_decode_measures_libipld(capsys: pytest.CaptureFixture[str]) -> None:
    """With --no-hash the bound is libipld in an ordinary interpreter."""
    oracle_python()  # skips where it is not installed
    result = run(capsys, "decode", "--no-hash", *FEW)
    check(result, "decode")
    assert result["params"]["hash"] is False


def test_append_measures_one_appender_and_two() -> None:
    """The log's rate is measured beside writes and syncs of as many bytes in groups of the log's own size."""
    result = run_once("append", "--appended", "400", *FEW[2:])
    check(result, "append", 1)
    assert [figure["name"] for figure in result["figures"]] == ["append", "append.2"]
    assert result["params"]["events"] == 400
    assert all(events > 0 for events in result["params"]["events_of_a_group"].values())


@pytest.mark.e2e
def test_fanout_measures_each_number_of_consumers() -> None:
    """Cost and rate of every number are there, the greatest is the main one, and its bound is not the relay's cost."""
    result = run_once("fanout", "--consumers", "1,3", "--gigabytes", "0.02", *FEW[2:])
    check(result, "fanout", 1)
    assert [(figure["name"], figure["unit"]) for figure in result["figures"]] == [
        ("fanout", "s/GB"),
        ("fanout.bytes_per_s", "bytes/s"),
        ("fanout.1", "s/GB"),
        ("fanout.1.bytes_per_s", "bytes/s"),
    ]
    with pytest.raises(ValueError, match="--consumers"):
        run_once("fanout", "--consumers", "0", *FEW[2:])


@pytest.mark.e2e
def test_replay_measures_a_log_of_a_given_size() -> None:
    """The cost of one consumer from cursor 0 is measured beside its bound and beside half a second for a gigabyte."""
    result = run_once("replay", "--gigabytes", "0.02", *FEW[2:])
    check(result, "replay", 1)
    cost, limit, speed = result["figures"]
    assert (limit["name"], limit["value"], limit["bound"]) == ("replay.of_limit", cost["value"], 0.5)
    assert speed["name"] == "replay.bytes_per_s"
    assert result["params"]["gigabytes"] == pytest.approx(0.02, rel=0.2)


@pytest.mark.e2e
def test_idle_measures_processor_time_and_memory() -> None:
    """Live consumers cost beside the least that sends as much in as many pieces; memory beside 40 KiB for each."""
    few = ("--consumers", "20", "--seconds", "1", "--rate", "100", "--hosts", "2", "--accounts", "8")
    result = run_once("idle", *few, "--gigabytes", "0.02")
    check(result, "idle", 1)
    assert [figure["name"] for figure in result["figures"]] == ["idle", "idle.memory", "idle.memory_behind"]
    assert [figure["bound"] for figure in result["figures"][1:]] == [40, 40]
    assert result["params"]["wakes_per_s"] > 0


@pytest.mark.e2e
def test_latency_measures_both_ways_of_keeping_the_log() -> None:
    """Median and 99th percentile with fsync and os, beside sums of the disk's own time for a group."""
    result = run_once("latency", "--seconds", "1.5", "--rate", "200", "--hosts", "2", "--accounts", "8")
    check(result, "latency", 1)
    figures = {figure["name"]: figure for figure in result["figures"]}
    assert list(figures) == ["latency", "latency.p50", "latency.p99", "latency.os.p50", "latency.os.p99"]
    assert figures["latency"]["bound"] == pytest.approx(1.5 * result["params"]["s50_ms"] + 3, rel=1e-2)
    assert figures["latency.p99"]["bound"] == pytest.approx(2 * result["params"]["s99_ms"] + 5, rel=1e-2)
    assert (figures["latency.os.p50"]["bound"], figures["latency.os.p99"]["bound"]) == (1, 10)
    assert 0 < figures["latency.p50"]["value"] <= figures["latency.p99"]["value"]


@pytest.mark.e2e
def test_ingest_measures_a_relay(capsys: pytest.CaptureFixture[str]) -> None:
    """The cost of a real relay's event, sockets (here by TLS) to durable log, is measured beside verify."""
    result = run(capsys, "ingest", "--hosts", "2", "--tls", *FEW)
    check(result, "ingest")


@pytest.mark.e2e
def test_hosts_measures_a_relay_that_is_connected_to_all() -> None:
    """A relay of many hosts, by TLS, is measured beside one of few, when all are connected and have spoken."""
    few = ("--accounts", "256", "--keys", "64", "--consumers", "2", "--seconds", "0.5")
    result = run_once("hosts", "--hosts", "6", "--tls", *few)
    check(result, "hosts", 1)
    assert (result["figures"][0]["bound"], result["params"]["tls"]) == (128, True)
    assert result["params"]["relay_mib"] > 10  # no interpreter with all this loaded takes less
    whole = result["params"]["whole"]
    assert (result["figures"][1]["name"], result["figures"][1]["bound"]) == ("hosts.whole", 700)
    assert (whole["hosts"], whole["consumers"]) == (6, 2)
    assert whole["keys"] >= 64  # each worker has room for some
    assert 128 < whole["accounts"] <= 256  # which worker has how many is chance, more so where they are few
    assert result["figures"][1]["value"] >= whole["end_mib"] - 1 > 10


@pytest.mark.e2e
def test_start_measures_a_relay_that_finds_its_hosts_twice() -> None:
    """With dead hosts of each kind among the others: one listHosts, all living ones, and after a restart nothing amiss.

    Hosts that are silent for ten seconds, or take no connection for five, hold up no other's dial.
    """
    result = run_once("start", "--hosts", "40", "--rtt-ms", "20", "--one-address")
    check(result, "start", 1)
    values = {figure["name"]: figure["value"] for figure in result["figures"]}
    assert list(values) == [
        "start",
        "start.health",
        "start.restart",
        "start.restart.health",
        "start.queries",
        "start.wrong",
    ]
    assert (values["start.queries"], values["start.wrong"]) == (1, 0)
    assert result["params"]["dead"] == len(KINDS)
    for started in (result["params"]["first"][0], result["params"]["second"][0]):
        assert 0 < started["answers_s"] < started["streaming_s"] <= started["all_s"]


@pytest.mark.e2e
def test_http_measures_a_relay_before_a_crowd() -> None:
    """Health, processor time and memory beside idle and slow clients are measured, and that these cost no thread."""
    result = run_once("http", "--clients", "200", "--seconds", "0.3")
    check(result, "http", 1)
    assert [figure["name"] for figure in result["figures"]] == [
        "http",
        "http.greedy",
        "http.cpu",
        "http.idle_memory",
        "http.slow_memory",
    ]
    assert result["params"]["threads_more"] == 0


def test_start_needs_hosts_of_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    """Too few hosts for one of them to be dead are refused in words, before anything is started."""
    assert main(["start", "--hosts", str(start.DEAD - 1)]) == 1
    assert "--hosts must be at least" in capsys.readouterr().err


def test_hosts_need_something_to_compare_with(capsys: pytest.CaptureFixture[str]) -> None:
    """Too few hosts are refused in words, before anything is started."""
    assert main(["hosts", "--hosts", str(hosts.FEW)]) == 1
    assert "--hosts must be more" in capsys.readouterr().err


def test_a_benchmark_that_cannot_measure_says_why() -> None:
    """Exit 1 and a line on stderr when there is nothing to measure on; 2 for fewer runs than a median needs."""
    command = [sys.executable, "-m", "zlay.bench", "verify"]
    failed = subprocess.run(
        [*command, "--events", "0", "--runs", "5"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("bench: ")
    refused = subprocess.run([*command, "--runs", "1"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2


def test_a_stream_passes_only_what_is_good(tmp_path: Path) -> None:
    """What is measured are real verdicts: a commit left out or changed ends the pass with its reason."""
    path = tmp_path / "recording"
    inputs.recording(path, events=60, hosts=1, accounts=2, p256_share=0.5, only_commits=True)
    found = inputs.read_corpus(path)
    stream = streams.Stream(found.frames, found.keys)
    assert stream.events == 60
    assert stream.accounts == 2
    assert stream.bytes == sum(map(len, found.frames))
    assert stream.judge() > 0
    assert stream.judge(parse_keys=True) > 0
    assert stream.least() > 0
    assert stream.least(parse_keys=True) > 0
    gap = streams.Stream(found.frames[:20] + found.frames[24:], found.keys)
    with pytest.raises(ValueError, match="missing_prev_data"):
        gap.judge()
    swapped = dict(zip(found.keys, reversed(found.keys.values()), strict=True))
    with pytest.raises(ValueError, match=r"hold_identity|does not hold"):
        streams.Stream(found.frames, swapped).judge()
    with pytest.raises(ValueError, match="no commits"):
        streams.Stream([], found.keys)
    with pytest.raises(ValueError, match="no key of did:plc:"):
        streams.Stream(found.frames, {})


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_state_is_measured_on_both_databases(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Accounts that are stored and new ones, each beside the same rows written barely."""
    if database == "postgresql" and binaries() is None:
        pytest.skip("PostgreSQL is not installed: run scripts/test-deps")
    few = ("--runs", "5", "--accounts", "40", "--group", "20", "--database", database)
    names = [figure["name"] for figure in run(capsys, "state", *few)["figures"]]
    assert names == (["state", "state.new"] if database == "sqlite" else ["state.postgresql", "state.postgresql.new"])


def test_listrepos_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Pages at several cursors of both databases, beside the first page."""
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed: run scripts/test-deps")
    figures = run(capsys, "listrepos", "--runs", "5", "--accounts", "40")["figures"]
    assert [figure["name"] for figure in figures] == ["listrepos", "listrepos.postgresql"]


def test_resolve_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Look-ups by the resolver's threads, beside bare ones and beside the number that the plan asks for."""
    result = run(capsys, "resolve", "--runs", "5", "--accounts", "8", "--look-ups", "20", "--threads", "2")
    check(result, "resolve")
    assert [figure["name"] for figure in result["figures"]] == ["resolve", "resolve.rate"]
