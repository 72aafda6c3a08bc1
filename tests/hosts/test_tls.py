"""TLS to hosts: whom the dialer trusts, and streams over every kind of TLS that a server may speak, good or bad."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import shutil
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.hosts.fake_pds import DID, accept, event, upgrade
from tests.hosts.test_dialer import DEADLINE_S, QUICK, Rig, hold, seqs
from tests.hosts.tls_pds import TLS1_0, TLS1_2, TLS1_3, TlsEnd, make_certificates, over_tls
from zlay._fast import host, pool, reader, tls
from zlay.errors import ConfigError, HttpFault
from zlay.hosts import authorities
from zlay.hosts.addresses import is_public
from zlay.hosts.dial import DialRules
from zlay.net import http_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zlay.hosts.interface import Failure

TIMES = {"tls_s": 5.0, "upgrade_s": 5.0}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates, good and bad."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


class TlsRig(Rig):
    """A rig whose fakes speak TLS unless told otherwise."""

    def __init__(self, certificates: Path) -> None:
        super().__init__()
        self.certificates = certificates

    def dial(
        self,
        script: Callable[[Any], None],
        *,
        name: str = "localhost",
        certificate: str = "good",
        version: int = TLS1_3,
        host_reader: str = "native",
        raw: bool = False,
        cursor: int | None = None,
        **times: float,
    ) -> int:
        """Dials a fake that plays `script` inside TLS, or on the bare socket (`raw`); the host's id."""
        path = self.certificates / f"{certificate}.pem"
        fake = self.pds(script if raw else over_tls(script, path, version))
        context = tls.Context(self.certificates / "authority.pem")
        rules = DialRules("zlay/test", allow_private=True, tls=context, **{**TIMES, **times})
        if self.dialer is None:
            self.start(host_reader=host_reader, rules=rules, policy=QUICK)
        assert self.dialer is not None
        host_id = self.registry.add(f"{name}:{fake.port}", cursor, no_tls=False)
        self.dialer.add(host_id)
        return host_id

    def index(self, host_id: int) -> int:
        """Of the host in the core."""
        return self.registry.targets[host_id].index

    def failure(self, host_id: int) -> Failure:
        """The next one told of the host."""
        while True:
            failure = self.registry.next(host_id)
            if failure is not None:
                return failure


@pytest.fixture
def rig(certificates: Path) -> Iterator[TlsRig]:
    """A dialer to be started, on a pool and a collecting sink."""
    pool.init(64 << 20)
    reader.collect_here()
    made = TlsRig(certificates)
    yield made
    made.close()
    reader.set_times()
    pool.close()


@pytest.mark.parametrize("host_reader", ["native", "wsproto"])
@pytest.mark.parametrize("version", [TLS1_2, TLS1_3])
def test_streams_and_goes_on_after_the_last_frame(rig: TlsRig, version: int, host_reader: str) -> None:
    """A host is dialled by TLS, its events arrive, and after a break the dial goes on from the last frame received."""
    cursors: queue.SimpleQueue[str] = queue.SimpleQueue()

    def script(end: TlsEnd) -> None:
        cursor = upgrade(end)  # type: ignore[arg-type]
        cursors.put(cursor)
        first = int(cursor or 6) + 1
        end.sendall(b"".join(event(seq) for seq in range(first, first + 3)))
        if first > 10:
            hold(end)  # type: ignore[arg-type]

    host_id = rig.dial(script, version=version, host_reader=host_reader)
    assert seqs(rig.index(host_id), 9) == list(range(7, 16))
    assert [cursors.get(timeout=DEADLINE_S) for _ in range(3)] == ["", "9", "12"]


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_names_and_addresses_are_checked(rig: TlsRig, name: str) -> None:
    """A certificate for the DNS name or for the address that was dialled is good."""
    host_id = rig.dial(serve(1), name=name)
    assert seqs(rig.index(host_id), 1) == [1]


