"""What an operator asks of one host, answered in one place: every kind of failure, by a real fault, through a relay."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.test_admin import BEARER
from tests.hosts.fake_pds import FakePds, error, event, frame, upgrade
from tests.live import PASSWORD, LiveRelay
from zlay import cli
from zlay.hosts.backoff import BackoffPolicy
from zlay.state.interface import NewHost

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 60.0
RETRY_S = 3000.0
NOT_TLS = ("tls", "config")  # of these, hosts that are dialled by TLS


def refusing() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port: int = gone.getsockname()[1]
        return port


def rejects(sock: socket.socket) -> None:
    """A web server that knows nothing of streams."""
    sock.recv(65536)
    sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot a PDS")


def talks_rubbish(sock: socket.socket) -> None:
    """A stream of messages that are none."""
    upgrade(sock)
    sock.sendall(frame(b"\xff") * 200)
    sock.recv(1)


def sends_error(sock: socket.socket) -> None:
    """A stream that ends with an error frame."""
    upgrade(sock)
    sock.sendall(event(7) + error("ConsumerTooSlow"))


SCRIPTS = {
    "tls": rejects,
    "http_upgrade": rejects,
    "websocket": lambda sock: upgrade(sock) and None,
    "decode": talks_rubbish,
    "error_frame": sends_error,
    "config": rejects,
}
TEXTS = {
    "dns": "",
    "tcp_refused": "connection refused",
    "tcp_timeout": "no connection",
    "tls": "",
    "http_upgrade": "answered 404: not a PDS",
    "websocket": "closed",
    "decode": "",
    "error_frame": "ConsumerTooSlow",
    "config": "RELAY_ALLOW_PRIVATE_HOSTS",
}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveRelay, dict[str, str]]]:
    """A relay, and by kind the name of a host that fails so."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):  # and so nobody else
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        names = {
            "dns": "no-such-host.invalid",
            "tcp_refused": f"127.0.0.1:{refusing()}",
            "tcp_timeout": f"127.0.0.1:{full.getsockname()[1]}",
        }
        for kind, script in SCRIPTS.items():
            pds = FakePds(script)
            stack.callback(pds.close)
            names[kind] = pds.hostname
        live = stack.enter_context(LiveRelay(tmp_path_factory.mktemp("relay")))
        dialer, registry = live.relay.dialer, live.relay.registry
        dialer._rules = replace(dialer._rules, connect_s=0.5)
        dialer._policy = BackoffPolicy(first_s=RETRY_S, least_s=RETRY_S, most_s=RETRY_S)  # each is dialled once
        config = names.pop("config")
        registry.add([NewHost(name, "admin", kind not in NOT_TLS) for kind, name in names.items()])
        for name in names.values():
            failed(live, name)
        dialer._rules = replace(dialer._rules, allow_private=False)
        registry.add([NewHost(config, "admin", no_tls=True)])
        failed(live, config)
        yield live, {**names, "config": config}


def failed(live: LiveRelay, name: str) -> dict[str, Any]:
    """What the relay says of a host, once it has failed and waits."""
    deadline = time.monotonic() + DEADLINE_S
    with live.client(internal=True) as client:
        while True:
            told = client.request("GET", f"/admin/hosts?hostname={name}", {"Authorization": BEARER}).json
            if told["failure_kind"] is not None and told["next_dial_us"] is not None:
                return dict(told)
            assert time.monotonic() < deadline, told
            time.sleep(0.01)


@pytest.mark.parametrize("kind", TEXTS)
def test_last_failure(
    hosts: tuple[LiveRelay, dict[str, str]],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A host's last failure is told by its kind, its text, its time and the time of the next dial, by HTTP and in the
    shell, beside its status, tier and limits, dials, frames, verdicts, cursor, lag and throttled time."""
    live, names = hosts
    told = failed(live, names[kind])
    assert told["failure_kind"] == kind, told["failure_text"]
    assert TEXTS[kind] in told["failure_text"]
    assert told["created_us"] < told["failure_us"] <= time.time_ns() // 1000
    assert told["next_dial_us"] - told["failure_us"] == pytest.approx(RETRY_S * 1e6, rel=0.01)
    assert told["status"] == ("offline" if kind == "config" else "idle")
    streamed = kind in ("websocket", "decode", "error_frame")
    assert (told["attempts"], told["connects"], told["failed_attempts"]) == (kind != "config", streamed, 1)
    if kind == "error_frame":
        assert (told["frames"], told["last_seq"], told["pending"]) == (2, 7, 1)  # no directory knows the account
    if kind == "decode":
        assert sum(told["reasons"].values()) == told["frames"] >= 100
    assert {"tier", "limits", "bytes", "published", "lag_s", "throttled_s"} <= told.keys()
    monkeypatch.setenv("RELAY_ADMIN_PASSWORD", PASSWORD)
    assert cli.main(["hosts", names[kind], "--url=http://{}:{}".format(*live.relay.http.addresses[1])]) == 0
    shown = capsys.readouterr().out
    assert f"  last fault  {kind}: {told['failure_text']}, at " in shown
    assert "  next dial   in " in shown
