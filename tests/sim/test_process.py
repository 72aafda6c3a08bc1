"""The simulation as a process: its sockets, its cursor rules, its orders, its recordings."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.reference.car_ref import read_car
from tests.reference.drisl_ref import Cid, encode
from tests.reference.ecdsa_ref import verify
from zlay.sim.dead import KINDS, dead_among
from zlay.sim.ledger import Event, Ledger, message_of
from zlay.sim.pace import read_notes
from zlay.sim.process import SimProcess, SimStartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TIMEOUT_S = 30.0
UPGRADE = (
    "GET /xrpc/com.atproto.sync.subscribeRepos{query} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, 1.3, for this key


class Wire:
    """A subscriber on a plain socket: WebSocket frames as bytes, in order."""

    def __init__(self, host: str, cursor: int | None = None) -> None:
        name, port = host.split(":")
        self.sock = socket.create_connection((name, int(port)), TIMEOUT_S)
        query = "" if cursor is None else f"?cursor={cursor}"
        self.sock.sendall(UPGRADE.format(query=query, host=host).encode())
        self.data = b""
        self.ended = False
        while b"\r\n\r\n" not in self.data:
            self._more()
        head, self.data = self.data.split(b"\r\n\r\n", 1)
        self.head = head.decode()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def _more(self) -> None:
        data = self.sock.recv(1 << 20)
        if not data:
            self.ended = True
            raise EOFError
        self.data += data

    def frame(self) -> bytes:
        """The next whole frame. EOFError at the end of the stream."""
        while (size := self._size()) is None or len(self.data) < size:
            self._more()
        frame, self.data = self.data[:size], self.data[size:]
        return frame

    def _size(self) -> int | None:
        if len(self.data) < 2:
            return None
        small = self.data[1]
        width = {126: 2, 127: 8}.get(small, 0)
        if len(self.data) < 2 + width:
            return None
        return 2 + width + (int.from_bytes(self.data[2 : 2 + width], "big") if width else small)

    def frames(self, count: int) -> list[bytes]:
        """The next `count` frames."""
        return [self.frame() for _ in range(count)]

    def rest(self) -> list[bytes]:
        """All frames until the stream ends; what is left of a frame stays in `data`."""
        frames = []
        try:
            while True:
                frames.append(self.frame())
        except EOFError:
            return frames


def get(url: str) -> Any:
    """The JSON that a URL answers."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        return json.load(response)


def status_of(url: str) -> int:
    """The HTTP status that a URL answers."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as exc:
        return exc.code


def events_of(sim: SimProcess, host: int = 0) -> list[Event]:
    """What a host has said so far, by the ledger."""
    with sim.ledger() as ledger:
        return [event for event in ledger.poll() if event.host == host]


@pytest.fixture
def sim() -> Iterator[SimProcess]:
    """One host that has said 200 events and is finished."""
    with SimProcess("--hosts", "1", "--accounts", "5", "--rate", "0", "--events", "200", "--start", "now") as process:
        process.wait_generated(200, TIMEOUT_S)
        yield process
        assert process.stop() == 0


def test_subscribers_get_what_the_ledger_says(tmp_path: Path) -> None:
    """Several hosts, each subscriber gets the frames of its host, whole and in order; then SIGTERM ends it with 0."""
    flags = ["--hosts", "3", "--accounts", "9", "--rate", "0", "--events", "900", "--ledger", str(tmp_path / "l")]
    with SimProcess(*flags) as process, ExitStack() as stack:
        wires = [stack.enter_context(Wire(host)) for host in process.hosts]
        assert all(f"Sec-WebSocket-Accept: {ACCEPT}".lower() in wire.head.lower() for wire in wires)
        process.wait_generated(900, TIMEOUT_S)
        for index, wire in enumerate(wires):
            said = [event.frame for event in events_of(process, index)]
            assert wire.frames(len(said)) == said
        with process.ledger() as ledger:
            assert len(list(ledger.poll())) >= 900
            assert ledger.ended
            assert [link.cursor for link in ledger.links] == [None] * 3
        assert process.stop() == 0


def test_cursor_rules(sim: SimProcess) -> None:
    """Cursors: 0 = everything, a seq = what follows it, the newest = nothing, the future = FutureCursor and 1008."""
    said = events_of(sim)
    host = sim.hosts[0]
    with Wire(host, 0) as wire:
        assert wire.frames(len(said)) == [event.frame for event in said]
    with Wire(host, said[99].seq) as wire:
        assert wire.frames(len(said) - 100) == [event.frame for event in said[100:]]
    with Wire(host, said[-1].seq + 1) as wire:
        error, close = wire.rest()
        assert message_of(error)[:5] == b"\xa1bop\x20"
        assert b"FutureCursor" in error
        assert (close[0], close[2:4]) == (0x88, (1008).to_bytes(2, "big"))
    sim.misbehave("bad_signature", host)
    with Wire(host, said[-1].seq) as wire:
        assert wire.frame() == events_of(sim)[-1].frame


def test_an_outdated_cursor_is_told(tmp_path: Path) -> None:
    """A cursor older than the window gets #info OutdatedCursor, then the whole window (A15)."""
    flags = ["--hosts", "1", "--accounts", "2", "--rate", "0", "--events", "500", "--start", "now", "--window", "50"]
    with SimProcess(*flags) as process:
        process.wait_generated(500, TIMEOUT_S)
        said = events_of(process)
        with Wire(process.hosts[0], 1) as wire:
            assert b"OutdatedCursor" in wire.frame()
            first = wire.frame()
            kept = [event.frame for event in said][[event.frame for event in said].index(first) :]
            assert 50 <= len(kept) <= 100
            assert wire.frames(len(kept) - 1) == kept[1:]