def serve(count: int) -> Callable[[Any], None]:
    """A script that sends events 1 to `count` and stays."""

    def script(end: Any) -> None:
        upgrade(end)
        for seq in range(1, count + 1):
            end.sendall(event(seq))
        hold(end)

    return script


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize(
    ("certificate", "text"),
    [
        ("expired", "certificate has expired"),
        ("not_yet", "certificate is not yet valid"),
        ("wrong_name", "mismatch"),
        ("part_of_a_name", "mismatch"),
        ("name_in_subject", "mismatch"),
        ("name_in_subject_only", "mismatch"),
        ("self_signed", "self-signed certificate"),
        ("stranger", "unable to get local issuer certificate"),
        ("no_chain", "unable to get local issuer certificate"),
        ("old_chain", "certificate has expired"),
        ("for_clients", "certificate purpose"),
        ("signed_by_a_leaf", "invalid CA certificate"),
    ],
)
def test_bad_certificates_are_refused_by_name(rig: TlsRig, certificate: str, text: str, name: str) -> None:
    """A certificate that does not hold ends the dial as `tls`, with what is wrong with it; no request is sent."""
    asked = threading.Event()
    host_id = rig.dial(lambda end: end.recv(1) and asked.set(), certificate=certificate, name=name)
    failure = rig.failure(host_id)
    assert failure.kind == "tls"
    assert failure.text.startswith("certificate refused: ")
    assert text in failure.text
    assert not asked.is_set()


def test_old_protocols_are_refused(rig: TlsRig) -> None:
    """TLS 1.0 is not spoken."""
    failure = rig.failure(rig.dial(serve(1), version=TLS1_0))
    assert (failure.kind, "unsupported protocol" in failure.text or "alert" in failure.text) == ("tls", True)


def client_hello(sock: socket.socket) -> bytes:
    """What the relay says first."""
    data = sock.recv(65536)
    if not data:
        raise ConnectionError("it is gone: the test is over")
    assert data.startswith(b"\x16\x03")
    return data


@pytest.mark.parametrize(("name", "said"), [("localhost", True), ("127.0.0.1", False)])
def test_the_name_is_said_in_the_handshake(rig: TlsRig, name: str, said: bool) -> None:
    """A server of many names learns which one is dialled (SNI); an address is not said (RFC 6066 3)."""
    hellos: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    rig.dial(lambda sock: hellos.put(client_hello(sock)), name=name, raw=True)
    hello = hellos.get(timeout=DEADLINE_S)
    assert (b"\x00\x0c\x00\x00\x09localhost" in hello) == said
    assert b"127.0.0.1" not in hello


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 400 This is HTTP\r\n\r\n", "wrong version number"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "handshake failure"),
        (b"", "closed by the peer"),
        (b"\x16\x03\x03\x40\x00" + b"\x02\x00\x00", "closed by the peer"),
        (b"\x16\x03\x03\x00\x04\x02\xff\xff\xff", "excessive message size"),
        (b"\x17\x03\x03\x00\x05hello", "unexpected"),
    ],
)
def test_answers_that_are_no_handshake(rig: TlsRig, answer: bytes, text: str) -> None:
    """What is no handshake, or is cut off, ends the dial as `tls` with OpenSSL's word for it."""

    def script(sock: socket.socket) -> None:
        client_hello(sock)
        sock.sendall(answer)

    failure = rig.failure(rig.dial(script, raw=True))
    assert failure.kind == "tls"
    assert text in failure.text


