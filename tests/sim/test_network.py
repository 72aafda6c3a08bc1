"""What the simulated network says, judged by the references."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING

import pytest

from tests.reference.car_ref import read_car
from tests.reference.drisl_ref import Cid, decode, encode
from tests.reference.ecdsa_ref import verify
from tests.reference.mst_ref import load
from tests.sim.slow_relay import SlowRelay
from zlay._fast import verdicts
from zlay.sim.faults import EVENT_FAULTS, FAULTS
from zlay.sim.ledger import Expect, Kind, Ledger, LedgerWriter
from zlay.sim.network import Network
from zlay.sim.settings import MIX_SCALE, SettingError, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zlay.sim.ledger import Event

# Everything that accounts do, often, and in small repositories.
BUSY_MIX = {
    "update": 900,
    "delete": 1500,
    "multi": 1500,
    "empty": 500,
    "sync": 400,
    "import": 200,
    "identity": 300,
    "handle": 300,
    "account": 300,
    "deactivate": 400,
    "rotate": 400,
    "migrate": 300,
    "remove": 100,
    "birth": 300,
    "unknown": 100,
}


def make_network(path: Path, **values: object) -> Network:
    """A network with a virtual clock that listens nowhere."""
    settings = Settings(virtual_clock=True, **{"hosts": 3, "accounts": 12, "repo_size": 12, **values})  # type: ignore[arg-type]
    addresses = [(f"localhost:{index}", f"http://localhost:{index}") for index in range(settings.hosts)]
    return Network(settings, addresses, LedgerWriter(path, settings.seed))


def said(network: Network, count: int) -> Iterator[Event]:
    """Generates `count` events; each is given before the next choice is made."""
    with Ledger(network.ledger.path) as ledger:
        while network.generated < count:
            network.step()
            network.ledger.flush()
            yield from ledger.poll()


def digest_of_run(path: Path, seed: int) -> str:
    """SHA-256 of the ledger of a run with everything in it."""
    network = make_network(path, seed=seed, mix=BUSY_MIX, faults={"any": 1500}, settle_s=0.05)
    while network.generated < 1500:
        network.step()
    network.ledger.close()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two runs with one seed write the same ledger; another seed writes another."""
    first = digest_of_run(tmp_path / "a", 7)
    assert first == digest_of_run(tmp_path / "b", 7)
    assert first != digest_of_run(tmp_path / "c", 8)


def test_dids_do_not_depend_on_ports(tmp_path: Path) -> None:
    """The same seed gives the same DIDs and frames wherever hosts listen."""
    runs = []
    for first_port in (1000, 2000):
        settings = Settings(virtual_clock=True, hosts=2, accounts=4)
        addresses = [(f"h:{first_port + index}", f"http://h:{first_port + index}") for index in range(2)]
        network = Network(settings, addresses, LedgerWriter(tmp_path / str(first_port), 1))
        runs.append([event.frame for event in said(network, 50)])
    assert runs[0] == runs[1]


def test_a_slow_relay_agrees_with_the_ledger(tmp_path: Path) -> None:
    """Every good event passes each check of a relay in order, and every #sync without news is known as such."""
    network = make_network(tmp_path / "ledger", mix=BUSY_MIX, settle_s=0.02, p256_share=0.5, max_repo_size=30)
    relay = SlowRelay(network)
    kinds: dict[int, int] = {}
    noops = 0
    for event in said(network, 400):
        wanted = "sync_noop" if event.expect == Expect.NOOP else "ok"
        assert event.expect in (Expect.PASS, Expect.NOOP)
        assert relay.judge(event) == wanted, event
        kinds[event.kind] = kinds.get(event.kind, 0) + 1
        noops += event.expect == Expect.NOOP
    assert set(kinds) == set(Kind)
    assert noops > 5
    assert {account.host for account in network.accounts if account.key_number} != set()