def test_bad_requests_are_answered(sim: SimProcess) -> None:
    """A cursor that is no number is 400 before the upgrade; a plain GET is 426; an unknown method 501."""
    base = f"http://{sim.hosts[0]}/xrpc/com.atproto.sync."
    with Wire(sim.hosts[0] + "", None) as wire:
        assert wire.head.startswith("HTTP/1.1 101")
    assert status_of(base + "subscribeRepos") == 426
    assert status_of(base + "getNothing") == 501
    name, port = sim.hosts[0].split(":")
    with socket.create_connection((name, int(port)), TIMEOUT_S) as sock:
        sock.sendall(UPGRADE.format(query="?cursor=x", host=sim.hosts[0]).encode())
        assert sock.recv(4096).startswith(b"HTTP/1.1 400")


def test_queries_of_a_pds(sim: SimProcess) -> None:
    """describeServer, listRepos, getLatestCommit, getRepoStatus and getRepo agree with each other."""
    base = f"http://{sim.hosts[0]}/xrpc/com.atproto."
    assert get(base + "server.describeServer")["did"].startswith("did:web:localhost%3A")
    first = get(base + "sync.listRepos?limit=2")
    rest = get(base + f"sync.listRepos?limit=1000&cursor={first['cursor']}")
    repos = first["repos"] + rest["repos"]
    assert len({repo["did"] for repo in repos}) == len(repos) >= 5
    repo = next(repo for repo in repos if repo["active"])
    assert get(base + f"sync.getLatestCommit?did={repo['did']}") == {"cid": repo["head"], "rev": repo["rev"]}
    assert get(base + f"sync.getRepoStatus?did={repo['did']}")["rev"] == repo["rev"]
    with urllib.request.urlopen(base + f"sync.getRepo?did={repo['did']}", timeout=TIMEOUT_S) as response:
        roots, blocks = read_car(response.read())
    assert str(roots[0]) == repo["head"]
    assert roots[0] in blocks
    assert status_of(base + "sync.getRepo?did=did:plc:nobody") == 400
    assert status_of(base + "sync.listRepos?limit=0") == 400
    hosts = get(f"{sim.upstream}/xrpc/com.atproto.sync.listHosts")
    assert [host["hostname"] for host in hosts["hosts"]] == sim.hosts