@pytest.mark.parametrize("answer", [b"", b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03"])
def test_a_handshake_has_a_deadline_of_its_own(rig: TlsRig, answer: bytes) -> None:
    """A server that says nothing, or stops in the middle of its ServerHello, is given up; others are not held up."""

    def script(sock: socket.socket) -> None:
        client_hello(sock)
        sock.sendall(answer)
        hold(sock)

    silent = rig.dial(script, raw=True, tls_s=0.3)
    good = rig.dial(serve(1))
    assert seqs(rig.index(good), 1) == [1]
    failure = rig.failure(silent)
    assert (failure.kind, failure.text) == ("tls", "no handshake within 0.3 s")


def test_hundreds_of_silent_handshakes_hold_nobody_up(rig: TlsRig) -> None:
    """With 300 handshakes that get no answer in flight, a good host is dialled at once."""
    with socket.create_server(("127.0.0.1", 0), backlog=600) as silent:
        name = f"127.0.0.1:{silent.getsockname()[1]}"
        first = rig.dial(hold, raw=True, tls_s=60)
        dialer = rig.dialer
        assert dialer is not None
        for _ in range(300):
            dialer.add(rig.registry.add(name, no_tls=False))
        deadline = time.monotonic() + DEADLINE_S
        while dialer.stats()["in_flight"] < 301:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        good = rig.dial(serve(1))
        assert seqs(rig.index(good), 1) == [1]
        assert dialer.stats()["in_flight"] == 301
        report = dialer.report(first)
        assert report is not None
        assert report.stage == "dialling"


@pytest.mark.parametrize("version", [TLS1_2, TLS1_3])
def test_a_handshake_that_breaks_off_anywhere(rig: TlsRig, certificates: Path, version: int) -> None:
    """However many bytes of a handshake come before it breaks off, the dial fails as `tls` and is tried again."""
    most = range(1, 900, 73)
    cuts = itertools.chain(most, itertools.repeat(1 << 30))

    def script(sock: socket.socket) -> None:
        through(sock, serve(1), certificates, version, next(cuts))

    host_id = rig.dial(script, raw=True, version=version)
    assert {rig.failure(host_id).kind for _ in most} == {"tls"}
    assert seqs(rig.index(host_id), 1) == [1]


def through(
    sock: socket.socket,
    script: Callable[[TlsEnd], None],
    certificates: Path,
    version: int,
    most: int,
    step: int = 65536,
    flip: int = -1,
) -> None:
    """TLS on another socket, whose bytes go on to `sock` in pieces of `step`, at most `most`, one of them spoilt."""
    inner, outer = socket.socketpair()

    def play() -> None:
        with contextlib.suppress(ConnectionError), inner:
            over_tls(script, certificates / "good.pem", version)(inner)

    def back() -> None:
        with contextlib.suppress(OSError):
            while data := sock.recv(65536):
                outer.sendall(data)
            outer.shutdown(socket.SHUT_WR)

    threads = [threading.Thread(target=target, daemon=True) for target in (play, back)]
    for thread in threads:
        thread.start()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with outer:
        while most > 0 and (data := bytearray(outer.recv(min(step, most)))):
            if 0 <= flip < len(data):
                data[flip] ^= 0x55
            flip -= len(data)
            sock.sendall(data)
            most -= len(data)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(DEADLINE_S)


def test_a_flood_of_pings_without_reading(rig: TlsRig) -> None:
    """A server that pings without reading what we answer is still read; what it then reads is in order, if not all."""
    told: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    last = 12_000  # their answers are more than the two sockets hold

    def script(end: TlsEnd) -> None:
        upgrade(end)  # type: ignore[arg-type]
        for number in range(last):
            end.sendall((b"\x89\x7d" + str(number).zfill(125).encode()) * 4)
        end.sendall(event(1))
        numbers = [-1]
        while numbers[-1] < last:
            end.sendall(b"\x89\x7d" + str(last).zfill(125).encode())
            numbers += pongs(end)
        told.put(numbers)
        hold(end)  # type: ignore[arg-type]

    host_id = rig.dial(script)
    assert seqs(rig.index(host_id), 1) == [1]
    numbers = told.get(timeout=DEADLINE_S)
    assert numbers == sorted(numbers)
    assert len(set(numbers)) < last  # some were left out: the socket had no room


def pongs(end: TlsEnd) -> list[int]:
    """The numbers in the next record of pongs."""
    heard = end.recv(65536)
    found = []
    for at in range(0, len(heard), 131):
        assert heard[at : at + 2] == b"\x8a\xfd"
        mask, body = heard[at + 2 : at + 6], heard[at + 6 : at + 131]
        found.append(int(bytes(byte ^ mask[place % 4] for place, byte in enumerate(body))))
    return found


@pytest.mark.parametrize("version", [TLS1_2, TLS1_3])
def test_a_byte_that_is_spoilt_anywhere(rig: TlsRig, certificates: Path, version: int) -> None:
    """Whichever byte of handshake or stream is spoilt, the connection ends; what comes after a new dial is whole."""
    reader.set_times(ping_s=0.1)  # a length that is spoilt may be one that is waited for
    places = range(0, 1200, 61)
    spoilt = itertools.chain(places, itertools.repeat(-1))

    def script(sock: socket.socket) -> None:
        through(sock, serve(1), certificates, version, 1 << 30, flip=next(spoilt))

    host_id = rig.dial(script, raw=True, version=version, tls_s=0.3, upgrade_s=0.3)
    assert {rig.failure(host_id).kind for _ in places} <= {"tls", "http_upgrade", "websocket"}
    assert seqs(rig.index(host_id), 1) == [1]


@pytest.mark.parametrize("version", [TLS1_2, TLS1_3])
def test_bytes_that_come_one_by_one(rig: TlsRig, certificates: Path, version: int) -> None:
    """A handshake, an upgrade and events of which each byte comes by itself lose nothing."""
    host_id = rig.dial(
        lambda sock: through(sock, serve(5), certificates, version, 1 << 30, step=1), raw=True, version=version
    )
    assert seqs(rig.index(host_id), 5) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("host_reader", ["native", "wsproto"])
def test_one_byte_in_each_record(rig: TlsRig, host_reader: str) -> None:
    """The answer to the upgrade and the events, each byte in a record of its own, are read."""

    def script(end: TlsEnd) -> None:
        _, answer = accept(end)  # type: ignore[arg-type]
        for byte in answer + event(1) + event(2):
            end.sendall(bytes([byte]))
        hold(end)  # type: ignore[arg-type]

    host_id = rig.dial(script, host_reader=host_reader)
    assert seqs(rig.index(host_id), 2) == [1, 2]


def test_events_in_one_record_with_the_answer(rig: TlsRig) -> None:
    """Events that libssl has decrypted along with the answer to the upgrade are not waited for on the socket."""

    def script(end: TlsEnd) -> None:
        _, answer = accept(end)  # type: ignore[arg-type]
        end.sendall(answer + b"".join(event(seq) for seq in range(1, 200)))
        hold(end)  # type: ignore[arg-type]

    host_id = rig.dial(script)
    assert seqs(rig.index(host_id), 199) == list(range(1, 200))


@pytest.mark.parametrize("answer", [False, True])
def test_key_updates(rig: TlsRig, answer: bool) -> None:
    """New keys between events, an answer asked for or not, are taken; what the relay says next is under new keys."""
    ponged = threading.Event()

    def script(end: TlsEnd) -> None:
        upgrade(end)  # type: ignore[arg-type]
        for seq in range(1, 101):
            end.key_update(answer=answer)
            end.sendall(event(seq))
        end.sendall(b"\x89\x04ping")
        assert end.recv(100)[0] == 0x8A
        ponged.set()
        hold(end)  # type: ignore[arg-type]

    host_id = rig.dial(script)
    assert seqs(rig.index(host_id), 100) == list(range(1, 101))
    assert ponged.wait(DEADLINE_S)


def test_renegotiation_is_declined(rig: TlsRig) -> None:
    """A server of TLS 1.2 that asks for another handshake is told no, and the stream goes on."""

    def script(end: TlsEnd) -> None:
        upgrade(end)  # type: ignore[arg-type]
        end.sendall(event(1))
        for seq in range(2, 10):
            with contextlib.suppress(ConnectionError):
                end.renegotiate()
            end.sendall(event(seq))
        hold(end)  # type: ignore[arg-type]

    host_id = rig.dial(script, version=TLS1_2)
    assert seqs(rig.index(host_id), 9) == list(range(1, 10))


@pytest.mark.parametrize("say", [True, False])
def test_the_end_of_a_stream(rig: TlsRig, say: bool) -> None:
    """A stream that ends with a close_notify, or without, is a broken stream like any other; whole events count."""

    def script(end: TlsEnd) -> None:
        upgrade(end)  # type: ignore[arg-type]
        end.sendall(event(1) + event(2)[:-1])
        if say:
            end.close_notify()

    host_id = rig.dial(script)
    assert seqs(rig.index(host_id), 1) == [1]
    failure = rig.failure(host_id)
    assert (failure.kind, failure.text) == ("websocket", "closed without a close frame")


def test_a_forged_record_ends_the_stream(rig: TlsRig) -> None:
    """Bytes that do not hold under the session's keys end the connection as `tls`; nothing of them is taken."""

    def script(end: TlsEnd) -> None:
        upgrade(end)  # type: ignore[arg-type]
        end.sendall(event(1))
        end.sock.sendall(b"\x17\x03\x03\x00\x40" + os.urandom(64))
        hold(end)  # type: ignore[arg-type]

    host_id = rig.dial(script)
    assert seqs(rig.index(host_id), 1) == [1]
    failure = rig.failure(host_id)
    assert failure.kind == "tls"
    assert "bad record mac" in failure.text


def test_large_messages(rig: TlsRig) -> None:
    """A message of many records arrives whole, and so does what follows it."""
    body = os.urandom(3_000_000)

    def script(end: TlsEnd) -> None:
        upgrade(end)  # type: ignore[arg-type]
        end.sendall(b"\x82\x7f" + len(body).to_bytes(8, "big") + body + event(1))
        hold(end)  # type: ignore[arg-type]

    host_id = rig.dial(script)
    rows: list[tuple[int, int, bytes, bytes]] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(rows) < 2:
        rows += reader.collected()
        for _, epoch, cursor in host.anchors():
            host.set_saved(rig.index(host_id), epoch, cursor)
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert [row[2] == body for row in rows] == [True, False]
    assert DID.encode() in rows[1][2]


@pytest.mark.parametrize("host_reader", ["native", "wsproto"])
def test_a_stop_says_goodbye_in_both_layers(rig: TlsRig, host_reader: str) -> None:
    """A connection that we end gets a close frame, a close_notify, and then the end of the socket."""
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def script(end: TlsEnd) -> None:
        upgrade(end)  # type: ignore[arg-type]
        end.sendall(event(1))
        while data := end.recv(100):  # raises where the end comes without a close_notify
            heard.put(data)
        heard.put(b"close_notify")

    host_id = rig.dial(script, host_reader=host_reader)
    assert seqs(rig.index(host_id), 1) == [1]
    assert rig.dialer is not None
    rig.dialer.remove(host_id)
    assert heard.get(timeout=DEADLINE_S)[0] == 0x88
    assert heard.get(timeout=DEADLINE_S) == b"close_notify"


@pytest.mark.parametrize("how", ["silence", "key updates"])
def test_a_stream_without_data_is_given_up(rig: TlsRig, how: str) -> None:
    """A server that answers no ping is silent, even when it sends records without data as fast as it can."""
    reader.set_times(ping_s=0.05)

    def script(end: TlsEnd) -> None:
        upgrade(end)  # type: ignore[arg-type]
        while how == "key updates":
            end.key_update(answer=False)
        hold(end.sock)

    failure = rig.failure(rig.dial(script))
    assert failure.kind in ("websocket", "tls")
    assert failure.text in ("no answer to pings", "TLS: too many key updates")


def test_a_flood_without_data_does_not_hold_up_a_stop(rig: TlsRig) -> None:
    """A connection on which records without data follow each other without end is stopped at once all the same."""
    flooding = threading.Event()

    def script(end: TlsEnd) -> None:
        upgrade(end)  # type: ignore[arg-type]
        end.sendall(event(1))
        while True:
            end.key_update(answer=False)
            flooding.set()

    host_id = rig.dial(script)
    assert flooding.wait(DEADLINE_S)
    began = time.monotonic()
    assert rig.dialer is not None
    rig.dialer.remove(host_id)
    deadline = time.monotonic() + DEADLINE_S
    while reader.alive(rig.index(host_id)):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert time.monotonic() - began < DEADLINE_S


def test_an_upgrade_that_is_refused_over_tls(rig: TlsRig) -> None:
    """An HTTP error inside good TLS is a failure of the upgrade, with what the server says."""

    def script(end: TlsEnd) -> None:
        accept(end)  # type: ignore[arg-type]
        end.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nfull")
        hold(end)  # type: ignore[arg-type]

    failure = rig.failure(rig.dial(script))
    assert (failure.kind, "503" in failure.text) == ("http_upgrade", True)


# --- whom we trust ---


def test_the_systems_authorities_count(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams and questions trust whom SSL_CERT_FILE names, and without it not a throw-away authority."""
    outcomes = []
    for trusted in (certificates / "authority.pem", None):
        if trusted is None:
            monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        else:
            monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        outcomes.append(shaken(tls.Context(), certificates / "good.pem"))
        outcomes.append(ask(certificates / "good.pem"))
    assert outcomes[:2] == ["", "200"]
    assert "unable to get local issuer certificate" in outcomes[2]
    assert "unable to get local issuer certificate" in outcomes[3]


def test_a_folder_of_authorities_is_read_once(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSL_CERT_DIR's certificates, by their hashed names, are read at the start: no handshake looks into the folder."""
    command = ["openssl", "x509", "-hash", "-noout", "-in", str(certificates / "authority.pem")]
    hashed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=DEADLINE_S).stdout.strip()
    outcomes = []
    for name, ignored in ((f"{hashed}.0", "README"), ("authority.pem", f"{hashed}.r0")):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(certificates / "authority.pem", folder / name)
        (folder / ignored).write_text("no certificate")
        (folder / "00000000.0").write_text("no certificate either")
        monkeypatch.setenv("SSL_CERT_FILE", "")
        monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'missing'}:{folder}")
        context = tls.Context()
        shutil.rmtree(folder)
        outcomes.append(shaken(context, certificates / "good.pem"))
    assert outcomes[0] == ""
    assert "unable to get local issuer certificate" in outcomes[1]


def shaken(context: tls.Context, certificate: Path) -> str:
    """Shakes hands with a server of that certificate; why it failed."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        thread = threading.Thread(target=quietly, args=(TlsEnd, theirs, certificate))
        thread.start()
        outcome = handshake(tls.Session(context, ours.fileno(), "localhost"))
        ours.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE_S)
    return outcome


def quietly(*call: Any) -> None:
    """A call that may fail by the connection."""
    with contextlib.suppress(ConnectionError):
        call[0](*call[1:])


def handshake(session: tls.Session) -> str:
    """Shakes hands on a socket where the other side is busy with it too; why it failed."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            session.handshake()
        except BlockingIOError:
            time.sleep(0.001)
        except tls.TlsError as exc:
            return str(exc)
        else:
            return ""
    raise TimeoutError


def ask(certificate: Path, allow: Callable[[str], bool] = lambda _: True) -> str:
    """Asks an https:// server as the relay asks hosts, in a new process's way: the status, or what went wrong."""

    def answer(sock: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            end = TlsEnd(sock, certificate)
            end.recv(65536)
            end.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        url = f"https://localhost:{listener.getsockname()[1]}/"

        def serve_one() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as sock:
                answer(sock)

        thread = threading.Thread(target=serve_one, daemon=True)
        thread.start()
        client = http_client.HttpClient(allow_address=allow, context=http_client.tls_context.__wrapped__())
        try:
            return str(client.get(url, timeout_s=10, max_body_bytes=100).status)
        except HttpFault as fault:
            return f"{fault.kind}: {fault}"
        finally:
            client.close()
            listener.close()


def test_questions_by_tls_keep_to_public_addresses(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trusted https:// host behind a private address is not asked."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "authority.pem"))
    assert ask(certificates / "good.pem", allow=is_public).startswith("address: ")


def test_authorities_that_cannot_be_read_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An SSL_CERT_FILE that is missing or empty is a clear error, not a relay that trusts nobody."""
    empty = tmp_path / "empty.pem"
    empty.touch()
    for path in (tmp_path / "missing.pem", empty):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        with pytest.raises(tls.TlsError, match=r"SSL_CERT_FILE=.*no certificate authorities"):
            tls.Context()


def test_a_relay_that_can_trust_nobody_says_so(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without any authority there is a warning at the start, with a bad file a refusal, with a good one neither."""
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    said = []
    for path in (certificates / "authority.pem", ""):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        http_client.tls_context.cache_clear()
        authorities.read_authorities()
        said.append("no certificate authorities" in capfd.readouterr().err)
    http_client.tls_context.cache_clear()
    assert said == [False, True]
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
        authorities.read_authorities()


def test_a_session_that_was_closed_says_so(certificates: Path) -> None:
    """A session that is closed, or that a reader has, does nothing more, and is closed again without harm."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        session = tls.Session(tls.Context(certificates / "authority.pem"), ours.fileno(), "localhost")
        session.close()
        session.close()
        for call in (session.handshake, session.finish, session.describe, lambda: session.recv(1)):
            with pytest.raises(ValueError, match="closed"):
                call()


def test_a_write_after_the_end_of_the_socket_fails(certificates: Path) -> None:
    """Where the peer has gone, a write is an error of the socket, not a write of no bytes, to be repeated."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours:
        thread = threading.Thread(target=lambda: TlsEnd(theirs, certificates / "good.pem"))
        thread.start()
        session = tls.Session(tls.Context(certificates / "authority.pem"), ours.fileno(), "localhost")
        assert handshake(session) == ""
        thread.join(DEADLINE_S)
        theirs.close()
        assert session.recv(100) == b""
        with pytest.raises(BrokenPipeError):
            session.send(b"anybody?")


@pytest.mark.parametrize("name", ["", "a" * 300, "pds\0.example.com"])
def test_names_that_no_certificate_can_be_for(certificates: Path, name: str) -> None:
    """A name that cannot stand in a handshake is refused before one begins."""
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(tls.TlsError, match="not a name"):
        tls.Session(tls.Context(certificates / "authority.pem"), ours.fileno(), name)
