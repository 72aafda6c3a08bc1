"""The memory of a whole relay that has its hands full: every host connected, its caches filled, consumers that read.

The network has a few more accounts than the relay keeps in memory. The state knows their keys before the relay is
started, as that of a relay which has run for a while does; then each account says one commit, which fills the caches,
and traffic goes on for a while. One thread, and one that looks at the memory.
"""

from __future__ import annotations

import json
import secrets
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import psutil

from zlay import config
from zlay.bench.processes import pause
from zlay.bench.readers import Readers
from zlay.bench.serving import public_port, wait_consumers
from zlay.demo.relay import RelayChild
from zlay.identity.multibase import decode_multikey
from zlay.pipeline.types import Identity
from zlay.sim.process import SimProcess
from zlay.state import open_store

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Whole", "measure_whole"]

SPARE = 0.01  # accounts and keys more than the relay has room for: no worker's share of the room stays empty
BUILD_S = 1200.0  # for half a million keys and repositories
FILL_S = 1200.0
BACKLOG = 20_000  # frames that may be on their way while the caches are filled
TRAFFIC_RATE = 700.0  # events a second: what the network says
SAMPLE_S = 0.25
LIVE = "/xrpc/com.atproto.sync.subscribeRepos"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Whole:
    """What was found. `peak_mib` at any moment from the start of the process on, the rest at the end."""

    peak_mib: float
    end_mib: float
    accounts: int  # in memory
    keys: int
    hosts: int
    consumers: int
    parts_mib: dict[str, float] = field(default_factory=dict)  # by the relay's own account of it

    def as_json(self) -> dict[str, Any]:
        """For the params of a report."""
        found: dict[str, Any] = {name: getattr(self, name) for name in ("accounts", "keys", "hosts", "consumers")}
        return found | {"end_mib": round(self.end_mib), "parts_mib": self.parts_mib}


def measure_whole(hosts: int, accounts: int, keys: int, consumers: int, traffic_s: float, *, tls: bool) -> Whole:
    """Of a relay with room for so many accounts and keys. LocalFault when the network or the relay does not do."""
    said = accounts + int(accounts * SPARE)
    flags: list[object] = ["--hosts", hosts, "--accounts", max(said, hosts), "--repo-size", 1, "--skew", 0]
    flags += ["--start", "paused", "--rate", TRAFFIC_RATE, *(["--tls"] if tls else [])]
    with (
        tempfile.TemporaryDirectory(prefix="zlay-bench-") as name,
        SimProcess(*map(str, flags), timeout_s=BUILD_S) as sim,
    ):
        password = secrets.token_hex(8)
        settings = {
            "RELAY_UPSTREAM": sim.upstream,
            "RELAY_ALLOW_PRIVATE_HOSTS": "1",
            "RELAY_PLC_URL": sim.plc,
            "RELAY_ADMIN_PASSWORD": password,
            "RELAY_MAX_CONSUMERS_PER_IP": str(max(consumers, 1)),
            "DID_CACHE_SIZE": str(accounts),
            "VALIDATOR_CACHE_SIZE": str(keys),
            **({} if sim.ca is None else {"SSL_CERT_FILE": sim.ca}),
        }
        _store_identities(sim, Path(name) / "data")
        with RelayChild(Path(name), settings) as relay, _Watch(relay.process.pid) as watch:
            deadline = time.monotonic() + FILL_S
            while (connected := sim.stats()["subscribers"]) < hosts:
                pause(deadline, f"{connected} of {hosts} hosts are connected", SAMPLE_S)
            with Readers(public_port(relay), [LIVE] * consumers) as readers:
                readers.connected()
                wait_consumers(relay, consumers)
                readers.go()
                _speak(sim, relay, hosts, -(-said // hosts), deadline)
                sim.resume()
                time.sleep(traffic_s)
                sim.pause()
                _wait_taken(sim, relay, 0, deadline)
                return _found(relay, watch, password)


def _store_identities(sim: SimProcess, data_dir: Path) -> None:
    """Tells a new state all accounts of the network. LocalFault, OSError, StateError."""
    settings, _ = config.from_environment({"RELAY_DATA_DIR": str(data_dir)})
    data_dir.mkdir(parents=True)
    store = open_store(settings)
    try:
        after, now_us = 0, time.time_ns() // 1000
        while found := sim.profiles(after):
            after += len(found)
            store.save_identities([_identity(did, key, url, now_us) for did, key, url in found])
    finally:
        store.close()


def _identity(did: str, multikey: str, url: str, now_us: int) -> Identity:
    key = decode_multikey(multikey)
    assert key is not None
    return Identity(did, "ok", urlsplit(url).netloc, *key, now_us)


def _speak(sim: SimProcess, relay: RelayChild, hosts: int, each: int, deadline: float) -> None:
    """Has every host say so many commits, of another account each, no faster than the relay takes them. LocalFault."""
    for host in range(hosts):
        sim.misbehave("flood", host, count=each)
        if host % (1 + BACKLOG // (4 * each)) == 0:
            _wait_taken(sim, relay, BACKLOG, deadline)
    _wait_taken(sim, relay, 0, deadline)


def _wait_taken(sim: SimProcess, relay: RelayChild, left: int, deadline: float) -> None:
    """Until at most so many of the events that were said have no verdict yet. LocalFault."""
    while True:
        behind = sim.stats()["generated"] - sum(one["judged"] for one in relay.stats()["workers"])
        if behind <= left:
            return
        pause(deadline, f"{behind} events have no verdict", SAMPLE_S)


def _found(relay: RelayChild, watch: _Watch, password: str) -> Whole:
    stats = relay.stats()
    request = urllib.request.Request(relay.internal + "/admin/memory", headers={"Authorization": f"Bearer {password}"})
    with urllib.request.urlopen(request) as response:
        memory = json.load(response)
    parts = {name: round(size / MIB, 1) for name, size in memory["parts"].items()}
    parts["remainder"] = round(memory["remainder"] / MIB, 1)
    parts |= {f"core_{one['tag']}": round(one["live_bytes"] / MIB, 1) for one in memory["core"]}
    return Whole(
        peak_mib=watch.peak_bytes / MIB,
        end_mib=memory["rss"] / MIB,
        accounts=sum(one["accounts"] for one in stats["workers"]),
        keys=sum(one["keys"] for one in stats["workers"]),
        hosts=stats["hosts"].get("active", 0) + stats["hosts"].get("throttled", 0),
        consumers=stats["consumers"]["connected"],
        parts_mib=parts,
    )


class _Watch:
    """Looks at a process's resident memory all along. A context manager; `peak_bytes` may be read at any time."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            try:
                self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)
            except psutil.Error:
                return
