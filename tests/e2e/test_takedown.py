"""Takedowns through a whole relay: admin, stream, replay, XRPC, metrics, kills and restarts."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests._fast.actor import Actor
from tests.e2e.fakes import FakePds, FakePlc
from tests.e2e.relay import ADMIN_PASSWORD, RelayProcess, request
from tests.reference.consumer import Collector
from tests.reference.frame_ref import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WAIT_S = 60.0
DUPLICATES = 'relay_events_total{reason="duplicate",verdict="drop"}'
HEADERS = {"Authorization": f"Bearer {ADMIN_PASSWORD}"}


class Network:
    """A host with two accounts, a directory, and a relay that has read some commits of both."""

    def __init__(self, pds: FakePds, plc: FakePlc, relay: RelayProcess) -> None:
        self.pds, self.plc, self.relay = pds, plc, relay
        self.seq = 0
        self.alice, self.bob = Actor("alice"), Actor("bob")
        for actor in (self.alice, self.bob):
            plc.documents[actor.did] = actor.document(pds.host)

    def publish(self, *makers: Any) -> None:
        """Events of the host, made for its next numbers; each is judged before the next one comes."""
        for make in makers:
            before = self.judged()
            self.seq += 1
            self.pds.publish((self.seq, make(self.seq)))
            self.relay.wait_for(lambda before=before: self.judged() > before, "a verdict", WAIT_S)

    def judged(self) -> float:
        """Frames with a verdict, but for those that the host sends again after a restart."""
        found = self.relay.metrics()
        return found["relay_validation_total"] - found[DUPLICATES]

    def applied(self) -> None:
        """Waits until the state has all that is logged."""
        self.relay.wait_metric("relay_state_applied_seq", self.relay.metrics()["relay_log_appended_seq"])

    def ban(self, what: str, did: str) -> tuple[int, Any]:
        """POST /admin/repo/WHAT: status and JSON."""
        status, body = request(self.relay.metrics_port, "POST", f"/admin/repo/{what}", {"did": did}, headers=HEADERS)
        return status, json.loads(body)

    def xrpc(self, name: str, query: str) -> tuple[int, Any]:
        """Status and JSON of a query on the public port."""
        status, body = request(self.relay.port, "GET", f"/xrpc/com.atproto.sync.{name}?{query}")
        return status, json.loads(body) if body else None

    def replay(self, count: int, cursor: int = 0) -> list[tuple[str, str, bool | None]]:
        """(account, kind, active) of the first `count` events above the cursor; that no more come at once."""
        with Collector(self.relay.port, cursor, contiguous=False) as consumer:
            frames = consumer.wait_count(count, WAIT_S)
        assert len(frames) == count
        names = {self.alice.did: "alice", self.bob.did: "bob"}
        return [
            (names[frame.did or ""], frame.kind.removeprefix("#"), frame.payload.get("active"))
            for frame in frames
            if isinstance(frame, Frame)
        ]


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """It runs, and stops at the end."""
    with (
        FakePds() as pds,
        FakePlc() as plc,
        RelayProcess(folder / "data", plc_url=plc.url, hosts=[pds.host]) as relay,
    ):
        made = Network(pds, plc, relay)
        pds.wait_subscribed()
        yield made


def seen(net: Network, *, down: bool) -> None:
    """What the relay answers about alice, who is taken down or not, and about bob, who never is."""
    did = f"did={net.alice.did}"
    status, told = net.xrpc("getRepoStatus", did)
    assert status == 200
    listed = [repo["did"] for repo in net.xrpc("listRepos", "")[1]["repos"]]
    if down:
        assert told == {"did": net.alice.did, "active": False, "status": "takendown"}
        for name in ("getLatestCommit", "getRepo"):
            assert (net.xrpc(name, did)[0], net.xrpc(name, did)[1]["error"]) == (403, "RepoTakendown")
        assert listed == [net.bob.did]
    else:
        assert told["active"] is True
        assert told["rev"] == net.xrpc("getLatestCommit", did)[1]["rev"]
        assert net.xrpc("getRepo", did)[0] == 302
        assert sorted(listed) == sorted([net.alice.did, net.bob.did])
    assert net.xrpc("getLatestCommit", f"did={net.bob.did}")[0] == 200
    assert net.relay.metrics()["relay_accounts_taken_down"] == (1 if down else 0)


def copy_state(source: Path, target: Path) -> None:
    """The state of a running relay as it is now."""
    with contextlib.closing(sqlite3.connect(source)) as one, contextlib.closing(sqlite3.connect(target)) as other:
        one.backup(other)


COMMIT_A, COMMIT_B = ("alice", "commit", None), ("bob", "commit", None)
IDENTITY_A = ("alice", "identity", None)
DOWN, UP = ("alice", "account", False), ("alice", "account", True)


def test_takedown_and_its_reverse(tmp_path: Path) -> None:
    """A takedown is told at once, takes the account out of every answer and every replay, survives kills, a restart and
    a state that is behind the log, and is undone whole."""
    with network(tmp_path) as net:
        alice, bob, relay = net.alice, net.bob, net.relay
        with Collector(relay.port, 0, reconnect=True, contiguous=False) as live:
            net.publish(alice.commit, bob.commit, alice.identity_event, alice.commit, bob.commit)
            live.wait_count(5, WAIT_S)
            net.applied()
            assert net.ban("ban", "did:plc:" + "z" * 24)[0] == 404
            seen(net, down=False)
            copy_state(relay.data_dir / "state.sqlite", tmp_path / "older.sqlite")

            assert net.ban("ban", alice.did) == (
                200,
                {"did": alice.did, "active": False, "status": "takendown", "seq": 6},
            )
            seen(net, down=True)  # when the operator has the answer, so has everybody
            told = live.wait_count(6, WAIT_S)[5]
            assert isinstance(told, Frame)
            assert (told.kind, told.did, told.seq) == ("#account", alice.did, 6)
            assert (told.payload["active"], told.payload["status"]) == (False, "takendown")
            assert net.ban("ban", alice.did)[1]["seq"] is None  # again: nothing new to tell
            net.publish(alice.commit, bob.commit, alice.identity_event)
            expected = [COMMIT_B, IDENTITY_A, COMMIT_B, DOWN, COMMIT_B, IDENTITY_A]
            assert net.replay(6) == expected
            assert relay.metrics()["relay_log_hidden_events_total"] >= 2

            relay.kill()
            relay.start()
            seen(net, down=True)
            assert net.replay(6) == expected
            net.pds.wait_subscribed(2)
            relay.kill()
            for name in ("state.sqlite-wal", "state.sqlite-shm"):
                (relay.data_dir / name).unlink(missing_ok=True)
            shutil.copy(tmp_path / "older.sqlite", relay.data_dir / "state.sqlite")
            relay.start()
            seen(net, down=True)
            assert net.replay(6) == expected
            net.pds.wait_subscribed(3)
            net.publish(alice.commit, bob.commit)

            status, answer = net.ban("unban", alice.did)
            assert (status, answer["active"], answer["status"]) == (200, True, "active")
            seen(net, down=False)
            net.publish(alice.commit)
            net.applied()
            everything = [
                *(COMMIT_A, COMMIT_B, IDENTITY_A, COMMIT_A, COMMIT_B),
                *(DOWN, COMMIT_B, IDENTITY_A, COMMIT_B, UP, COMMIT_A),
            ]
            assert net.replay(11) == everything
            live.wait_count(11, WAIT_S)
            assert live.problem is None
        assert relay.terminate() == 0
        relay.start()
        seen(net, down=False)
        assert net.replay(11) == everything


def test_what_an_operator_may_not_say(tmp_path: Path) -> None:
    """Bodies without a DID, and DIDs that are none, are told; nobody without the password is heard."""
    with RelayProcess(tmp_path / "data", plc_url="http://127.0.0.1:9") as relay:
        for what in ("ban", "unban"):
            path = f"/admin/repo/{what}"
            for body in ({}, {"did": 5}, {"did": ""}, {"did": "alice.example"}, {"did": "did:plc:SHORT"}):
                status, told = request(relay.metrics_port, "POST", path, body, headers=HEADERS)
                assert (status, json.loads(told)["error"]) == (400, "InvalidRequest")
            did = {"did": "did:plc:" + "a" * 24}
            assert request(relay.metrics_port, "POST", path, did)[0] == 401
            assert request(relay.metrics_port, "GET", path, headers=HEADERS)[0] == 405
            assert request(relay.port, "POST", path, did, headers=HEADERS)[0] == 404
            assert request(relay.metrics_port, "POST", path, did, headers=HEADERS)[0] == 404
