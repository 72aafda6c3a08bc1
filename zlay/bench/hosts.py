"""`hosts`: how much memory a connection to a host takes, its thread and all that the relay keeps for the host included.

Two networks of as many accounts and events, one of FEW hosts and one of --hosts, are each read by a relay of their own.
What the second relay's resident memory is above the first one's, when everything has come and is applied, is divided by
the connections that it has more. Bound: what the plan allows, 64 KiB, or 128 with --tls.
`hosts.whole` is the most resident memory that a relay of --hosts hosts ever has while --accounts accounts and --keys
keys fill its caches, all of which come from the network, and --consumers consumers read. Bound: what the plan allows
for 3,000, 500,000, 250,000 and 100 of these, 700 MiB. It takes minutes, and is measured once.
"""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from zlay.bench.processes import pause
from zlay.bench.report import Report, cost, in_turn
from zlay.bench.whole import measure_whole
from zlay.demo.relay import RelayChild
from zlay.errors import LocalFault
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    import argparse

__all__ = ["DESCRIPTION", "add_arguments", "measure"]

DESCRIPTION = "resident memory for a connected host, plain or by TLS"

FEW = 4  # hosts of the network that is compared with
EVENTS_PER_HOST = 2  # so that every reader has handed on what it read
RATE = 1000  # events a second
MOST_KIB = 64  # for a connection
MOST_KIB_TLS = 128
MOST_MIB = 700  # for the whole relay
WAIT_S = 300.0
POLL_S = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--hosts, --tls; --accounts, --keys, --consumers, --seconds of the whole relay."""
    parser.add_argument("--hosts", type=int, default=3000, help="connections (default: 3000)")
    parser.add_argument("--accounts", type=int, default=500_000, help="in memory of the whole relay; 0 = leave it out")
    parser.add_argument("--keys", type=int, default=250_000, help="parsed there (default: 250000)")
    parser.add_argument("--consumers", type=int, default=100, help="that read from it (default: 100)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of traffic when it is full (default: 20)")
    parser.add_argument("--tls", action="store_true", help="hosts speak wss://")


def measure(arguments: argparse.Namespace) -> Report:
    """KiB of resident memory for each connection. LocalFault when the hosts are too few or do not come."""
    if arguments.hosts <= FEW:
        raise LocalFault(f"--hosts must be more than {FEW}")
    taken = in_turn(
        arguments.runs,
        {
            "many": lambda: _resident_kib(arguments.hosts, arguments.hosts, tls=arguments.tls),
            "few": lambda: _resident_kib(FEW, arguments.hosts, tls=arguments.tls),
        },
    )
    kib = (taken["many"] - taken["few"]) / (arguments.hosts - FEW)
    figure = cost("hosts", kib, "KiB/host", MOST_KIB_TLS if arguments.tls else MOST_KIB, 1.0)
    params: dict[str, object] = {
        "hosts": arguments.hosts,
        "tls": arguments.tls,
        "relay_mib": round(taken["many"] / 1024),
    }
    figures = [figure]
    if arguments.accounts:
        found = measure_whole(
            arguments.hosts,
            arguments.accounts,
            arguments.keys,
            arguments.consumers,
            arguments.seconds,
            tls=arguments.tls,
        )
        figures.append(cost("hosts.whole", found.peak_mib, "MiB", MOST_MIB, 1.0))
        params["whole"] = found.as_json()
    return Report("hosts", params, figures, arguments.runs)


def _resident_kib(hosts: int, accounts: int, *, tls: bool) -> float:
    """Of a relay that has read what the accounts on so many hosts had to say, and is connected to all of them."""
    events = EVENTS_PER_HOST * accounts
    flags = ["--hosts", hosts, "--accounts", accounts, "--events", events, "--rate", RATE, "--skew", 0]
    flags += ["--repo-size", 1, "--tls"] if tls else ["--repo-size", 1]
    with tempfile.TemporaryDirectory(prefix="zlay-bench-") as folder, SimProcess(*map(str, flags)) as sim:
        settings = {
            "RELAY_UPSTREAM": sim.upstream,
            "RELAY_ALLOW_PRIVATE_HOSTS": "1",
            "RELAY_PLC_URL": sim.plc,
            **({} if sim.ca is None else {"SSL_CERT_FILE": sim.ca}),
        }
        with RelayChild(Path(folder), settings) as relay:
            deadline = time.monotonic() + WAIT_S
            while (connected := sim.stats())["subscribers"] < hosts or connected["state"] != "finished":
                pause(deadline, f"{connected['subscribers']} of {hosts} hosts are connected", POLL_S)
            while relay.stats()["hosts"]["frames"] < events:
                pause(deadline, "not all that the hosts said has come", POLL_S)
            return _rss_kib(relay.process.pid)


def _rss_kib(pid: int) -> float:
    found = re.search(r"^Rss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return float(found[1])
