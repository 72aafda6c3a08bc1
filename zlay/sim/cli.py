"""`zlay sim`: the command line of the simulated network."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from zlay.sim.dump import dump
from zlay.sim.ledger import LedgerWriter
from zlay.sim.network import Network
from zlay.sim.recording import RECORDED_MIX, record
from zlay.sim.replay import Replay
from zlay.sim.settings import DEFAULT_MIX, MIX_SCALE, START_MODES, SettingError, Settings
from zlay.sim.simulation import Simulation

__all__ = ["add_arguments", "add_parser", "main", "run"]

EXIT_BAD_SETTING = 2
EXIT_NO_ADDRESS = 1
_DEFAULTS = Settings()


def _share(text: str) -> tuple[str, float]:
    """NAME=N, N of 10,000 events."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: NAME=N, N of {MIX_SCALE} events") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All flags of the simulation."""
    add = parser.add_argument
    add("--seed", type=int, default=_DEFAULTS.seed, help="the same seed gives the same bytes (with --virtual-clock)")
    add("--hosts", type=int, default=_DEFAULTS.hosts, help="number of PDS hosts")
    add("--accounts", type=int, default=_DEFAULTS.accounts, help="accounts at the start, in all")
    add("--repo-size", type=int, default=_DEFAULTS.repo_size, help="records in a repository at the start, on average")
    add("--max-repo-size", type=int, default=_DEFAULTS.max_repo_size, help="records above which only deletes follow")
    add("--rate", type=float, default=_DEFAULTS.rate, help="events per second in all; 0 = as fast as sockets take them")
    add("--events", type=int, default=None, help="finish after this many events")
    add(
        "--virtual-clock", action="store_true", help="times and revs from a clock that starts in 2025 and counts events"
    )
    add("--skew", type=float, default=_DEFAULTS.skew, help="Zipf exponent of the hosts' shares; 0 = even")
    add("--clock-skew-ms", type=int, default=_DEFAULTS.clock_skew_ms, help="hosts' clocks are off by up to this much")
    add("--p256-share", type=float, default=_DEFAULTS.p256_share, help="part of the accounts with P-256 keys, 0 to 1")
    add("--multi-max", type=int, default=_DEFAULTS.multi_max, help="writes of the largest multi-op commits, up to 200")
    add("--text-bytes", type=int, default=_DEFAULTS.text_bytes, help="post text of exactly this size; 0 = usual sizes")
    add("--settle-s", type=float, default=_DEFAULTS.settle_s, help="rest of an account before its key or host changes")
    add("--start", choices=START_MODES, default=_DEFAULTS.start, help="when to begin (subscribed: every host has been)")
    add("--start-hosts", type=int, default=0, help="begin when so many hosts have had a subscriber; 0 = all")
    add(
        "--mix",
        type=_share,
        action="append",
        default=[],
        metavar="KIND=N",
        help=f"share of a kind of event in {MIX_SCALE}: {', '.join(f'{k}={v}' for k, v in DEFAULT_MIX.items())}",
    )
    add(
        "--fault",
        type=_share,
        action="append",
        default=[],
        metavar="NAME=N",
        help=f"share of a misbehaviour in {MIX_SCALE} events (also: any, broken_encoding)",
    )
    add("--window", type=int, default=_DEFAULTS.window, help="events that each host can replay")
    add("--address", default=_DEFAULTS.address, help="address to listen on")
    add("--host-name", default=_DEFAULTS.host_name, help="name of the hosts in DID documents, before the port")
    add("--port", type=int, default=0, help="first port: hosts, PLC, upstream, control in a row; 0 = any")
    add(
        "--spread", action="store_true", help="a loopback address for each host (127.N.0.1:2583 ...) in place of a port"
    )
    add("--rtt-ms", type=float, default=0.0, help="every round trip takes so much longer, those of a dial too")
    add("--dead", type=int, default=0, help="so many of the hosts refuse connections, or are silent")
    add("--tls", action="store_true", help="hosts speak wss:// and https://; `ca` of the first line: whom to trust")
    add(
        "--ledger",
        type=Path,
        default=None,
        help="the ledger's file; default: a new one in the temporary directory; /dev/null: none",
    )
    add("--record", type=Path, default=None, metavar="FILE", help="write --events events to a recording and exit")
    add("--serve", type=Path, default=None, metavar="FILE", help="serve a recording")
    add("--pace", type=float, default=0.0, help="events per second of --serve in all; 0 = as fast as sockets take them")
    add("--sent", type=Path, default=None, metavar="FILE", help="with --pace, note there when each event was sent")
    add("--dump-json", type=int, default=None, metavar="N", help="print N events and all repositories as JSON and exit")
    add("--tick-ms", type=float, default=_DEFAULTS.tick_ms, help="events are generated this often")


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Settings from parsed flags. Raises SettingError."""
    values = {name: getattr(arguments, name) for name in Settings.__dataclass_fields__ if hasattr(arguments, name)}
    values["mix"] = {name: int(value) for name, value in arguments.mix}
    values["faults"] = dict(arguments.fault)
    return Settings(**values)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Mounts `sim` as a command of `zlay`."""
    parser = subparsers.add_parser("sim", help="a simulated network: PLC directory and PDS hosts", description=__doc__)
    add_arguments(parser)
    parser.set_defaults(run=run)


def _offline_network(settings: Settings, directory: Path) -> Network:
    """A network that listens nowhere, with a virtual clock: for recordings and dumps."""
    settings.virtual_clock = True
    settings.mix = {**settings.mix, **RECORDED_MIX}
    addresses = [(f"localhost:{index}", f"http://localhost:{index}") for index in range(settings.hosts)]
    return Network(settings, addresses, LedgerWriter(settings.ledger or directory / "dump.ledger", settings.seed))


def _record(settings: Settings, path: Path) -> int:
    if settings.events is None:
        raise SettingError("--record needs --events")
    settings.ledger = settings.ledger or path.with_suffix(".ledger")
    network = _offline_network(settings, path.parent)
    record(network, settings.events, path)
    network.ledger.close()
    ready = {"recording": str(path), "events": network.generated, "ledger": str(network.ledger.path)}
    print(json.dumps(ready), flush=True)
    return 0


def _dump(settings: Settings, events: int) -> int:
    with tempfile.TemporaryDirectory(prefix="zlay-sim-") as directory:
        network = _offline_network(settings, Path(directory))
        dump(network, events, sys.stdout)
        network.ledger.close()
    return 0


def _serve(running: Simulation | Replay) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: running.server.stop())
    print(json.dumps(running.ready()), flush=True)
    running.server.run()
    running.close()
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Runs until SIGTERM or SIGINT; prints one line of JSON when everything listens. The exit status."""
    try:
        settings = settings_of(arguments)
        if arguments.dump_json is not None:
            return _dump(settings, arguments.dump_json)
        if arguments.record is not None:
            return _record(settings, arguments.record)
        return _serve(Replay(settings, arguments.serve) if arguments.serve else Simulation(settings))
    except ValueError as exc:  # SettingError, and a file that is no recording
        print(f"zlay sim: {exc}", file=sys.stderr)
        return EXIT_BAD_SETTING
    except subprocess.SubprocessError as exc:
        print(f"zlay sim: no certificates: {exc}", file=sys.stderr)
        return EXIT_NO_ADDRESS
    except OSError as exc:
        print(f"zlay sim: cannot listen, read or write: {exc}", file=sys.stderr)
        return EXIT_NO_ADDRESS


def main(argv: list[str] | None = None) -> int:
    """`python -m zlay.sim`."""
    parser = argparse.ArgumentParser(prog="zlay sim", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))