def test_the_directory(sim: SimProcess) -> None:
    """Documents name key and host; operations chain, verify, and make the DID; the export has them all in order."""
    did = events_of(sim)[0].did
    document = get(f"{sim.plc}/{did}")
    assert document["id"] == did
    assert document["service"][0]["serviceEndpoint"] == f"http://{sim.hosts[0]}"
    key = document["verificationMethod"][0]["publicKeyMultibase"]
    assert get(f"{sim.plc}/{did}/data")["verificationMethods"] == {"atproto": f"did:key:{key}"}
    operations = get(f"{sim.plc}/{did}/log")
    for operation in operations:
        unsigned = {name: value for name, value in operation.items() if name != "sig"}
        signature = base64.urlsafe_b64decode(operation["sig"] + "==")
        assert verify(operation["rotationKeys"][0], encode(unsigned), signature) == "ok"
    genesis = base64.b32encode(hashlib.sha256(encode(operations[0])).digest()).decode().lower()
    assert did == "did:plc:" + genesis[:24]
    assert operations[1]["prev"] == str(Cid.of(encode(operations[0])))
    with urllib.request.urlopen(f"{sim.plc}/export?after=0&count=3", timeout=TIMEOUT_S) as response:
        lines = [json.loads(line) for line in response.read().splitlines()]
    assert [line["seq"] for line in lines] == [1, 2, 3]
    profiles = sim.profiles(0)
    assert (did, key, f"http://{sim.hosts[0]}") in profiles
    assert sim.profiles(len(profiles)) == []
    assert status_of(f"{sim.plc}/did:plc:nobody") == 404


@pytest.mark.parametrize(
    ("mode", "status"), [("error", 500), ("missing", 404), ("garbage", 200), ("down", 0), ("ok", 200), ("slow", 200)]
)
def test_the_directory_fails_on_order(sim: SimProcess, mode: str, status: int) -> None:
    """The directory fails as told, for the DIDs told, and recovers."""
    dids = list({event.did for event in events_of(sim)})
    sim.set_plc(mode, ms=5, dids=[dids[0]])
    url = f"{sim.plc}/{dids[0]}"
    if status == 0:
        with pytest.raises((ConnectionError, urllib.error.URLError)):
            status_of(url)
    else:
        assert status_of(url) == status
    if mode == "garbage":
        with pytest.raises(ValueError, match="Expecting value"):
            get(url)
    assert status_of(f"{sim.plc}/{dids[1]}") == 200
    sim.set_plc("ok")
    assert get(url)["id"] == dids[0]


