"""schemathesis against a running relay: does it answer as docs/openapi.json says, whatever it is asked?

    .venv/bin/python -m tests.oracle.describing --examples 500 --seed 7     for longer, on relays of its own

Two relays, one of them without a password, on a small simulated network with real accounts; a consumer stays connected
to the first. Each question is one run of the schemathesis of the oracle's venv. One thread.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.api.support import UPGRADE, Client
from tests.e2e.deps import oracle_environment, oracle_python
from tests.e2e.relay import ADMIN_PASSWORD, RelayProcess
from tests.fixtures import ROOT
from tests.reference.consumer import SUBSCRIBE
from zlay.sim.process import SimProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DOCUMENT = ROOT / "docs" / "openapi.json"
SHUTDOWN = "/admin/shutdown"
PASSWORD = ["-H", f"Authorization: Bearer {ADMIN_PASSWORD}"]
FLAGS = ["--hosts", "3", "--accounts", "40", "--rate", "200"]
EVENTS = 200
RUN_S = 240.0
# What fits the document may still be refused for what it means (no PDS is there): only examples must be taken.
CONFIG = """
continue-on-failure = true
[checks]
positive_data_acceptance.enabled = {meant}
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 413, 414, 429, 431]
"""


@dataclass(frozen=True, slots=True)
class Described:
    """Relays to be asked, and what is true on the first of them."""

    relay: RelayProcess
    closed: RelayProcess  # without a password
    did: str
    rev: str
    hostname: str
    consumer: int  # its id


@contextlib.contextmanager
def relays(folder: Path) -> Iterator[Described]:
    """Both relays, the first with accounts and one consumer."""
    with SimProcess(*FLAGS) as sim:
        open_one = RelayProcess(folder / "open", plc_url=sim.plc, hosts=sim.hosts)
        closed = RelayProcess(folder / "closed", plc_url=sim.plc, env={"RELAY_ADMIN_PASSWORD": ""})
        with open_one as relay, closed:
            relay.wait_metric("relay_state_applied_seq", EVENTS)
            sim.pause()
            account = relay.xrpc("listRepos", "limit=1")["repos"][0]
            host = relay.xrpc("listHosts", "limit=1")["hosts"][0]
            with Client(("127.0.0.1", relay.port)) as consumer:
                named = {**UPGRADE, "User-Agent": "describing"}
                assert consumer.request("GET", f"{SUBSCRIBE}?cursor=0", named).status == 101
                ident = relay.admin("GET", "/admin/consumers")["consumers"][0]["id"]
                yield Described(relay, closed, account["did"], account["rev"], host["hostname"], ident)


def with_examples(document: dict[str, Any], about: Described) -> dict[str, Any]:
    """The document with an example for each parameter and body that is answered 200 or 302 on the first relay."""
    out = copy.deepcopy(document)
    meant = {"did": about.did, "since": about.rev, "hostname": about.hostname, "limit": 2, "cursor": "0"}
    bodies: dict[str, dict[str, object]] = {
        "/admin/hosts/changeLimits": {"hostname": about.hostname, "per_second": 5, "tier": None},
        "/admin/domains": {"domain": "elsewhere.localhost", "banned": True},
        "/admin/consumers/disconnect": {"id": about.consumer},
    }
    for path, operations in out["paths"].items():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                parameter["example"] = meant[parameter["name"]]
            if "requestBody" in operation:
                wanted = {"did": about.did} if "/repo/" in path else {"hostname": about.hostname}
                operation["requestBody"]["content"]["application/json"]["example"] = bodies.get(path, wanted)
    return out


def ask(document: Path, port: int, *flags: str, meant: bool = False, seed: int | None = None) -> str:
    """One run against a port; what it found amiss, "" = nothing. `meant`: what fits the document must be taken."""
    folder = Path(tempfile.mkdtemp(dir=document.parent))
    (folder / "schemathesis.toml").write_text(CONFIG.format(meant=json.dumps(meant)))
    fixed = ["--generation-deterministic"] if seed is None else ["--seed", str(seed), "--generation-database", "none"]
    done = subprocess.run(
        [
            *(oracle_python().with_name("schemathesis"), "run", document, "--url", f"http://127.0.0.1:{port}"),
            *("--no-color", "--max-redirects", "0", "--warnings", "off"),
            *fixed,
            *flags,
        ],
        capture_output=True,
        text=True,
        timeout=RUN_S if seed is None else None,
        cwd=folder,
        env=oracle_environment(),
    )
    tested = "Test cases:" in done.stdout
    return "" if done.returncode == 0 and tested else done.stdout + done.stderr


def validity(document: Path) -> str:
    """What openapi-spec-validator finds wrong with a document, "" = nothing."""
    done = subprocess.run(
        [oracle_python(), "-m", "openapi_spec_validator", document],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        env=oracle_environment(),
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def main(argv: Sequence[str] | None = None) -> int:
    """Asks for as long as it takes; 1 = something is amiss, and said."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle.describing")
    parser.add_argument("--examples", type=int, default=200, help="cases of each operation in each run")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    many = ["--phases", "examples,coverage,fuzzing", "-n", str(arguments.examples), "--exclude-path", SHUTDOWN]
    public = ["--include-tag", "xrpc", "--include-tag", "health"]
    with tempfile.TemporaryDirectory() as scratch, relays(Path(scratch)) as about:
        document = Path(scratch) / "openapi.json"
        document.write_text(json.dumps(with_examples(json.loads(DOCUMENT.read_text()), about)))
        found = [
            ask(document, about.relay.metrics_port, *many, *PASSWORD, seed=arguments.seed),
            ask(document, about.relay.metrics_port, *many, "--include-tag", "admin", seed=arguments.seed),
            ask(document, about.relay.port, *many, *public, seed=arguments.seed),
            ask(document, about.closed.metrics_port, *many, *PASSWORD, seed=arguments.seed),
        ]
    print(*filter(None, found), sep="\n")
    return int(any(found))


if __name__ == "__main__":
    sys.exit(main())