@pytest.mark.parametrize("name", EVENT_FAULTS)
def test_each_fault_is_what_it_says(tmp_path: Path, name: str) -> None:
    """A relay drops each bad event for the reason in the ledger, and the good events around it pass."""
    network = make_network(tmp_path / "ledger", faults={name: MIX_SCALE // 3}, settle_s=0.002)
    relay = SlowRelay(network)
    bad = 0
    for event in said(network, 24 if name != "big_unknown" else 6):
        if event.expect != Expect.DROP:
            assert relay.judge(event) in ("ok", "sync_noop"), event
            continue
        bad += 1
        assert event.fault == name
        verdict = relay.judge(event)
        assert verdict == ("cbor" if event.reason.startswith("cbor_") else event.reason)
    assert bad > 0


def test_every_fault_has_a_name_and_reason_of_its_own_kind() -> None:
    """Names are unique; number 0 is no fault."""
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert FAULTS[0].reason == "ok"


def test_repositories_are_whole_and_signed(tmp_path: Path) -> None:
    """What getRepo answers is one commit, signed by the document's key, and a tree with all its nodes and records."""
    network = make_network(tmp_path / "ledger", mix=BUSY_MIX, faults={"any": 1000}, settle_s=0.02)
    for _ in said(network, 300):
        pass
    for account in [account for account in network.accounts if account.status != "deleted"][:6]:
        roots, blocks = read_car(account.repo.car())
        commit = decode(blocks[roots[0]])
        assert isinstance(commit, dict)
        signature = commit.pop("sig")
        assert isinstance(signature, bytes)
        assert verify(network.directory.profiles[account.did].key, encode(commit), signature) == "ok"
        data = commit["data"]
        assert isinstance(data, Cid)
        keys = leaves(load(data, blocks))
        assert len(keys) == account.repo.size
        assert all(value in blocks for value in keys.values())


def leaves(tree: object) -> dict[bytes, Cid]:
    """All keys and values of a whole tree; a stub is an error."""
    found: dict[bytes, Cid] = {}
    for item in tree.items:  # type: ignore[attr-defined]
        if hasattr(item, "key"):
            found[item.key] = item.value
        else:
            found.update(leaves(item))
    return found


def test_births_are_announced_as_a_pds_does(tmp_path: Path) -> None:
    """A new account is #identity with handle, #account, an empty first commit, and a #sync of the same rev (B11)."""
    network = make_network(tmp_path / "ledger", mix={"birth": 6000})
    events = [event for event in said(network, 200) if network.by_did[event.did].index >= 12]
    did = events[0].did
    kinds = [event.kind for event in events if event.did == did][:4]
    assert kinds == [Kind.IDENTITY, Kind.ACCOUNT, Kind.COMMIT, Kind.SYNC]


def test_a_flood_takes_accounts_in_turn(tmp_path: Path) -> None:
    """As many commits on order as a host has accounts are one of each."""
    network = make_network(tmp_path / "ledger", accounts=60)
    host = network.hosts[1]
    network.flood(host, len(host.accounts))
    network.ledger.flush()
    with Ledger(network.ledger.path) as ledger:
        authors = [event.did for event in ledger.poll()]
    assert sorted(authors) == sorted(account.did for account in host.accounts)


def test_numbering_goes_up_with_gaps(tmp_path: Path) -> None:
    """Seqs of a host go up, and not always by one (A11)."""
    network = make_network(tmp_path / "ledger", hosts=1)
    seqs = [event.seq for event in said(network, 300)]
    steps = {b - a for a, b in itertools.pairwise(seqs)}
    assert min(steps) == 1
    assert max(steps) > 1


def test_keys_and_hosts_change_only_after_a_rest(tmp_path: Path) -> None:
    """Between the last event under an old document and the first under a new one lie at least settle_s."""
    network = make_network(tmp_path / "ledger", mix={"rotate": 1500, "migrate": 1500}, settle_s=0.5, rate=1000)
    profiles = dict(network.directory.profiles)
    last: dict[str, int] = {}
    changes = 0
    for event in said(network, 3000):
        now = network.directory.profiles[event.did]
        before = profiles.get(event.did)
        if before is not None and (now.key, now.pds) != (before.key, before.pds) and event.did in last:
            changes += 1
            assert event.time_us - last[event.did] >= 500_000
        profiles[event.did] = now
        last[event.did] = event.time_us
    assert changes > 3


@pytest.mark.parametrize(
    "values",
    [
        {"hosts": 0},
        {"hosts": 5, "accounts": 4},
        {"rate": -1.0},
        {"repo_size": 0},
        {"start": "soon"},
        {"mix": {"nonsense": 1}},
        {"mix": {"sync": MIX_SCALE}},
        {"faults": {"nonsense": 1.0}},
    ],
)
def test_bad_settings_are_refused(values: dict[str, object]) -> None:
    """A setting that makes no sense is an error that says so."""
    with pytest.raises(SettingError):
        Settings(**values)  # type: ignore[arg-type]


def test_reasons_are_those_of_the_relay() -> None:
    """Each fault's reason is a label of the relay's own table."""
    labels = {reason.label for reason in verdicts.REASONS}
    assert {fault.reason for fault in FAULTS} | {"sync_noop"} <= labels