def test_streams_misbehave_on_order(sim: SimProcess) -> None:
    """resend repeats old frames; disconnect_mid cuts the next one in two; replay repeats some after the next cursor."""
    host = sim.hosts[0]
    said = [event.frame for event in events_of(sim)]
    with Wire(host, 0) as wire:
        assert wire.frames(200) == said[:200]
        wire.frames(len(said) - 200)
        sim.misbehave("resend", host, count=5)
        assert wire.frames(5) == said[-5:]
        sim.misbehave("disconnect_mid", host)
        sim.misbehave("bad_tree", host)
        assert wire.rest() == []
        last = events_of(sim)[-1]
        assert wire.data == last.frame[: len(last.frame) // 2]
    sim.misbehave("replay", host, count=3)
    with Wire(host, events_of(sim)[-2].seq) as wire:
        assert wire.frames(4) == [event.frame for event in events_of(sim)[-4:]]
        sim.misbehave("disconnect", host)
        assert wire.rest() == []
        assert wire.data == b""


def test_a_stall_stops_inside_a_frame_and_goes_on(sim: SimProcess) -> None:
    """The frame is finished after the stall, byte for byte, and the next one follows."""
    host = sim.hosts[0]
    with Wire(host, events_of(sim)[-1].seq) as wire:
        sim.misbehave("stall", host, seconds=0.3)
        sim.misbehave("high_s", host, count=2)
        assert wire.frames(2) == [event.frame for event in events_of(sim)[-2:]]


def test_a_renumbered_host_starts_again(sim: SimProcess) -> None:
    """After renumber the old cursor is from the future, and the numbering begins at 1 when somebody has come back."""
    host = sim.hosts[0]
    last = events_of(sim)[-1].seq
    with Wire(host, last) as wire:
        sim.misbehave("renumber", host)
        (close,) = wire.rest()
        assert close[0] == 0x88
    with Wire(host, last) as wire:
        assert b"FutureCursor" in wire.frame()
    with Wire(host) as wire:
        sim.misbehave("flood", host, count=3)
        assert wire.frames(3) == [event.frame for event in events_of(sim)[-3:]]
    assert events_of(sim)[-1].seq < last


def test_a_slow_subscriber_loses_nothing() -> None:
    """A subscriber that reads late gets everything; those who read early are not held up by it at a fixed rate."""
    flags = ["--hosts", "1", "--accounts", "4", "--rate", "20000", "--events", "6000", "--start-hosts", "1"]
    with SimProcess(*flags) as process, Wire(process.hosts[0]) as late:
        with Wire(process.hosts[0], 0) as early:
            process.wait_generated(6000, TIMEOUT_S)
            said = [event.frame for event in events_of(process)]
            assert early.frames(len(said)) == said
        assert late.frames(len(said)) == said


def test_hosts_with_addresses_of_their_own() -> None:
    """With --spread each host has a loopback address, which no other simulation takes, and documents name it."""
    with SimProcess("--hosts", "3", "--accounts", "3", "--spread", "--start", "now", "--events", "20") as process:
        network = process.hosts[0].removesuffix(".0.1:2583")
        assert network.startswith("127.")
        assert process.hosts == [f"{network}.0.{index}:2583" for index in (1, 2, 3)]
        with SimProcess("--hosts", "2", "--accounts", "2", "--spread", "--events", "2") as other:
            assert not set(process.hosts) & set(other.hosts)
        process.wait_generated(20, TIMEOUT_S)
        with Wire(process.hosts[0], 0) as wire:
            assert wire.frame() == events_of(process)[0].frame


def test_dead_hosts_are_named_and_cannot_be_reached() -> None:
    """Of the hosts that upstream names, --dead refuse, take a connection and are silent, or do not answer a SYN."""
    flags = ("--hosts", "8", "--accounts", "8", "--dead", "4", "--events", "20")
    with SimProcess(*flags) as process, ExitStack() as stack:
        found = []
        for number, host in enumerate(process.hosts):
            if number not in dead_among(8, 4):
                stack.enter_context(Wire(host))
                continue
            name, port = host.split(":")
            sock = stack.enter_context(socket.socket())
            sock.settimeout(0.3)  # a loopback that answers takes microseconds
            try:
                sock.connect((name, int(port)))
                sock.sendall(UPGRADE.format(query="", host=host).encode())
                assert sock.recv(1) == b"", "a dead host speaks"
            except ConnectionRefusedError:
                found.append("refuses")
            except TimeoutError:
                found.append("takes_and_is_silent" if is_connected(sock) else "drops_syn")
        assert tuple(found) == KINDS
        process.wait_generated(20, TIMEOUT_S)  # it waits for the living ones alone
        names = get(process.upstream + "/xrpc/com.atproto.sync.listHosts")["hosts"]
        assert [one["hostname"] for one in names] == process.hosts
        stats = process.stats()
        assert (stats["dead_hosts"], stats["subscribed_hosts"], stats["upstream_requests"]) == (4, 4, 1)


def is_connected(sock: socket.socket) -> bool:
    """Whether the handshake of TCP is through."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def test_round_trips_take_as_long_as_told() -> None:
    """With --rtt-ms an answer comes after DNS's and TCP's round trips and its own; the control port has no delay."""
    rtt_s = 0.1
    flags = ("--hosts", "1", "--accounts", "1", "--events", "3", "--rtt-ms", str(rtt_s * 1000))
    with SimProcess(*flags) as process:
        began = time.monotonic()
        with Wire(process.hosts[0]) as wire:
            assert time.monotonic() - began >= 3 * rtt_s
            assert wire.frames(3) == [event.frame for event in events_of(process)]
        began = time.monotonic()
        assert get(process.plc + "/_health")
        assert time.monotonic() - began >= 3 * rtt_s
        assert min(duration_of(process.stats) for _ in range(20)) < rtt_s


def duration_of(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_bad_flags_and_taken_ports_are_clear_errors(sim: SimProcess) -> None:
    """A bad setting exits with 2, a port in use with 1, each with a line that says what is wrong."""
    port = sim.plc.rsplit(":", 1)[1]
    for flags, status, text in (
        (["--hosts", "0"], 2, "host"),
        (["--fault", "nonsense=1"], 2, "nonsense"),
        (["--port", port], 1, "listen"),
        (["--serve", sys.executable], 2, "not a recording"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "zlay.sim", *flags], capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert done.returncode == status
        assert text in done.stderr
        assert done.stderr.count("\n") == 1
    with pytest.raises(SimStartError):
        SimProcess("--hosts", "0")


def test_recordings_are_served_whole(tmp_path: Path) -> None:
    """A recording gives each subscriber its host's frames as the ledger has them, from the start or after a cursor."""
    path = tmp_path / "r.rec"
    flags = ["--record", str(path), "--events", "3000", "--hosts", "2", "--accounts", "6"]
    done = subprocess.run(
        [sys.executable, "-m", "zlay.sim", *flags], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    assert json.loads(done.stdout)["events"] >= 3000
    with SimProcess("--serve", str(path)) as process, ExitStack() as stack:
        wires = [stack.enter_context(Wire(host)) for host in process.hosts]
        for index, wire in enumerate(wires):
            said = events_of(process, index)
            assert wire.frames(len(said)) == [event.frame for event in said]
            with Wire(process.hosts[index], said[400].seq) as late:
                assert late.frames(len(said) - 401) == [event.frame for event in said[401:]]
            with Wire(process.hosts[index], said[-1].seq + 1) as future:
                assert b"FutureCursor" in future.frame()
            document = get(f"{process.plc}/{said[0].did}")
            assert document["service"][0]["serviceEndpoint"] == f"http://{process.hosts[index]}"
        assert process.stop() == 0


def test_a_recording_goes_at_a_pace(tmp_path: Path) -> None:
    """With --pace frames go out one by one, hosts in turn, at the rate, and the note says when each did."""
    path, note = tmp_path / "r.rec", tmp_path / "sent"
    flags = ["--record", str(path), "--events", "200", "--hosts", "2", "--accounts", "6", "--skew", "0"]
    subprocess.run([sys.executable, "-m", "zlay.sim", *flags], capture_output=True, timeout=TIMEOUT_S, check=True)
    with SimProcess("--serve", str(path), "--pace", "400", "--sent", str(note)) as process, ExitStack() as stack:
        began = time.monotonic_ns()
        wires = [stack.enter_context(Wire(host)) for host in process.hosts]
        said = [events_of(process, index) for index in range(2)]
        for wire, events in zip(wires, said, strict=True):
            assert wire.frames(len(events)) == [event.frame for event in events]
        ended = time.monotonic_ns()
        assert process.stop() == 0
    sent = read_notes(note)
    assert sent.keys() == {(host, event.seq) for host, events in enumerate(said) for event in events}
    assert began < min(sent.values()) < max(sent.values()) < ended
    assert list(sent.values()) == sorted(sent.values())
    assert list(sent)[:4] == [(host, said[host][n].seq) for n in (0, 1) for host in (0, 1)]
    assert (max(sent.values()) - min(sent.values())) / 1e9 > 0.8 * len(sent) / 400


def test_the_dump_holds_frames_keys_and_repositories() -> None:
    """Lines of JSON: the events, then the repositories, all of which can be read and verified from the line alone."""
    done = subprocess.run(
        [sys.executable, "-m", "zlay.sim", "--dump-json", "40", "--accounts", "4"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    events = [line for line in lines if line["type"] == "event"]
    repos = [line for line in lines if line["type"] == "repo"]
    assert len(events) >= 40
    assert {event["did"] for event in events if event["didKey"]} <= {repo["did"] for repo in repos}
    for repo in repos:
        roots, _ = read_car(base64.b64decode(repo["car"]))
        assert str(roots[0]) == repo["head"]


def test_the_ledger_outlives_the_process(sim: SimProcess) -> None:
    """After the end the ledger can still be read from its path, and says that it is complete."""
    assert sim.stop() == 0
    with Ledger(sim.ledger_path) as ledger:
        assert len(list(ledger.poll())) >= 200
        assert ledger.ended
